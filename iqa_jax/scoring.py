"""Scores of whole images: crops, features once an image, comparison, mean over the crops."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from iqa_jax.augment import SMALLEST, center_crop, grid_crop, grid_offsets, ten_crop
from iqa_jax.compilation import jit
from iqa_jax.data import PairSource
from iqa_jax.errors import DataError, UserError, WeightsError
from iqa_jax.models import IQA_MODELS, split_model
from iqa_jax.models.layers import few_at_a_time
from iqa_jax.together import do_together, grouped
from iqa_jax.weights import model_with, read_any

# Each takes (B, H, W, 3) and the side of a crop, and gives (B, crops, side, side, 3).
CROPS: dict[str, Callable] = {
    "center": lambda images, size: center_crop(images, size)[:, None],
    "ten": ten_crop,
    "grid": grid_crop,
}
_CROPS_AT_ONCE = 32
_PART = 64  # pairs that a process takes at a time, when several do the work


class PairScorer:
    """Scores pairs with one model, under one or several sets of weights at a time.

    A set of weights is the second part of `iqa_jax.models.split_model`; the backbone, which takes
    nearly all the time, runs once for all sets (unless it was trained too), and once for each image: a
    reference's features serve all its distorted versions.  A model that needs no reference gets none.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        *,
        full_reference: bool = True,
        crop_size: int = 192,
        crops: str = "center",
        crops_at_once: int = _CROPS_AT_ONCE,
    ):
        """Prepares the programs; they are compiled on first use.

        Args:
          graphdef: structure of an IQA model in evaluation mode.
          full_reference: whether that model compares with references.
          crop_size: side of the crops that the model takes.
          crops: a key of `CROPS`.
          crops_at_once: how many crops the backbone gets at a time.
        """
        self._full_reference = full_reference
        self._crop_size, self._crops, self._crops_at_once = crop_size, crops, crops_at_once
        crop = CROPS[crops]

        def project(frozen, weights, images):
            """Projected features (B, crops, h, w, D) of images (B, H, W, 3), for each set of weights."""
            models = [nnx.merge(graphdef, trained, frozen) for trained in weights]
            crops = crop(images, crop_size)

            def project_few(crops):
                if "backbone" in weights[0]:
                    return [model.project(crops) for model in models]
                features = models[0].features(crops)
                return [model.conv_proj(features) for model in models]

            projected = few_at_a_time(project_few, crops.reshape(-1, *crops.shape[2:]))
            return [p.reshape(*crops.shape[:2], *p.shape[1:]) for p in projected]

        def assess(frozen, weights, *projected):
            """MOS (sets, B) from projected features of the images, each (B, crops, h, w, D) a set."""
            scores = []
            for trained, *images in zip(weights, *projected, strict=True):
                model = nnx.merge(graphdef, trained, frozen)
                of_crops = few_at_a_time(model.assess, *(x.reshape(-1, *x.shape[2:]) for x in images))
                scores.append(model.denormalise(of_crops.reshape(images[0].shape[:2])).mean(1))
            return jnp.stack(scores)

        self._project, self._assess = jit(project), jit(assess)

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

        chunks = _chunks(source, self._chunk_size, with_references=self._full_reference)
        for chunk, distorted, new in _loaded(source, chunks):
            if new:
                images = np.stack(list(new.values()))
                images = images if len(images) == 1 else _filled_up(images, chunk.size)
                projected = self._project(frozen, weights, images)
                for number, name in enumerate(new):
                    references[name] = [p[number] for p in projected]
            projected = [self._project(frozen, weights, _filled_up(distorted, chunk.size))]
            if self._full_reference:
                names = [source.reference[position] for position in chunk.positions]
                names += names[-1:] * (chunk.size - len(names))
                stacked = [jnp.stack(maps) for maps in zip(*(references[n] for n in names), strict=True)]
                projected.insert(0, stacked)
            scores = self._assess(frozen, weights, *projected)
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


