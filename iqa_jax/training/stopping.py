"""What stops a run: a signal, or the end of another of its processes."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import jax

from iqa_jax.errors import TrainingError, first_line
from iqa_jax.signals import STOP_SIGNALS
from iqa_jax.training.log import say
from iqa_jax.weights.checkpoints import Checkpoints


class Interrupted(Exception):
    """The run was asked to stop; everything up to `step` is saved."""

    def __init__(self, signal_number: int, step: int):
        self.exit_code = 128 + signal_number
        super().__init__(
            f"stopped at step {step} ({signal.Signals(signal_number).name}), all is saved; "
            "run the same command again to resume"
        )


class Stop:
    """The signal that asked the run to stop, if any; a second Ctrl-C ends it at once.

    Attributes:
      interrupt: what Ctrl-C does elsewhere, and the second one does here.
    """

    def __init__(self) -> None:
        self._received: list[int] = []
        self.interrupt: Callable[[int, FrameType | None], object] = signal.default_int_handler

    def __bool__(self) -> bool:
        return bool(self._received)

    @property
    def signal(self) -> int:
        """The first signal; SIGTERM where another process of the run got one."""
        return self._received[0] if self._received else signal.SIGTERM

    def handle(self, number: int, frame) -> None:
        if self._received and number == signal.SIGINT:
            self.interrupt(number, frame)
            return
        self._received.append(number)
        say(
            f"{signal.Signals(number).name}: saving; an evaluation in progress is dropped, and repeated when "
            "the run resumes. Press Ctrl-C again to end without saving"
        )


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """Records the signals that ask to stop instead of stopping; an ignored one stays ignored."""
    stop = Stop()
    wanted = [n for n in (*STOP_SIGNALS, signal.SIGINT) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop.handle) for number in wanted}
    if callable(interrupt := before.get(signal.SIGINT)):
        stop.interrupt = interrupt
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def report_failures_once() -> Iterator[None]:
    """Silences the threads in which libraries write; the main thread raises what ends them."""
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if type(arguments.thread).__module__.partition(".")[0] not in ("orbax", "tensorboard"):
            before(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


@contextlib.contextmanager
def lost_process_named(checkpoints: Checkpoints) -> Iterator[None]:
    """What JAX raises when another process of the run has ended, as an error that says so."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        steps = checkpoints.steps
        saved = f"saved is step {steps[-1]}" if steps else "no checkpoint yet"
        reason = first_line(error)[:200]
        raise TrainingError(
            f"another process of the run has ended or cannot be reached ({reason}); {saved}. Start the same "
            "command again in all processes to resume"
        ) from None
