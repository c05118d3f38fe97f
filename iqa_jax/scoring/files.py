"""Scores of image files, decoded ahead and scored together; quality maps of them."""

import dataclasses
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
from iqa_jax.errors import UserError
from iqa_jax.parallel.read_ahead import read_ahead
from iqa_jax.scoring.results import Pair, Result, State, state_of

_AHEAD = 2  # images decoded while another is scored
Draw = Callable[[int, tuple[np.ndarray, ...], Any], object]
RESIZED = ("target", "reference")  # which of two images of different sizes takes the other's


class _Passing(UserError):
    """A failure of the machine, not of what it was given."""


class _SizesDiffer(UserError):
    """Target and reference are not of one size."""


class _File(NamedTuple):
    """What a file holds, or why it cannot be read, and the state that it was in before it was read."""

    content: np.ndarray | UserError | None
    state: State


_NO_FILE = _File(None, None)


class _Item(NamedTuple):
    """The images at a position, reference first and mask last, with the states of target, reference, mask."""

    position: int
    images: tuple[np.ndarray, ...]
    states: tuple[State, ...]


def score_files(
    metric,
    pairs: Sequence[Pair],
    *,
    draw: Draw | None = None,
    masks: Mapping[Path, Path] | None = None,
    resize: str | None = None,
    say: Callable[[str], None] = warnings.warn,
) -> Iterator[tuple[int, Result]]:
    """Scores pairs of files; what fails is told in its result and does not stop the others.

    Files are decoded and maps drawn in threads, beside the metric's work.  The pairs of one
    reference are scored one after the other; windows of several pairs go through the model together.

    Args:
      metric: as `iqa_jax.load` gives.
      pairs: (target, reference) files.
      draw: is called with the position, the images (reference first) and the quality map of each pair, in a
        thread; see `iqa_jax.scoring.maps.save_map` and `iqa_jax.evaluation.page.Page`.
      masks: the file that shows which part of each target is scored.
      resize: "target" or "reference": that one is scaled to the other's size where they differ.
      say: is told what `read_image` has to say.
    Yields:
      The position of a pair and its result, as they come.
    """
    under_way: deque[_Item] = deque()
    failed: deque[tuple[int, Result]] = deque()
    left = set(range(len(pairs)))

    def result(item: _Item, outcome: float | UserError) -> tuple[int, Result]:
        made = Result(*pairs[item.position], states=item.states)
        if not isinstance(outcome, UserError):
            return item.position, dataclasses.replace(made, score=outcome)
        return item.position, dataclasses.replace(
            made,
            error=str(outcome),
            passing=isinstance(outcome, _Passing),
            differ=isinstance(outcome, _SizesDiffer),
        )

    def feed() -> Iterator[tuple[np.ndarray, ...]]:
        for item, failure in _loaded(metric, pairs, masks or {}, resize, say):
            if failure:
                failed.append(result(item, failure))
            else:
                under_way.append(item)
                yield item.images

    def results() -> Iterator[tuple[int, Result]]:
        with _Drawing(metric, draw) as drawing:
            for item, outcome in _scored(metric, feed(), under_way):
                while failed:
                    yield failed.popleft()
                yield from drawing.drawn(result(item, outcome), item.images[: 1 + metric.full_reference])
            yield from drawing.rest()
        yield from failed

    for position, its in results():
        left.remove(position)
        yield position, its
    assert not left, f"no result for the pairs at {sorted(left)}"


def _scored(
    metric, feed: Iterator[tuple[np.ndarray, ...]], under_way: deque[_Item]
) -> Iterator[tuple[_Item, float | UserError]]:
    """The items that `feed` puts under way, in their order, with their scores or why they have none.

    Windows of several images go through the metric together, so that a failure does not tell whose it is:
    what was under way is scored again, each by itself.
    """
    scores: Iterator | None = None
    while True:
        try:
            scores = scores or iter(metric.stream(feed))
            score = _finite(next(scores))
        except Exception:  # also where it ends before the images do
            if not under_way and next(feed, None) is None:
                return
            while under_way:
                item = under_way.popleft()
                yield item, _scored_alone(metric, item.images)
            scores = None
        else:
            yield under_way.popleft(), score


def _scored_alone(metric, images: tuple[np.ndarray, ...]) -> float | UserError:
    try:
        (score,) = metric.stream(iter([images]))
        return _finite(score)
    except Exception as error:
        return _failure(error)


