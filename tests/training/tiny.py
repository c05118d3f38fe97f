"""Runs of the real loop that compile no network, or one of two layers."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from iqa_jax.models import ModelConfig
from iqa_jax.training import log, loop
from iqa_jax.training.config import TrainConfig
from iqa_jax.training.step import TrainState

MODEL = dataclasses.asdict(ModelConfig("iqa_conformer"))


class Pairs:
    """Stands for pairs of a data set."""

    reference, split = ("one",), "all"

    def __init__(self, count):
        self.mos = np.arange(float(count))

    def __len__(self):
        return len(self.mos)


class Feed:
    """A step takes its own number."""

    kept, store = "host", None

    def take(self, number):
        return jnp.float32(number)

    def batch(self, store, inputs):
        return inputs


class Evaluator:
    """Figures that depend on the weights; `during` is called in the middle of every evaluation."""

    during = staticmethod(lambda step: None)
    calls: list[int] = []

    def __init__(self, *_, **__):
        self.predicted = None

    def know_baselines(self, lines):
        pass

    def __call__(self, state, frozen, *, stopped):
        self.calls.append(int(state.step))
        type(self).during(int(state.step))
        if stopped():
            raise loop.Abandoned
        (weight,) = (float(leaf[0, 0]) for leaf in jax.tree.leaves(state.trained))
        return {"srcc": float(np.sin(weight)), "plcc": weight / 3}


def train_step(state, frozen, batch):
    trained = jax.tree.map(lambda w: w * 0.9 + 0.01 * batch, state.trained)
    loss = 1 / (1 + batch)
    step = state.step + 1
    return TrainState(step, trained, None, state.optimizer, state.loss_sum + loss, state.evaluated_step), loss


class TwoLayers(nnx.Module):
    """A model as training takes it, with a backbone, dropout and statistics, that is quick to compile."""

    full_reference = True

    def __init__(self, *, dropout=0.1, norm=True, **scale):
        rngs = nnx.Rngs(0)
        self.config = ModelConfig("iqa_conformer", **scale)
        self.backbone = nnx.Linear(3, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs) if norm else None
        self.dropout = nnx.Dropout(dropout)
        self.head = nnx.Linear(16, 1, rngs=rngs)

    def __call__(self, reference, distorted, *, rngs=None):
        def features(crops):  # (B, 8): all pixels count, each in its own way
            weights = jnp.linspace(0, 4, crops.shape[1] * crops.shape[2]).reshape(*crops.shape[1:3], 1)
            return self.backbone((crops * jnp.sin(weights)).mean((1, 2)))

        both = jnp.concatenate([features(reference), features(reference) - features(distorted)], -1)
        both = self.norm(nnx.relu(both)) if self.norm is not None else nnx.relu(both)
        return self.head(self.dropout(both, rngs=rngs))[:, 0]


def light(monkeypatch):
    """Data, batches and steps are real, of `TwoLayers`; evaluations compute nothing."""
    monkeypatch.setattr(loop, "start_run", lambda workdir, *_, **__: started(workdir, TwoLayers()))
    monkeypatch.setattr(loop, "Evaluator", NoFigures)


def started(workdir, model, training=None):
    """The model, after config.json of its run was written."""
    record = {"format": 1, "model": MODEL, "source": {}, "training": training or {}, "steps_per_epoch": 4}
    (workdir / "config.json").write_text(json.dumps(record))
    return model


def idle_step(state, frozen, batch):
    """Changes no weight; the loss is that of the labels."""
    loss = jnp.square(batch.mos).mean()
    return dataclasses.replace(state, step=state.step + 1, loss_sum=state.loss_sum + loss), loss


class NoFigures(Evaluator):
    """Figures of a network that nothing has trained."""

    def __call__(self, state, frozen, *, stopped):
        return {"srcc": 0.0, "plcc": 0.0}


def untrained(monkeypatch):
    """Data, batches, weights and checkpoints are real; steps and evaluations compute nothing."""
    monkeypatch.setattr(loop, "make_train_step", lambda *_, **__: idle_step)
    monkeypatch.setattr(loop, "Evaluator", NoFigures)


def patched(monkeypatch):
    """`run(workdir, **fields)` trains 8 steps in epochs of 4; see the defaults."""
    monkeypatch.setattr(Evaluator, "calls", [])
    monkeypatch.setattr(Evaluator, "during", staticmethod(lambda step: None))

    def start_run(workdir, config, *_, **__):
        return started(workdir, nnx.Linear(1, 1, use_bias=False, rngs=nnx.Rngs(0)), config.to_dict())

    for name, stub in (
        ("open_data", lambda config: (Pairs(64), Pairs(4))),
        ("start_run", start_run),
        ("make_train_step", lambda *_, **__: train_step),
        ("feed_of", lambda *_, **__: Feed()),
        ("Evaluator", Evaluator),
    ):
        monkeypatch.setattr(loop, name, stub)
    monkeypatch.setattr(log, "save_scatter", lambda *_: None)

    def run(workdir, **fields):
        fields = {"num_steps": 8, "eval_every": 4, "checkpoint_every": 2, "keep_checkpoints": 9, **fields}
        return loop.train(TrainConfig(ema_decay=0.0, **fields), workdir)

    return run
