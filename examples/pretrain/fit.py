"""Trains what is not frozen on features that were computed before, whole pictures at a time.

The score of a picture is the mean of its windows' scores, as `iqa_jax` gives it, and its label is one number
for the picture.  So no window needs a label of its own, which a window of the sky would not deserve.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

from iqa_jax.models.base import Compared, FullReferenceModel, IQAModel, split_model


class Settings(NamedTuple):
    steps: int
    batch_size: int = 16  # pictures
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    ema_decay: float = 0.995
    rank_weight: float = 0.2  # of the loss of pairs of pictures in the wrong order
    twins: int = 0  # further pairs in a batch that show one picture
    twin_weight: float = 0.0  # of the loss of twins' differences


def fit(
    model: IQAModel,
    examples: dict[str, np.ndarray],
    labels: np.ndarray,
    twins: np.ndarray,
    settings: Settings,
    seed: int,
) -> nnx.State:
    """The moving average of the weights after training.

    Args:
      model: newly initialised, with its frozen backbone.
      examples: fields of features, (N, 6, …) each, see `picture_scores`; `originals` (N,) says which row of
        `reference` belongs to an example.
      labels: MOS (N,).
      twins: (P, 2), rows of two versions of one picture.
    """
    model.train()
    graphdef, weights, frozen = split_model(model)
    trained, statistics = nnx.split_state(weights, nnx.Param, ...)
    schedule = optax.warmup_cosine_decay_schedule(
        0, settings.learning_rate, settings.warmup_steps, settings.steps
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, weight_decay=1e-3))

    @jax.jit
    def step(trained, statistics, state, average, batch, labels, key):
        def loss(trained):
            merged = nnx.merge(graphdef, trained, statistics, frozen, copy=True)
            scores = picture_scores(merged, batch, rngs=nnx.Rngs(dropout=key))
            _, changed, _ = split_model(merged)
            return _loss(scores, labels, settings), nnx.split_state(changed, nnx.Param, ...)[1]

        (value, statistics), gradient = jax.value_and_grad(loss, has_aux=True)(trained)
        updates, state = optimizer.update(gradient, state, trained)
        trained = optax.apply_updates(trained, updates)
        average = optax.incremental_update(trained, average, 1 - settings.ema_decay)
        return trained, statistics, state, average, value

    state, average = optimizer.init(trained), trained
    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    order = np.zeros(0, int)
    with tqdm(range(settings.steps), unit="step", desc="training") as bar:
        for number in bar:
            if len(order) < settings.batch_size:
                order = rng.permutation(len(labels))
            chosen, order = order[: settings.batch_size], order[settings.batch_size :]
            if settings.twins:
                chosen = np.append(chosen, twins[rng.integers(0, len(twins), settings.twins)])
            trained, statistics, state, average, value = step(
                trained, statistics, state, average, batch_of(examples, chosen), labels[chosen],
                jax.random.fold_in(key, number),
            )  # fmt: skip
            if number % 100 == 99:
                bar.set_postfix(loss=f"{float(value):.3f}")
    return nnx.merge_state(average, statistics)


def _loss(scores, labels, settings):
    """Squared errors, what is missing to the right order of pictures that clearly differ, and twins' errors.

    Without the last, a blind model takes faint noise for sharpness and a grey copy for a better picture:
    contents differ by much more than that.
    """
    wanted = labels[:, None] - labels[None]
    wrong = jax.nn.relu(0.05 - (scores[:, None] - scores[None]) * jnp.sign(wanted)) * (jnp.abs(wanted) > 0.1)
    errors = scores - labels
    loss = jnp.square(errors).mean() + settings.rank_weight * wrong.mean()
    if settings.twins:
        one, other = errors[settings.batch_size :].reshape(-1, 2).T
        loss += settings.twin_weight * jnp.square(one - other).mean()
    return loss


def batch_of(examples: dict[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Some pictures' features; a reference's are stored once."""
    once = ("reference", "originals")
    batch = {name: values[rows] for name, values in examples.items() if name not in once}
    if "reference" in examples:
        batch["reference"] = examples["reference"][examples["originals"][rows]]
    return batch


def picture_scores(
    model: IQAModel, batch: dict[str, jax.Array], *, rngs: nnx.Rngs | None = None
) -> jax.Array:
    """MOS (B,) of pictures from features (B, 6, …): fields of `Compared`, or "features" of a blind model."""
    shape = next(iter(batch.values())).shape[:2]
    windows = {name: x.reshape(-1, *x.shape[2:]).astype(jnp.float32) for name, x in batch.items()}
    if isinstance(model, FullReferenceModel):
        scores = model.judge(model.projected_comparison(Compared(**windows)), rngs=rngs)
    else:
        scores = model.assess(model.projected(windows["features"]), rngs=rngs)
    return model.denormalise(scores).reshape(shape).mean(1)


def predict(model: IQAModel, examples: dict[str, np.ndarray], count: int) -> np.ndarray:
    """MOS (N,) of pictures by a model in evaluation mode."""
    graphdef, state = nnx.split(model)
    parts = [np.arange(start, start + 32) % count for start in range(0, count, 32)]
    scores = [_scores(graphdef, state, batch_of(examples, rows)) for rows in parts]
    return np.concatenate(scores)[:count]


@functools.partial(jax.jit, static_argnums=0)
def _scores(graphdef, state, batch):
    return picture_scores(nnx.merge(graphdef, state), batch)
