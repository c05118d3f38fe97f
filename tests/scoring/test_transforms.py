"""A loss under JAX's transformations, on one device and on eight."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from iqa_jax.models import ModelConfig
from iqa_jax.ops.attention import dot_product_attention
from iqa_jax.ops.conv import conv2d, depthwise_conv2d, max_pool
from iqa_jax.ops.programs import few_at_a_time
from iqa_jax.scoring.metric import FullReferenceMetric

SIZE, DEVICES = 32, 8
AXES = (AxisType.Auto, AxisType.Explicit)


class Small:
    """A `WindowModel` of each operation that the networks have a form for CPUs of."""

    full_reference, sets = True, 1
    config = ModelConfig("small", crop_size=SIZE, mos_mean=0.0, mos_std=1.0, mos_low=0.0, mos_high=1.0)

    def __init__(self):
        keys = iter(jax.random.split(jax.random.key(0), 3))
        self.kernels = [
            jax.random.normal(next(keys), shape) for shape in ((3, 3, 3, 4), (3, 3, 4), (5, 5, 4))
        ]

    def predict(self, reference, distorted):
        first, second, third = self.kernels

        def features(x):
            x = jnp.tanh(depthwise_conv2d(conv2d(x, first, stride=2), second, stride=2))
            return depthwise_conv2d(max_pool(x), third)

        a, b = (few_at_a_time(features, x) for x in (reference, distorted))
        tokens = [x.reshape(len(x), -1, 2, 2) for x in (a - b, a, b)]
        return jnp.tanh(dot_product_attention(*tokens)).mean((1, 2, 3))


@pytest.fixture(scope="module")
def metric():
    return FullReferenceMetric(Small(), {"sha256": ""})


def pairs(batch, side):
    rng = np.random.default_rng(0)
    return [rng.random((batch, side, side, 3), np.float32) for _ in range(2)]


def close(found, expected):
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_derivatives_of_every_order_and_direction_agree(metric):
    (reference,), (distorted,) = pairs(1, 70)  # several windows, more than go through at a time
    direction = np.random.default_rng(1).standard_normal(distorted.shape).astype(np.float32)

    def loss(x):
        return metric.loss(reference, x)

    def along(function, x):
        return jax.jvp(function, (x,), (direction,))[1]

    with jax.numpy_rank_promotion("raise"):
        slope = jax.jit(lambda x: along(loss, x))(distorted)
        forward = jax.jit(lambda x: along(jax.grad(loss), x))(distorted)
        reverse = jax.jit(jax.grad(lambda x: (jax.grad(loss)(x) * direction).sum()))(distorted)
        mixed = jax.jit(jax.grad(lambda x: along(loss, x)))(distorted)
        gradient = jax.jit(jax.grad(loss))(distorted)
    close(slope, (gradient * direction).sum())
    close(reverse, forward)
    close(mixed, forward)


def on_many_devices():
    """In a process of its own: a batch over all devices of a mesh gives what one device gives."""
    metric = FullReferenceMetric(Small(), {"sha256": ""})
    images = pairs(DEVICES, 40)

    def with_gradient(a, b):
        (_, loss), gradient = jax.value_and_grad(
            lambda x: (metric.loss(a, x).sum(), metric.loss(a, x)), has_aux=True
        )(b)
        return loss, gradient

    expected = [np.asarray(x) for x in jax.jit(with_gradient)(*images)]
    for kind in AXES:
        mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(kind,))
        sharded = [jax.device_put(x, NamedSharding(mesh, P("data"))) for x in images]
        mapped = jax.shard_map(with_gradient, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
        for function in (with_gradient, mapped):
            loss, gradient = jax.jit(function)(*sharded)
            close(loss, expected[0])
            close(gradient, expected[1])
            assert kind == AxisType.Auto or loss.sharding.spec[0] == "data"
        with jax.set_mesh(mesh):  # the reference is on no device yet
            close(jax.jit(lambda x: metric.loss(images[0], x))(sharded[1]), expected[0])
    close(jax.jit(jax.vmap(metric.loss))(*sharded), expected[0])


def test_a_batch_over_many_devices():
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}"}
    root = Path(__file__).parents[2]
    code = "from tests.scoring.test_transforms import on_many_devices; on_many_devices()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
