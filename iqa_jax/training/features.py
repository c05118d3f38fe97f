"""Features of a frozen backbone that are computed once and kept, so that steps train the head alone.

The crops have to be a finite set: some places of each picture, each with and without a flip and, where the
recipe turns crops, turned by each quarter.  `iqa_jax.training.kept` feeds them to the steps.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import jax
import numpy as np
import psutil
from flax import nnx

from iqa_jax import __version__
from iqa_jax.errors import ConfigError
from iqa_jax.files import naming, write_whole
from iqa_jax.models.base import Compared
from iqa_jax.ops import Array
from iqa_jax.ops.programs import few_at_a_time, jit
from iqa_jax.ops.windows import Place, cut, mirrored_up, places
from iqa_jax.parallel.read_ahead import read_ahead
from iqa_jax.training.batches import Examples
from iqa_jax.training.log import progress_bar, say

FOLDER = "features"  # of a run, for what is too large for the memory
_AT_ONCE = 16  # crops that go through the backbone together
_MEMORY_SHARE, _DISK_SHARE = 0.3, 0.5  # of what is free, up to which features are kept there

_Item = TypeVar("_Item")


class View(NamedTuple):
    """A crop of a picture: where it is cut, and how it is flipped and turned then."""

    place: Place
    flipped: bool = False
    quarters: int = 0

    def of(self, image: np.ndarray, size: int) -> np.ndarray:
        """(size, size, 3) of a picture that is large enough."""
        window = cut(image, self.place, size)
        return np.rot90(window[:, ::-1] if self.flipped else window, self.quarters)


def views_of_picture(
    height: int, width: int, size: int, generator: np.random.Generator, *, number: int, turns: bool
) -> list[View]:
    """The crops of a picture that are trained on.

    Their places are the windows of the grid, or `number` of them where there are more; where there are
    fewer, places anywhere join them.
    """
    where = places("grid", height, width, size)
    if len(where) > number:
        where = [where[k] for k in np.sort(generator.choice(len(where), number, replace=False))]
    while len(where) < number:
        top, left = (int(generator.integers(side - size + 1)) for side in (height, width))
        where.append(Place(top, left))
    quarters = range(4 if turns else 1)
    every = [View(place, flip, k) for place in where for flip in (False, True) for k in quarters]
    return list(dict.fromkeys(every))


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which crops of which examples are kept.

    Attributes:
      examples: of a split.
      views: the crops of each picture: of a reference, which its distorted versions share, or of a distorted
        image where there are no references.
    """

    examples: Examples
    views: Sequence[Sequence[View]]

    @classmethod
    def of(cls, examples: Examples, views: Callable[[int, int, int], Sequence[View]]) -> "Selection":
        """Takes a function (number of the picture, height, width) -> its crops."""
        paired = len(examples.reference_size) > 0
        sizes = examples.reference_size if paired else examples.size
        return cls(examples, [views(k, int(size[0]), int(size[1])) for k, size in enumerate(sizes)])

    @property
    def picture(self) -> np.ndarray:
        """(N,) number in `views` of each example."""
        paired = len(self.examples.reference_size) > 0
        return self.examples.reference if paired else np.arange(len(self.examples))

    @property
    def counts(self) -> np.ndarray:
        """(pictures,) how many crops each has."""
        return np.array([len(each) for each in self.views])


@dataclasses.dataclass(frozen=True)
class KeptFeatures:
    """Features of crops, a row each.

    Attributes:
      features: averaged taps (rows, h, w, C), or `Compared` without its `reference`.
      references: (rows, h, w, C) of the reference pictures' crops; None where there are none.
      first, reference_first: (N,) the first row of each example in both.
      counts: (N,) crops of each example.
    """

    features: Compared | Array
    references: np.ndarray | None
    first: np.ndarray
    reference_first: np.ndarray
    counts: np.ndarray

    def rows(self, positions: np.ndarray, views: np.ndarray) -> Compared | Array:
        """The features (B, …) of these examples' crops of these numbers."""
        rows = self.first[positions] + views
        features = jax.tree.map(lambda leaf: np.asarray(leaf[rows]), self.features)
        if self.references is None:
            return features
        references = np.asarray(self.references[self.reference_first[positions] + views])
        return cast(Compared, features)._replace(reference=cast(jax.Array, references))


