import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from iqa_jax.errors import WeightsError
from iqa_jax.models import split_model
from iqa_jax.training.batches import Batch
from iqa_jax.training.mesh import DataMesh
from iqa_jax.training.step import (
    from_arrays,
    initial_state,
    jit_step,
    make_optimizer,
    make_train_step,
    to_arrays,
)
from tests import networks
from tests.training import tiny

CROP = 64


def random_batch(size=8):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, size, CROP, CROP, 3), np.uint8)
    return Batch(
        index=np.arange(size, dtype=np.int32),
        epoch=np.zeros(size, np.int32),
        reference=images[0],
        distorted=images[1],
        mos=rng.uniform(1200, 1700, size).astype(np.float32),
        pseudo=np.zeros(size, bool),
    )


def parts(name="iqa_conformer", **kw):
    """Training graph, trained and frozen weights of a small model."""
    model = networks.random_model(networks.small_config(name, crop_size=CROP, **kw))
    model.train()
    return split_model(model)


def step_of(graph, optimizer, mesh=None, **kw):
    mesh = mesh or DataMesh.of(jax.devices()[:1])
    step = make_train_step(graph, optimizer, seed=kw.pop("seed", 0), **kw)
    program = jit_step(step, mesh)
    return lambda state, frozen, batch: program(state, frozen, None, batch)


def started(trained, optimizer, ema=False):
    """A state of its own: the step uses up what it is given."""
    return initial_state(jax.tree.map(jnp.copy, trained), optimizer, ema=ema)


def largest_difference(a, b):
    """Over all arrays: the largest difference, relative to the largest number of the array."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(x - y).max() / max(np.abs(y).max(), 1e-6)) for x, y in pairs)


@pytest.fixture(scope="module")
def conformer():
    return parts()


def two_layers(**options):
    """The same of a model that is quick to compile."""
    model = tiny.TwoLayers(mos_mean=1450.0, mos_std=120.0, **options)
    model.train()
    return split_model(model)


def test_only_the_parameters_after_the_backbone_train(conformer):
    graph, trained, frozen = conformer
    optimizer = make_optimizer(1e-3)
    step = step_of(graph, optimizer)
    state = started(trained, optimizer)
    assert not any("backbone" in ".".join(map(str, path)) for path, _ in nnx.to_flat_state(trained))
    slots = sum(leaf.size for leaf in jax.tree.leaves(state.optimizer))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.filter_state(trained, nnx.Param)))
    assert slots == 2 * parameters + 1  # Adam's two moments and its count
    batch = random_batch()
    after, first_loss = step(state, frozen, batch)
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), after.trained, trained)
    assert all(jax.tree.leaves(changed))
    for _ in range(5):
        after, loss = step(after, frozen, batch)
    assert loss < first_loss and int(after.step) == 6


def test_the_same_seed_gives_the_same_bits():
    graph, trained, frozen = two_layers()
    optimizer = make_optimizer(1e-3)

    def after_two_steps(seed):
        step = step_of(graph, optimizer, seed=seed)
        state = started(trained, optimizer)
        for _ in range(2):
            state, _ = step(state, frozen, random_batch())
        return state.trained

    first = after_two_steps(0)
    assert largest_difference(first, after_two_steps(0)) == 0
    assert largest_difference(first, after_two_steps(1)) > 0


def test_the_moving_average():
    graph, trained, frozen = two_layers()
    optimizer = make_optimizer(1e-2)
    state = started(trained, optimizer, ema=True)
    expected = jax.tree.map(np.asarray, trained)
    step = step_of(graph, optimizer, ema_decay=0.25)
    for number in range(1, 5):
        state, _ = step(state, frozen, random_batch())
        decay = min(0.25, (1 + number) / (10 + number))
        expected = jax.tree.map(
            lambda e, t, d=decay: d * e + (1 - d) * np.asarray(t), expected, state.trained
        )
    assert largest_difference(state.ema, expected) < 1e-6


def test_accumulated_parts_give_the_gradient_of_the_batch():
    """Pseudo-labels weigh the same in parts of one example; the model has no BatchNorm."""
    graph, trained, frozen = two_layers(dropout=0.0, norm=False)
    optimizer = optax.sgd(1.0)
    batch, with_pseudo = random_batch(), random_batch()
    with_pseudo.pseudo[::2] = True
    results = {}
    for parts_of_batch in (1, 4, 8):
        step = step_of(graph, optimizer, accumulation=parts_of_batch, pseudo_weight=0.25)
        for pseudo, given in ((False, batch), (True, with_pseudo)):
            results[parts_of_batch, pseudo] = step(started(trained, optimizer), frozen, given)
    for (_, pseudo), (state, loss) in results.items():
        whole, whole_loss = results[1, pseudo]
        assert float(loss) == pytest.approx(float(whole_loss), rel=1e-5)
        gradient, expected = (jax.tree.map(jnp.subtract, trained, s.trained) for s in (state, whole))
        scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
        for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * scale)
    assert largest_difference(results[1, True][0].trained, results[1, False][0].trained) > 0


def test_bfloat16_keeps_parameters_and_statistics_in_float32():
    graph, trained, frozen = parts(dtype="bfloat16")
    optimizer = make_optimizer(1e-3)
    state, loss = step_of(graph, optimizer)(started(trained, optimizer), frozen, random_batch())
    assert np.isfinite(loss)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.trained)} == {jnp.dtype("float32")}


def test_a_state_survives_being_made_flat(conformer):
    _, trained, _ = conformer
    state = started(trained, make_optimizer(1e-3), ema=True)
    arrays = {name: np.asarray(array) for name, array in to_arrays(state).items()}
    assert largest_difference(from_arrays(state, arrays), state) == 0
    del arrays["ema.head.output.bias"]
    with pytest.raises(WeightsError, match="ema.head.output.bias: missing"):
        from_arrays(state, arrays)


def compare_eight_devices_with_one():
    """Compares the gradients of the Transformer; run in a process of its own.

    The Conformer trains on eight devices in tests/parallel/test_processes.py.
    """
    assert jax.device_count() == 8
    graph, trained, frozen = parts("iqa_transformer")
    optimizer = optax.sgd(1.0)
    gradients = []
    for count in (1, 8):
        mesh = DataMesh.of(jax.devices()[:count])
        state = jax.device_put(started(trained, optimizer), mesh.replicated)
        weights = jax.device_put(frozen, mesh.replicated)
        batch = jax.device_put(random_batch(), mesh.split)
        state, _ = step_of(graph, optimizer, mesh)(state, weights, batch)
        difference = jax.tree.map(np.subtract, jax.device_get(trained), jax.device_get(state.trained))
        gradients.append(jax.tree.leaves(difference))
    scale = max(np.abs(leaf).max() for leaf in gradients[0])
    assert max(np.abs(a - b).max() for a, b in zip(*gradients, strict=True)) / scale < 1e-5


def test_eight_devices_give_the_gradients_of_one():
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    code = "from tests.training.test_step import compare_eight_devices_with_one as compare; compare()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
