"""Windows of many images -> scores, in a few fixed programs, whatever the images' sizes.

Windows wait until a program is full, wherever they come from; a reference's features serve all its distorted
versions.  Memory is bounded by the programs' size and by the features that are kept.  Nothing here needs JAX.
"""

import collections
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

import numpy as np

from iqa_jax.errors import UserError
from iqa_jax.ops import Array
from iqa_jax.ops.windows import Place, cut, mirrored_up

if TYPE_CHECKING:
    import jax

    from iqa_jax.models.config import ModelConfig

BATCH_SIZE = 16  # windows in a program, at most
# A reference keeps the features of up to so many windows, 226 KB each on Inception-ResNet-v2; those of larger
# images are computed again for each distorted version.
KEPT_WINDOWS = 256

Features = tuple[Array, ...]  # for each set of weights; (n, …) of windows, or of one of them


class WindowModel(Protocol):
    """What the engine and the metrics take: a network with its weights, or an exported file.

    Windows are (B, S, S, 3), uint8 or float32 in [0, 1], S the configuration's crop size; only the first
    `count` of them matter, and what comes has that many rows or more.

    Attributes:
      config: the model's.
      full_reference: whether it compares with a reference.
      sets: how many sets of weights it has; scores come for each.
    """

    config: "ModelConfig"
    full_reference: bool
    sets: int

    def features(self, windows: np.ndarray, count: int) -> Features:
        """What `scores` takes of a reference's windows."""
        ...

    def scores(self, reference: Features | None, windows: np.ndarray, count: int) -> Array:
        """MOS (sets, n); no reference for a model that needs none."""
        ...

    def predict(self, *windows: "jax.Array") -> "jax.Array":
        """MOS (n,) by the first set of weights, to be traced; float windows, the reference's first.

        Raises:
          UserError: a gradient is asked for, of a model that has none.
        """
        ...


class Reference:
    """A reference image and, once they are computed, the features of its windows.

    Attributes:
      image: (H, W, 3) as it was given.
      keep: whether the features stay as long as this object does.
      rows: those that are there, by window.
    """

    def __init__(self, image: Array, *, keep: bool = True):
        self.image, self.keep = image, keep
        self.rows: dict[Place, Features] = {}
        self._large: np.ndarray | None = None

    def window(self, place: Place, size: int) -> np.ndarray:
        """(size, size, 3)."""
        if self._large is None:
            self._large = _prepared(self.image, size)
        return cut(self._large, place, size)


@functools.cache
def _first_process() -> int:
    """The process that made the first engine, and so started JAX; one that is forked from it remembers."""
    return os.getpid()


def check_process() -> None:
    """Raises UserError in a process that was forked after a metric was made: JAX's threads are not in it."""
    if os.getpid() != _first_process():
        raise UserError(
            "this process was forked from one that had loaded a metric, and JAX would wait for ever in it; "
            'start processes by multiprocessing.get_context("spawn") and load the metric in each'
        )


class _Task(NamedTuple):
    """A window to be scored: where it comes from and where its score belongs."""

    item: int
    position: int
    place: Place
    reference: Reference | None
    window: np.ndarray


