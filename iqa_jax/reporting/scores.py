"""Scores of files with what is asked for beside them: a table, quality maps, a page."""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from iqa_jax.data.marks import QUALITY_MAP, check_picture_replaceable
from iqa_jax.errors import UserError
from iqa_jax.files import output_file, remove_leftovers, shortest_unique_names, writable_directory
from iqa_jax.reporting.comparison import compare_results, methods_of
from iqa_jax.reporting.maps import below_roots, map_files, save_map
from iqa_jax.reporting.page import Entry, Page
from iqa_jax.scoring.files import resumed, score_files
from iqa_jax.scoring.metric import Metric, QualityMap
from iqa_jax.scoring.results import ALIGNED_COLUMNS, COLUMNS, FilePair, Result, ScoreTable, scale_text

Scorer = Callable[..., Iterator[tuple[int, Result]]]


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What is written beside the scores.

    Attributes:
      table: a CSV or Parquet file, from which a second start resumes.
      recompute: ignore the scores of an earlier start.
      best_first: sort the results by score; failures come last.
      maps: directory of quality maps.
      page: directory of a page.
      full_scale: the colours of maps span the metric's whole scale.
      named: what the targets were found by: files, directories, patterns or a table.  Maps mirror the folders
        below these directories, and the page compares several of them as methods.
    """

    table: Path | None = None
    recompute: bool = False
    best_first: bool = False
    maps: Path | None = None
    page: Path | None = None
    full_scale: bool = False
    named: Sequence[str] = ()


def score_and_write(
    metric: Metric,
    pairs: Sequence[FilePair],
    outputs: Outputs,
    *,
    scorer: Scorer | None = None,
    masks: Mapping[Path, Path] | None = None,
    resize: str | None = None,
    align: bool = False,
    on_result: Callable[[Result], object] = lambda result: None,
    say: Callable[[str], object] = lambda text: None,
) -> list[Result]:
    """Scores pairs of files and writes the outputs.

    Args:
      pairs: as `iqa_jax.scoring.files.pairs_for` gives.
      scorer: `score_files` of this metric unless given, or what does the same elsewhere; it writes no maps.
      masks, resize, align: see `score_files`.
      on_result: called with each result as it comes.
      say: called with each remark, once.
    Returns:
      The results, in the order of the pairs unless they are sorted.
    Raises:
      UserError: an output cannot be written, is one of the files that are scored, or would replace a file
        of something else.
    """
    said: set[str] = set()

    def say_once(text: str) -> None:
        if text not in said:
            said.add(text)
            say(text)

    masks = masks or {}
    with contextlib.ExitStack() as opened:
        table = None
        if outputs.table:
            path = output_file(outputs.table, ".csv", ".parquet")
            check_not_read([path], itertools.chain(*pairs))
            identity: dict = {"metric": metric.describe(), "resize": resize or ""}
            identity |= {"full_scale": outputs.full_scale} if outputs.maps else {}
            identity |= {"align": True} if align else {}
            columns = ALIGNED_COLUMNS if align else COLUMNS
            table = opened.enter_context(
                ScoreTable(path, identity, recompute=outputs.recompute, columns=columns)
            )
        page = None
        if outputs.page:
            page = opened.enter_context(
                Page(outputs.page, as_files=not align, scale=metric.range if outputs.full_scale else None)
            )
        maps, writer = _map_writer(metric, pairs, outputs, page, cut=align)
        # With its map, so that a map that is missing or another's is drawn again.
        files = [
            (target, reference, masks.get(target), map_file)
            for (target, reference), map_file in zip(pairs, maps, strict=True)
        ]
        score = scorer or functools.partial(score_files, metric, map_writer=writer, say=say_once)
        by_position = {}
        for position, result in resumed(
            table,
            pairs,
            files,
            lambda positions: score(pairs, only=positions, masks=masks, resize=resize, align=align),
            anew=page is not None,  # it needs all pictures
            say=say_once,
        ):
            by_position[position] = result
            on_result(result)
        results = [by_position[position] for position in range(len(pairs))]
        if page:
            say_once(f"wrote {_write_page(page, metric, results, outputs.named)}")
        if outputs.best_first:
            results.sort(key=lambda result: math.inf if result.score is None else -result.score)
        if table:
            table.finish(results)
    return results


def _map_writer(
    metric: Metric, pairs: Sequence[FilePair], outputs: Outputs, page: Page | None, *, cut: bool
) -> tuple[Sequence[Path | None], Callable[[int, tuple, QualityMap], None] | None]:
    """The file of each pair's map, and what writes the maps, if they are asked for.

    Args:
      cut: whether the images may be parts of those in the files.
    """
    maps: Sequence[Path | None] = [None] * len(pairs)
    if outputs.maps:
        files = map_files(writable_directory(outputs.maps), *zip(*pairs, strict=True), named=outputs.named)
        check_not_read(files, itertools.chain(*pairs))
        for file in files:
            check_picture_replaceable(file, QUALITY_MAP)
        maps = files
    elif not page:
        return maps, None

    @functools.cache
    def make(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)

    def write(position: int, images: tuple[np.ndarray, ...], quality: QualityMap) -> None:
        target, reference = pairs[position]
        if file := maps[position]:
            make(file.parent)
            save_map(file, images[-1], quality, metric.range, full=outputs.full_scale)
        if page:
            shown = [reference, target] if reference else [target]
            if cut:  # another path for each part of a reference
                parts = (hashlib.sha256(image.tobytes()).hexdigest() for image in images)
                shown = [file / part for file, part in zip(shown, parts, strict=True)]
            page.add(position, shown, images, quality)

    return maps, write


def check_not_read(outputs: Iterable[Path], read: Iterable[Path | None]) -> None:
    """Raises UserError if an output is one of the files that are read, under whatever name."""
    by_place = {place: output for output in outputs if (place := _place_of(output))}
    for path in read if by_place else ():
        place = _place_of(path) if path else None
        if place in by_place:
            raise UserError(f"{by_place[place]}: is read here; choose another file to write")


def _place_of(path: Path) -> tuple[int, int] | None:
    try:
        known = os.stat(path)
    except OSError:
        return None
    return known.st_dev, known.st_ino


def _write_page(page: Page, metric: Metric, results: Sequence[Result], named: Sequence[str]) -> Path:
    """Writes the page of the results; several directories of targets are methods, by their names."""
    placed, _ = below_roots([result.target for result in results], named)
    methods = methods_of([result.target for result in results], named)
    comparison = compare_results(results, methods, metric.range)
    targets = shortest_unique_names(result.target for result in results)
    references = shortest_unique_names(result.reference for result in results if result.reference)

    def entry(result: Result, method: str, root: Path | None, below: Path) -> Entry:
        name = str(below) if root else targets[result.target]
        reference = references[result.reference] if result.reference else None
        content = reference or Path(name).with_suffix("").as_posix()
        return Entry(name, reference, content, method, result.score, result.error)

    entries = [
        entry(result, method, *where)
        for result, method, where in zip(results, methods.whose, placed, strict=True)
    ]
    remark = f"{metric.config.name}, {metric.crops} crops: {scale_text(metric.range)}"
    report = comparison.report() if comparison else None
    return page.write("Scores", remark, "MOS", entries, methods.names, report)
