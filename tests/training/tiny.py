"""A run of the real loop with a network of one number, so that stopping and resuming cost no compilation."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from iqa_jax.cli.train_arguments import parse
from iqa_jax.models import ModelConfig
from iqa_jax.training import log, loop
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


def patched(monkeypatch):
    """`run(workdir, **fields)` trains 8 steps in epochs of 4; see the defaults."""
    monkeypatch.setattr(Evaluator, "calls", [])
    monkeypatch.setattr(Evaluator, "during", staticmethod(lambda step: None))

    def start_run(workdir, config, training, validation, steps_per_epoch, **_):
        record = {
            "format": 1,
            "model": MODEL,
            "source": {},
            "training": config.to_dict(),
            "steps_per_epoch": steps_per_epoch,
        }
        (workdir / "config.json").write_text(json.dumps(record))
        return nnx.Linear(1, 1, use_bias=False, rngs=nnx.Rngs(0))

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
        given = [f"--config.{name}={value}" for name, value in {"ema_decay": 0, **fields}.items()]
        return loop.train(parse(["--config=conformer:pipal", *given]).config, workdir)

    return run
