"""Random numbers of one use are never those of another."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from iqa_jax.models import ModelConfig, split_model
from iqa_jax.ops import augment
from iqa_jax.ops.keys import Purpose, example_key, generator_for, key_for
from iqa_jax.training import run
from iqa_jax.training import step as steps
from iqa_jax.training.batches import Batch, Order
from iqa_jax.training.config import TrainConfig

pytestmark = pytest.mark.quick


class Counting(nnx.Module):
    """A model that takes several dropout keys and is cheap."""

    full_reference = True

    def __init__(self):
        self.config = ModelConfig("iqa_conformer", mos_mean=0.0, mos_std=1.0)
        self.scale = nnx.Param(jnp.ones(()))
        self.mean = nnx.BatchStat(jnp.zeros(()))

    def __call__(self, reference, distorted, *, rngs):
        for _ in range(DROPOUTS):
            rngs.dropout()
        return self.scale * distorted.mean((1, 2, 3))


SEED, EXAMPLES, EPOCHS, STEPS, DROPOUTS = 0, 12, 8, 3, 6


def data(keys):
    return {tuple(row) for row in np.asarray(jax.random.key_data(keys)).reshape(-1, 2).tolist()}


def example_keys(pseudo):
    epochs, indices = (x.ravel() for x in jnp.indices((EPOCHS, EXAMPLES)))
    own = jax.vmap(lambda epoch, index: example_key(SEED, epoch, index, pseudo))(epochs, indices)
    parts = jax.vmap(lambda key: jax.random.split(key, augment.NOISE_KEYS))(own)
    return data(own) | data(parts)


def batch():
    images = np.zeros((4, 8, 8, 3), np.uint8)
    zeros = np.zeros(4, np.int32)
    return Batch(np.arange(4), zeros, images, images, np.zeros(4, np.float32), np.zeros(4, bool))


def keys_in_the_network(monkeypatch, *, statistics=False, accumulation=1):
    """Those that a model takes in its first steps."""
    taken = set()

    class Recording:
        def __init__(self, dropout):
            self._key, self._count = dropout, itertools.count()

        def dropout(self):
            key = jax.random.fold_in(self._key, next(self._count))
            jax.debug.callback(lambda bits: taken.add(tuple(bits.tolist())), jax.random.key_data(key))

    graph, trained, frozen = split_model(Counting())
    with monkeypatch.context() as patch:
        patch.setattr(steps.nnx, "Rngs", Recording)
        if statistics:
            one = steps.make_statistics_step(graph, seed=SEED)
            for number in range(STEPS):
                trained = one(trained, frozen, batch(), number)
        else:
            optimizer = optax.sgd(0.0)
            one = steps.make_train_step(graph, optimizer, seed=SEED, accumulation=accumulation)
            state = steps.initial_state(trained, optimizer, ema=False)
            for _ in range(STEPS):
                state, _ = one(state, frozen, batch())
        jax.effects_barrier()
    assert len(taken) == STEPS * DROPOUTS * accumulation
    return taken


def test_no_key_of_a_run_serves_two_purposes(monkeypatch):
    initial = nnx.Rngs(key_for(SEED, Purpose.INITIAL_WEIGHTS))
    uses = {
        "initial weights": set().union(*(data(initial.params()) for _ in range(200))),
        "augmentation": example_keys(False),
        "noise": example_keys(True),
        "dropout": keys_in_the_network(monkeypatch),
        "dropout in parts": keys_in_the_network(monkeypatch, accumulation=2),
        "statistics": keys_in_the_network(monkeypatch, statistics=True),
        "the seed itself": data(jax.random.key(SEED)),
    }
    assert len(uses["augmentation"]) == EPOCHS * EXAMPLES * (1 + augment.NOISE_KEYS)
    for (one, keys), (other, more) in itertools.combinations(uses.items(), 2):
        assert not keys & more, f"{one} and {other} share {len(keys & more)} keys"


def test_a_run_draws_its_initial_weights_with_keys_of_their_own(monkeypatch, tmp_path):
    class Drawn(Exception):
        pass

    def build(config, *, rngs):
        raise Drawn(data(rngs.params()))

    monkeypatch.setattr(run, "build", build)
    with pytest.raises(Drawn) as drawn:
        run._initial_weights(tmp_path, TrainConfig(seed=SEED), ModelConfig("iqa_conformer"))
    assert drawn.value.args[0] == data(nnx.Rngs(key_for(SEED, Purpose.INITIAL_WEIGHTS)).params())


def test_labelled_and_pseudo_labelled_examples_are_cropped_apart():
    index, epoch = jnp.arange(32), jnp.zeros(32, int)
    shape = jnp.full((32, 2), 1000)
    cropping = augment.Cropping(SEED, 32, noise=True)
    labelled, pseudo = (cropping.corners(epoch, index, shape, jnp.full(32, kind)) for kind in (False, True))
    assert (labelled != pseudo).any(1).all()


def test_the_host_shuffles_with_numbers_of_its_own():
    order = Order([40], [40], seed=SEED)
    drawn = order(0).position
    assert not (drawn == np.random.default_rng(SEED).permutation(40)).all()
    assert not (drawn == np.random.default_rng((SEED, 0, 0)).permutation(40)).all()
    firsts = {
        generator_for(SEED, purpose, kind, epoch).integers(2**60)
        for purpose, kind, epoch in itertools.product(Purpose, range(2), range(4))
    }
    assert len(firsts) == len(Purpose) * 2 * 4
