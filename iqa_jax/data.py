"""Prepared data sets as pairs of images, and batches of them."""

import copy
import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from iqa_jax.datasets import REFERENCES, PairBuilder, Score
from iqa_jax.errors import DataError


@dataclasses.dataclass(frozen=True)
class Pair:
    """A reference and one distorted version of it.

    Attributes:
      index: position of the distorted image in its whole split; identifies the record.
      reference, distorted: (H, W, 3) uint8; no reference of a source without.
      mos: the label, higher is better (a DMOS is negated); NaN without one.
    """

    index: int
    reference: np.ndarray | None
    distorted: np.ndarray
    mos: float


class PairSource(Sequence[Pair]):
    """Pairs of a split of a prepared data set, by random access.

    The columns of the table are arrays of equal length and cost no reading of images.

    Attributes:
      dataset, split: where the pairs come from.
      score: what the labels mean.
      index: (N,) positions in the whole split.
      name, reference: (N,) file names.
      mos: (N,) float64, higher is better whatever the data set's direction; NaN without a label.
      distortion, level: (N,) type and strength, "" and 0 where the data set does not tell.
      size: (N, 2) height and width of the images.
      pseudo: whether the labels are a model's.
      with_references: whether pairs come with their reference image.
    """

    pseudo = False
    with_references = True

    def __init__(self, builder: PairBuilder, split: str, references: Sequence[str] | None = None):
        """Opens `split`.

        Args:
          builder: prepared (`iqa_jax.datasets.prepare`).
          split: a split's name or a slice of one, as in tensorflow-datasets: `train[:80%]`.
          references: keep only the pairs of these references.
        Raises:
          DataError: a split or a reference that the data set does not have.
        """
        self.dataset, self.split = builder.name, split
        self.score = Score(**builder.info.metadata["score"])
        base, start, stop = _slice(builder, split)
        table = builder.info.metadata["tables"][base]
        index = np.arange(start, stop)
        if references is not None:
            unknown = sorted(set(references) - set(table["reference"]))
            if unknown:
                raise DataError(f"{builder.name}: no pair of the reference {unknown[0]} in split {split}")
            index = index[np.isin(np.asarray(table["reference"])[index], list(references))]
        self.index = index
        self.name, self.reference, self.distortion = (
            np.asarray(table[column], dtype=object)[index] for column in ("name", "reference", "distortion")
        )
        self.level = np.asarray(table["level"])[index]
        self.size = np.stack([np.asarray(table[side])[index] for side in ("height", "width")], axis=1)
        sign = 1 if self.score.higher_is_better else -1
        self.mos = sign * np.array([np.nan if m is None else m for m in table["mos"]])[index]
        raw = {"image": tfds.decode.SkipDecoding()}
        self._images = builder.as_data_source(base, decoders=raw)
        self._reference_images = builder.as_data_source(REFERENCES, decoders=raw)
        names = builder.info.metadata["tables"][REFERENCES]["name"]
        self._reference_position = {name: position for position, name in enumerate(names)}

    def select(self, positions: np.ndarray) -> "PairSource":
        """The pairs at these positions alone."""
        part = copy.copy(self)
        for column in ("index", "name", "reference", "distortion", "level", "size", "mos"):
            setattr(part, column, getattr(self, column)[positions])
        return part

    def fingerprint(self) -> str:
        """SHA-256 of the pairs' names and sizes and of the files of up to 64 distorted images."""
        digest = hashlib.sha256(json.dumps([*self.name, *self.reference, *self.size.tolist()]).encode())
        for position in np.linspace(0, len(self) - 1, min(len(self), 64)).astype(int):
            digest.update(self._images[int(self.index[position])]["image"])
        return digest.hexdigest()

    def distorted_only(self) -> "PairSource":
        """The same pairs without their reference images."""
        part = copy.copy(self)
        part.with_references = False
        return part

    def pseudo_labelled(self, mos: np.ndarray) -> "PairSource":
        """The same pairs with a model's scores (N,) for labels."""
        part = copy.copy(self)
        part.mos, part.pseudo = np.asarray(mos, np.float64), True
        return part

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> Pair:
        return Pair(
            index=int(self.index[position]),
            reference=self.reference_image(self.reference[position]) if self.with_references else None,
            distorted=self.distorted_image(position),
            mos=float(self.mos[position]),
        )

    def distorted_image(self, position: int) -> np.ndarray:
        """(H, W, 3) uint8."""
        record = self._images[int(self.index[position])]
        return _decoded(record, self.name[position])

    def reference_image(self, name: str) -> np.ndarray:
        """(H, W, 3) uint8; the last few are kept decoded."""
        return self._decoded_reference(name)

    @functools.cached_property
    def _decoded_reference(self):
        @functools.lru_cache(maxsize=32)
        def decoded(name):
            return _decoded(self._reference_images[self._reference_position[name]], name)

        return decoded


