"""The forms that layers take on different platforms compute the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from iqa_jax.models.backbones.base import ConvNorm, pointwise_branches
from iqa_jax.models.layers import Dropout
from iqa_jax.ops.attention import dot_product_attention
from iqa_jax.ops.conv import conv2d, depthwise_conv2d, max_pool
from iqa_jax.ops.programs import few_at_a_time


@pytest.fixture
def both_forms(monkeypatch):
    """Results of a function with the forms for CPUs and with those for GPUs and TPUs."""

    def run(function, *args):
        results = []
        for platform in ("cpu", "default"):
            with monkeypatch.context() as patch:
                patch.setattr(lax, "platform_dependent", lambda *args, **forms: forms[platform](*args))  # noqa: B023
                results.append(jax.jit(lambda *args: function(*args))(*args))
        return results

    return run


def assert_close(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(jnp.abs(b).max()))


def with_gradients(function):
    """Result and gradients of a function with respect to all its arguments."""

    def both(*args):
        result, pull = jax.vjp(function, *args)
        return result, pull(jnp.cos(jnp.arange(result.size, dtype=result.dtype)).reshape(result.shape))

    return both


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(
    "size, kernel, stride",
    [
        ((9, 8), (1, 1), 1),
        ((9, 8), (1, 7), 1),
        ((9, 8), (3, 3), 2),
    ],
)
def test_convolution(size, kernel, stride, padding, both_forms):
    def convolve(x, kernel):
        return conv2d(x, kernel, stride=stride, padding=padding)

    assert_close(*both_forms(with_gradients(convolve), normal(2, *size, 4), normal(*kernel, 4, 6, seed=1)))


@pytest.mark.parametrize(
    "size, kernel, stride", [((9, 8), 7, 1), ((8, 9), 3, 2), ((11, 7), 5, 2), ((2, 1), 5, 2)]
)
def test_depthwise_convolution(size, kernel, stride, both_forms):
    def convolve(x, kernel):
        return depthwise_conv2d(x, kernel, stride=stride)

    def forwards(*tangents):
        return jax.jvp(convolve, args, tangents)[1]

    args = normal(3, *size, 6), normal(kernel, kernel, 6, seed=1)
    assert_close(*both_forms(with_gradients(convolve), *args))
    assert_close(*both_forms(forwards, *(jnp.cos(x) for x in args)))


@pytest.mark.parametrize("tokens, memory", [(9, 9), (7, 10)])
def test_attention(tokens, memory, both_forms):
    query, key, value = (
        normal(3, tokens, 2, 8),
        normal(3, memory, 2, 8, seed=1),
        normal(3, memory, 2, 8, seed=2),
    )
    results = both_forms(with_gradients(dot_product_attention), 5 * query, key, value)
    assert_close(*results)
    weights = jax.nn.softmax(jnp.einsum("blnd,bsnd->bnls", 5 * query, key) / 8**0.5)
    assert_close(results[0][0], jnp.einsum("bnls,bsnd->blnd", weights, value))


@pytest.mark.parametrize(
    "function, shapes",
    [
        (conv2d, [(2, 21, 21, 32), (5, 5, 32, 32)]),
        (depthwise_conv2d, [(2, 21, 21, 32), (7, 7, 32)]),
        (dot_product_attention, [(2, 100, 2, 32)] * 3),
    ],
)
def test_bfloat16_is_as_exact_on_every_platform(function, shapes, both_forms):
    exact = [
        normal(*shape, seed=n).astype(jnp.bfloat16).astype(jnp.float32) for n, shape in enumerate(shapes)
    ]
    expected = jax.tree.leaves(with_gradients(function)(*exact))
    errors = [
        [
            float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))
            for a, b in zip(jax.tree.leaves(r), expected, strict=True)
        ]
        for r in both_forms(with_gradients(function), *(x.astype(jnp.bfloat16) for x in exact))
    ]
    for cpu, default in zip(*errors, strict=True):
        assert cpu < 1.1 * default, errors


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_few_at_a_time(batch, both_forms):
    x = normal(batch, 4, 3)
    assert_close(*both_forms(with_gradients(lambda x: few_at_a_time(jnp.sin, x)), x))
    several = both_forms(lambda *xs: few_at_a_time(lambda a, b: {"sum": a + b, "a": a}, *xs), x, 2 * x)
    assert_close(several, [{"sum": 3 * x, "a": x}] * 2)


@pytest.mark.parametrize("size", [(3, 4), (9, 8), (8, 9)])
def test_max_pool(size, both_forms):
    assert_close(*both_forms(with_gradients(max_pool), normal(2, *size, 6)))


def test_folded_normalisation_is_a_convolution_then_batch_norm():
    layer = ConvNorm(4, 6, 3, activation=jnp.tanh, rngs=nnx.Rngs(0))
    layer.scale[...], layer.bias[...], layer.mean[...] = normal(6), normal(6, seed=1), normal(6, seed=2)
    layer.var[...] = jnp.abs(normal(6, seed=3)) + 0.1
    x = normal(2, 5, 7, 4)
    y = conv2d(x, layer.kernel[...])
    y = (y - layer.mean[...]) / jnp.sqrt(layer.var[...] + 1e-3) * layer.scale[...] + layer.bias[...]
    assert_close(layer(x), jnp.tanh(y))
    point = ConvNorm(4, 3, rngs=nnx.Rngs(1)), ConvNorm(4, 5, rngs=nnx.Rngs(2))
    assert_close(pointwise_branches(x, *point), [branch(x) for branch in point])


def test_dropout_keeps_the_mean():
    layer = Dropout(0.1)
    x = jnp.ones((64, 64, 128))
    y = layer(x, rngs=nnx.Rngs(dropout=0))
    assert float((y == 0).mean()) == pytest.approx(0.1, abs=2e-3)
    np.testing.assert_allclose(y[y != 0], 1 / 0.9, rtol=1e-4)
    assert float(y.mean()) == pytest.approx(1, abs=2e-3)
    neighbours = np.corrcoef((y[..., ::2] == 0).ravel(), (y[..., 1::2] == 0).ravel())[0, 1]
    assert abs(neighbours) < 0.01
    layer.eval()
    assert layer(x) is x


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_a_program_for_cpus_stops_after_what_matters(count):
    x = normal(6, 5)
    found = jax.jit(lambda x, count: few_at_a_time(jnp.sin, x, count=count))(x, count)
    np.testing.assert_allclose(found[:count], jnp.sin(x)[:count], rtol=1e-6)
