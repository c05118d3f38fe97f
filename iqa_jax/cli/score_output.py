"""Scores pairs of files: results as they come, tables, JSON, maps and a page."""

import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from iqa_jax.cli.output import remark
from iqa_jax.errors import UserError
from iqa_jax.files import output_file, writable_directory

if TYPE_CHECKING:
    from iqa_jax.evaluation.page import Page
    from iqa_jax.scoring.results import Pair, Result


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

    Where standard output is not a terminal, several are lines as they come: target, tab, score.  Progress,
    remarks and failures go to standard error.

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
      sets: directories of targets; where there are several, the page compares them as methods.
      cluster: does the work, if given.
      read: other files that are read here, such as a table.
    Returns:
      Exit code: 0, or 1 if something failed.
    Raises:
      UserError: the metric and the pairs do not fit, or a file cannot be written.
    """
    from iqa_jax.scoring.files import RESIZED
    from iqa_jax.scoring.results import Growing

    if resize and resize not in RESIZED:
        raise UserError(f"--resize {resize}: expected {' or '.join(RESIZED)}")
    _check_kind(metric, pairs)
    used = pairs if metric.full_reference else [(target, None) for target, _ in pairs]
    growing: contextlib.AbstractContextManager = contextlib.nullcontext()
    if csv:
        csv = output_file(csv, ".csv", ".parquet")
        _check_not_read(csv, used, read)
        identity = {"metric": metric.describe(), "resize": resize}
        growing = Growing.at(csv, identity, anew=recompute)
    pictures = _page_in(page) if page else None
    draw = _drawer(metric, used, map_dir, pictures, full_scale=full_scale)
    options = {"masks": masks or {}, "resize": resize or None, "draw": draw}
    with growing as file:
        as_lines = not (as_json or sort or sys.stdout.isatty() or len(used) == 1)
        results = _all_results(metric, used, options, file, cluster, as_lines=as_lines)
        if pictures:
            written = write_page(pictures, metric, results, sets)
            remark(f"wrote {written}")
        if sort:
            results.sort(key=lambda r: math.inf if r.score is None else -r.score)
        if file:
            file.finish(results)
    if as_json:
        from iqa_jax.scoring.results import to_json

        print(json.dumps(to_json(results), indent=2))
    else:
        _print_scores(metric, results, summary_alone=as_lines)
    failed = [result for result in results if result.error]
    for result in failed:
        print(f"error: {_failure(result)}", file=sys.stderr)
    return 1 if failed else 0


def _page_in(directory: Path) -> "Page":
    from iqa_jax.evaluation.page import Page

    return Page(directory)


def _drawer(
    metric, pairs: "Sequence[Pair]", map_dir: Path | None, page: "Page | None", *, full_scale: bool
) -> Callable | None:
    """What is done with each quality map, see `score_files`; None if none is asked for."""
    if not map_dir and not page:
        return None
    from iqa_jax.scoring.maps import map_files, save_map

    maps = map_files(writable_directory(map_dir), [target for target, _ in pairs]) if map_dir else {}

    def draw(position: int, images: tuple, quality) -> None:
        target, reference = pairs[position]
        if maps:
            save_map(maps[target], images[-1], quality, metric.range, full=full_scale)
        if page:
            page.add(position, [reference, target] if reference else [target], images, quality)

    return draw


def write_page(page, metric, results: "Sequence[Result]", sets: Sequence[str]) -> Path:
    """Writes the page of the results; several directories of targets are methods, by their names."""
    from iqa_jax.evaluation.page import Entry

    roots = [Path(name).resolve() for name in sets]
    methods = {root: root.name for root in roots if root.is_dir()} if len(roots) > 1 else {}

    def method_of(target: Path) -> str:
        parents = target.resolve().parents
        return next((name for root, name in methods.items() if root in parents), "")

    entries = [Entry(r.target, r.reference, method_of(r.target), r.score, r.error) for r in results]
    low, high = metric.range
    remark = f"{metric.config.name}, {metric.crops} crops: from {low:.4g} (bad) to {high:.4g} (excellent)"
    return page.write("Scores", remark, "MOS", entries, list(methods.values()))


def _check_kind(metric, pairs: "Sequence[Pair]") -> None:
    without = [target for target, reference in pairs if reference is None]
    if metric.full_reference and without:
        named = f"; {without[0]} has none" if len(without) < len(pairs) else ""
        raise UserError(
            f"this metric compares with a reference; give --reference FILES or a table of pairs{named}"
        )
    if not metric.full_reference and len(without) < len(pairs):
        raise UserError("this metric needs no reference; give targets alone, without references")


def _all_results(
    metric, pairs: "Sequence[Pair]", options: dict, file, cluster: Cluster | None, *, as_lines: bool
) -> "list[Result]":
    """The results of all pairs, in their order; those that come are told at once."""
    from tqdm import tqdm

    from iqa_jax.scoring.results import Result

    masks = options["masks"]
    files = [(*pair, masks.get(pair[0])) for pair in pairs]
    done = file.done(files) if file and not options["draw"] else {}
    results = [Result(*pair, done.get(position)) for position, pair in enumerate(pairs)]
    left = [position for position in range(len(pairs)) if position not in done]
    remarks: set[str] = set()
    if done:
        remark(f"{len(done)} of {len(pairs)} are there already; --recompute begins anew")
    with tqdm(total=len(pairs), desc="scoring", unit="image", leave=False, disable=len(pairs) == 1) as bar:

        def say(text):
            if text not in remarks:
                remarks.add(text)
                bar.write(text, file=sys.stderr)

        def came(position, *, known=False):
            result = results[position]
            if file:
                file.add(files[position], result, known=known)
            if as_lines and result.score is not None:
                print(f"{_in_one_line(result.target)}\t{result.score:.4f}", flush=True)
            bar.update()

        for position in done:
            came(position, known=True)

        if cluster:
            found = _on_cluster(cluster, pairs, left, options)
        else:
            found = _here(metric, pairs, left, options, say)
        for position, result in found:
            results[position] = result
            came(position)
    return results


def _here(
    metric, pairs: "Sequence[Pair]", left: Sequence[int], options: dict, say: Callable
) -> "Iterator[tuple[int, Result]]":
    """The results of the pairs at some positions, by this process."""
    from iqa_jax.scoring.files import score_files

    by_position = options["draw"]

    def draw(number, images, quality):
        by_position(left[number], images, quality)

    options = {**options, "draw": draw if by_position else None}
    for number, result in score_files(metric, [pairs[position] for position in left], say=say, **options):
        yield left[number], result


def _on_cluster(
    cluster: Cluster, pairs: "Sequence[Pair]", left: Sequence[int], options: dict
) -> "Iterator[tuple[int, Result]]":
    """The same, by the workers of a cluster."""
    from iqa_jax.scoring.spread import scored_on_cluster

    if options["draw"]:
        raise UserError("--ray gives scores alone; leave --map and --page out")
    found = scored_on_cluster(
        cluster.weights,
        cluster.options,
        [pairs[position] for position in left],
        masks=options["masks"],
        resize=options["resize"],
        address=cluster.address,
        workers=cluster.workers,
    )
    for number, result in found:
        yield left[number], result


def _in_one_line(path: Path) -> str:
    """A name whose tabs and line ends are written as in a string."""
    return str(path).translate({ord(odd): repr(odd)[1:-1] for odd in "\t\n\r"})


def _check_not_read(output: Path, pairs: "Sequence[Pair]", others: Sequence[str]) -> None:
    """Raises UserError if a file to write is one of those that are read."""
    read = {path for pair in pairs for path in pair if path} | set(map(Path, others))
    if output.exists() and any(path.exists() and output.samefile(path) for path in read):
        raise UserError(f"{output}: is read here; choose another file to write")


def _failure(result) -> str:
    """The reason, with the target's name where it does not have it already."""
    name = str(result.target)
    return result.error if result.error.startswith(name) else f"{name}: {result.error}"


def _print_scores(metric, results: Sequence, *, summary_alone: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    low, high = metric.range
    bad_to_good = f"from {low:.4g} (bad) to {high:.4g} (excellent)"
    scores = [result.score for result in results if result.score is not None]
    if len(results) == 1:
        if scores:
            print(f"{scores[0]:.4f}")
            remark(f"on a scale {bad_to_good}")
        return
    mean = f", mean {sum(scores) / len(scores):.4f}" if scores else ""
    summary = f"{len(scores)} of {len(results)} scored{mean}, on a scale {bad_to_good}"
    if summary_alone:
        remark(summary)
        return
    table = Table(caption=summary)
    table.add_column("target", overflow="fold")
    table.add_column("reference", overflow="fold")
    table.add_column("score", justify="right", no_wrap=True)
    for result in results:
        shown = "–" if result.score is None else f"{result.score:.4f}"
        table.add_row(str(result.target), str(result.reference or "–"), shown)
    Console(markup=False, highlight=False, emoji=False).print(table)
