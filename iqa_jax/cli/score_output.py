"""Scores pairs of files: results as they come, tables, JSON, maps and a page."""

import contextlib
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from iqa_jax.cli.output import remark
from iqa_jax.errors import UserError
from iqa_jax.files import output_file, told_apart, writable_directory

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
    _check_options(metric, resize, csv, recompute, map_dir, page, full_scale, cluster)
    used = _of_the_kind(metric, pairs)
    growing: contextlib.AbstractContextManager = contextlib.nullcontext()
    if csv:
        csv = output_file(csv, ".csv", ".parquet")
        _check_not_read(csv, used, read)
        identity = {"metric": metric.describe(), "resize": resize}
        growing = Growing.at(csv, identity | ({"full_scale": full_scale} if map_dir else {}), anew=recompute)
    pictures = _page_in(page, metric.range if full_scale else None) if page else contextlib.nullcontext()
    with growing as file, pictures as shown:
        drawing = _drawing(metric, used, map_dir, shown, full_scale=full_scale)
        options = {"masks": masks or {}, "resize": resize or None}
        as_lines = not (as_json or sort or sys.stdout.isatty() or len(used) == 1)
        results = _all_results(metric, used, options, drawing, file, cluster, as_lines=as_lines)
        if shown:
            remark(f"wrote {write_page(shown, metric, results, sets)}")
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


def _check_options(metric, resize, csv, recompute, map_dir, page, full_scale, cluster) -> None:
    """Raises UserError for options that would do nothing, or cannot go together."""
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


def _page_in(directory: Path, scale: tuple[float, float] | None) -> "Page":
    from iqa_jax.evaluation.page import Page

    return Page(directory, scale=scale)


class _Drawing(NamedTuple):
    """What is done with quality maps.

    Attributes:
      draw: see `score_files`.
      is_done: whether what is drawn of the pair at a position is there already.
    """

    draw: Callable
    is_done: Callable[[int], bool]


def _drawing(
    metric, pairs: "Sequence[Pair]", map_dir: Path | None, page: "Page | None", *, full_scale: bool
) -> _Drawing | None:
    """What is done with each quality map; None if none is asked for."""
    if not map_dir and not page:
        return None
    from iqa_jax.scoring.maps import map_files, save_map

    maps = map_files(writable_directory(map_dir), [target for target, _ in pairs]) if map_dir else []

    def draw(position: int, images: tuple, quality) -> None:
        target, reference = pairs[position]
        if maps:
            save_map(maps[position], images[-1], quality, metric.range, full=full_scale)
        if page:
            page.add(position, [reference, target] if reference else [target], images, quality)

    return _Drawing(draw, lambda position: not page and maps[position].exists())


def write_page(page: "Page", metric, results: "Sequence[Result]", sets: Sequence[str]) -> Path:
    """Writes the page of the results; several directories of targets are methods, by their names."""
    from iqa_jax.evaluation.page import Entry

    roots = [root for root in (Path(name).resolve() for name in sets) if root.is_dir()]
    methods = told_apart(roots) if len(set(roots)) > 1 else {}
    targets = told_apart(result.target for result in results)
    references = told_apart(result.reference for result in results if result.reference)

    def entry(result):
        parents = result.target.resolve().parents
        root = next((root for root in roots if root in parents), None)
        name = str(result.target.resolve().relative_to(root)) if root else targets[result.target]
        reference = references[result.reference] if result.reference else None
        content = reference or Path(name).with_suffix("").as_posix()
        return Entry(name, reference, content, methods.get(root, ""), result.score, result.error)

    low, high = metric.range
    remark = f"{metric.config.name}, {metric.crops} crops: from {low:.4g} (bad) to {high:.4g} (excellent)"
    return page.write("Scores", remark, "MOS", [*map(entry, results)], list(methods.values()))


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
    drawing: _Drawing | None,
    file,
    cluster: Cluster | None,
    *,
    as_lines: bool,
) -> "list[Result]":
    """The results of all pairs, in their order; those that come are told at once."""
    from tqdm import tqdm

    from iqa_jax.scoring.results import Result

    masks = options["masks"]
    files = [(*pair, masks.get(pair[0])) for pair in pairs]
    done = file.done(files) if file else {}
    done = {position: score for position, score in done.items() if not drawing or drawing.is_done(position)}
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
            found = _here(metric, pairs, left, options, drawing, say)
        for position, result in found:
            results[position] = result
            came(position)
    return results


def _here(
    metric,
    pairs: "Sequence[Pair]",
    left: Sequence[int],
    options: dict,
    drawing: _Drawing | None,
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