class Engine:
    """Scores the windows of images, a program full at a time."""

    def __init__(self, model: WindowModel, *, batch_size: int = BATCH_SIZE):
        """Takes the model and how many windows go through it together, at most."""
        _first_process()
        self._model, self._size, self._batch_size = model, model.config.crop_size, batch_size

    def scores(
        self, items: Iterable[tuple[Reference | None, Array, Sequence[Place]]]
    ) -> Iterator[np.ndarray]:
        """Scores (sets, windows) of each item, in their order, as they are computed.

        Args:
          items: the reference, if the model compares with one; the distorted image (H, W, 3); and which
            windows of both.  They are taken as they are needed.
        """
        check_process()
        results: dict[int, np.ndarray] = {}
        missing: dict[int, int] = {}
        running: collections.deque = collections.deque()
        pending: list[_Task] = []
        following = 0

        def ready():
            nonlocal following
            while missing.get(following) == 0:
                del missing[following]
                yield results.pop(following)
                following += 1

        def fetch():
            tasks, scores = running.popleft()
            scores = np.asarray(scores)  # its columns would be programs of JAX
            for column, task in enumerate(tasks):
                results[task.item][:, task.position] = scores[:, column]
                missing[task.item] -= 1

        def send():
            running.append((list(pending), self._sent(pending)))
            pending.clear()
            if len(running) > 1:  # while the device works on what was sent
                fetch()

        for number, (reference, image, places) in enumerate(items):
            results[number] = np.empty((self._model.sets, len(places)), np.float32)
            missing[number] = len(places)
            prepared = _prepared(image, self._size)
            for position, place in enumerate(places):
                pending.append(_Task(number, position, place, reference, cut(prepared, place, self._size)))
                if len(pending) == self._batch_size:
                    send()
                    yield from ready()
            # Copies: the caller may reuse the image's memory while its windows wait.
            for k, task in enumerate(pending):
                if task.item == number:
                    pending[k] = task._replace(window=task.window.copy())
        if pending:
            send()
        while running:
            fetch()
        yield from ready()

    def features(self, references: Iterable[Reference], places: Callable[[Array], list[Place]]) -> None:
        """Computes the features of references ahead, to be kept.

        Args:
          places: the windows of an image.
        """
        check_process()
        waiting = [(reference, place) for reference in references for place in places(reference.image)]
        for start in range(0, len(waiting), self._batch_size):
            for (reference, place), rows in self._computed(waiting[start : start + self._batch_size]).items():
                reference.rows[place] = rows

    def _sent(self, tasks: list[_Task]) -> Array:
        """The scores (sets, n) of some windows, being computed."""
        windows = self._filled([task.window for task in tasks])
        if not self._model.full_reference:
            return self._model.scores(None, windows, len(tasks))
        wanted = [(cast(Reference, task.reference), task.place) for task in tasks]
        known = {(r, place): r.rows[place] for r, place in wanted if place in r.rows}
        computed = self._computed([one for one in dict.fromkeys(wanted) if one not in known])
        for (reference, place), rows in computed.items():
            if reference.keep:
                reference.rows[place] = rows
        known |= computed
        return self._model.scores(self._gathered([known[one] for one in wanted]), windows, len(tasks))

    def _computed(self, wanted: list[tuple[Reference, Place]]) -> dict[tuple[Reference, Place], Features]:
        """The features of windows of references, those of one program at most."""
        if not wanted:
            return {}
        windows = self._filled([reference.window(place, self._size) for reference, place in wanted])
        of_each = _rows(self._model.features(windows, len(wanted)))
        return dict(zip(wanted, of_each, strict=False))

    def _filled(self, windows: list[np.ndarray]) -> np.ndarray:
        """Windows as an array of the batch size."""
        dtype = np.uint8 if all(window.dtype == np.uint8 for window in windows) else np.float32
        filled = np.zeros((self._batch_size, *windows[0].shape), dtype)
        for row, window in enumerate(windows):
            filled[row] = window if window.dtype == dtype else window / np.float32(255)
        return filled

    def _gathered(self, rows: list[Features]) -> Features:
        """Features of windows as arrays of the batch size."""
        rows = rows + rows[:1] * (self._batch_size - len(rows))
        return _stacked(rows)


def _prepared(image: Array, size: int) -> np.ndarray:
    """An image whose windows can be cut: on the host, large enough, uint8 or float32 in [0, 1]."""
    large = np.asarray(mirrored_up(np.asarray(image), size))
    if large.dtype == np.uint8:
        return large
    return np.clip(large.astype(np.float32), 0, 1)  # rounding errors; more was refused


def _rows(features: Features) -> list[Features]:
    """The features of each window by themselves, so that those of one can be kept alone."""
    if all(isinstance(array, np.ndarray) for array in features):
        return [tuple(row.copy() for row in rows) for rows in zip(*features, strict=True)]
    from iqa_jax.scoring.network import unstacked

    return list(zip(*map(unstacked, features), strict=True))


def _stacked(rows: Sequence[Features]) -> Features:
    if all(isinstance(row, np.ndarray) for row in rows[0]):
        return tuple(np.stack(of_set) for of_set in zip(*rows, strict=True))
    from iqa_jax.scoring.network import stacked

    return tuple(map(stacked, zip(*rows, strict=True)))
