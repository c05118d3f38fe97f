"""Errors whose message is meant for the user as it stands."""

import contextlib
import os
import sys
from pathlib import Path


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


@contextlib.contextmanager
def shown_plainly():
    """For command lines: ends the program with one line instead of a traceback.

    Exit code 1 after a `UserError` or a failure of the file system, 130 after Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(1)


def writable_directory(path: str | os.PathLike) -> Path:
    """Creates `path` if need be and makes sure that files can be written there.

    Raises:
      UserError: it is a file, cannot be created or is not writable.
    """
    path = Path(path).expanduser()
    probe = path / f".write-test-{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"{path}: cannot write there ({error.strerror}); choose another directory or free some space"
        ) from None
    return path
