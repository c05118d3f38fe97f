"""Training on kept features: their batches, and predictions from them, see `iqa_jax.training.features`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from flax import nnx

from iqa_jax.data.source import PairSource
from iqa_jax.models.base import Compared, FullReferenceModel, IQAModel
from iqa_jax.ops import Array
from iqa_jax.ops.keys import Purpose, generator_for
from iqa_jax.ops.programs import jit
from iqa_jax.ops.windows import places
from iqa_jax.training.batches import BatchIndex, Examples, KeptBatch, Order
from iqa_jax.training.config import TrainConfig
from iqa_jax.training.features import Kept, Selection, View, in_parts, views_of_picture
from iqa_jax.training.mesh import DataMesh
from iqa_jax.weights.record import read_config

_AT_ONCE = 64  # crops whose scores are computed together


def judged(model: IQAModel, features: Compared | Array, rngs: Any = None) -> jax.Array:
    """Normalised MOS (B,) from kept features."""
    if isinstance(model, FullReferenceModel):
        return model.judge(model.projected_comparison(cast(Compared, features)), rngs=rngs)
    return model.assess(model.projected(cast(jax.Array, features)), rngs=rngs)


def kept_of(
    config: TrainConfig,
    training: PairSource,
    validation: PairSource,
    weights: tuple[nnx.GraphDef, nnx.State, nnx.State],
    *,
    workdir: Path,
) -> Kept:
    """What a run keeps: of the training pairs, the crops that are trained on; of the others, the protocol's.

    Args:
      weights: the model's structure in evaluation mode, what is trained and what is frozen.
    Raises:
      ConfigError: it is too large.
    """
    size, number = config.crop_size, config.keep_features

    def trained_on(picture: int, height: int, width: int) -> list[View]:
        generator = generator_for(config.seed, Purpose.PLACES, picture)
        return views_of_picture(height, width, size, generator, number=number, turns=config.turns)

    def evaluated(picture: int, height: int, width: int) -> list[View]:
        return [View(place) for place in places(config.crops, height, width, size)]

    selections = {
        name: Selection.of(Examples([source], with_references=config.full_reference), views)
        for name, source, views in (
            ("training", training, trained_on),
            ("validation", validation, evaluated),
        )
    }
    identity = [
        read_config(workdir / "backbone")["sha256"],
        *dataclasses.astuple(nnx.merge(*weights).config),
        *(config.seed, number, config.turns, config.crops),
        *(source.fingerprint() for source in (training, validation)),
    ]
    return Kept(*weights, selections, workdir=workdir, identity=identity)


class KeptFeed:
    """Batches of kept features, as `iqa_jax.training.feed.Feed` gives those of crops.

    Attributes:
      kept, store: as there; the features are on the host.
    """

    kept, store = "features", None

    def __init__(self, config: TrainConfig, kept: Kept, batch_size: int, mesh: DataMesh):
        self._examples, self._features = kept.examples("training"), kept["training"]
        self._order = Order(self._examples.lengths, [batch_size], seed=config.seed)
        self._mesh, self._seed = mesh, config.seed
        self._count = batch_size
        self._rows = mesh.rows(self._count)

    def take(self, number: int) -> KeptBatch:
        """What the step of this number takes, on the devices."""
        chosen = self._order(number).rows(self._rows)
        positions = np.asarray(chosen.position)
        batch = KeptBatch(
            features=self._features.rows(positions, self._views(chosen)),
            mos=self._examples.mos[positions],
            pseudo=self._examples.pseudo[positions],
        )
        return self._mesh.put_split(batch, self._rows, self._count)

    def _views(self, chosen: BatchIndex) -> np.ndarray:
        """Which of its crops each example shows in its epoch."""
        positions = np.asarray(chosen.position)
        counts, index = self._features.counts[positions], self._examples.index[positions]
        return np.array(
            [
                generator_for(self._seed, Purpose.AUGMENTATION, epoch, i).integers(n)
                for epoch, i, n in zip(chosen.epoch.tolist(), index.tolist(), counts.tolist(), strict=True)
            ]
        )

    def batch(self, store: None, inputs: KeptBatch) -> KeptBatch:
        return inputs


class KeptScores:
    """Predictions for the validation pairs from their kept features."""

    def __init__(self, graphdef: nnx.GraphDef, kept: Kept):
        """Takes the structure of the model in evaluation mode."""
        self._kept = kept

        def scores(frozen, sets, batch):
            models = (nnx.merge(graphdef, trained, frozen) for trained in sets)
            return [model.denormalise(judged(model, batch)) for model in models]

        self._program = jit(jax.default_matmul_precision("highest")(scores))

    def __call__(self, frozen: nnx.State, sets: Sequence[nnx.State]) -> np.ndarray:
        """Predicted MOS (sets, N), the mean over each picture's crops."""
        kept = self._kept["validation"]
        rows = [(p, view) for p, views in enumerate(kept.counts.tolist()) for view in range(views)]
        scores = []
        for part in in_parts(rows, _AT_ONCE):
            positions, views = np.array(part + part[:1] * (_AT_ONCE - len(part))).T
            of_sets = self._program(frozen, list(sets), kept.rows(positions, views))
            scores.append(np.stack(of_sets)[:, : len(part)])
        starts = np.cumsum(kept.counts) - kept.counts
        whole = np.concatenate(scores, axis=1).astype(np.float64)
        return (np.add.reduceat(whole, starts, axis=1) / kept.counts).astype(np.float32)
