"""Scores pairs of files: results as they come, tables, JSON, maps and a page."""

import contextlib
import dataclasses
import itertools
import json
import math
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from iqa_jax.cli.output import in_one_line, on_terminal, progress_bar, remark
from iqa_jax.cli.score_pictures import Drawing, check_not_read, drawing_of, page_in, write_page
from iqa_jax.errors import UserError
from iqa_jax.files import output_file

if TYPE_CHECKING:
    from iqa_jax.scoring.results import Pair, Result

_TO_ONE_SIZE = (
    "where sizes differ, --resize target scales the target to its reference and --resize reference the "
    "reference to its target; the pairs that `prepare` takes must have one size"
)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A Ray cluster that does the work.

    Attributes:
      address, workers: see `iqa_jax.parallel.cluster.spread`.
      weights, options: what each worker loads.
    """

    address: str
    workers: int
    weights: str
    options: dict


def score_pairs(
    metric,
    pairs: "Sequence[Pair]",
    *,
    masks: "dict[Path, Path] | None" = None,
    resize: str = "",
    csv: Path | None = None,
    recompute: bool = False,
    as_json: bool = False,
    sort: bool = False,
    map_dir: Path | None = None,
    full_scale: bool = False,
    page: Path | None = None,
    sets: Sequence[str] = (),
    cluster: Cluster | None = None,
    read: Sequence[str] = (),
) -> int:
    """Scores pairs of files and prints a number for one, a table for several, or JSON.

    Where standard output is not a terminal, several are lines (target, tab, score), as they come or, sorted,
    at the end.  Progress, remarks and failures go to standard error.

    Args:
      metric: as `iqa_jax.load` gives.
      pairs, masks: as `chosen_files` gives.
      resize: see `iqa_jax.scoring.files.score_files`.
      csv: a file to write, too, see `iqa_jax.scoring.results.Growing`.
      recompute: the file begins anew, whatever an earlier start has left.
      as_json: standard output is a list of objects, see `iqa_jax.scoring.results.to_json`.
      sort: the best first, failures last.
      map_dir: directory for heat maps.
      full_scale: of the maps.
      page: directory for a page to look at, see `iqa_jax.evaluation.page`.
      sets: what the targets were found by; maps lie as their targets do below the directories among them, and
        the page compares several of these as methods.
      cluster: does the work, if given.
      read: other files that are read here, such as a table.
    Returns:
      Exit code: 0, or 1 if something failed.
    Raises:
      UserError: the metric and the pairs do not fit, or a file cannot be written.
    """
    from iqa_jax.data.pairing import is_table
    from iqa_jax.scoring.results import Growing, to_json

    if not pairs:
        raise UserError("nothing to score: no target was given")
    _check_options(metric, resize, csv, recompute, map_dir, page, full_scale, cluster)
    used = _of_the_kind(metric, pairs)
    growing: contextlib.AbstractContextManager = contextlib.nullcontext()
    if csv:
        csv = output_file(csv, ".csv", ".parquet")
        check_not_read([csv], [*itertools.chain(*used), *map(Path, read)])
        identity = {"metric": metric.describe(), "resize": resize}
        growing = Growing.at(csv, identity | ({"full_scale": full_scale} if map_dir else {}), anew=recompute)
    named = sets or [name for name in read if is_table(name)]
    with growing as file, page_in(page, metric.range if full_scale else None) as shown:
        drawing = drawing_of(metric, used, map_dir, shown, full_scale=full_scale, named=named)
        options = {"masks": masks or {}, "resize": resize or None}
        as_lines = not (as_json or on_terminal(sys.stdout) or len(used) == 1)
        at_once = as_lines and not sort
        results = _all_results(metric, used, options, drawing, file, cluster, as_lines=at_once)
        if shown:
            remark(f"wrote {write_page(shown, metric, results, named)}")
        if sort:
            results.sort(key=lambda r: math.inf if r.score is None else -r.score)
        if file:
            file.finish(results)
    if as_json:
        print(json.dumps(to_json(results), indent=2))
    elif as_lines:
        for result in () if at_once else results:
            _print_line(result)
        remark(_summary(metric, results))
    else:
        _print_scores(metric, results)
    return _say_failures(results)


def _check_options(metric, resize, csv, recompute, map_dir, page, full_scale, cluster) -> None:
    """Raises UserError for options that would do nothing, are not known or cannot go together."""
    from iqa_jax.scoring.files import RESIZED

    if resize and resize not in RESIZED:
        raise UserError(f"--resize {resize}: expected {' or '.join(RESIZED)}")
    idle = {
        "--resize with a metric without reference": resize and not metric.full_reference,
        "--recompute without --csv": recompute and not csv,
        "--full-scale without --map or --page": full_scale and not (map_dir or page),
    }
    for what, is_so in idle.items():
        if is_so:
            raise UserError(f"{what} has no effect; leave it out")
    if cluster and (map_dir or page):
        raise UserError("--ray gives scores alone; leave --map and --page out")
    if cluster:
        import ray  # noqa: F401  before the work


def _of_the_kind(metric, pairs: "Sequence[Pair]") -> "Sequence[Pair]":
    """The pairs as the metric looks at them.

    Raises:
      UserError: it needs references that are not there.
    """
    without = [target for target, reference in pairs if reference is None]
    if not metric.full_reference:
        if len(without) < len(pairs):
            remark("this metric looks at targets alone; the references are not used")
        return list(dict.fromkeys((target, None) for target, _ in pairs))
    if without:
        named = f"; {without[0]} has none" if len(without) < len(pairs) else ""
        raise UserError(
            f"this metric compares with a reference; give --reference FILES or a table of pairs{named}"
        )
    return pairs


def _all_results(
    metric,
    pairs: "Sequence[Pair]",
    options: dict,
    drawing: Drawing | None,
    file,
    cluster: Cluster | None,
    *,
    as_lines: bool,
) -> "list[Result]":
    """The results of all pairs, in their order; those that come are told at once."""
    from iqa_jax.scoring.results import Result, state_of

    masks = options["masks"]
    maps = drawing.maps if drawing else []
    # What each score depends on; with its map, so that a map that is gone or another's is drawn anew.
    files = [
        (target, reference, masks.get(target), maps[position] if maps else None)
        for position, (target, reference) in enumerate(pairs)
    ]
    done = file.done(files) if file and not (drawing and not drawing.is_kept) else {}
    results = [Result(*pair, done.get(position)) for position, pair in enumerate(pairs)]
    left = [position for position in range(len(pairs)) if position not in done]
    remarks: set[str] = set()
    if file and file.damaged:
        remark(f"damaged lines in the journal of {file.path}: {file.damaged}; their files are scored again")
    if done:
        remark(f"{len(done)} of {len(pairs)} are there already; --recompute begins anew")
    # Lines that go through a pipe to the terminal would stand behind the bar; they show the progress as well.
    hidden = len(pairs) == 1 or (as_lines and _is_pipe(sys.stdout))
    with progress_bar(len(pairs), "scoring", "image", hidden=hidden) as bar:

        def say(text):
            if text not in remarks:
                remarks.add(text)
                with bar.external_write_mode(file=sys.stderr):
                    remark(text)

        def came(position):
            result = results[position]
            if file and position in done:
                file.add(result, files[position], None)
            elif file:
                file.add(result, files[position], (*result.states, state_of(files[position][-1])))
            if as_lines:
                _print_line(result)
            bar.update()

        for position in done:
            came(position)

        if cluster:
            coming = _on_cluster(cluster, pairs, left, options)
        else:
            coming = _here(metric, pairs, left, options, drawing, say)
        for position, result in coming:
            results[position] = result
            came(position)
    return results


def _is_pipe(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)
    except OSError:  # what stands in for it has no number
        return False


def _here(
    metric,
    pairs: "Sequence[Pair]",
    left: Sequence[int],
    options: dict,
    drawing: Drawing | None,
    say: Callable,
) -> "Iterator[tuple[int, Result]]":
    """The results of the pairs at some positions, by this process."""
    from iqa_jax.scoring.files import score_files

    draw = drawing and (lambda number, *drawn: drawing.draw(left[number], *drawn))
    chosen = [pairs[position] for position in left]
    for number, result in score_files(metric, chosen, draw=draw, say=say, **options):
        yield left[number], result


def _on_cluster(
    cluster: Cluster, pairs: "Sequence[Pair]", left: Sequence[int], options: dict
) -> "Iterator[tuple[int, Result]]":
    """The same, by the workers of a cluster."""
    from iqa_jax.scoring.spread import scored_on_cluster

    found = scored_on_cluster(
        cluster.weights,
        cluster.options,
        [pairs[position] for position in left],
        **options,
        address=cluster.address,
        workers=cluster.workers,
    )
    for number, result in found:
        yield left[number], result


def _say_failures(results: "Sequence[Result]") -> int:
    """A line for each failure on standard error; the exit code."""
    failed = [result for result in results if result.error]
    for result in failed:
        remark(in_one_line(f"error: {_failure(result)}"))
    if any(result.differ for result in failed):
        remark(_TO_ONE_SIZE)
    return 1 if failed else 0


def _failure(result) -> str:
    """The reason, with the target's name where it does not have it already."""
    name = str(result.target)
    return result.error if result.error.startswith(name) else f"{name}: {result.error}"