class Predictor:
    """Weights from disk as a function from pairs to scores.

    Attributes:
      config: the model's configuration.
      record: the weights' `config.json`.
      full_reference: whether the model compares with references.
      crops: the protocol.
      sha256: of the weights.
      name: what to call them.
    """

    def __init__(
        self,
        weights: str | os.PathLike,
        *,
        step: int | str = "best",
        ema: bool = False,
        crops: str = "ten",
    ):
        """Reads the weights, see `iqa_jax.weights.read_any`.

        Raises:
          UserError: an unknown crop protocol.
          WeightsError: no weights of an IQA model there.
        """
        if crops not in CROPS:
            raise UserError(f"crops {crops}: expected one of {', '.join(CROPS)}")
        config, arrays, record = read_any(weights, step=step, ema=ema)
        if config.name not in IQA_MODELS:
            raise WeightsError(f"{weights}: a backbone ({config.name}), expected an IQA model's weights")
        graph, self._trained, self._frozen = split_model(model_with(config, arrays))
        self.full_reference = IQA_MODELS[config.name].full_reference
        self._scorer = PairScorer(
            graph,
            full_reference=self.full_reference,
            crop_size=config.crop_size,
            crops=crops,
        )
        self.config, self.crops, self.record = config, crops, record
        self.sha256 = record["sha256"]
        self.name = f"{config.name} {self.sha256[:12]}"

    def on_scale_of(self, source: PairSource) -> bool:
        """Whether predictions are in the units of the labels, so that their differences mean something."""
        ends = (source.score.low, source.score.high)
        if not source.score.higher_is_better:
            ends = (-ends[1], -ends[0])
        return ends == (self.config.mos_low, self.config.mos_high)

    def __call__(
        self, source: PairSource, progress: Callable[[int], object] = lambda pairs: None
    ) -> np.ndarray:
        """Predicted MOS (N,) of the pairs; `progress` is told how many more are done."""
        return self._scorer.predict(source, self._frozen, [self._trained], progress=progress)[0]

    def together(
        self,
        source: PairSource,
        directory: Path,
        progress: Callable[[int], object] = lambda pairs: None,
    ) -> np.ndarray:
        """The same, of which other processes work out a part; `directory` keeps what is done.

        See `iqa_jax.together.do_together`.
        """
        parts = grouped(source.reference, _PART)
        done = do_together(
            directory,
            len(parts),
            lambda number: self(source.select(parts[number])).tolist(),
            identity={"weights": self.sha256, "crops": self.crops, "pairs": source.fingerprint()},
            progress=lambda number: progress(len(parts[number])),
        )
        predicted = np.empty(len(source), np.float32)
        for part, values in zip(parts, done, strict=True):
            predicted[part] = values
        return predicted


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """Pairs of one image size: their positions, and which references come in and go out here.

    `size` is how many pairs the programs for this image size take; the last chunk may have fewer.
    """

    positions: np.ndarray
    size: int
    first_use_of: list[str]
    last_use_of: list[str]


def _chunks(
    source: PairSource, chunk_size: Callable[[int, int], int], *, with_references: bool
) -> list[_Chunk]:
    chunks = []
    for shape in np.unique(source.size, axis=0):
        positions = np.flatnonzero((source.size == shape).all(1))
        size = chunk_size(*shape)
        chunks += [(positions[start : start + size], size) for start in range(0, len(positions), size)]
    first, last = {}, {}
    for number, (positions, _) in enumerate(chunks if with_references else ()):
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
    source: PairSource, chunks: Sequence[_Chunk]
) -> Iterator[tuple[_Chunk, np.ndarray, dict[str, np.ndarray]]]:
    """Each chunk with its distorted images and new references, decoded ahead by a thread."""

    def load(chunk):
        distorted = np.stack([source.distorted_image(position) for position in chunk.positions])
        return chunk, distorted, {name: source.reference_image(name) for name in chunk.first_use_of}

    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead = []
        for chunk in chunks:
            ahead.append(pool.submit(load, chunk))
            if len(ahead) > 2:
                yield ahead.pop(0).result()
        for future in ahead:
            yield future.result()


def _filled_up(images: np.ndarray, size: int) -> np.ndarray:
    """(n, …) -> (size, …) by repeating the last one, so that one program serves every chunk."""
    return np.concatenate([images, np.repeat(images[-1:], size - len(images), axis=0)])
