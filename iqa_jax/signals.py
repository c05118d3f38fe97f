"""Signals that ask a process to end, at whatever moment they come."""

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

# What a scheduler or a terminal that is closed sends; Ctrl-C has its own.
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)
_AGAIN = 0.05  # seconds until an exception that was swallowed is raised again
_PATIENCE = 2.0  # seconds of cleaning up, after which a further signal ends the process at once
_IMPORT = 1.0  # seconds that a module may still take to be imported, after which the process ends at once
_LONGEST = 30.0  # seconds of cleaning up at most


class Stopped(KeyboardInterrupt):
    """The process was asked to end by a signal; what is at work cleans up as after Ctrl-C."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


class StopRequest:
    """What becomes of signals that ask to end.

    The first one raises `Stopped` in the main thread.  A callback of a library or a finaliser may swallow
    that; then it is raised again until it is on its way out, and `number` tells in any case.  A module that
    is being imported comes to its end first: extension modules abort where their beginning is interrupted.

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
        """Takes the signals that nobody handles; one that is ignored, under nohup say, stays ignored."""
        if threading.current_thread() is not threading.main_thread():
            return  # which alone can
        for number in (*STOP_SIGNALS, signal.SIGINT):
            handler = signal.getsignal(number)
            if handler in (signal.SIG_DFL, signal.default_int_handler):
                self._set(number, handler, self._asked)

    def listen_no_more(self) -> None:
        """Gives the signals back, and what was silenced its voice."""
        self.settle()
        while self._restore:
            self._restore.pop()()

    def settle(self) -> None:
        """The signal has got through: `Stopped` is not raised again."""
        if self.number is not None:
            self._settled = True
            if hasattr(signal, "setitimer"):
                signal.setitimer(signal.ITIMER_REAL, 0)

    def finish(self, exit_code: int) -> None:
        """The work is done: from here on a signal ends the process at once, with this code."""
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
            return  # it is on its way out, or about to be raised again
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
        """What libraries say of being interrupted helps nobody: one line follows."""
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
    """Whether the main thread cleans up after `Stopped`: is in an except or finally block because of it."""
    handled = sys.exception()
    while handled is not None and not isinstance(handled, Stopped):
        handled = handled.__context__
    return handled is not None


def _imports(frame: FrameType | None) -> int:
    """How many modules are being imported, one by the other."""
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
    """Makes `STOP_SIGNALS` and Ctrl-C raise `Stopped`; within another such block it is that one's request.

    Args:
      end_at_once: is called with the number where cleaning up takes too long, and ends the process.
      for_good: the signals are not given back at the end of the block; the process ends there.
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
    """Takes back signals for which a library sets handlers of its own in the block.

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
    """Processes that are started in the block leave signals to this one, from their first instruction on.

    They have to call `follow_parent`: SIGTERM, with which pools end their workers, waits until then.  A
    signal to this process waits for the block's end.
    """
    from multiprocessing import resource_tracker

    kept = {signal.SIGINT, *STOP_SIGNALS}
    request = _current or StopRequest()
    request.held_back = True  # other threads take signals too
    before = signal.pthread_sigmask(signal.SIG_BLOCK, kept)
    try:
        resource_tracker.ensure_running()  # is the first child, and lets SIGINT through
        signal.pthread_sigmask(signal.SIG_BLOCK, kept)
        yield
    finally:
        request.held_back = False
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def follow_parent() -> None:
    """For a worker process, as its first act: it ends when its parent does, however that ends."""
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
