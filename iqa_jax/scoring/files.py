"""Scores of image files, which are decoded ahead of the metric; quality maps of them."""

import dataclasses
import functools
import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from iqa_jax.data.arrays import read_mask
from iqa_jax.data.images import read_image
from iqa_jax.errors import UserError, first_line
from iqa_jax.parallel.read_ahead import read_ahead
from iqa_jax.scoring.alignment import align as align_pair
from iqa_jax.scoring.results import FilePair, Result, ScoreTable, State, state_of

_AHEAD = 2  # images decoded while another is scored
MapWriter = Callable[[int, tuple[np.ndarray, ...], Any], object]
RESIZED = ("target", "reference")  # which of two images of different sizes is scaled to the other's


class _Transient(UserError):
    """A failure of the machine, which another try may not have."""


class _SizesDiffer(UserError):
    """Target and reference are not of one size."""


class _File(NamedTuple):
    """The image in a file, or why it cannot be read, and the state of the file before it was read."""

    content: np.ndarray | UserError | None
    state: State


_NO_FILE = _File(None, None)


class _Item(NamedTuple):
    """The images at a position, reference first and mask last, or why they cannot be scored.

    The states are those of target, reference and mask; the shift is that of an aligned pair.
    """

    position: int
    images: tuple[np.ndarray, ...]
    states: tuple[State, ...]
    failure: UserError | None = None
    shift: tuple[float, float] | None = None


def pairs_for(metric, pairs: Sequence[FilePair], say: Callable[[str], object]) -> Sequence[FilePair]:
    """The pairs as the metric scores them: a metric without reference scores each target once.

    Raises:
      UserError: the metric needs references that are not given.
    """
    without = [target for target, reference in pairs if reference is None]
    if not metric.full_reference:
        if len(without) < len(pairs):
            say("this metric scores targets without a reference; the references are not used")
        return list(dict.fromkeys((target, None) for target, _ in pairs))
    if without:
        missing = f"{without[0]} has none" if len(without) < len(pairs) else "there are none"
        raise UserError(f"this metric compares each target with a reference, and {missing}")
    return pairs


def score_files(
    metric,
    pairs: Sequence[FilePair],
    *,
    only: Iterable[int] | None = None,
    map_writer: MapWriter | None = None,
    masks: Mapping[Path, Path] | None = None,
    resize: str | None = None,
    align: bool = False,
    say: Callable[[str], None] = warnings.warn,
) -> Iterator[tuple[int, Result]]:
    """Scores pairs of files; a failure stands in the result of its pair and does not stop the others.

    Threads decode files and write maps while the metric works.  The pairs of one reference are scored one
    after the other; windows of several pairs go through the model together.

    Args:
      metric: as `iqa_jax.load` gives.
      pairs: (target, reference) files.
      only: the positions of the pairs to score; all if not given.
      map_writer: called with the position, the images (reference first) and the quality map of each pair, in
        a thread; see `iqa_jax.reporting.maps.save_map` and `iqa_jax.reporting.page.Page`.
      masks: the file that shows which part of each target is scored.
      resize: "target" or "reference": that image is scaled to the other's size where they differ.
      align: undo a shift of the target against its reference, see `iqa_jax.align`; what is scored and drawn
        is the part that both show.
      say: called with the remarks of `read_image`.
    Yields:
      The position of a pair and its result, as they come.
    """
    chosen = range(len(pairs)) if only is None else list(only)
    prepared = functools.partial(_checked, metric, resize=resize, aligned=align)
    items = _loaded(metric, pairs, chosen, masks or {}, prepared, say)
    left = set(chosen)

    def results() -> Iterator[tuple[int, Result, tuple[np.ndarray, ...]]]:
        for item, outcome in _scored(metric, items):
            result = Result(
                *pairs[item.position],
                score=None if isinstance(outcome, UserError) else outcome,
                error=str(outcome) if isinstance(outcome, UserError) else None,
                transient=isinstance(outcome, _Transient),
                sizes_differ=isinstance(outcome, _SizesDiffer),
                shift=item.shift,
                states=item.states,
            )
            yield item.position, result, item.images[: 1 + metric.full_reference]

    for position, result in _with_maps(metric, map_writer, results()):
        left.remove(position)
        yield position, result
    assert not left, f"no result for the pairs at {sorted(left)}"


