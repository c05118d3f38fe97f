"""Windows of many images -> scores, in a few fixed programs, whatever the images' sizes.

Windows wait until a program is full, wherever they come from; a reference's features serve all its distorted
versions.  Memory is bounded by the programs' size and by the features that are kept.
"""

import collections
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from iqa_jax.errors import UserError
from iqa_jax.models.base import IQAModel, split_model
from iqa_jax.models.config import ModelConfig
from iqa_jax.ops import Array
from iqa_jax.ops.programs import few_at_a_time, jit
from iqa_jax.ops.windows import Place, cut, mirrored_up
from iqa_jax.weights.flat import STORED, flat_weights, iqa_model_with

BATCH_SIZE = 16  # windows in a program, at most
_SMALLER = (1, 4, 10)  # programs for what is left over, where a program's size is what it costs
# A reference keeps the features of up to so many windows, 226 KB each on Inception-ResNet-v2; those of larger
# images are computed again for each distorted version.
KEPT_WINDOWS = 256

Features = tuple[Array, ...]  # for each set of weights; (n, …) of windows, or of one of them


class WindowModel(Protocol):
    """What the engine and the metrics take: a network with its weights, or an exported program.

    Windows are (B, S, S, 3), uint8 or float32 in [0, 1], S the configuration's crop size; only the first
    `count` of them matter, and what comes has that many rows or more.

    Attributes:
      config: the model's.
      full_reference: whether it compares with a reference.
      sets: how many sets of weights it has; scores come for each.
    """

    config: ModelConfig
    full_reference: bool
    sets: int

    def features(self, windows: np.ndarray, count: int) -> Features:
        """What `scores` takes of a reference's windows."""
        ...

    def scores(self, reference: Features | None, windows: np.ndarray, count: int) -> jax.Array:
        """MOS (sets, n); no reference for a model that needs none."""
        ...

    def predict(self, *windows: jax.Array) -> jax.Array:
        """MOS (n,) by the first set of weights, to be traced; float windows, the reference's first.

        Raises:
          UserError: a gradient is asked for, of a model that has none.
        """
        ...


class Network:
    """A network under one or several sets of weights, as a `WindowModel`.

    The backbone, which takes nearly all the time, runs once for all sets, unless it was trained too.
    """

    def __init__(self, graphdef: nnx.GraphDef, frozen: nnx.State, weights: Sequence[nnx.State]):
        """Takes the parts of `iqa_jax.models.base.split_model`, of a model in evaluation mode.

        Args:
          weights: one or more sets of what is not frozen.
        """
        self._graphdef, self._frozen, self._weights = graphdef, frozen, tuple(weights)
        self.config = self.model.config
        self.full_reference = self.model.full_reference
        self.sets = len(self._weights)
        self._features, self._scores = _compiled(graphdef)

    @classmethod
    def from_model(cls, model: IQAModel) -> "Network":
        """A network under the weights that a model in evaluation mode has."""
        graphdef, weights, frozen = split_model(model)
        return cls(graphdef, frozen, [weights])

    @functools.cached_property
    def model(self) -> IQAModel:
        """The network with the first set of weights."""
        return nnx.merge(self._graphdef, self._weights[0], self._frozen)

    def features(self, windows, count):
        return self._features(self._frozen, self._weights, *_sized(windows, count))

    def scores(self, reference, windows, count):
        (windows, count), reference = _sized(windows, count), reference and _sized(reference, count)[0]
        return self._scores(self._frozen, self._weights, windows, count, *(reference or ()))

    def predict(self, *windows):
        return self.model.denormalise(self.model(*windows))

    def __reduce__(self):
        """For pickle: the weights of the first set as arrays, without the programs."""
        weights = flat_weights(nnx.state(self.model, STORED))
        return _network, (self.config, {name: np.asarray(array) for name, array in weights.items()})


def _network(config: ModelConfig, weights: dict) -> Network:
    return Network.from_model(iqa_model_with(config, weights))


