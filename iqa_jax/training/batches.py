"""Batches of pairs: which examples make them up, and which crops of their images.

Both depend only on the seed and the number of the batch; `iqa_jax.training.feed` says where the images are.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np

from iqa_jax.data.source import PairSource
from iqa_jax.models.base import Compared
from iqa_jax.ops import Array
from iqa_jax.ops.augment import Cropping
from iqa_jax.ops.keys import Purpose, generator_for


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Pairs of crops in arrays.

    Attributes:
      index, epoch: (B,) int32, position in the split and pass over the data; with the seed they
        determine each example's augmentation.
      reference, distorted: (B, S, S, 3) uint8; no reference for a model that needs none.
      mos: (B,) float32.
      pseudo: (B,) bool, whether a label is a model's.
    """

    index: Array
    epoch: Array
    reference: Array | None
    distorted: Array
    mos: Array
    pseudo: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KeptBatch:
    """Pairs of crops whose features were kept, see `iqa_jax.training.kept`.

    Attributes:
      features: what the frozen backbone gives of the pairs, (B, …) float32.
      mos, pseudo: as in `Batch`.
    """

    features: Compared | Array
    mos: Array
    pseudo: Array


AnyBatch = Batch | KeptBatch


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BatchIndex:
    """Which examples make up a batch.

    Attributes:
      position: (B,) int32, in `Examples`.
      epoch: (B,) int32, pass over the data.
    """

    position: Array
    epoch: Array

    def rows(self, rows: np.ndarray) -> "BatchIndex":
        """Some of the examples."""
        return BatchIndex(self.position[rows], self.epoch[rows])


class Order:
    """Which examples each batch has, by its number; every epoch has its own shuffle.

    With two sources (labelled and pseudo-labelled pairs), a batch has examples of the first, then of the
    second.  An epoch of a source is as many whole shares of a batch as it fills.
    """

    def __init__(self, lengths: Sequence[int], batch_sizes: Sequence[int], *, seed: int):
        """Takes the number of examples of each source and how many of them a batch has."""
        self._sources = list(zip(lengths, batch_sizes, strict=True))
        self._seed = seed
        self._permutation = functools.lru_cache(maxsize=8)(self._shuffled)

    def _shuffled(self, source: int, epoch: int) -> np.ndarray:
        length, _ = self._sources[source]
        generator = generator_for(self._seed, Purpose.ORDER, source, epoch)
        return generator.permutation(length).astype(np.int32)

    def __call__(self, number: int) -> BatchIndex:
        """The examples of the batch of this number."""
        positions, epochs, offset = [], [], 0
        for source, (length, size) in enumerate(self._sources):
            epoch, place = divmod(number, length // size)
            shuffled = self._permutation(source, epoch)
            positions.append(offset + shuffled[place * size : (place + 1) * size])
            epochs.append(np.full(size, epoch, np.int32))
            offset += length
        return BatchIndex(np.concatenate(positions), np.concatenate(epochs))


class Examples:
    """The pairs of one or more sources, by their position in all of them.

    Attributes:
      index, mos, pseudo: columns as in `Batch`, (N, …).
      size: (N, 2) int32, height and width of the images.
      reference: (N,) int32, number of the reference image; 0 for a model that needs none.
      reference_size: (R, 2) int32, height and width of the reference images.
    """

    def __init__(self, sources: Sequence[PairSource], *, with_references: bool = True):
        self._sources = sources
        self._start = np.cumsum([0, *(len(source) for source in sources)])
        self.index = np.concatenate([source.index for source in sources]).astype(np.int32)
        self.size = np.concatenate([source.size for source in sources]).astype(np.int32)
        self.mos = np.concatenate([source.mos for source in sources]).astype(np.float32)
        self.pseudo = np.repeat([source.pseudo for source in sources], np.diff(self._start))
        names = [(number, name) for number, source in enumerate(sources) for name in source.reference]
        self._references = list(dict.fromkeys(names)) if with_references else []
        number = {name: n for n, name in enumerate(self._references)}
        self.reference = np.array([number.get(name, 0) for name in names], np.int32)
        self.reference_size = np.zeros((len(self._references), 2), np.int32)
        if with_references:
            self.reference_size[self.reference] = self.size  # a pair's images are of one size

    def __len__(self) -> int:
        return len(self.index)

    @property
    def lengths(self) -> list[int]:
        """How many there are of each source."""
        return np.diff(self._start).tolist()

    def distorted_image(self, position: int) -> np.ndarray:
        """(H, W, 3) uint8."""
        source = int(np.searchsorted(self._start, position, side="right")) - 1
        return self._sources[source].distorted_image(position - self._start[source])

    def reference_image(self, number: int) -> np.ndarray:
        """The reference of this number in `reference`, (H, W, 3) uint8."""
        source, name = self._references[number]
        return self._sources[source].reference_image(name)

    def batch(self, chosen: BatchIndex, cropping: Cropping, images: "Examples | Images") -> Batch:
        """The crops of these examples.

        Args:
          images: that are cut; the examples themselves read theirs.
        """
        positions = chosen.position
        corners = cropping.corners_on_host(
            chosen.epoch, self.index[positions], self.size[positions], self.pseudo[positions]
        )

        def cut(image, corner):
            top, left = corner
            return image[top : top + cropping.size, left : left + cropping.size]

        distorted = np.stack(
            [cut(images.distorted_image(p), corner) for p, corner in zip(positions, corners, strict=True)]
        )
        reference = None
        if self._references:
            numbers = self.reference[positions]
            reference = np.stack(
                [cut(images.reference_image(n), corner) for n, corner in zip(numbers, corners, strict=True)]
            )
        columns = {name: getattr(self, name)[positions] for name in ("index", "mos", "pseudo")}
        return Batch(epoch=chosen.epoch, reference=reference, distorted=distorted, **columns)


class Images:
    """All images of some examples, decoded in memory."""

    def __init__(self, distorted: Sequence[np.ndarray], references: Sequence[np.ndarray]):
        self.distorted_image, self.reference_image = distorted.__getitem__, references.__getitem__