class _Extractor:
    """The frozen part of a model as programs for up to `_AT_ONCE` crops."""

    def __init__(self, graphdef: nnx.GraphDef, trained: nnx.State, frozen: nnx.State):
        """Takes the structure of the model in evaluation mode, and its weights."""
        self._weights = trained, frozen
        model = nnx.merge(graphdef, trained, frozen)
        self.size, self.averaged = model.config.crop_size, model.conv_proj.in_features

        def alone(weights, windows, count):
            model = nnx.merge(graphdef, *weights)
            return _as_float32(few_at_a_time(model.features, windows, count=count))

        def beside(weights, reference, distorted, count):  # without the backbone, which is long to compile
            model = nnx.merge(graphdef, *weights)

            def compared(reference, distorted):
                return model.compared_features(reference, distorted)._replace(reference=None)

            return _as_float32(few_at_a_time(compared, reference, distorted, count=count))

        exact = jax.default_matmul_precision("highest")  # as for scores
        self._alone, self._beside = jit(exact(alone)), jit(exact(beside))

    def alone(self, windows: Sequence[np.ndarray]) -> np.ndarray:
        """`features` (n, h, w, C) of up to `_AT_ONCE` crops."""
        features = self._alone(self._weights, _filled(windows), len(windows))
        return np.asarray(features)[: len(windows)]

    def beside(self, windows: Sequence[np.ndarray], reference: np.ndarray) -> Compared:
        """What `compared_features` gives beside the reference's features, without these."""
        distorted = self._alone(self._weights, _filled(windows), len(windows))
        features = self._beside(self._weights, _filled(reference), distorted, len(windows))
        return jax.tree.map(lambda leaf: np.asarray(leaf)[: len(windows)], features)

    def shapes(self, paired: bool) -> tuple[Any, Any]:
        """Shapes of a row of what is kept of distorted pictures, and of references (None without)."""
        windows = jax.ShapeDtypeStruct((_AT_ONCE, self.size, self.size, 3), np.uint8)
        alone = jax.eval_shape(self._alone, self._weights, windows, 0)
        if not paired:
            return alone.shape[1:], None
        beside = jax.eval_shape(self._beside, self._weights, alone, alone, 0)
        return jax.tree.map(lambda leaf: leaf.shape[1:], beside), (*alone.shape[1:-1], self.averaged)


def _as_float32(tree):
    return jax.tree.map(lambda leaf: leaf.astype(np.float32), tree)