def window_functions(graphdef: nnx.GraphDef) -> tuple[Callable, Callable]:
    """`features` and `scores` of a network's structure, to be compiled.

    Both take (frozen, weights, windows, count), with one or more sets of weights.  `scores` also takes what
    `features` gave of the references' windows, if the model compares with them.
    """

    def merged(frozen, weights):
        return [nnx.merge(graphdef, trained, frozen) for trained in weights]

    @functools.partial(jax.jit, inline=True)  # traced once for both
    def projected(frozen, weights, windows):
        models = merged(frozen, weights)
        if "backbone" in weights[0]:  # it was trained too
            return tuple(model.project(windows) for model in models)
        shared = models[0].features(windows)  # (B, h, w, C)
        return tuple(model.projected(shared) for model in models)  # (B, h, w, D) each

    def features(frozen, weights, windows, count):
        return few_at_a_time(lambda part: projected(frozen, weights, part), windows, count=count)

    def scores(frozen, weights, windows, count, *reference):
        def score(windows, *reference):
            images = (*([reference] if reference else []), projected(frozen, weights, windows))
            mos = [
                model.denormalise(model.assess(*of_model))
                for model, *of_model in zip(merged(frozen, weights), *images, strict=True)
            ]
            return jnp.stack(mos, axis=1)  # (B, sets)

        return few_at_a_time(score, windows, *reference, count=count).T  # (sets, B)

    # In float32 throughout, so that a GPU, which would take TF32, gives a CPU's scores.
    exact = jax.default_matmul_precision("highest")
    return exact(features), exact(scores)


@functools.lru_cache(maxsize=8)
def _compiled(graphdef: nnx.GraphDef) -> tuple[Callable, Callable]:
    """The programs of a network's structure; weights are arguments."""
    features, scores = window_functions(graphdef)
    return jit(features), jit(scores)


def _sized(arrays, count: int):
    """Arrays of a program's size, and the count; a program for CPUs stops after what matters."""
    if jax.default_backend() != "cpu":
        arrays = cut_to_program(arrays, count)
    return arrays, count


def cut_to_program(arrays, count: int):
    """Arrays (B, …) cut to the smallest size of a program that holds `count` rows: few sizes to compile."""
    size = min((n for n in _SMALLER if n >= count), default=None)
    return jax.tree.map(lambda x: x[:size], arrays)


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
            self._compute(waiting[start : start + self._batch_size])

    def _sent(self, tasks: list[_Task]) -> jax.Array:
        """The scores (sets, n) of some windows, being computed."""
        windows = self._filled([task.window for task in tasks])
        if not self._model.full_reference:
            return self._model.scores(None, windows, len(tasks))
        wanted = [(cast(Reference, task.reference), task.place) for task in tasks]
        unknown = list(dict.fromkeys((r, place) for r, place in wanted if place not in r.rows))
        self._compute(unknown)
        features = self._gathered([reference.rows[place] for reference, place in wanted])
        for reference, place in unknown:
            if not reference.keep:
                del reference.rows[place]
        return self._model.scores(features, windows, len(tasks))

    def _compute(self, wanted: list[tuple[Reference, Place]]) -> None:
        """Adds features to the rows of references, those of one program at most."""
        if not wanted:
            return
        windows = self._filled([reference.window(place, self._size) for reference, place in wanted])
        of_each = _rows(self._model.features(windows, len(wanted)))
        for (reference, place), features in zip(wanted, of_each, strict=False):
            reference.rows[place] = features

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
    if jax.default_backend() == "cpu":  # NumPy sees the arrays as they are
        return [tuple(row.copy() for row in rows) for rows in zip(*map(np.asarray, features), strict=True)]
    return list(zip(*(_unstack(array) for array in features), strict=True))


def _stacked(rows: Sequence[Features]) -> Features:
    stack = np.stack if jax.default_backend() == "cpu" else _stack
    return tuple(stack(of_set) for of_set in zip(*rows, strict=True))


@jax.jit
def _unstack(array):
    return list(array)


@jax.jit
def _stack(arrays):
    return jnp.stack(arrays)
