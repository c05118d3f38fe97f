"""Training as pure functions: the state, and one step on a batch."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from iqa_jax.models import IQAModel, split_model
from iqa_jax.models.layers import NoiseFor
from iqa_jax.ops.augment import flip_and_rotate
from iqa_jax.ops.keys import Purpose, example_key, step_key
from iqa_jax.ops.noise import InputNoise, add_noise
from iqa_jax.ops.programs import jit
from iqa_jax.training.batches import AnyBatch, Batch, KeptBatch
from iqa_jax.training.kept import judged
from iqa_jax.training.mesh import DataMesh
from iqa_jax.weights.flat import check_weights, filled_state, flat_weights


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that training changes.

    Attributes:
      step: how many steps were taken.
      trained: parameters and statistics of the model but the backbone's.
      ema: their exponential moving average; None without one.
      optimizer: optax's state, for the parameters in `trained`.
      loss_sum: sum of the losses since the last regular evaluation.
      evaluated_step: when that was.
    """

    step: jax.Array
    trained: nnx.State
    ema: nnx.State | None
    optimizer: optax.OptState
    loss_sum: jax.Array
    evaluated_step: jax.Array


class Graphs(NamedTuple):
    """The structure of a model in its two modes."""

    training: nnx.GraphDef
    evaluation: nnx.GraphDef


def split_for_training(
    model: IQAModel, *, tune_backbone: bool = False
) -> tuple[Graphs, nnx.State, nnx.State]:
    """Structures, what training changes and what stays frozen, see `iqa_jax.models.split_model`."""
    model.eval()
    evaluation, trained, frozen = split_model(model, tune_backbone=tune_backbone)
    model.train()
    training, _, _ = split_model(model, tune_backbone=tune_backbone)
    return Graphs(training, evaluation), trained, frozen


def make_optimizer(
    learning_rate: float,
    *,
    kind: str = "adam",
    schedule: str = "constant",
    warmup_steps: int = 0,
    total_steps: int = 0,
    backbone_learning_rate: float = 0.0,
) -> optax.GradientTransformation:
    """Adam as the original has it, or plain "sgd"; at a constant rate or a cosine down to 0.

    Args:
      warmup_steps: in which the rate rises from 0, before either.
      backbone_learning_rate: for the backbone's parameters, where they are trained too.
    """

    def rule(rate):
        if schedule == "cosine":
            rate = optax.warmup_cosine_decay_schedule(0.0, rate, warmup_steps, total_steps)
        elif warmup_steps:
            rate = optax.linear_schedule(0.0, rate, warmup_steps)
        return optax.sgd(rate) if kind == "sgd" else optax.adam(rate, b1=0.9, b2=0.999, eps=1e-8)

    if not backbone_learning_rate:
        return rule(learning_rate)

    def parts(parameters):
        def part(path, _):
            return "backbone" if str(path[0].key) == "backbone" else "others"

        return jax.tree_util.tree_map_with_path(part, parameters)

    return optax.multi_transform(
        {"backbone": rule(backbone_learning_rate), "others": rule(learning_rate)}, parts
    )


def initial_state(trained: nnx.State, optimizer: optax.GradientTransformation, *, ema: bool) -> TrainState:
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        trained=trained,
        ema=jax.tree.map(jnp.copy, trained) if ema else None,
        optimizer=optimizer.init(_parameters(trained)),
        loss_sum=jnp.zeros(()),
        evaluated_step=jnp.zeros((), jnp.int32),
    )


def evaluated(state: TrainState) -> TrainState:
    """The state after a regular evaluation."""
    return dataclasses.replace(
        state, loss_sum=jnp.zeros_like(state.loss_sum), evaluated_step=jnp.copy(state.step)
    )


def to_arrays(state: TrainState) -> dict[str, jax.Array]:
    """The state as a flat mapping, as `iqa_jax.weights.checkpoints` keeps it."""
    arrays = {name: getattr(state, name) for name in ("step", "loss_sum", "evaluated_step")}
    arrays |= {f"weights.{name}": array for name, array in flat_weights(state.trained).items()}
    if state.ema is not None:
        arrays |= {f"ema.{name}": array for name, array in flat_weights(state.ema).items()}
    return arrays | dict(_optimizer_arrays(state.optimizer))


