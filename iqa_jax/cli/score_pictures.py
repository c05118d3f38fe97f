"""The pictures of scored files: quality maps, and a page with all of them."""

import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from iqa_jax.errors import UserError
from iqa_jax.files import remove_leftovers, shortest_names, writable_directory

if TYPE_CHECKING:
    from iqa_jax.evaluation.page import Page
    from iqa_jax.scoring.results import Pair, Result


class Drawing(NamedTuple):
    """What is done with quality maps.

    Attributes:
      draw: see `score_files`.
      maps: the file of each pair's map; none if only a page is made.
      is_kept: whether maps that an earlier start has drawn stay as they are; a page needs all pictures anew.
    """

    draw: Callable
    maps: list[Path]
    is_kept: bool


def drawing_of(
    metric,
    pairs: "Sequence[Pair]",
    map_dir: Path | None,
    page: "Page | None",
    *,
    full_scale: bool,
    named: Sequence[str],
) -> Drawing | None:
    """What is done with each quality map; None if none is asked for.

    Args:
      named: what the targets were found by, see `iqa_jax.scoring.maps.below_roots`.
    Raises:
      UserError: the directory cannot be written, or a map would take the place of a file that is scored.
    """
    if not map_dir and not page:
        return None
    from iqa_jax.scoring.maps import map_files, save_map

    maps: list[Path] = []
    if map_dir:
        maps = map_files(writable_directory(map_dir), *zip(*pairs, strict=True), named=named)
        check_not_read(maps, itertools.chain(*pairs))

    @functools.cache
    def make(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)

    def draw(position: int, images: tuple, quality) -> None:
        target, reference = pairs[position]
        if maps:
            make(maps[position].parent)
            save_map(maps[position], images[-1], quality, metric.range, full=full_scale)
        if page:
            page.add(position, [reference, target] if reference else [target], images, quality)

    return Drawing(draw, maps, is_kept=page is None)


def check_not_read(outputs: Iterable[Path], read: Iterable[Path | None]) -> None:
    """Raises UserError if a file that is written is one of those that are read, under whatever name."""
    there = {place: output for output in outputs if (place := _place_of(output))}
    for path in read if there else ():
        place = _place_of(path) if path else None
        if place in there:
            raise UserError(f"{there[place]}: is read here; choose another file to write")


def _place_of(path: Path) -> tuple[int, int] | None:
    try:
        known = os.stat(path)
    except OSError:
        return None
    return known.st_dev, known.st_ino


def page_in(
    directory: Path | None, scale: tuple[float, float] | None
) -> "contextlib.AbstractContextManager[Page | None]":
    """A page to be made in a directory, if one is given."""
    if directory is None:
        return contextlib.nullcontext()
    from iqa_jax.evaluation.page import Page

    return Page(directory, scale=scale)


def write_page(page: "Page", metric, results: "Sequence[Result]", named: Sequence[str]) -> Path:
    """Writes the page of the results; several directories of targets are methods, by their names."""
    from iqa_jax.evaluation.agreement import scale_text
    from iqa_jax.evaluation.page import Entry
    from iqa_jax.scoring.maps import below_roots

    placed, methods = below_roots([result.target for result in results], named)
    targets = shortest_names(result.target for result in results)
    references = shortest_names(result.reference for result in results if result.reference)

    def entry(result, root, below):
        name = str(below) if root else targets[result.target]
        reference = references[result.reference] if result.reference else None
        content = reference or Path(name).with_suffix("").as_posix()
        return Entry(name, reference, content, methods.get(root, ""), result.score, result.error)

    entries = [entry(result, *where) for result, where in zip(results, placed, strict=True)]
    remark = f"{metric.config.name}, {metric.crops} crops: {scale_text(metric.range)}"
    return page.write("Scores", remark, "MOS", entries, list(methods.values()))