def _print_line(result) -> None:
    """Target, tab, score; nothing if there is none."""
    if result.score is not None:
        print(f"{in_one_line(result.target)}\t{result.score:z.4f}", flush=True)


def _summary(metric, results: Sequence) -> str:
    from iqa_jax.evaluation.agreement import scale_text

    scores = [result.score for result in results if result.score is not None]
    mean = f", mean {sum(scores) / len(scores):z.4f}" if scores else ""
    return f"{len(scores)} of {len(results)} scored{mean}, on a scale {scale_text(metric.range)}"


def _print_scores(metric, results: Sequence) -> None:
    """The score alone of one pair, a table of several."""
    from rich.console import Console
    from rich.table import Table

    from iqa_jax.evaluation.agreement import scale_text

    if len(results) == 1:
        if results[0].score is not None:
            print(f"{results[0].score:z.4f}")
            remark(f"on a scale {scale_text(metric.range)}")
        return
    table = Table(caption=_summary(metric, results))
    table.add_column("target", overflow="fold")
    table.add_column("reference", overflow="fold")
    table.add_column("score", justify="right", no_wrap=True)
    for result in results:
        shown = "–" if result.score is None else f"{result.score:z.4f}"
        table.add_row(in_one_line(result.target), in_one_line(result.reference or "–"), shown)
    Console(markup=False, highlight=False, emoji=False).print(table)