def _scored(metric, items: Iterator[_Item]) -> Iterator[tuple[_Item, float | UserError]]:
    """The items in their order, with their scores or why they have none.

    Windows of several images go through the metric together.  After a failure, which may be any image's, each
    image under way is scored again alone.
    """
    under_way: deque[_Item] = deque()

    def feed() -> Iterator[tuple[np.ndarray, ...]]:
        for item in items:
            under_way.append(item)
            if not item.failure:
                yield item.images

    images, scores = feed(), None
    while True:
        try:
            scores = scores or iter(metric.stream(images))
            score = _finite(next(scores))
        except Exception:  # also where it ends before the images do
            is_end = all(item.failure for item in under_way) and next(images, None) is None
            while under_way:
                item = under_way.popleft()
                yield item, item.failure or _scored_alone(metric, item.images)
            if is_end:
                return
            scores = None
        else:
            while failure := under_way[0].failure:
                yield under_way.popleft(), failure
            yield under_way.popleft(), score


def _scored_alone(metric, images: tuple[np.ndarray, ...]) -> float | UserError:
    try:
        (score,) = metric.stream(iter([images]))
        return _finite(score)
    except Exception as error:
        return _failure(error)


def _loaded(
    metric,
    pairs: Sequence[FilePair],
    chosen: Iterable[int],
    masks: Mapping[Path, Path],
    prepared: Callable[[tuple[np.ndarray, ...]], Any],
    say: Callable[[str], None],
) -> Iterator[_Item]:
    """The items of the pairs at some positions; those of one reference follow one another.

    Args:
      prepared: `_checked` for this metric.
    """
    groups: dict[Path | None, list[int]] = {}
    for position in chosen:
        groups.setdefault(pairs[position][1], []).append(position)

    def paths():
        for reference, positions in groups.items():
            yield read_image, reference
            for position in positions:
                yield read_image, pairs[position][0]
                if masks:
                    yield read_mask, masks.get(pairs[position][0])

    files = _read_ahead(paths(), say)
    for positions in groups.values():
        original = next(files)
        before = (original,) if metric.full_reference else ()
        for position in positions:
            target, mask = next(files), next(files) if masks else _NO_FILE
            contents = [file.content for file in (*before, target, mask)]
            failure = next((content for content in contents if isinstance(content, UserError)), None)
            arrays = tuple(content for content in contents if isinstance(content, np.ndarray))
            outcome = failure or prepared(arrays)
            states = (target.state, original.state, mask.state)
            if isinstance(outcome, UserError):
                yield _Item(position, (), states, failure=outcome)
            else:
                images, shift = outcome
                yield _Item(position, images, states, shift=shift)


def _checked(
    metric, images: tuple[np.ndarray, ...], *, resize: str | None, aligned: bool
) -> tuple[tuple[np.ndarray, ...], tuple[float, float] | None] | UserError:
    """The images as the metric takes them, and the shift that was undone, if it was looked for."""
    shift = None
    try:
        if metric.full_reference and images[0].shape != images[1].shape:
            if not resize:
                sizes = ["{1} x {0}".format(*image.shape) for image in images[:2]]
                raise _SizesDiffer(f"reference and target differ in shape: {sizes[0]} and {sizes[1]} pixels")
            images = _of_one_size(*images, resize=resize)
        if aligned and metric.full_reference:
            pair = align_pair(*images[:2])
            masks = (pair.cut(mask) if mask.shape == images[1].shape[:2] else mask for mask in images[2:])
            images, shift = (pair.reference, pair.distorted, *masks), pair.shift
        metric.check(*images)
    except Exception as error:
        return _failure(error)
    return images, shift


def _of_one_size(
    reference: np.ndarray, target: np.ndarray, *masks: np.ndarray, resize: str
) -> tuple[np.ndarray, ...]:
    """Scales the image that `resize` names to the other's size (Lanczos), and the target's mask with it."""

    def scaled(image, like):
        size = like.shape[1], like.shape[0]
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))

    if resize == "reference":
        return scaled(reference, target), target, *masks
    fitting = [scaled(mask, reference) if mask.shape == target.shape[:2] else mask for mask in masks]
    return reference, scaled(target, reference), *fitting


