"""Signals that ask a process to end, at any moment."""

import contextlib
import functools
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from types import FrameType

# From a scheduler or a closed terminal; Ctrl-C is another.
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)
_AGAIN = 0.05  # seconds until an exception that was swallowed is raised again
_PATIENCE = 2.0  # seconds of cleaning up, after which a further signal ends the process at once
_IMPORT = 1.0  # seconds that a module may still take to be imported, after which the process ends at once
_LONGEST = 30.0  # seconds of cleaning up at most


class Stopped(KeyboardInterrupt):
    """A signal asked the process to end; it cleans up as after Ctrl-C."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


class StopRequest:
    """Handles signals that ask the process to end.

    The first one raises `Stopped` in the main thread.  A callback of a library or a finaliser may swallow the
    exception; it is raised again until an except or finally block runs because of it.  `number` is set in any
    case.  An import is finished first, since extension modules abort if their initialisation is interrupted.

    Attributes:
      number: of the first signal; None before it.
      held_back: `Stopped` waits; see `kept_from_children`.
    """

    def __init__(self, end_at_once: Callable[[int], object] | None = None):
        self.number: int | None = None
        self.held_back = False
        self._end_at_once = end_at_once
        self._since = 0.0
        self._settled = False
        self._imports = _imports(sys._getframe())
        self._exit_code: int | None = None
        self._restore: list[Callable[[], object]] = []

    def listen(self) -> None:
        """Handles the signals that nobody handles; one that is ignored, as under nohup, stays ignored."""
        if threading.current_thread() is not threading.main_thread():
            return  # others cannot set handlers
        for number in (*STOP_SIGNALS, signal.SIGINT):
            handler = signal.getsignal(number)
            if handler in (signal.SIG_DFL, signal.default_int_handler):
                self._set(number, handler, self._asked)

    def listen_no_more(self) -> None:
        """Restores all signal handlers and the output of libraries."""
        self.settle()
        while self._restore:
            self._restore.pop()()

    def settle(self) -> None:
        """The signal has taken effect: `Stopped` is not raised again."""
        if self.number is not None:
            self._settled = True
            if hasattr(signal, "setitimer"):
                signal.setitimer(signal.ITIMER_REAL, 0)

    def finish(self, exit_code: int) -> None:
        """The work is done: from now on a signal ends the process at once, with this code."""
        self._exit_code = exit_code

    def _set(self, number: int, before, handler: Callable[[int, FrameType | None], object]) -> None:
        self._restore.append(functools.partial(signal.signal, number, before))
        signal.signal(number, handler)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self._exit_code is not None:
            os._exit(self._exit_code)
        if self._settled:
            return
        if self.number is not None:
            if time.monotonic() - self._since > _PATIENCE:
                self._give_up()
            return  # the process is cleaning up, or the exception is about to be raised again
        self.number, self._since = number, time.monotonic()
        self._silence()
        if hasattr(signal, "setitimer"):
            self._set(signal.SIGALRM, signal.getsignal(signal.SIGALRM), self._again)
            signal.setitimer(signal.ITIMER_REAL, _AGAIN, _AGAIN)
        if self._may_raise(frame):
            raise Stopped(number)

    def _again(self, number: int, frame: FrameType | None) -> None:
        if self._settled or self._exit_code is not None:
            return
        waited = time.monotonic() - self._since
        if waited > _LONGEST or (waited > _IMPORT and _imports(frame) > self._imports and not _stopping()):
            self._give_up()
        if self._may_raise(frame) and not _stopping():
            assert self.number is not None
            raise Stopped(self.number)

    def _may_raise(self, frame: FrameType | None) -> bool:
        return not self.held_back and _imports(frame) <= self._imports

    def _give_up(self) -> None:
        if self._end_at_once and self.number is not None:
            self._end_at_once(self.number)

    def _silence(self) -> None:
        """Silences what libraries print when they are interrupted; one line of ours follows."""
        hooks = (
            (sys, "excepthook"),
            (sys, "unraisablehook"),
            (threading, "excepthook"),
            (warnings, "showwarning"),
        )
        for place, name in hooks:
            self._restore.append(functools.partial(setattr, place, name, getattr(place, name)))
            setattr(place, name, lambda *_, **__: None)
        if logging := sys.modules.get("logging"):
            self._restore.append(functools.partial(logging.disable, logging.root.manager.disable))
            logging.disable(logging.CRITICAL)


def _stopping() -> bool:
    """Whether the main thread is in an except or finally block because of `Stopped`."""
    handled = sys.exception()
    while handled is not None and not isinstance(handled, Stopped):
        handled = handled.__context__
    return handled is not None


def _imports(frame: FrameType | None) -> int:
    """How many nested imports are running."""
    count = 0
    while frame is not None:
        code = frame.f_code
        count += code.co_name == "_find_and_load" and code.co_filename == "<frozen importlib._bootstrap>"
        frame = frame.f_back
    return count


_current: StopRequest | None = None  # signals belong to the process, and so does this


@contextlib.contextmanager
def stop_signals_interrupt(
    end_at_once: Callable[[int], object] | None = None, *, for_good: bool = False
) -> Iterator[StopRequest]:
    """Makes `STOP_SIGNALS` and Ctrl-C raise `Stopped`; a nested block shares the request of the outer one.

    Args:
      end_at_once: called with the number of the signal if cleaning up takes too long; ends the process.
      for_good: do not restore the handlers at the end of the block, where the process ends.
    """
    global _current
    if _current is not None:
        yield _current
        return
    request = StopRequest(end_at_once)
    try:
        _current = request
        request.listen()
        yield request
    finally:
        if not for_good:
            request.listen_no_more()
            _current = None


@contextlib.contextmanager
def others_handlers_undone() -> Iterator[None]:
    """Restores our signal handlers after a library has set others in the block.

    Raises:
      Stopped: such a handler has ended the block, as if by `sys.exit`.
    """
    before = {number: signal.getsignal(number) for number in (*STOP_SIGNALS, signal.SIGINT)}
    try:
        yield
    except SystemExit:
        raise Stopped(signal.SIGTERM) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None and signal.getsignal(number) is not handler:
                    signal.signal(number, handler)


@contextlib.contextmanager
def kept_from_children() -> Iterator[None]:
    """Processes that are started in the block ignore signals from their first instruction on.

    They have to call `follow_parent`, until which SIGTERM, which ends the workers of pools, is blocked.  A
    signal to this process waits for the end of the block.
    """
    from multiprocessing import resource_tracker

    kept = {signal.SIGINT, *STOP_SIGNALS}
    request = _current or StopRequest()
    request.held_back = True  # another thread may receive a signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, kept)
    try:
        resource_tracker.ensure_running()  # the first child; its start unblocks SIGINT
        signal.pthread_sigmask(signal.SIG_BLOCK, kept)
        yield
    finally:
        request.held_back = False
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def follow_parent() -> None:
    """Makes a worker process end when its parent does, however that ends; its first call."""
    import multiprocessing
    from multiprocessing.connection import wait

    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def follow():
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
