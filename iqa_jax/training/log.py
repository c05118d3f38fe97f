"""What a run tells: lines beside the bar, metrics.jsonl, TensorBoard events, the closing table."""

import json
import math
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tqdm import tqdm

from iqa_jax import progress
from iqa_jax.files import naming, write_whole
from iqa_jax.parallel import processes

METRICS = "metrics.jsonl"


def say(line: str) -> None:
    """Prints a line beside the progress bar; the first process alone does."""
    if not processes.is_first():
        return
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


def progress_bar(total: int, what: str, unit: str, **options) -> tqdm:
    """A bar of the first process; see `iqa_jax.progress.progress_bar`."""
    return progress.progress_bar(total, what, unit, hidden=not processes.is_first(), **options)


class Log:
    """metrics.jsonl, a line for each evaluation, and TensorBoard events; of several processes one writes.

    Attributes:
      lines: of metrics.jsonl.
    """

    def __init__(self, workdir: Path, lines: list[dict], *, first_step: int, writes: bool = True):
        """Begins, or resumes at `first_step` with the lines up to there.

        They are the checkpoint's, and the file is written anew from them: it may have lines of steps that
        will be taken again, and may be damaged, which is said.
        """
        self._writes = writes
        self._path = workdir / METRICS
        self.lines = list(lines)
        expected = [json.dumps(line) for line in lines]
        if first_step and expected != _raw_lines(self._path)[: len(expected)]:
            say(f"{self._path}: lines are missing or changed; written again from the checkpoint")
        self._rewrite()
        self._directory, self._first_step = workdir / "tensorboard", first_step

    def __enter__(self):
        if not self._writes:
            return self
        with naming(self._directory):
            self._events = EventFileWriter(str(self._directory), flush_secs=30)
        if self._first_step:  # what the stopped run wrote beyond this step does not count
            self._add_event(self._first_step + 1, session_log=SessionLog(status=SessionLog.START))
        return self

    def __exit__(self, *_):
        if self._writes:
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
        say(f"step {step}: {shown}")

    def scalar(self, name: str, value: float, step: int) -> None:
        self._add_event(step, summary=Summary(value=[Summary.Value(tag=name, simple_value=value)]))

    def _add_event(self, step: int, **content) -> None:
        if self._writes:
            with naming(self._directory):
                self._events.add_event(Event(step=step, wall_time=time.time(), **content))

    def _rewrite(self) -> None:
        if not self._writes:
            return
        write_whole(self._path, "".join(json.dumps(line) + "\n" for line in self.lines))


def _raw_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def read_lines(workdir: Path) -> list[dict]:
    """The lines of metrics.jsonl, for a run whose checkpoints, of an earlier version, do not hold them.

    What is damaged in it is named and left out.
    """
    path = workdir / METRICS
    lines, damaged = [], []
    for number, line in enumerate(_raw_lines(path), start=1):
        try:
            content = json.loads(line)
            lines.append({**content, "step": int(content["step"])})
        except (ValueError, KeyError, TypeError):
            damaged.append(number)
    if damaged:
        say(f"{path}: damaged in line {', '.join(map(str, damaged))}; the other lines are kept")
    return lines


def closing_table(lines: list[dict], best: int | None, workdir: Path) -> None:
    columns = ("step", "epoch", "loss", "plcc", "srcc", "krcc", "rmse", "main_score", "ema_srcc")
    table = Table(title=f"validation; best by SRCC: step {best}")
    shown = [c for c in columns if c in lines[-1]]
    for column in shown:
        table.add_column(column, justify="right")
    for line in lines[-10:]:
        table.add_row(*(_cell(line.get(column)) for column in shown))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    last = lines[-1]
    psnr, ssim = (_cell(last.get(name)) for name in ("psnr_srcc", "ssim_srcc"))
    console.print(f"SRCC on the same pairs: PSNR {psnr}, SSIM {ssim}")
    console.print(f"run: {workdir} (metrics.jsonl, scatter.png, checkpoints/)", soft_wrap=True)


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