def _read_ahead(files: Iterable[tuple[Callable, Path | None]], say) -> Iterator[_File]:
    """The file of each path, decoded in a thread by the function beside it; an empty one for None."""

    def read(file: tuple[Callable, Path | None]) -> _File:
        decode, path = file
        # Before the file is opened: if it is replaced in between, the next start sees another state.
        state = state_of(path)
        try:
            return _File(decode(path, say=say), state) if path else _NO_FILE
        except Exception as error:
            return _File(_failure(error, f"{path}: "), state)

    return read_ahead(read, files, ahead=_AHEAD)


def _with_maps(
    metric, writer: MapWriter | None, results: Iterator[tuple[int, Result, tuple[np.ndarray, ...]]]
) -> Iterator[tuple[int, Result]]:
    """The results, each when its map is written; a thread writes one after the other."""
    waiting: deque[tuple[int, Result, Future]] = deque()

    def without_map(result: Result, error: BaseException) -> Result:
        return dataclasses.replace(result, error=f"no map: {_reason(error)}", transient=True)

    def finished() -> tuple[int, Result]:
        position, result, writing = waiting.popleft()
        error = writing.exception()
        return position, without_map(result, error) if error else result

    with ThreadPoolExecutor(1) as thread:
        for position, result, images in results:
            if writer is None or result.score is None:
                yield position, result
                continue
            try:
                quality = metric.map(*images)
            except Exception as error:
                yield position, without_map(result, error)
                continue
            waiting.append((position, result, thread.submit(writer, position, images, quality)))
            while len(waiting) > 1:  # no more than one map waits in memory
                yield finished()
        while waiting:
            yield finished()


def resumed(
    table: ScoreTable | None,
    pairs: Sequence[FilePair],
    files: Sequence[Sequence[Path | None]],
    score: Callable[[Sequence[int]], Iterator[tuple[int, Result]]],
    *,
    anew: bool,
    say: Callable[[str], object],
) -> Iterator[tuple[int, Result]]:
    """The results of all pairs, which the table gets: first those of an earlier start, then new ones.

    Args:
      files: all that each score depends on; the last one is a file that is written, such as the map.
      score: computes the results of the pairs at some positions.
      anew: score all pairs, also those that an earlier start has scored.
    """
    scored = table.scored(files) if table and not anew else {}
    shifts = table.shifts(files) if table and scored and table.aligned else {}
    if table and table.damaged:
        say(f"damaged lines in the journal of {table.path}: {table.damaged}; their files are scored again")
    if scored:
        say(f"{len(scored)} of {len(pairs)} are scored already; recompute scores all again")
    for position, value in scored.items():
        result = Result(*pairs[position], value, shift=shifts.get(position))
        if table:
            table.add(result, files[position], None)
        yield position, result
    for position, result in score([k for k in range(len(pairs)) if k not in scored]):
        if table:
            table.add(result, files[position], (*result.states, state_of(files[position][-1])))
        yield position, result


def _finite(score: float) -> float | UserError:
    score = float(score)
    return score if math.isfinite(score) else UserError(f"the metric gives {score}; are the weights damaged?")


def _failure(error: Exception, where: str = "") -> UserError:
    """Why one file has no score, whatever was raised."""
    if isinstance(error, UserError):
        return error
    kind = _Transient if _is_of_the_machine(error) else UserError
    return kind(f"{where}{_reason(error)}")


def _reason(error: BaseException) -> str:
    """The first line of an error, with its type where nobody expects it."""
    first, name = first_line(error), type(error).__name__
    if first == name or isinstance(error, UserError) or _is_of_the_machine(error):
        return first
    return f"{name}: {first}"


def _is_of_the_machine(error: BaseException) -> bool:
    """Whether a file, the memory or the device failed; JAX's errors of a device are RuntimeErrors."""
    if isinstance(error, NotImplementedError | RecursionError):
        return False
    return isinstance(error, OSError | MemoryError | RuntimeError)
