"""Scores of whole images: crops, features once an image, comparison, mean over the crops."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from iqa_jax.augment import SMALLEST, center_crop, grid_crop, grid_offsets, ten_crop
from iqa_jax.compilation import jit
from iqa_jax.data import PairSource
from iqa_jax.errors import DataError
from iqa_jax.models.layers import few_at_a_time

# Each takes (B, H, W, 3) and the side of a crop, and gives (B, crops, side, side, 3).
CROPS: dict[str, Callable] = {
    "center": lambda images, size: center_crop(images, size)[:, None],
    "ten": ten_crop,
    "grid": grid_crop,
}
_CROPS_AT_ONCE = 32


class PairScorer:
    """Scores pairs with one model, under one or several sets of weights at a time.

    A set of weights is the second part of `iqa_jax.models.split_model`; the backbone, which takes
    nearly all the time, runs once for all sets, and once for each image: a reference's features
    serve all its distorted versions.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        *,
        crop_size: int = 192,
        crops: str = "center",
        crops_at_once: int = _CROPS_AT_ONCE,
    ):
        """Prepares the programs; they are compiled on first use.

        Args:
          graphdef: structure of a full-reference model in evaluation mode.
          crop_size: side of the crops that the model takes.
          crops: a key of `CROPS`.
          crops_at_once: how many crops the backbone gets at a time.
        """
        self._crop_size, self._crops, self._crops_at_once = crop_size, crops, crops_at_once
        crop = CROPS[crops]

        def project(frozen, weights, images):
            """Projected features (B, crops, h, w, D) of images (B, H, W, 3), for each set of weights."""
            models = [nnx.merge(graphdef, trained, frozen) for trained in weights]
            crops = crop(images, crop_size)

            def project_few(crops):
                features = models[0].features(crops)
                return [model.conv_proj(features) for model in models]

            projected = few_at_a_time(project_few, crops.reshape(-1, *crops.shape[2:]))
            return [p.reshape(*crops.shape[:2], *p.shape[1:]) for p in projected]

        def compare(frozen, weights, references, distorted):
            """MOS (sets, B) from projected features, each (B, crops, h, w, D)."""
            scores = []
            for trained, r, d in zip(weights, references, distorted, strict=True):
                model = nnx.merge(graphdef, trained, frozen)
                pair = (x.reshape(-1, *x.shape[2:]) for x in (r, d))
                scores_of_crops = few_at_a_time(model.compare, *pair)
                scores.append(model.denormalise(scores_of_crops.reshape(r.shape[:2])).mean(1))
            return jnp.stack(scores)

        self._project, self._compare = jit(project), jit(compare)

    def predict(
        self,
        source: PairSource,
        frozen: nnx.State,
        weights: Sequence[nnx.State],
        *,
        progress: Callable[[int], object] = lambda pairs: None,
    ) -> np.ndarray:
        """Predicted MOS of every pair of `source`: (sets of weights, N).

        Args:
          frozen: the model's backbone.
          weights: one or more sets of the model's other weights.
          progress: is told how many more pairs are done.
        Raises:
          DataError: an image is too small for the crops.
        """
        self._check_sizes(source)
        weights = tuple(weights)
        predictions = np.empty((len(weights), len(source)), np.float32)
        references: dict[str, list[jax.Array]] = {}
        running: list[tuple[np.ndarray, jax.Array]] = []

        def fetch():
            positions, scores = running.pop()
            predictions[:, positions] = np.asarray(scores)[:, : len(positions)]
            progress(len(positions))

        for chunk, distorted, new in _loaded(source, self._chunk_size):
            if new:
                images = np.stack(list(new.values()))
                images = images if len(images) == 1 else _filled_up(images, chunk.size)
                projected = self._project(frozen, weights, images)
                for number, name in enumerate(new):
                    references[name] = [p[number] for p in projected]
            names = [source.reference[position] for position in chunk.positions]
            names += names[-1:] * (chunk.size - len(names))
            stacked = [jnp.stack(maps) for maps in zip(*(references[n] for n in names), strict=True)]
            projected = self._project(frozen, weights, _filled_up(distorted, chunk.size))
            scores = self._compare(frozen, weights, stacked, projected)
            if running:
                fetch()  # while the device works on this chunk
            running.append((chunk.positions, scores))
            for name in chunk.last_use_of:
                del references[name]
        fetch()
        return predictions

    def _chunk_size(self, height: int, width: int) -> int:
        """How many images of this size go through the backbone at a time."""
        size = self._crop_size
        windows = len(grid_offsets(height, size)) * len(grid_offsets(width, size))
        return max(1, self._crops_at_once // {"center": 1, "ten": 10, "grid": windows}[self._crops])

    def _check_sizes(self, source: PairSource) -> None:
        smallest = SMALLEST if self._crops == "grid" else self._crop_size
        small = np.flatnonzero(source.size.min(axis=1) < smallest)
        if small.size:
            height, width = source.size[small[0]]
            raise DataError(
                f"{source.name[small[0]]}: {height} x {width} pixels, crops={self._crops} needs {smallest} "
                "or more on each side" + ("; use grid" if self._crops != "grid" else "")
            )


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """Pairs of one image size: their positions, and which references come in and go out here.

    `size` is how many pairs the programs for this image size take; the last chunk may have fewer.
    """

    positions: np.ndarray
    size: int
    first_use_of: list[str]
    last_use_of: list[str]


def _chunks(source: PairSource, chunk_size: Callable[[int, int], int]) -> list[_Chunk]:
    chunks = []
    for shape in np.unique(source.size, axis=0):
        positions = np.flatnonzero((source.size == shape).all(1))
        size = chunk_size(*shape)
        chunks += [(positions[start : start + size], size) for start in range(0, len(positions), size)]
    first, last = {}, {}
    for number, (positions, _) in enumerate(chunks):
        for name in source.reference[positions]:
            first.setdefault(name, number)
            last[name] = number
    return [
        _Chunk(
            positions,
            size,
            [name for name, at in first.items() if at == number],
            [name for name, at in last.items() if at == number],
        )
        for number, (positions, size) in enumerate(chunks)
    ]


def _loaded(
    source: PairSource, chunk_size: Callable[[int, int], int]
) -> Iterator[tuple[_Chunk, np.ndarray, dict[str, np.ndarray]]]:
    """Each chunk with its distorted images and new references, decoded ahead by a thread."""

    def load(chunk):
        distorted = np.stack([source.distorted_image(position) for position in chunk.positions])
        return chunk, distorted, {name: source.reference_image(name) for name in chunk.first_use_of}

    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead = []
        for chunk in _chunks(source, chunk_size):
            ahead.append(pool.submit(load, chunk))
            if len(ahead) > 2:
                yield ahead.pop(0).result()
        for future in ahead:
            yield future.result()


def _filled_up(images: np.ndarray, size: int) -> np.ndarray:
    """(n, …) -> (size, …) by repeating the last one, so that one program serves every chunk."""
    return np.concatenate([images, np.repeat(images[-1:], size - len(images), axis=0)])
