"""How a command ends: one plain line instead of a traceback, and an exit code."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

from iqa_jax.errors import UserError
from iqa_jax.signals import stop_signals_interrupt

# What is not installed with the core, and the extra that it comes with.
_EXTRAS = {
    "array_record": "train",
    "flatbuffers": "export",
    "grain": "train",
    "huggingface_hub": "convert",
    "jinja2": "report",
    "matplotlib": "report",
    "ml_collections": "train",
    "openpyxl": "train",
    "optax": "train",
    "orbax": "train",
    "psutil": "train",
    "pyarrow": "ray",
    "ray": "ray",
    "scipy": "report",
    "skimage": "report",
    "sklearn": "train",
    "tensorboard": "train",
    "tensorflow_datasets": "train",
}


@contextlib.contextmanager
def shown_plainly() -> Iterator[None]:
    """For command lines: ends the program with one line instead of a traceback.

    Exit code 1 after a `UserError`, a failure of the file system or of the device, or where something
    optional is not installed; 128 and the signal's number after a signal, 130 after Ctrl-C.
    """
    # A file name that is not UTF-8 is shown with its odd bytes escaped.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with stop_signals_interrupt():
            yield
    except KeyboardInterrupt as interruption:
        number = getattr(interruption, "number", signal.SIGINT)
        word = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
        reason = f": {interruption}" if str(interruption) else ""
        print(f"{word}{reason}", file=sys.stderr)
        sys.exit(128 + number)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        print(
            f"error: {error.name} is not installed; it comes with: pip install 'iqa_jax[{extra}]'",
            file=sys.stderr,
        )
        sys.exit(1)
    except BrokenPipeError:  # whoever read the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(1)
    except MemoryError:
        print("error: out of memory", file=sys.stderr)
        sys.exit(1)
    except RuntimeError as error:
        if not is_device_error(error):
            raise
        print(f"error: the device failed ({_first_line(error)})", file=sys.stderr)
        sys.exit(1)


def is_device_error(error: BaseException) -> bool:
    """Whether it is what JAX raises when a device fails or is out of memory; does not import JAX."""
    return any(kind.__name__ in ("JaxRuntimeError", "XlaRuntimeError") for kind in type(error).__mro__)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