def _loaded(
    metric, pairs: Sequence[Pair], masks: Mapping[Path, Path], resize: str | None, say
) -> Iterator[tuple[_Item, UserError | None]]:
    """Each item, and why it cannot be scored if that is so; those of one reference follow one another."""
    groups: dict[Path | None, list[int]] = {}
    for position, (_, reference) in enumerate(pairs):
        groups.setdefault(reference, []).append(position)

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
            contents = [file.content for file in (*before, target, mask) if file.content is not None]
            failure = next((content for content in contents if isinstance(content, UserError)), None)
            images = failure or _checked(metric, tuple(contents), resize)
            states = (target.state, original.state, mask.state)
            if isinstance(images, UserError):
                yield _Item(position, (), states), images
            else:
                yield _Item(position, images, states), None


def _checked(
    metric, images: tuple[np.ndarray, ...], resize: str | None
) -> tuple[np.ndarray, ...] | UserError:
    """The images as the metric takes them."""
    try:
        if metric.full_reference and images[0].shape != images[1].shape:
            if not resize:
                sizes = ["{1} x {0}".format(*image.shape) for image in images[:2]]
                raise _SizesDiffer(f"reference and target differ in shape: {sizes[0]} and {sizes[1]} pixels")
            images = _of_one_size(*images, resize=resize)
        metric.check(*images)
    except Exception as error:
        return _failure(error)
    return images


def _of_one_size(
    reference: np.ndarray, target: np.ndarray, *masks: np.ndarray, resize: str
) -> tuple[np.ndarray, ...]:
    """The images, that of the first two which `resize` names scaled to the other's size (Lanczos).

    The target's mask follows it.
    """

    def scaled(image, like):
        size = like.shape[1], like.shape[0]
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))

    if resize == "reference":
        return scaled(reference, target), target, *masks
    fitting = [scaled(mask, reference) if mask.shape == target.shape[:2] else mask for mask in masks]
    return reference, scaled(target, reference), *fitting


def _read_ahead(files: Iterable[tuple[Callable, Path | None]], say) -> Iterator[_File]:
    """The file of each path, decoded in a thread by what stands before it; an empty one for None."""

    def read(file: tuple[Callable, Path | None]) -> _File:
        decode, path = file
        # Noted before the file is opened: where it is replaced in between, the next start sees another state.
        state = state_of(path)
        try:
            return _File(decode(path, say=say), state) if path else _NO_FILE
        except Exception as error:
            return _File(_failure(error, f"{path}: "), state)

    return read_ahead(read, files, ahead=_AHEAD)


class _Drawing:
    """Draws quality maps in a thread, one after the other; results wait for theirs."""

    def __init__(self, metric, draw: Draw | None):
        self._metric, self._draw = metric, draw
        self._waiting: deque[tuple[int, Result, Future]] = deque()
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._thread.shutdown()

    def drawn(
        self, found: tuple[int, Result], images: tuple[np.ndarray, ...]
    ) -> Iterator[tuple[int, Result]]:
        """Begins to draw the map of a result; gives the results whose maps are done."""
        position, result = found
        if result.score is None or self._draw is None:
            yield found
            return
        try:
            quality = self._metric.map(*images)
        except Exception as error:
            yield position, self._without(result, error)
            return
        self._waiting.append((position, result, self._thread.submit(self._draw, position, images, quality)))
        while len(self._waiting) > 1:  # no more than one map waits in memory
            yield self._finished()

    def rest(self) -> Iterator[tuple[int, Result]]:
        """The results whose maps were still being written."""
        while self._waiting:
            yield self._finished()

    def _finished(self) -> tuple[int, Result]:
        position, result, writing = self._waiting.popleft()
        error = writing.exception()
        return position, self._without(result, error) if error else result

    @staticmethod
    def _without(result: Result, error: BaseException) -> Result:
        return dataclasses.replace(result, error=f"no map: {_reason(error)}", passing=True)


def _finite(score: float) -> float | UserError:
    score = float(score)
    return score if math.isfinite(score) else UserError(f"the metric gives {score}; are the weights damaged?")


def _failure(error: Exception, where: str = "") -> UserError:
    """Why one file has no score, whatever was raised: what is wrong with it does not stop the others."""
    if isinstance(error, UserError):
        return error
    kind = _Passing if _is_of_the_machine(error) else UserError
    return kind(f"{where}{_reason(error)}")


def _reason(error: BaseException) -> str:
    """The first line of an error, with its type where nobody expects it."""
    first, name = next(iter(str(error).splitlines()), ""), type(error).__name__
    if isinstance(error, UserError) or _is_of_the_machine(error):
        return first or name
    return f"{name}: {first}" if first else name


def _is_of_the_machine(error: BaseException) -> bool:
    """Whether a file, the memory or the device failed; JAX's errors of a device are RuntimeErrors."""
    if isinstance(error, NotImplementedError | RecursionError):
        return False
    return isinstance(error, OSError | MemoryError | RuntimeError)
