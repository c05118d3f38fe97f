"""Layers that the models share: linear, norm, noise, attention, the head.

Every default that differs from PyTorch's is spelt out.
"""

import abc
import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from iqa_jax.ops.attention import dot_product_attention


def dense(features_in: int, features_out: int, *, dtype, rngs: nnx.Rngs) -> nnx.Linear:
    """A linear layer (a 1 x 1 convolution, channels last) with PyTorch's default kernel scale."""
    return nnx.Linear(
        features_in,
        features_out,
        kernel_init=nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
        dtype=dtype,
        rngs=rngs,
    )


def layer_norm(features: int, *, dtype, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm with PyTorch's epsilon (Flax's default is 1e-6)."""
    return nnx.LayerNorm(features, epsilon=1e-5, dtype=dtype, rngs=rngs)


@dataclasses.dataclass(frozen=True)
class NoiseFor:
    """In place of `rngs`: keys for noise in the network that is for some examples of a batch only.

    Attributes:
      rngs: with a `dropout` stream.
      examples: (B,) bool, which ones.
    """

    rngs: nnx.Rngs
    examples: jax.Array


class _Noise(nnx.Module):
    """Noise of some rate in training mode; subclasses give `noisy`.

    `deterministic` is what `model.train()` and `model.eval()` set.
    """

    def __init__(self, rate: float):
        self.rate = rate
        self.deterministic = False

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | NoiseFor | None = None) -> jax.Array:
        if self.deterministic or self.rate == 0:
            return x
        if rngs is None:
            raise ValueError("noise in training mode needs rngs=nnx.Rngs(dropout=key)")
        if isinstance(rngs, NoiseFor):
            chosen = rngs.examples.reshape(-1, *[1] * (x.ndim - 1))
            return jnp.where(chosen, self.noisy(rngs.rngs.dropout(), x), x)
        return self.noisy(rngs.dropout(), x)

    @abc.abstractmethod
    def noisy(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """`x` with noise in it."""


class Dropout(_Noise):
    """Dropout from 16 random bits an element: on CPUs several times faster than `nnx.Dropout`.

    The last axis must be even.
    """

    def noisy(self, key, x):
        words = jax.random.bits(key, (*x.shape[:-1], x.shape[-1] // 2), jnp.uint32)
        bits = lax.bitcast_convert_type(words, jnp.uint16).reshape(x.shape)
        dropped = round(self.rate * 2**16)
        return jnp.where(bits >= dropped, x * (2**16 / (2**16 - dropped)), 0)


class StochasticDepth(_Noise):
    """Leaves out a residual branch, for each example by itself (Huang et al., 2016).

    What stays is scaled, so that the mean stays.
    """

    def noisy(self, key, x):
        keep = jax.random.bernoulli(key, 1 - self.rate, (x.shape[0], *[1] * (x.ndim - 1)))
        return x * jnp.where(keep, 1 / (1 - self.rate), 0).astype(x.dtype)


class MultiHeadAttention(nnx.Module):
    """LayerNorm on the query input, multi-head attention, dropout.

    With a `memory` (B, S, D) it is cross-attention; the memory enters without a norm.
    """

    def __init__(self, dim: int, heads: int, dropout: float, *, dtype, rngs: nnx.Rngs):
        kw = {"dtype": dtype, "rngs": rngs}
        self.heads = heads
        self.norm = layer_norm(dim, **kw)
        self.query_layer = dense(dim, dim, **kw)
        self.key_layer = dense(dim, dim, **kw)
        self.value_layer = dense(dim, dim, **kw)
        self.output_layer = dense(dim, dim, **kw)
        self.dropout = Dropout(dropout)

    def __call__(
        self, x: jax.Array, memory: jax.Array | None = None, *, rngs: nnx.Rngs | NoiseFor | None = None
    ) -> jax.Array:
        x = self.norm(x)  # (B, L, D)
        source = x if memory is None else memory  # (B, S, D)

        def by_head(y):
            return y.reshape(*y.shape[:2], self.heads, -1)  # (B, L, N, D / N)

        y = dot_product_attention(
            by_head(self.query_layer(x)),
            by_head(self.key_layer(source)),
            by_head(self.value_layer(source)),
        )  # (B, L, N, D / N)
        return self.dropout(self.output_layer(y.reshape(x.shape)), rngs=rngs)  # (B, L, D)


class Head(nnx.Module):
    """Linear, ReLU, Linear: (B, D) -> (B,)."""

    def __init__(self, dim: int, *, dtype, rngs: nnx.Rngs):
        self.hidden = dense(dim, dim, dtype=dtype, rngs=rngs)
        self.output = dense(dim, 1, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.output(jax.nn.relu(self.hidden(x)))[:, 0]
