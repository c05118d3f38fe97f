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

from iqa_jax.files import write_whole
from iqa_jax.parallel import processes


def say(line: str) -> None:
    """Prints a line beside the progress bar; the first process alone does."""
    if not processes.is_first():
        return
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


class Log:
    """metrics.jsonl, a line for each evaluation, and TensorBoard events.

    When a run goes on at `first_step`, lines beyond `last_line`, the last regular evaluation up to there,
    go: they are written anew, or were of a step that was the end only then.  Of several processes one
    writes.
    """

    def __init__(self, workdir: Path, *, first_step: int, last_line: int, writes: bool = True):
        self._writes = writes
        self._path = workdir / "metrics.jsonl"
        self.lines = [line for line in read_lines(self._path) if line["step"] <= last_line]
        self._rewrite()
        self._directory, self._first_step = workdir, first_step

    def __enter__(self):
        if not self._writes:
            return self
        self._events = EventFileWriter(str(self._directory / "tensorboard"), flush_secs=30)
        if self._first_step:  # what the stopped run wrote beyond this step does not count
            self._add_event(self._first_step + 1, session_log=SessionLog(status=SessionLog.START))
        return self

    def __exit__(self, *_):
        if self._writes:
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
            self._events.add_event(Event(step=step, wall_time=time.time(), **content))

    def _rewrite(self) -> None:
        if not self._writes:
            return
        write_whole(self._path, "".join(json.dumps(line) + "\n" for line in self.lines))


def read_lines(path: Path) -> list[dict]:
    """The lines of metrics.jsonl in order; what is damaged in it is named and left out."""
    if not path.exists():
        return []
    lines, damaged = [], []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
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
