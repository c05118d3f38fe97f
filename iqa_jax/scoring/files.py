"""Scores of image files: results, tables of them and heat maps."""

import csv
import dataclasses
import io
import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from iqa_jax.data.images import read_image
from iqa_jax.errors import UserError
from iqa_jax.files import write_whole

_AHEAD = 2  # images decoded while another is scored
_LEGEND = 72  # pixels of width
_BAR = 16

Pair = tuple[Path, Path | None]  # a target and its reference


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of one pair.

    Attributes:
      target, reference: the files; no reference for a no-reference metric.
      score: in the metric's units; None if it could not be computed.
      error: why not, or why the heat map could not be written; None if all went well.
      passing: whether another try may succeed: the device was out of memory, say, or the disk full.
    """

    target: Path
    reference: Path | None
    score: float | None = None
    error: str | None = None
    passing: bool = False


class _Passing(UserError):
    """A failure of the machine, not of what it was given."""


COLUMNS = ("target", "reference", "score", "error")


def score_files(
    metric,
    pairs: Sequence[Pair],
    *,
    maps: Mapping[Path, Path] | None = None,
    say: Callable[[str], None] = warnings.warn,
) -> Iterator[tuple[int, Result]]:
    """Scores pairs of files; what fails is told in its result and does not stop the others.

    Files are decoded and heat maps written in threads, beside the metric's work.  The pairs of one
    reference are scored one after the other; windows of several pairs go through the model together.

    Args:
      metric: as `iqa_jax.load` gives.
      pairs: (target, reference) files.
      maps: the file for the heat map of each target, see `save_map` and `map_files`.
      say: is told what `read_image` has to say.
    Yields:
      The position of a pair and its result, as they come.
    """
    under_way: deque[tuple[int, tuple[np.ndarray, ...]]] = deque()
    failed: deque[tuple[int, UserError]] = deque()

    def images():
        for position, found in _loaded(metric, pairs, say):
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
    with _MapWriter(metric, maps or {}) as writer:
        while waiting:
            try:
                for score in metric.stream(feed):
                    yield from failures()
                    position, found = under_way.popleft()
                    scored = result(position, _finite(float(score)))
                    yield from writer.written(scored, found)
                waiting = False
            except (OSError, MemoryError, RuntimeError) as error:  # the device's, out of memory say
                if not under_way:
                    raise
                for position, _ in under_way:
                    yield result(position, _Passing(_first_line(error)))
                under_way.clear()
        yield from writer.rest()
        yield from failures()


def _loaded(metric, pairs: Sequence[Pair], say) -> Iterator[tuple[int, tuple[np.ndarray, ...] | UserError]]:
    """Each position with its images, reference first, or why it cannot be scored; by reference."""
    groups: dict[Path | None, list[int]] = {}
    for position, (_, reference) in enumerate(pairs):
        groups.setdefault(reference, []).append(position)

    def paths():
        for reference, positions in groups.items():
            yield reference
            yield from (pairs[position][0] for position in positions)

    images = _read_ahead(paths(), say)
    for positions in groups.values():
        first = next(images)
        before = (first,) if metric.full_reference else ()
        for position in positions:
            found = (*before, next(images))
            failure = next((image for image in found if isinstance(image, UserError)), None)
            yield position, failure or _checked(metric, found)


def _checked(metric, images: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...] | UserError:
    try:
        metric.check(*images)
    except UserError as error:
        return error
    return images


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


class _MapWriter:
    """Writes heat maps in a thread, one after the other; results wait for theirs."""

    def __init__(self, metric, maps: Mapping[Path, Path]):
        self._metric, self._maps = metric, maps
        self._waiting: deque[tuple[int, Result, Future]] = deque()
        self._thread = ThreadPoolExecutor(1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._thread.shutdown()

    def written(
        self, found: tuple[int, Result], images: tuple[np.ndarray, ...]
    ) -> Iterator[tuple[int, Result]]:
        """Draws the map of a result; gives the results whose maps are done."""
        position, result = found
        if result.score is None or result.target not in self._maps:
            yield found
            return
        path, scale = self._maps[result.target], self._metric.range
        try:
            quality = self._metric.map(*images)
        except (UserError, OSError, MemoryError, RuntimeError) as error:
            yield position, self._without(result, error)
            return
        self._waiting.append(
            (position, result, self._thread.submit(save_map, path, images[-1], quality, scale))
        )
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


def write_csv(path: Path, results: Sequence[Result]) -> None:
    """Columns target, reference, score, error; a row for each result.

    A name that is not UTF-8 stands there with its own bytes.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(result, column) for column in COLUMNS] for result in results)
    write_whole(path, text.getvalue())


def to_json(results: Sequence[Result]) -> list[dict]:
    """Objects with target, reference, and score or error; what a result does not have is left out."""
    return [
        {
            name: str(value) if isinstance(value, Path) else value
            for name in COLUMNS
            if (value := getattr(result, name)) is not None
        }
        for result in results
    ]


def heat_map(image: np.ndarray, values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Colours for the quality, half transparent over the image in grey, and a legend on the right.

    Args:
      image: (H, W, 3) uint8.
      values: (H, W), in the metric's units.
      low, high: the values of the first and last colour, purple and yellow.
    Returns:
      (H, W + 72, 3) uint8.
    """
    from matplotlib import colormaps

    colors = colormaps["viridis"](np.arange(256), bytes=True)[:, :3]
    level = np.clip((values - low) / (high - low), 0, 1) * 255
    grey = np.asarray(Image.fromarray(image).convert("L"))
    over = colors[level.astype(np.uint8)] // 2 + grey[..., None] // 2

    height = len(image)
    legend = np.full((height, _LEGEND, 3), 255, np.uint8)
    legend[:, 4 : 4 + _BAR] = colors[np.linspace(255, 0, height).astype(np.uint8)][:, None]
    lettered = Image.fromarray(legend)
    draw = ImageDraw.Draw(lettered)
    draw.text((8 + _BAR, 1), f"{high:.4g}", fill="black", anchor="lt")
    draw.text((8 + _BAR, height - 2), f"{low:.4g}", fill="black", anchor="lb")
    return np.concatenate([over, np.asarray(lettered)], axis=1)


def save_map(path: Path, image: np.ndarray, quality, scale: tuple[float, float]) -> None:
    """Writes a heat map as PNG.

    Args:
      image: (H, W, 3) uint8.
      quality: what `metric.map` gave for it.
      scale: values of the first and last colour.
    """
    buffer = io.BytesIO()
    Image.fromarray(heat_map(image, quality.values, *scale)).save(buffer, format="PNG")
    write_whole(path, buffer.getvalue())


def map_files(directory: Path, targets: Iterable[Path]) -> dict[Path, Path]:
    """`NAME-map.png` for each target; where several have one name, `NAME-map-2.png` and so on."""
    taken, files = set(), {}
    for target in dict.fromkeys(targets):
        name, number = f"{target.stem}-map.png", 2
        while name.lower() in taken:  # some file systems do not tell the case
            name, number = f"{target.stem}-map-{number}.png", number + 1
        files[target] = directory / name
        taken.add(name.lower())
    return files
