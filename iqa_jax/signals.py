"""Signals that ask a process to end."""

import contextlib
import signal
from collections.abc import Iterator

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
