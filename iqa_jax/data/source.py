"""Prepared data sets as pairs of images."""

import collections
import copy
import dataclasses
import hashlib
import json
import threading
import unicodedata
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow_datasets as tfds

from iqa_jax.data.datasets.base import REFERENCES, PairBuilder, Score
from iqa_jax.data.datasets.prepared import EncodedImages
from iqa_jax.data.images import decode_image
from iqa_jax.errors import DataError

_KEPT_BYTES = 64 * 2**20  # of decoded references


@dataclasses.dataclass(frozen=True)
class ImagePair:
    """A reference and one distorted version of it.

    Attributes:
      index: position of the distorted image in its whole split; identifies the record.
      reference, distorted: (H, W, 3) uint8.
      mos: the label, higher is better (a DMOS is negated); NaN without one.
    """

    index: int
    reference: np.ndarray
    distorted: np.ndarray
    mos: float


class PairSource:
    """Pairs of a split of a prepared data set, by random access.

    The columns of the table are arrays of equal length; they read no image.

    Attributes:
      dataset, split: the names that give these pairs: "pairs/mine", "train[:80%]".
      base: the whole split, of which `split` may be a slice.
      score: what the labels mean.
      paired: whether the images have references; else `reference` names the content alone.
      index: (N,) positions in the whole split.
      name, reference: (N,) file names.
      mos: (N,) float64, higher is better whatever the data set's direction; NaN without a label.
      distortion, level: (N,) type and strength, "" and 0 where the data set has none.
      size: (N, 2) height and width of the images.
      pseudo: whether the labels are a model's.
    """

    pseudo = False

    def __init__(
        self,
        builder: PairBuilder,
        split: str,
        references: Sequence[str] | None = None,
        *,
        part: str = "",
    ):
        """Opens `split`.

        Args:
          builder: prepared (`iqa_jax.data.preparation.prepare_dataset`).
          split: a split's name or a slice of one, as in tensorflow-datasets: `train[:80%]`.
          references: keep only the pairs of these references.
          part: a label for them, after the split's name.
        Raises:
          DataError: a split or a reference that the data set does not have.
        """
        self.dataset = builder.asked_name
        self.split = f"{split} ({part})" if part else split
        self.score = Score(**builder.metadata["score"])
        self.paired = builder.paired
        base, start, stop = _slice(builder, split)
        self.base = base
        table = builder.metadata["tables"][base]
        index = np.arange(start, stop)
        if references is not None:
            # Another system may have composed the accents of a name otherwise.
            asked = {unicodedata.normalize("NFC", name): name for name in references}
            of_table = [unicodedata.normalize("NFC", name) for name in table["reference"]]
            unknown = sorted(asked.keys() - set(of_table))
            if unknown:
                raise DataError(
                    f"{self.dataset}: no pair of the reference {asked[unknown[0]]} in split {split}"
                )
            index = index[np.isin(np.asarray(of_table)[index], list(asked))]
        self.index = index
        self.name, self.reference, self.distortion = (
            np.asarray(table[column], dtype=object)[index] for column in ("name", "reference", "distortion")
        )
        self.level = np.asarray(table["level"])[index]
        self.size = np.stack([np.asarray(table[side])[index] for side in ("height", "width")], axis=1)
        sign = 1 if self.score.higher_is_better else -1
        self.mos = sign * np.array([np.nan if m is None else m for m in table["mos"]])[index]
        self._images = EncodedImages(builder, base)
        self._reference_images = EncodedImages(builder, REFERENCES)
        known = builder.metadata["tables"][REFERENCES]
        self._reference_position = {name: position for position, name in enumerate(known["name"])}
        self._digest = dict(zip(known["name"], known["digest"], strict=True))
        self._recent_references = _Recent(self._read_reference, _KEPT_BYTES)

    def select(self, positions: np.ndarray) -> "PairSource":
        """The pairs at these positions alone."""
        part = copy.copy(self)
        for column in ("index", "name", "reference", "distortion", "level", "size", "mos"):
            setattr(part, column, getattr(self, column)[positions])
        return part

    def digests(self) -> dict[str, str]:
        """A digest of each reference's pixels, by its name; files of one picture share one."""
        return {name: self._digest[name] for name in sorted(set(self.reference))}

    def fingerprint(self) -> str:
        """SHA-256 of the pairs' names and sizes and of the files of up to 64 distorted images."""
        digest = hashlib.sha256(json.dumps([*self.name, *self.reference, *self.size.tolist()]).encode())
        for position in np.linspace(0, len(self) - 1, min(len(self), 64)).astype(int):
            digest.update(self._images[int(self.index[position])])
        return digest.hexdigest()

    def pseudo_labelled(self, mos: np.ndarray) -> "PairSource":
        """The same pairs with a model's scores (N,) for labels."""
        part = copy.copy(self)
        part.mos, part.pseudo = np.asarray(mos, np.float64), True
        return part

    def __len__(self) -> int:
        return len(self.index)

    def __iter__(self) -> Iterator[ImagePair]:
        return (self[position] for position in range(len(self)))

    def __getitem__(self, position: int) -> ImagePair:
        return ImagePair(
            index=int(self.index[position]),
            reference=self.reference_image(self.reference[position]),
            distorted=self.distorted_image(position),
            mos=float(self.mos[position]),
        )

    def distorted_image(self, position: int) -> np.ndarray:
        """(H, W, 3) uint8."""
        return _decoded(self._images[int(self.index[position])], self.name[position])

    def reference_image(self, name: str) -> np.ndarray:
        """(H, W, 3) uint8; the last few are kept decoded."""
        return self._recent_references(name)

    def _read_reference(self, name: str) -> np.ndarray:
        return _decoded(self._reference_images[self._reference_position[name]], name)


class _Recent:
    """A function from names to arrays that keeps the latest results, up to some bytes in all."""

    def __init__(self, function: Callable[[str], np.ndarray], limit: int):
        self._function, self._limit = function, limit
        self._kept: collections.OrderedDict[str, np.ndarray] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, name: str) -> np.ndarray:
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                return self._kept[name]
        array = self._function(name)
        with self._lock:
            self._kept[name] = array
            while sum(image.nbytes for image in self._kept.values()) > self._limit and len(self._kept) > 1:
                self._kept.popitem(last=False)
        return array


def _decoded(encoded: bytes, name: str) -> np.ndarray:
    try:
        pixels = decode_image(encoded, say=lambda text: None)  # the preparation made these remarks
    except DataError as error:
        raise DataError(f"prepared data are damaged: {name}: {error}; prepare them again") from None
    pixels.setflags(write=False)
    return pixels


def _slice(builder: PairBuilder, split: str) -> tuple[str, int, int]:
    """Name of the whole split, first and last + 1 record of `split`."""
    splits = {name: info for name, info in builder.info.splits.items() if name != REFERENCES}
    try:
        (part,) = tfds.core.ReadInstruction.from_spec(split).to_absolute(splits)
        whole = splits[part.splitname].num_examples
    except (KeyError, ValueError, AssertionError):
        raise DataError(
            f"{builder.asked_name} has no split {split!r}: expected one of {', '.join(splits)}, "
            "or a slice such as train[:80%]"
        ) from None
    start, stop, _ = slice(part.from_, part.to).indices(whole)
    if start >= stop:
        raise DataError(f"{builder.asked_name}: split {split!r} is empty")
    return part.splitname, start, stop
