"""Averages of a run's checkpoints, with BatchNorm statistics re-estimated."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from iqa_jax.errors import UserError, WeightsError
from iqa_jax.files import local_path
from iqa_jax.models import IQA_MODELS, ModelConfig, split_model
from iqa_jax.ops.augment import Cropping
from iqa_jax.ops.programs import jit
from iqa_jax.training.batches import Examples, Order
from iqa_jax.training.config import TrainConfig
from iqa_jax.training.feed import Feed
from iqa_jax.training.inputs import open_data
from iqa_jax.training.mesh import DataMesh
from iqa_jax.training.step import make_statistics_step
from iqa_jax.weights.checkpoints import Saved
from iqa_jax.weights.directory import read_weights, save_weights
from iqa_jax.weights.flat import Weights, flat_weights, iqa_model_with
from iqa_jax.weights.record import config_in, read_config

DECAY = 0.9  # the original's

_SEEN_BEFORE = ("init_from", "pseudo_labels", "seen_in_validation")  # of a run's "source"


def average(
    arrays: Sequence[Mapping[str, np.ndarray]], *, kind: str = "equal", decay: float | None = None
) -> dict[str, np.ndarray]:
    """The original's weight averaging, in float64, from the first to the last.

    Args:
      arrays: weights by name, one mapping an epoch, in order.
      kind: "equal" for the arithmetic mean; "exp" for avg <- (1 - decay) avg + decay new, beginning
        with the first.
      decay: the weight of each new epoch under "exp", `DECAY` if not given.
    Raises:
      UserError: another kind, a decay outside (0, 1], or one where it has no effect.
    """
    decay = _checked_decay(kind, decay)
    averaged = {name: np.asarray(array, np.float64) for name, array in arrays[0].items()}
    for count, new in enumerate(arrays[1:], start=2):
        share = 1 / count if kind == "equal" else decay
        averaged = {name: (1 - share) * old + share * new[name] for name, old in averaged.items()}
    return {name: array.astype(arrays[0][name].dtype) for name, array in averaged.items()}


def _checked_decay(kind: str, decay: float | None) -> float:
    if kind not in ("equal", "exp"):
        raise UserError(f"type {kind!r}: expected equal or exp")
    if decay is not None and kind == "equal":
        raise UserError(f"decay {decay}: has no effect on type equal; leave it out or choose exp")
    if decay is not None and not 0 < decay <= 1:
        raise UserError(f"decay {decay}: expected a number above 0, at most 1")
    return DECAY if decay is None else decay


def average_run(
    workdir: str | Path,
    epochs: Sequence[int],
    *,
    kind: str = "equal",
    decay: float | None = None,
    steps: int | None = None,
    data_dir: str | None = None,
    output: str | Path | None = None,
    progress: Callable[[int, int], object] = lambda step, steps: None,
) -> Path:
    """Averages the raw weights of these epochs of a run; writes what every command takes as weights.

    BatchNorm's statistics start from the average of the epochs'.  Training-mode passes over the augmented
    training set then update them with PyTorch's semantics (momentum 0.1, unbiased variance).

    Args:
      steps: batches for the statistics; one epoch if not given, 0 for none.
      data_dir: where the data lie now, if they have moved since the run.
      output: directory; `RUN/averaged-KIND-EPOCHS` if not given.
      progress: called with the steps done and their total.
    Raises:
      WeightsError: `workdir` is not a run, or an epoch's checkpoint was not kept; lists those that were.
      UserError: see `average`.
    """
    workdir, used_decay = local_path(workdir), _checked_decay(kind, decay)
    record = read_config(workdir)
    if "steps_per_epoch" not in record:
        raise WeightsError(f"{workdir}: not a training run; expected the directory of one")
    epochs = sorted(set(epochs))
    weights: Weights = average(
        _epoch_weights(workdir, epochs, record["steps_per_epoch"]), kind=kind, decay=decay
    )
    config = TrainConfig.from_dict(record["training"])
    if data_dir:
        config = dataclasses.replace(config, data_dir=data_dir)
    model_config = config_in(record)
    _, backbone, backbone_record = read_weights(workdir / "backbone")
    backbone = {f"backbone.{name}": array for name, array in backbone.items()}
    steps = record["steps_per_epoch"] if steps is None else steps
    if steps:
        new = _with_new_statistics(model_config, {**backbone, **weights}, config, steps, progress)
        weights = {**weights, **new}
    name = f"averaged-{kind}-{_compact(epochs)}"
    output = local_path(output) if output else workdir / name
    source = {
        "file": name,
        "run": workdir.resolve().name,
        "epochs": epochs,
        "type": kind,
        "decay": used_decay if kind == "exp" else None,
        "statistics_steps": steps,
        "dataset": config.dataset,
        "backbone": backbone_record["source"],
        "data": record.get("data"),
        # What the weights were trained on before the run, by their start or their teacher.
        **{name: record["source"][name] for name in _SEEN_BEFORE if name in record["source"]},
    }
    # A backbone that was trained too is among the averaged weights.
    whole = {name: np.asarray(array) for name, array in {**backbone, **weights}.items()}
    save_weights(output, model_config, whole, source)
    return output


def _epoch_weights(workdir: Path, epochs: Sequence[int], steps_per_epoch: int) -> list[dict[str, np.ndarray]]:
    saved = Saved(workdir)
    epochs_saved = [step // steps_per_epoch for step in saved.steps if step % steps_per_epoch == 0]
    missing = [epoch for epoch in epochs if epoch not in epochs_saved]
    if missing or not epochs:
        raise WeightsError(
            f"{workdir}: no checkpoint of epoch {_compact(missing) or '(none given)'}; "
            f"epochs with one: {_compact(epochs_saved) or 'none'} (train with config.keep_epochs)"
        )
    return [
        {
            name.removeprefix("weights."): array
            for name, array in saved.read(epoch * steps_per_epoch).items()
            if name.startswith("weights.")
        }
        for epoch in epochs
    ]


def _compact(numbers: Sequence[int]) -> str:
    """[1, 2, 3, 7] as "1-3,7"."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


def _with_new_statistics(
    model_config: ModelConfig,
    weights: Weights,
    config: TrainConfig,
    steps: int,
    progress: Callable[[int, int], object],
) -> dict[str, jax.Array]:
    training, _ = open_data(config)
    model = iqa_model_with(model_config, weights)
    model.train()
    graph, trained, frozen = split_model(model)
    # The statistics are those of whole batches, however many devices these are split between.
    devices = jax.devices()[: math.gcd(config.batch_size, jax.device_count())]
    mesh = DataMesh.of(devices)
    examples = Examples([training], with_references=IQA_MODELS[model_config.name].full_reference)
    order = Order(examples.lengths, [config.batch_size], seed=config.seed)
    cropping = Cropping(config.seed, config.crop_size)
    feed = Feed(examples, order, cropping, mesh, kept=config.data.placement)
    statistics_step = make_statistics_step(
        graph, seed=config.seed, rotation=config.rotation, turns=config.turns
    )
    take_step = jit(
        lambda trained, frozen, store, inputs, number: statistics_step(
            trained, frozen, feed.batch(store, inputs), number
        )
    )
    trained, frozen = mesh.replicate((trained, frozen))
    for number in range(steps):
        trained = take_step(trained, frozen, feed.store, feed.take(number), jnp.int32(number))
        progress(number + 1, steps)
    return flat_weights(trained)
