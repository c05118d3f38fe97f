"""What a run reports: lines beside the bar, metrics.jsonl, TensorBoard events, the closing table."""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from iqa_jax import progress
from iqa_jax.data.source import PairSource
from iqa_jax.errors import TrainingError
from iqa_jax.files import naming, write_whole
from iqa_jax.parallel import processes
from iqa_jax.reporting.plots import save_scatter

try:
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[attr-defined]  # protobuf
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[attr-defined]  # makes them when run
    from tensorboard.summary.writer.event_file_writer import EventFileWriter
except ModuleNotFoundError:  # an extra
    EventFileWriter = None

METRICS = "metrics.jsonl"


def say(line: str) -> None:
    """Prints a line beside the progress bar; the first process alone does."""
    if not processes.is_first():
        return
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


def say_pairs(sources: Mapping[str, PairSource | None]) -> None:
    """A line for each source that there is, under its name."""
    for name, pairs in sources.items():
        if pairs is not None:
            references = len(set(pairs.reference))
            say(f"  {name}: {len(pairs):,} pairs of {references} references ({pairs.split})")


def progress_bar(total: int, what: str, unit: str, **options) -> tqdm:
    """A bar of the first process; see `iqa_jax.progress.progress_bar`."""
    return progress.progress_bar(total, what, unit, hidden=not processes.is_first(), **options)


class Log:
    """metrics.jsonl, a line for each evaluation, and TensorBoard events; of several processes one writes.

    Attributes:
      lines: of metrics.jsonl.
    """

    def __init__(self, workdir: Path, lines: list[dict], *, first_step: int, writes: bool = True):
        """Starts, or resumes at `first_step` with the checkpoint's lines up to there.

        They overwrite the file: it may have lines of steps that the run repeats, and may be damaged, which
        the log mentions.
        """
        self._writes = writes
        self._path = workdir / METRICS
        self.lines = list(lines)
        expected = [json.dumps(line) for line in lines]
        if first_step and expected != _raw_lines(self._path)[: len(expected)]:
            say(f"{self._path}: lines are missing or changed; written again from the checkpoint")
        self._rewrite()
        self._directory, self._first_step = workdir / "tensorboard", first_step
        self._events = None

    def __enter__(self):
        if not self._writes:
            return self
        if EventFileWriter is None:
            say("no TensorBoard events: it is not installed (pip install 'iqa-conformer[tensorboard]')")
            return self
        with naming(self._directory):
            self._events = EventFileWriter(str(self._directory), flush_secs=30)
        if self._first_step:  # what the stopped run wrote beyond this step does not count
            self._add_event(self._first_step + 1, session_log=SessionLog(status=SessionLog.START))
        return self

    def __exit__(self, *_):
        if self._events:
            with naming(self._directory):
                self._events.close()

    def evaluation(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        line = {"step": step, "epoch": round(epoch, 4), **metrics}
        self.lines.append({name: value if math.isfinite(value) else None for name, value in line.items()})
        self._rewrite()
        for name, value in metrics.items():
            self.scalar(f"validation/{name}", value, step)
        shown = ", ".join(
            f"{n} {metrics[n]:.4f}" for n in ("loss", "plcc", "srcc", "rmse", "ema_srcc") if n in metrics
        )
        say(f"step {step}: {shown}" if step else f"before training: {shown}")

    def has(self, step: int) -> bool:
        """Whether there is a line of that step."""
        return any(line["step"] == step for line in self.lines)

    def scalar(self, name: str, value: float, step: int) -> None:
        if self._events:
            self._add_event(step, summary=Summary(value=[Summary.Value(tag=name, simple_value=value)]))

    def _add_event(self, step: int, **content) -> None:
        if self._events:
            with naming(self._directory):
                self._events.add_event(Event(step=step, wall_time=time.time(), **content))

    def _rewrite(self) -> None:
        if not self._writes:
            return
        write_whole(self._path, "".join(json.dumps(line) + "\n" for line in self.lines))


def _raw_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


class Losses:
    """The losses of the latest steps, fetched now and then.

    Attributes:
      unseen: how many steps have not been looked at.
    """

    def __init__(self, log: Log, bar: tqdm):
        self._log, self._bar = log, bar
        self._waiting: list[jax.Array] = []
        self.unseen = 0

    def add(self, losses: jax.Array) -> None:
        """Adds those of one or more steps; the bar counts what is done, and one dispatch more."""
        if self._waiting:
            jax.block_until_ready(self._waiting[-1])
        self._bar.update(losses.size)
        self._waiting.append(losses)
        self.unseen += losses.size

    def look(self, step: int, saved: Sequence[int]) -> None:
        """Fetches, shows and logs the losses up to `step`.

        Args:
          saved: steps of the checkpoints.
        Raises:
          TrainingError: a loss is not finite.
        """
        losses = np.concatenate([np.atleast_1d(x) for x in jax.device_get(self._waiting)])
        first = step - len(losses) + 1
        self._waiting.clear()
        self.unseen = 0
        bad = np.flatnonzero(~np.isfinite(losses))
        if bad.size:
            good = f"the last good checkpoint is step {saved[-1]}" if saved else "no checkpoint yet"
            raise TrainingError(
                f"the loss of step {first + bad[0]} is {losses[bad[0]]}; {good}. A lower "
                "config.learning_rate in a new working directory may help"
            )
        self._bar.set_postfix_str(f"loss {losses.mean():.4f}")
        for number, loss in enumerate(losses):
            self._log.scalar("training/loss", loss, first + number)
        if self._bar.format_dict["rate"]:
            self._log.scalar("training/steps_per_second", self._bar.format_dict["rate"], step)


def closing_report(
    workdir: Path, lines: list[dict], best: int | None, predicted: np.ndarray | None, mos: np.ndarray
) -> None:
    """Shows the last evaluations and draws the latest; the first of several processes does.

    Args:
      predicted, mos: (N,) of the validation pairs; nothing is predicted where no evaluation was due.
    """
    if not processes.is_first():
        return
    _show_table(lines, best, workdir)
    if predicted is not None:
        with naming(workdir / "scatter.png"):
            save_scatter(workdir / "scatter.png", predicted, mos)


def _show_table(lines: list[dict], best: int | None, workdir: Path) -> None:
    columns = ("step", "epoch", "loss", "plcc", "srcc", "krcc", "rmse", "main_score", "ema_srcc")
    table = Table(title=f"validation; best by SRCC: step {best}")
    shown = [c for c in columns if c in lines[-1]]
    for column in shown:
        table.add_column(column, justify="right")
    for line in lines if len(lines) <= 10 else [*lines[: lines[0]["step"] == 0], *lines[-10:]]:
        table.add_row(*(_cell(line.get(column)) for column in shown))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    last = lines[-1]
    psnr, ssim = (_cell(last.get(name)) for name in ("psnr_srcc", "ssim_srcc"))
    console.print(f"SRCC on the same pairs: PSNR {psnr}, SSIM {ssim}")
    console.print(f"run: {workdir} (metrics.jsonl, scatter.png, checkpoints/)", soft_wrap=True)


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