def _filled(rows: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Rows as an array of `_AT_ONCE`."""
    filled = np.zeros((_AT_ONCE, *rows[0].shape), rows[0].dtype)
    filled[: len(rows)] = rows
    return filled


def in_parts(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Lists of up to `size` items."""
    items = iter(items)
    while part := list(islice(items, size)):
        yield part


class Kept:
    """The kept features of a run's training and validation pairs; computed when they are first asked for."""

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        trained: nnx.State,
        frozen: nnx.State,
        selections: dict[str, Selection],
        *,
        workdir: Path,
        identity: Sequence[object],
    ):
        """Takes the structure of the model in evaluation mode, its weights, and what to keep by its name.

        Args:
          workdir: of the run; what is too large for the memory is kept there.
          identity: all that the features depend on.
        Raises:
          ConfigError: they are too large for the memory and for the disk.
        """
        self._extractor, self._selections = _Extractor(graphdef, trained, frozen), selections
        self._features: dict[str, KeptFeatures] = {}
        self._folder = workdir / FOLDER
        texts = [__version__, *identity]
        self._identity = hashlib.sha256(json.dumps(texts, default=str).encode()).hexdigest()
        self._shapes = {name: self._shapes_of(selection) for name, selection in selections.items()}
        self._on_disk = self._too_large_for_memory()

    def examples(self, name: str) -> Examples:
        return self._selections[name].examples

    def views(self, name: str) -> Sequence[Sequence[View]]:
        """The crops of each picture, see `Selection`."""
        return self._selections[name].views

    def remove_files(self) -> None:
        """Removes what is on the disk; the run does not need it any more."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def __getitem__(self, name: str) -> KeptFeatures:
        if name not in self._features:
            self._features[name] = self._computed(name)
        return self._features[name]

    def _shapes_of(self, selection: Selection) -> tuple[Any, Any, int, int]:
        """Shapes of a row, of distorted pictures and of references, and how many rows there are of both."""
        counts = selection.counts
        paired = len(selection.examples.reference_size) > 0
        shapes, of_reference = self._extractor.shapes(paired)
        return shapes, of_reference, int(counts[selection.picture].sum()), int(counts.sum()) * paired

    def _too_large_for_memory(self) -> bool:
        needed = 0
        for shapes, of_reference, rows, reference_rows in self._shapes.values():
            leaves = jax.tree.leaves(shapes, is_leaf=_is_shape)
            needed += 4 * rows * sum(int(np.prod(shape)) for shape in leaves)
            needed += 4 * reference_rows * int(np.prod(of_reference or (0,)))
        memory = psutil.virtual_memory().available * _MEMORY_SHARE
        size = f"{needed / 2**20:,.0f} MiB"
        if needed <= memory:
            say(f"features: kept in memory ({size})")
            return False
        there = sum(file.stat().st_size for file in self._folder.glob("*.npy"))  # of a run that was stopped
        disk = (shutil.disk_usage(self._folder.parent).free + there) * _DISK_SHARE
        if needed > disk or jax.process_count() > 1:
            room = memory if jax.process_count() > 1 else max(memory, disk)
            raise ConfigError(
                f"config.keep_features: the features would take {size}, there is room for "
                f"{room / 2**20:,.0f} MiB; choose fewer places of each picture or fewer pairs, or 0, "
                "with which they are computed anew in each step"
            )
        say(f"features: kept in {self._folder} ({size}, more than the free memory allows)")
        return True

    def _computed(self, name: str) -> KeptFeatures:
        selection = self._selections[name]
        shapes, of_reference, rows, reference_rows = self._shapes[name]
        numbers = iter(count())
        done = self._folder / f"{name}.json"
        known = self._on_disk and done.exists() and done.read_text(encoding="utf-8") == self._identity

        def array(rows: int, shape: tuple[int, ...]) -> np.ndarray:
            if not self._on_disk:
                return np.empty((rows, *shape), np.float32)
            return _array_in_file(self._folder / f"{name}-{next(numbers)}.npy", (rows, *shape), known)

        features = jax.tree.map(lambda shape: array(rows, shape), shapes, is_leaf=_is_shape)
        references = array(reference_rows, of_reference) if of_reference else None
        counts, picture = selection.counts, selection.picture
        of_example = counts[picture]
        first = np.cumsum(of_example) - of_example
        reference_first = (np.cumsum(counts) - counts)[picture]
        kept = KeptFeatures(features, references, first, reference_first, of_example)
        if not known:
            done.unlink(missing_ok=True)
            with progress_bar(rows + reference_rows, f"features ({name})", "crop") as bar:
                _compute(self._extractor, selection, kept, bar.update)
            if self._on_disk:
                write_whole(done, self._identity)
        return kept


def _is_shape(node: object) -> bool:
    return type(node) is tuple


def _array_in_file(path: Path, shape: tuple[int, ...], known: bool) -> np.ndarray:
    """An array that lies in a file: as it is there, or new, with all its room taken."""
    path.parent.mkdir(exist_ok=True)
    with naming(path):
        if known:
            return np.load(path, mmap_mode="r")
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        if hasattr(os, "posix_fallocate"):  # a full disk is an error here, and would end the process later
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return array


def _compute(
    extractor: _Extractor, selection: Selection, kept: KeptFeatures, progress: Callable[[int], object]
) -> None:
    """Fills `kept`; a reference goes through the backbone once for all its distorted versions."""
    examples, size, picture = selection.examples, extractor.size, selection.picture

    def crops_of(positions: Iterable[int]) -> Iterator[tuple[int, int, np.ndarray]]:
        """Row, number of the view and crop of these examples."""
        positions = list(positions)
        for position, image in zip(positions, read_ahead(examples.distorted_image, positions), strict=True):
            image = np.asarray(mirrored_up(image, size))
            for number, view in enumerate(selection.views[picture[position]]):
                yield int(kept.first[position]) + number, number, view.of(image, size)

    def put(rows: list[int], features: Compared | np.ndarray) -> None:
        for leaf, values in zip(jax.tree.leaves(kept.features), jax.tree.leaves(features), strict=True):
            leaf[rows] = values
        progress(len(rows))

    if kept.references is None:
        for part in in_parts(crops_of(range(len(examples))), _AT_ONCE):
            put([row for row, _, _ in part], extractor.alone([window for *_, window in part]))
        return
    start = 0
    for number, views in enumerate(selection.views):
        image = np.asarray(mirrored_up(examples.reference_image(number), size))
        windows = (view.of(image, size) for view in views)
        whole = np.concatenate([extractor.alone(part) for part in in_parts(windows, _AT_ONCE)])
        kept.references[start : start + len(views)] = whole[..., : extractor.averaged]
        start += len(views)
        progress(len(views))
        for part in in_parts(crops_of(np.flatnonzero(picture == number).tolist()), _AT_ONCE):
            beside = whole[[view for _, view, _ in part]]
            put([row for row, _, _ in part], extractor.beside([window for *_, window in part], beside))