def _decoded(record: dict, name: str) -> np.ndarray:
    found = record["name"].decode()
    if found != name:
        raise DataError(f"prepared data are damaged: {found} stands where {name} should; prepare them again")
    with Image.open(io.BytesIO(record["image"])) as image:
        pixels = np.array(image.convert("RGB"))
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
            f"{builder.name} has no split {split!r}: expected one of {', '.join(splits)}, "
            "or a slice such as train[:80%]"
        ) from None
    start, stop, _ = slice(part.from_, part.to).indices(whole)
    if start >= stop:
        raise DataError(f"{builder.name}: split {split!r} is empty")
    return part.splitname, start, stop


def split_references(path: str | Path, part: str) -> list[str]:
    """The references of one part, "train" or "validation", of a file written by `splits`.

    Raises:
      DataError: not such a file.
    """
    try:
        return list(json.loads(Path(path).read_text())[part])
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; expected a file of splits") from None
    except (ValueError, KeyError, TypeError):
        raise DataError(f'{path}: expected JSON with lists of references, "train" and "validation"') from None


@dataclasses.dataclass(frozen=True)
class Batch:
    """Pairs in arrays; images smaller than the largest are filled up at the bottom and right.

    Attributes:
      index, epoch: (B,) int32, position in the split and pass over the data; with the seed they
        determine each example's augmentation.
      reference, distorted: (B, H, W, 3) uint8; no reference where the source has none.
      size: (B, 2) int32, height and width of each image.
      mos: (B,) float32.
      pseudo: (B,) bool, whether a label is a model's.
    """

    index: np.ndarray
    epoch: np.ndarray
    reference: np.ndarray | None
    distorted: np.ndarray
    size: np.ndarray
    mos: np.ndarray
    pseudo: np.ndarray


def training_batches(
    source: PairSource,
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    shard: tuple[int, int] = (0, 1),
    shape: tuple[int, int] | None = None,
) -> Iterator[Batch]:
    """Endless batches in an order that depends on `seed` alone, shuffled anew each epoch.

    An epoch is as many whole batches as the source gives.  What batch `k` holds does not depend on
    where the iteration started: `start=k` resumes exactly.

    Args:
      source: of at least `batch_size` pairs.
      batch_size: of the whole batch, over all shards.
      start: number of the first batch.
      shard: (k, n): give the k-th of n equal shares of every batch.
      shape: height and width of the arrays; the largest image's if not given.
    """
    import grain

    number, shards = shard
    shape = shape or tuple(source.size.max(axis=0))
    per_epoch = len(source) // batch_size * batch_size
    examples = (
        grain.MapDataset.source(source)
        .seed(seed)
        .shuffle()[:per_epoch]
        .repeat(None)
        .map_with_index(lambda position, pair: (position // per_epoch, pair))
    )[start * batch_size + number :: shards]
    batches = examples.batch(
        batch_size // shards,
        drop_remainder=True,
        batch_fn=functools.partial(_stack, shape, source.pseudo),
    )
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))


def mixed_batches(
    labelled: PairSource, pseudo: PairSource, *, batch_sizes: tuple[int, int], seed: int, **options
) -> Iterator[Batch]:
    """Batches of labelled pairs followed by pseudo-labelled ones; an epoch is the labelled pairs'.

    Args:
      batch_sizes: how many of each.
      seed, options: see `training_batches`.
    """
    shape = tuple(np.concatenate([labelled.size, pseudo.size]).max(axis=0))
    streams = [
        training_batches(source, batch_size=size, seed=seed + number, shape=shape, **options)
        for number, (source, size) in enumerate(zip((labelled, pseudo), batch_sizes, strict=True))
    ]
    for parts in zip(*streams, strict=True):
        columns = ([getattr(part, field.name) for part in parts] for field in dataclasses.fields(Batch))
        yield Batch(*(None if column[0] is None else np.concatenate(column) for column in columns))


def _stack(shape: tuple[int, int], pseudo: bool, examples: Sequence[tuple[int, Pair]]) -> Batch:
    pairs = [pair for _, pair in examples]
    with_references = pairs[0].reference is not None
    return Batch(
        index=np.array([pair.index for pair in pairs], np.int32),
        epoch=np.array([epoch for epoch, _ in examples], np.int32),
        reference=np.stack([_filled_up(p.reference, shape) for p in pairs]) if with_references else None,
        distorted=np.stack([_filled_up(pair.distorted, shape) for pair in pairs]),
        size=np.array([pair.distorted.shape[:2] for pair in pairs], np.int32),
        mos=np.array([pair.mos for pair in pairs], np.float32),
        pseudo=np.full(len(pairs), pseudo),
    )


def _filled_up(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    height, width = image.shape[:2]
    if (height, width) == shape:
        return image
    return np.pad(image, ((0, shape[0] - height), (0, shape[1] - width), (0, 0)))
