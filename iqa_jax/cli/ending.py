"""How a command ends: one plain line instead of a traceback, and an exit code."""

import atexit
import contextlib
import errno
import gc
import importlib
import io
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from typing import NoReturn

from iqa_jax.errors import UserError, first_line, of_missing_devices
from iqa_jax.files import full_disk
from iqa_jax.signals import Stopped, StopRequest, stop_signals_interrupt

# The extra that installs each optional package.
_EXTRAS = {
    "array_record": "train",
    "flatbuffers": "export",
    "flax": "jax",
    "huggingface_hub": "convert",
    "jax": "jax",
    "jax2onnx": "onnx",
    "jaxlib": "jax",
    "jinja2": "report",
    "matplotlib": "report",
    "ml_collections": "train",
    "onnx": "onnx",
    "onnxruntime": "lite",
    "openpyxl": "train",
    "optax": "train",
    "orbax": "train",
    "psutil": "train",
    "pyarrow": "ray",
    "ray": "ray",
    "scipy": "report",
    "skimage": "align",
    "tensorflow_datasets": "train",
}


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FREE_SPACE = "; free some space, or write to another disk"
_CLEANING = 5.0  # seconds for libraries to clean up after a signal
# A worker that got the same signal may end before this process notices the signal.
_SIGNAL_ON_ITS_WAY = 0.2  # seconds


def as_process(module: str) -> NoReturn:
    """Runs `main` of a module and ends the process.

    A signal at any moment, also during imports, ends the process with one line and the signal's exit code;
    a signal after the work is done, silently and with the command's exit code.
    """
    code: str | int | None = 0
    with stop_signals_interrupt(_end_at_once, for_good=True) as request:
        try:
            try:
                with shown_plainly():
                    importlib.import_module(module).main()
            except SystemExit as end:
                code = end.code
            request.finish(code if isinstance(code, int) else 0 if code is None else 1)
        except KeyboardInterrupt as interruption:  # between the lines above
            code = _stopped(interruption, request)
    if request.number is not None:
        _end_quietly(128 + request.number)
    gc.freeze()  # a collection at the end would look at all modules, which takes a tenth of a second
    sys.exit(code)


def _end_quietly(code: int) -> NoReturn:
    """Ends an interrupted process; libraries clean up, but print no complaints."""
    _flush()
    with contextlib.suppress(OSError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    hurry = threading.Timer(_CLEANING, os._exit, [code])  # they may wait for ever
    hurry.daemon = True
    hurry.start()
    atexit._run_exitfuncs()
    os._exit(code)


@contextlib.contextmanager
def shown_plainly() -> Iterator[None]:
    """For command lines: ends the program with one line instead of a traceback.

    The exit code is 1 after a `UserError`, a failure of the file system or of the device, or if an optional
    package is missing; 128 plus the signal's number after a signal, 130 after Ctrl-C.
    """
    # Escapes bytes of file names that are not UTF-8, and characters that the locale lacks.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with stop_signals_interrupt(_end_at_once) as request:
        try:
            _quiet_libraries()
            try:
                yield
            except SystemExit:
                _check_output_written()
                raise
            _check_output_written()
        except BaseException as error:
            code = _explained(error, request)
            if code is None:
                raise
            raise _Ended(code) from None
        if request.number is not None:  # a library swallowed the exception, and the work is done
            raise _Ended(_stopped(None, request))


def _quiet_libraries() -> None:
    """Silences libraries about things that are intended, or that an error of ours reports."""
    import logging

    warnings.filterwarnings("ignore", module="PIL", message=".*decompression bomb.*")  # an error of ours
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax also raises its errors
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # about a missing home directory
    os.environ["MPLBACKEND"] = "agg"  # figures are files; a notebook's backend may be missing


def _explained(error: BaseException, request: StopRequest) -> int | None:
    """Prints in one line why a command ends; returns its exit code, or None if a traceback must follow."""
    if isinstance(error, _Ended):
        return None
    if _is_worker_lost(error) and request.number is None:
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(_SIGNAL_ON_ITS_WAY)
    if request.number is not None or isinstance(error, KeyboardInterrupt):
        return _stopped(error, request)
    if isinstance(error, OSError) and error.filename is None:
        try:
            _check_output_written()
        except OSError as of_output:  # the unnamed error was of the output
            error = of_output
    if isinstance(error, BrokenPipeError):  # the reader of the output has ended
        _discard_output()
        return 1
    text = plain_text(error)
    if text is not None:
        _say(f"error: {text}")
        return 1
    return None


def plain_text(error: BaseException) -> str | None:
    """An error as one line for the user; None for a bug, whose traceback is needed."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        return extra and f"{error.name} is not installed; it comes with: pip install 'iqa-conformer[{extra}]'"
    if isinstance(error, OSError):
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return f"{where}{error.strerror or error}{_FREE_SPACE if error.errno in _FULL else ''}"
    if isinstance(error, MemoryError):
        return "out of memory"
    if _is_worker_lost(error):
        return "a worker process was killed, perhaps for memory; run the same command again to resume"
    if text := of_missing_devices(error):
        return text
    if is_device_error(error):
        return f"the device failed ({first_line(error)})"
    if isinstance(error, Exception) and (reason := full_disk(error)):
        return f"{reason}: {first_line(error)[:500]}{_FREE_SPACE}"
    return None


def is_device_error(error: BaseException) -> bool:
    """Whether JAX raised it because a device failed or is out of memory; does not import JAX."""
    return _is_a(error, "JaxRuntimeError", "XlaRuntimeError")


def _is_worker_lost(error: BaseException) -> bool:
    return _is_a(error, "BrokenExecutor")


def _is_a(error: BaseException, *names: str) -> bool:
    """Whether the error's class has one of these names; needs no import of its module."""
    return any(kind.__name__ in names for kind in type(error).__mro__)


class _Ended(SystemExit):
    """The end of a command whose reason is printed already."""


def _stopped(error: BaseException | None, request: StopRequest) -> int:
    """Prints which signal has ended the command; returns the exit code."""
    request.settle()
    number, reason = request.number or signal.SIGINT, ""
    if request.number is None and isinstance(error, Stopped):
        number = error.number
    if isinstance(error, KeyboardInterrupt):
        import traceback

        traceback.clear_frames(error.__traceback__)  # generators clean up
        reason = str(error)
    word = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
    _say(f"{word}: {reason}" if reason else word)
    return 128 + number


def _end_at_once(number: int) -> NoReturn:
    _say("interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}")
    os._exit(128 + number)


def _say(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # nobody reads
        print(text, file=sys.stderr, flush=True)


def _check_output_written() -> None:
    """Flushes standard output; a failure would go unnoticed later."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_output()
        error.filename = "standard output"
        raise


def _discard_output() -> None:
    """Discards what is still to be written to standard output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
