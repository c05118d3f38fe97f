"""What `score` prints: results as they come, a table, JSON, failures."""

import contextlib
import json
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

from iqa_jax.cli.output import in_one_line, remark
from iqa_jax.progress import on_terminal, progress_bar

if TYPE_CHECKING:
    from iqa_jax.evaluation.comparison import Comparison
    from iqa_jax.scoring.metric import Metric
    from iqa_jax.scoring.results import Result

_FEW_REFERENCES = 10  # for a bootstrap
_TO_ONE_SIZE = (
    "where sizes differ, --resize target scales the target to its reference and --resize reference the "
    "reference to its target; the pairs that `prepare` takes must have one size"
)


class ScorePrinter:
    """Prints a number for one pair, a table for several, or JSON.

    Where standard output is not a terminal, several are lines (target, tab, score), as they come or, if they
    are sorted, at the end.  Progress, remarks and failures go to standard error.
    """

    def __init__(self, count: int, *, as_json: bool, best_first: bool):
        """Takes the number of pairs and how to print them."""
        self._count, self._as_json = count, as_json
        self._as_lines = not (as_json or on_terminal(sys.stdout) or count == 1)
        self._at_once = self._as_lines and not best_first

    @contextlib.contextmanager
    def progress(self) -> Iterator[None]:
        """Shows a bar while results come."""
        # Lines in a pipe, whose other end may be the terminal, would stand behind the bar.
        hidden = self._count == 1 or (self._at_once and _is_pipe(sys.stdout))
        with progress_bar(self._count, "scoring", "image", hidden=hidden) as self._bar:
            yield

    @property
    def done(self) -> int:
        """How many results have come."""
        return self._bar.n

    def remark(self, text: str) -> None:
        """Prints a remark beside the bar."""
        with self._bar.external_write_mode(file=sys.stderr):
            remark(text)

    def result(self, result: "Result") -> None:
        """Takes a result as it comes."""
        if self._at_once:
            _print_line(result)
        self._bar.update()

    def finish(
        self,
        metric: "Metric",
        results: "Sequence[Result]",
        methods: Sequence[str] | None = None,
        comparison: "Comparison | None" = None,
    ) -> int:
        """Prints all results that are not printed yet, the comparison and failures; returns the exit code.

        Args:
          methods: of each result, if there are several.
          comparison: of these methods, if they have pictures in common.
        """
        from iqa_jax.scoring.results import to_json

        if self._as_json:
            content: list | dict = to_json(results)
            if methods is not None:
                scores = [
                    {"method": name, **row} for name, row in zip(methods, to_json(results), strict=True)
                ]
                content = {"scores": scores, "comparison": comparison.report() if comparison else None}
            print(json.dumps(content, indent=2))
        elif self._as_lines:
            for result in () if self._at_once else results:
                _print_line(result)
            remark(_summary(metric, results))
        else:
            _print_scores(metric, results)
        if comparison and not self._as_json:
            _print_comparison(comparison, sys.stderr if self._as_lines else sys.stdout)
        return _print_failures(results)


def _is_pipe(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)
    except OSError:  # a stand-in has no descriptor
        return False


def _print_failures(results: "Sequence[Result]") -> int:
    """Prints a line for each failure on standard error; returns the exit code."""
    failed = [result for result in results if result.error]
    for result in failed:
        remark(in_one_line(f"error: {_failure(result)}"))
    if any(result.sizes_differ for result in failed):
        remark(_TO_ONE_SIZE)
    return 1 if failed else 0


def _failure(result) -> str:
    """The error, after the target's name if it does not begin with it."""
    name = str(result.target)
    return result.error if result.error.startswith(name) else f"{name}: {result.error}"


def _print_line(result) -> None:
    """Target, tab, score; nothing if there is none."""
    if result.score is not None:
        print(f"{in_one_line(result.target)}\t{result.score:z.4f}", flush=True)


def _summary(metric, results: Sequence) -> str:
    from iqa_jax.scoring.results import scale_text

    scores = [result.score for result in results if result.score is not None]
    mean = f", mean {sum(scores) / len(scores):z.4f}" if scores else ""
    return f"{len(scores)} of {len(results)} scored{mean}, on a scale {scale_text(metric.range)}"


def _print_scores(metric, results: Sequence) -> None:
    """The score alone of one pair, a table of several."""
    from iqa_jax.scoring.alignment import describe
    from iqa_jax.scoring.results import scale_text

    if len(results) == 1:
        if results[0].score is not None:
            print(f"{results[0].score:z.4f}")
            remark(f"on a scale {scale_text(metric.range)}")
            if results[0].shift:
                remark(f"aligned: the target lay {describe(results[0].shift)} its reference")
        return
    from rich.console import Console
    from rich.table import Table

    aligned = any(result.shift for result in results)
    table = Table(caption=_summary(metric, results))
    table.add_column("target", overflow="fold")
    table.add_column("reference", overflow="fold")
    table.add_column("score", justify="right", no_wrap=True)
    if aligned:
        table.add_column("shift (right, down)", justify="right", no_wrap=True)
    for result in results:
        shown = ["–" if result.score is None else f"{result.score:z.4f}"]
        if aligned:
            shown.append("{:g}, {:g}".format(*result.shift) if result.shift else "–")
        table.add_row(in_one_line(result.target), in_one_line(result.reference or "–"), *shown)
    Console(markup=False, highlight=False, emoji=False).print(table)


def _print_comparison(comparison: "Comparison", file: TextIO | None) -> None:
    """A table of the methods, and a sentence for each difference."""
    from rich.console import Console
    from rich.table import Table

    if file is None:
        return
    pictures = f"{comparison.pictures} picture{'s' * (comparison.pictures != 1)}"
    references = f"{comparison.references} reference{'s' * (comparison.references != 1)}"
    table = Table(title=f"methods on the {pictures} that all have")
    table.add_column("method", overflow="fold")
    for name in ("mean", "pictures", "wins"):
        table.add_column(name, justify="right", no_wrap=True)
    for method, mean, wins in zip(comparison.methods, comparison.means, comparison.wins, strict=True):
        table.add_row(in_one_line(method), f"{mean:z.4f}", str(comparison.pictures), str(wins))
    # In a file or a pipe no line is broken.
    console = Console(
        file=file,
        width=None if on_terminal(file) else 100_000,
        markup=False,
        highlight=False,
        emoji=False,
        soft_wrap=True,
    )
    console.print(table)
    for difference in comparison.differences:
        console.print(in_one_line(difference.sentence))
    notes = [f"in brackets: 95 % interval of the mean, bootstrap over {references}"]
    if comparison.references < _FEW_REFERENCES:
        notes.append("with so few references it is narrower than it should be")
    if comparison.references == 1:
        notes.clear()
    if comparison.left_out:
        files = "1 picture" if comparison.left_out == 1 else f"{comparison.left_out} pictures"
        notes.append(f"left out: {files} without a score or a counterpart in every method")
    if notes:
        console.print("; ".join(notes))