def from_arrays(template: TrainState, arrays: Mapping[str, np.ndarray]) -> TrainState:
    """What `to_arrays` made flat, in the structure of `template`.

    Raises:
      WeightsError: an array is missing, surplus or of another shape.
    """
    expected = {name: np.shape(array) for name, array in to_arrays(template).items()}
    check_weights({name: array.shape for name, array in arrays.items()}, expected)

    def filled(state, prefix):
        return filled_state(state, {n.removeprefix(prefix): array for n, array in arrays.items()})

    leaves = [jnp.asarray(arrays[name]) for name, _ in _optimizer_arrays(template.optimizer)]
    return TrainState(
        trained=filled(template.trained, "weights."),
        ema=None if template.ema is None else filled(template.ema, "ema."),
        optimizer=jax.tree.unflatten(jax.tree.structure(template.optimizer), leaves),
        **{name: jnp.asarray(arrays[name]) for name in ("step", "loss_sum", "evaluated_step")},
    )


def _optimizer_arrays(optimizer: optax.OptState) -> list[tuple[str, jax.Array]]:
    return [
        ("optimizer." + jax.tree_util.keystr(path, simple=True, separator="."), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(optimizer)
    ]


def _parameters(trained: nnx.State) -> nnx.State:
    return nnx.filter_state(trained, nnx.Param)


def _make_forward(
    graphdef: nnx.GraphDef, *, seed: int, rotation: float, turns: bool, noise: InputNoise | None = None
) -> Callable:
    """A training-mode pass over an augmented batch: predictions, model configuration, new statistics.

    A `KeptBatch` was augmented and has been through the backbone.
    """

    def augmented(keys, *images):
        """(B, S, S, 3) in [0, 1] of each; all images of an example are transformed alike."""
        together = jnp.concatenate(images, axis=-1).astype(jnp.float32) / 255.0
        transform = partial(flip_and_rotate, rotation=rotation, turns=turns)
        return tuple(jnp.split(jax.vmap(transform)(keys, together), len(images), axis=-1))

    def predictions(model, batch, rngs):
        if isinstance(batch, KeptBatch):
            keys = rngs if model.full_reference else NoiseFor(rngs, jnp.asarray(batch.pseudo))
            return judged(model, batch.features, keys)
        keys = jax.vmap(example_key, (None, 0, 0, 0))(seed, batch.epoch, batch.index, batch.pseudo)
        if model.full_reference:
            images = augmented(keys, batch.reference, batch.distorted)
        else:
            (crops,) = augmented(keys, batch.distorted)
            if noise is not None:
                plain = batch.distorted.astype(jnp.float32) / 255.0
                noisy = jax.vmap(partial(add_noise, noise=noise))(keys, plain)
                crops = jnp.where(batch.pseudo[:, None, None, None], noisy, crops)
            images, rngs = (crops,), NoiseFor(rngs, batch.pseudo)
        return model(*images, rngs=rngs)

    def forward(parameters, statistics, frozen, batch, key):
        model = nnx.merge(graphdef, parameters, statistics, frozen, copy=True)
        predicted = predictions(model, batch, nnx.Rngs(dropout=key))
        changed = nnx.Not(nnx.PathContains("backbone"))
        statistics = nnx.state(model, nnx.All(nnx.BatchStat, changed))
        return predicted, model.config, statistics

    return forward


def make_statistics_step(
    graphdef: nnx.GraphDef, *, seed: int, rotation: float = 180.0, turns: bool = False
) -> Callable[[nnx.State, nnx.State, Batch, jax.Array], nnx.State]:
    """The function (trained, frozen, batch, step) -> trained with the statistics of one more batch.

    No parameter changes: this is for BatchNorm after weight averaging.  See `make_train_step`.
    """
    forward = _make_forward(graphdef, seed=seed, rotation=rotation, turns=turns)

    def statistics_step(trained, frozen, batch, step):
        parameters, statistics = nnx.split_state(trained, nnx.Param, nnx.BatchStat)
        key = step_key(seed, Purpose.STATISTICS, step)
        _, _, statistics = forward(parameters, statistics, frozen, batch, key)
        return nnx.merge_state(parameters, statistics)

    return statistics_step


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    rotation: float = 180.0,
    turns: bool = False,
    accumulation: int = 1,
    ema_decay: float = 0.0,
    noise: InputNoise | None = None,
    pseudo_weight: float = 1.0,
) -> Callable[[TrainState, nnx.State, AnyBatch], tuple[TrainState, jax.Array]]:
    """The function (state, frozen backbone, batch) -> (next state, loss), to be jitted.

    The loss is the mean squared error on normalised MOS.  Augmentation and dropout depend on
    `seed`, on each example's epoch and index, and on the step.  A model that needs no reference has
    dropout, stochastic depth and `noise` on its pseudo-labelled examples, and the original's
    augmentation on the others.

    Args:
      graphdef: structure of the model in training mode.
      optimizer: for the trained parameters.
      seed, rotation, turns: see `iqa_jax.ops.augment`.
      accumulation: number of equal parts in which the batch goes through the model, to save memory;
        BatchNorm sees one part at a time.
      ema_decay: of the moving average of the weights; 0 for none.
      noise: on pseudo-labelled images; None for the same augmentation as the others'.
      pseudo_weight: of their squared errors in the mean, the others' is 1.
    """
    forward = _make_forward(graphdef, seed=seed, rotation=rotation, turns=turns, noise=noise)

    def weights(batch):
        return jnp.where(batch.pseudo, pseudo_weight, 1.0)

    def loss_of(parameters, statistics, frozen, batch, key, total_weight):
        """The share that some examples have in the weighted mean of a batch of `total_weight`."""
        predicted, config, statistics = forward(parameters, statistics, frozen, batch, key)
        target = (batch.mos - config.mos_mean) / config.mos_std
        return (weights(batch) * jnp.square(predicted - target)).sum() / total_weight, statistics

    loss_and_gradient = jax.value_and_grad(loss_of, has_aux=True)

    def by_parts(parameters, statistics, frozen, batch, keys, total_weight):
        """`loss_and_gradient` of a batch that goes through the model in parts."""

        def add_part(carry, part):
            total, gradient, statistics = carry
            key, batch = part
            arguments = (parameters, statistics, frozen, batch, key, total_weight)
            (loss, statistics), g = loss_and_gradient(*arguments)
            return (total + loss, jax.tree.map(jnp.add, gradient, g), statistics), None

        # Interleaved parts, so that each one is spread over all devices as the batch is.
        parts = jax.tree.map(lambda x: x.reshape(-1, accumulation, *x.shape[1:]).swapaxes(0, 1), batch)
        start = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, parameters), statistics)
        (loss, gradient, statistics), _ = jax.lax.scan(add_part, start, (keys, parts))
        return (loss, statistics), gradient

    def train_step(state: TrainState, frozen: nnx.State, batch: AnyBatch) -> tuple[TrainState, jax.Array]:
        parameters, statistics = nnx.split_state(state.trained, nnx.Param, nnx.BatchStat)
        key = step_key(seed, Purpose.DROPOUT, state.step)
        compute, keys = loss_and_gradient, key
        if accumulation > 1:
            compute, keys = by_parts, jax.random.split(key, accumulation)
        arguments = (parameters, statistics, frozen, batch, keys, weights(batch).sum())
        (loss, statistics), gradient = compute(*arguments)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, parameters)
        parameters = cast(nnx.State, optax.apply_updates(parameters, updates))
        trained = nnx.merge_state(parameters, statistics)
        step = state.step + 1
        ema = state.ema
        if ema is not None:
            # A young average would be mostly the random start: let the decay grow to its value.
            decay = jnp.minimum(ema_decay, (1.0 + step) / (10.0 + step))
            ema = jax.tree.map(lambda old, new: decay * old + (1.0 - decay) * new, ema, trained)
        loss_sum = state.loss_sum + loss
        return TrainState(step, trained, ema, optimizer_state, loss_sum, state.evaluated_step), loss

    return train_step


def _as_given(store: None, batch: Batch) -> Batch:
    return batch


def jit_step(train_step: Callable, mesh: DataMesh, as_batch: Callable = _as_given) -> Callable:
    """`train_step` as a program (state, frozen, store, inputs) -> (state, loss).

    The state given to it is used up.

    Args:
      as_batch: makes a batch of store and inputs, see `iqa_jax.training.feed.Feed.batch`.
    """

    def step(state, frozen, store, inputs):
        return train_step(state, frozen, as_batch(store, inputs))

    return jit(step, out_shardings=(mesh.replicated, mesh.replicated), donate_argnums=0)


def jit_steps(train_step: Callable, mesh: DataMesh, as_batch: Callable) -> Callable:
    """Several steps as one program (state, frozen, store, `Feed.several`) -> (state, losses)."""

    def steps(state, frozen, store, batches):
        def step(state, chosen):
            chosen = jax.lax.with_sharding_constraint(chosen, mesh.split)
            return train_step(state, frozen, as_batch(store, chosen))

        return jax.lax.scan(step, state, batches)

    return jit(steps, out_shardings=(mesh.replicated, mesh.replicated), donate_argnums=0)
