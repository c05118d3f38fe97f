"""Errors whose message is meant for the user as it stands."""


class UserError(ValueError):
    """Bad input: names the thing, says what was expected and what to do."""


class DataError(UserError):
    """A data set, an image or a label that is missing, broken or inconsistent."""


class WeightsError(UserError):
    """Weights or a checkpoint that are missing, broken or of another model."""


class ConfigError(UserError):
    """A configuration field or value that does not exist or does not fit."""


class TrainingError(UserError):
    """Training cannot go on."""
