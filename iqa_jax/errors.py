"""Errors whose message is meant for the user as it stands."""

import contextlib
import os
from collections.abc import Iterator


class UserError(ValueError):
    """Bad input: names the thing, says what was expected and what to do."""


class DataError(UserError):
    """A data set, an image or a label that is missing, broken or inconsistent."""


class WeightsError(UserError):
    """Weights or a checkpoint that are missing, broken or of another model."""


class ConfigError(UserError):
    """A configuration field or value that does not exist or does not fit."""


class TrainingError(UserError):
    """Training cannot continue."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text; the error's kind where it has no text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def extra_named(what: str, extra: str, *packages: str) -> Iterator[None]:
    """Says which extra brings the package that `what` needs and that is not installed.

    Args:
      packages: modules at the top level that the extra installs.
    """
    try:
        yield
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in packages:  # it is there and lacks something
            raise
        raise ModuleNotFoundError(
            f"{what} needs {missing.name}, which is not installed; it comes with: "
            f"pip install 'iqa-conformer[{extra}]'",
            name=missing.name,
        ) from None


def of_missing_devices(error: BaseException) -> str | None:
    """A plain text for JAX's error if `JAX_PLATFORMS` names missing devices; None for other errors.

    Some releases raise a bare `AssertionError`, so the traceback decides.
    """
    import traceback

    asked = os.environ.get("JAX_PLATFORMS")
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    if not asked or not any(c.co_name == "backends" and "xla_bridge" in c.co_filename for c in codes):
        return None
    reason = str(error).partition(" (set JAX_PLATFORMS")[0]
    return (
        f"JAX_PLATFORMS={asked}: JAX finds no such device here{f' ({reason})' if reason else ''}; unset it "
        "for the devices that JAX finds, or set it to cpu"
    )


@contextlib.contextmanager
def missing_devices_named() -> Iterator[None]:
    """Raises UserError if JAX is asked for missing devices."""
    try:
        yield
    except (AssertionError, RuntimeError) as error:
        if text := of_missing_devices(error):
            raise UserError(text) from None
        raise
