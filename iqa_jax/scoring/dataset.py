"""Scores of a whole split of a data set, under one or several sets of weights."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from iqa_jax.data.source import PairSource
from iqa_jax.errors import DataError, UserError, WeightsError
from iqa_jax.ops.windows import CROPS, SMALLEST, places
from iqa_jax.parallel.jobs import grouped, run_shared
from iqa_jax.parallel.read_ahead import read_ahead
from iqa_jax.scoring.engine import BATCH_SIZE, KEPT_WINDOWS, Engine, Reference, WindowModel
from iqa_jax.scoring.load import load_model, metric_of
from iqa_jax.scoring.metric import Metric
from iqa_jax.weights.record import identity_of, title_of

_PART = 64  # pairs that are kept together, and that a process takes at a time


def predict(
    model: WindowModel,
    source: PairSource,
    *,
    crops: str,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int], object] = lambda pairs: None,
) -> np.ndarray:
    """Predicted MOS of every pair of `source`: (sets of weights, N) float32.

    Each image is read once, and a reference's features serve all its distorted versions.

    Args:
      crops: one of `CROPS`.
      progress: called with the number of pairs just scored.
    Raises:
      DataError: an image is too small for the crops, or there are no references where they are needed.
    """
    if model.full_reference and not source.paired:
        raise DataError(
            f"{source.dataset}: has no references; {model.config.name} needs them, a blind model does not"
        )
    size = model.config.crop_size
    _check_sizes(source, crops, size)
    first = {name: number for number, name in reversed(list(enumerate(source.reference)))}
    order = sorted(range(len(source)), key=lambda position: first[source.reference[position]])

    def images(position: int) -> tuple[np.ndarray | None, np.ndarray]:
        """The reference, where it is the first pair of it, and the distorted image."""
        name = str(source.reference[position])
        opens = model.full_reference and first[name] == position
        return source.reference_image(name) if opens else None, source.distorted_image(position)

    def items(reference=None):
        for original, distorted in read_ahead(images, order):
            height, width = distorted.shape[:2]
            where = places(crops, height, width, size)
            if original is not None:
                reference = Reference(original, keep=len(where) <= KEPT_WINDOWS)
            yield reference, distorted, where

    predicted = np.empty((model.sets, len(source)), np.float32)
    for position, scores in zip(order, Engine(model, batch_size=batch_size).scores(items()), strict=True):
        predicted[:, position] = scores.mean(1, dtype=np.float64)
        progress(1)
    return predicted


def _check_sizes(source: PairSource, crops: str, size: int) -> None:
    smallest = SMALLEST if crops == "grid" else size
    small = np.flatnonzero(source.size.min(axis=1) < smallest)
    if small.size:
        height, width = source.size[small[0]]
        raise DataError(
            f"{source.name[small[0]]}: {height} x {width} pixels, crops={crops} needs {smallest} "
            "or more on each side" + ("; use grid" if crops != "grid" else "")
        )


class Predictor:
    """Weights from disk as a function from pairs to scores.

    Attributes:
      config: the model's configuration.
      record: the weights' `config.json`.
      full_reference: whether the model compares with references.
      crops: the protocol.
      sha256: of the weights.
      identity: of weights, scale and configuration: all that predictions depend on but pairs and crops.
      name: that of the run or the folder, and the beginning of the hash.
    """

    def __init__(
        self,
        weights: str | os.PathLike,
        *,
        step: int | str = "best",
        ema: bool = False,
        crops: str = "ten",
    ):
        """Reads the weights, see `iqa_jax.scoring.load.load_model`.

        Raises:
          UserError: an unknown crop protocol.
          WeightsError: there are no weights of an IQA model.
        """
        if crops not in CROPS:
            raise UserError(f"crops {crops}: expected one of {', '.join(CROPS)}")
        self._model, self.record = load_model(weights, step=step, ema=ema)
        self.config, self.full_reference = self._model.config, self._model.full_reference
        self.crops, self.sha256 = crops, self.record["sha256"]
        self.identity = identity_of(self.config, self.sha256)
        self.name = title_of(self.record)

    def on_scale_of(self, source: PairSource) -> bool:
        """Whether predictions are in the units of the labels, so that their differences mean something."""
        ends = (source.score.low, source.score.high)
        if not source.score.higher_is_better:
            ends = (-ends[1], -ends[0])
        return ends == (self.config.mos_low, self.config.mos_high)

    def metric(self) -> Metric:
        """The same weights for single images, and their quality maps."""
        return metric_of(self._model, self.record)

    def __call__(
        self, source: PairSource, progress: Callable[[int], object] = lambda pairs: None
    ) -> np.ndarray:
        """Predicted MOS (N,) of the pairs; `progress` is called with the number of pairs just scored.

        Raises:
          DataError: see `predict`.
          WeightsError: a score is not finite.
        """
        (predicted,) = predict(self._model, source, crops=self.crops, progress=progress)
        bad = np.flatnonzero(~np.isfinite(predicted))
        if bad.size:
            raise WeightsError(
                f"{source.name[bad[0]]}: the score is {predicted[bad[0]]}; the weights {self.name} overflow; "
                "choose others"
            )
        return predicted

    def predict_resumably(
        self,
        source: PairSource,
        directory: Path,
        progress: Callable[[int], object] = lambda pairs: None,
    ) -> "Predictions":
        """The same, kept in `directory` as it comes; see `iqa_jax.parallel.jobs.run_shared`."""
        parts = grouped(source.reference, _PART)

        def predict_part(number: int) -> tuple[list[float], float]:
            start = time.perf_counter()
            scores = self(source.select(parts[number])).tolist()
            return scores, time.perf_counter() - start

        results = run_shared(
            directory,
            len(parts),
            predict_part,
            identity={"weights": self.identity, "crops": self.crops, "pairs": source.fingerprint()},
            progress=lambda number: progress(len(parts[number])),
        )
        scores = np.empty(len(source), np.float32)
        for part, (values, _) in zip(parts, results, strict=True):
            scores[part] = values
        return Predictions(scores, sum(seconds for _, seconds in results))


class Predictions(NamedTuple):
    """Predicted MOS (N,) of pairs, and the seconds that all processes together took for it."""

    scores: np.ndarray
    seconds: float
