"""Scores of image files, decoded ahead and scored together; quality maps of them."""

import dataclasses
import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from iqa_jax.data.images import read_image
from iqa_jax.errors import UserError
from iqa_jax.scoring.results import Pair, Result

_AHEAD = 2  # images decoded while another is scored
Draw = Callable[[int, tuple[np.ndarray, ...], Any], object]
RESIZED = ("target", "reference")  # which of two images of different sizes takes the other's


class _Passing(UserError):
    """A failure of the machine, not of what it was given."""


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
    under_way: deque[tuple[int, tuple[np.ndarray, ...]]] = deque()
    failed: deque[tuple[int, UserError]] = deque()

    def images():
        for position, found in _loaded(metric, pairs, masks or {}, resize, say):
            if isinstance(found, UserError):
                failed.append((position, found))
            else:
                under_way.append((position, found))
                yield found

    def result(position: int, outcome: float | UserError) -> tuple[int, Result]:
        target, reference = pairs[position]
        if isinstance(outcome, UserError):
            passing = isinstance(outcome, _Passing)
            return position, Result(target, reference, None, str(outcome), passing)
        return position, Result(target, reference, outcome)

    def failures():
        while failed:
            yield result(*failed.popleft())

    waiting, feed = True, images()
    with _Drawing(metric, draw) as drawing:
        while waiting:
            try:
                for score in metric.stream(feed):
                    yield from failures()
                    position, found = under_way.popleft()
                    scored = result(position, _finite(float(score)))
                    yield from drawing.drawn(scored, found[: 1 + metric.full_reference])
                waiting = False
            except (OSError, MemoryError, RuntimeError) as error:  # the device's, out of memory say
                if not under_way:
                    raise
                for position, _ in under_way:
                    yield result(position, _Passing(_first_line(error)))
                under_way.clear()
        yield from drawing.rest()
        yield from failures()


def _loaded(
    metric, pairs: Sequence[Pair], masks: Mapping[Path, Path], resize: str | None, say
) -> Iterator[tuple[int, tuple[np.ndarray, ...] | UserError]]:
    """Each position with its images, reference first and mask last, or why it cannot be scored.

    Those of one reference follow one another.
    """
    groups: dict[Path | None, list[int]] = {}
    for position, (_, reference) in enumerate(pairs):
        groups.setdefault(reference, []).append(position)

    def paths():
        for reference, positions in groups.items():
            yield reference
            for position in positions:
                yield pairs[position][0]
                if masks:
                    yield masks.get(pairs[position][0])

    images = _read_ahead(paths(), say)
    for positions in groups.values():
        first = next(images)
        before = (first,) if metric.full_reference else ()
        for position in positions:
            target, mask = next(images), next(images) if masks else None
            found = (*before, target, *(() if mask is None else (mask,)))
            failure = next((image for image in found if isinstance(image, UserError)), None)
            yield position, failure or _checked(metric, found, resize)


def _checked(
    metric, images: tuple[np.ndarray, ...], resize: str | None
) -> tuple[np.ndarray, ...] | UserError:
    """The images as the metric takes them, a mask with one channel."""
    used = 1 + metric.full_reference
    try:
        if resize and metric.full_reference and images[0].shape != images[1].shape:
            images = _of_one_size(*images, resize=resize)
        images = (*images[:used], *(mask.mean(axis=-1).astype(np.uint8) for mask in images[used:]))
        metric.check(*images)
    except UserError as error:
        return error
    except MemoryError as error:
        return _Passing(_first_line(error))
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
    fitting = [scaled(mask, reference) if mask.shape == target.shape else mask for mask in masks]
    return reference, scaled(target, reference), *fitting


def _read_ahead(paths: Iterable[Path | None], say) -> Iterator[np.ndarray | UserError | None]:
    """The image of each path or why it cannot be read, decoded in a thread; None for None."""

    def read(path):
        if path is None:
            return None
        try:
            return read_image(path, say=say)
        except UserError as error:
            return error
        except MemoryError as error:
            return _Passing(f"{path}: {_first_line(error)}")

    with ThreadPoolExecutor(1) as reader:
        waiting: deque[Future[np.ndarray | UserError | None]] = deque()
        for path in paths:
            waiting.append(reader.submit(read, path))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


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
        except (UserError, OSError, MemoryError, RuntimeError) as error:
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
        return dataclasses.replace(result, error=f"no map: {_first_line(error)}", passing=True)


def _finite(score: float) -> float | UserError:
    if math.isfinite(score):
        return score
    return UserError(f"the metric gives {score}; are the weights damaged?")


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
