"""How a command ends: one plain line instead of a traceback, and an exit code."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

from iqa_jax.errors import UserError

# What a scheduler or a terminal that is closed sends; Ctrl-C has its own.
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)


class Stopped(KeyboardInterrupt):
    """The process was asked to end by a signal; what is at work cleans up as after Ctrl-C."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


@contextlib.contextmanager
def stop_signals_interrupt() -> Iterator[None]:
    """Makes `STOP_SIGNALS` raise `Stopped`; one that is ignored, under nohup say, stays ignored."""

    def stop(number, frame):
        raise Stopped(number)

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number, handler in before.items():
        if handler is signal.SIG_DFL:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is signal.SIG_DFL:
                signal.signal(number, handler)


@contextlib.contextmanager
def shown_plainly() -> Iterator[None]:
    """For command lines: ends the program with one line instead of a traceback.

    Exit code 1 after a `UserError`, a failure of the file system or of the device; 128 and the signal's
    number after a signal, 130 after Ctrl-C.
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
        told = f": {interruption}" if str(interruption) else ""
        print(f"{word}{told}", file=sys.stderr)
        sys.exit(128 + number)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
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
