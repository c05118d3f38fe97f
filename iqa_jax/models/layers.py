"""Layers that the networks are made of: convolutions with their norms, attention, noise, the head.

Every default that differs from PyTorch's is spelt out.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from iqa_jax.ops.attention import dot_product_attention
from iqa_jax.ops.conv import conv2d, depthwise_conv2d


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


def by_channel(vector: jax.Array, like: jax.Array) -> jax.Array:
    """A vector (C,) beside an array (…, C), of as many axes: callers may forbid that JAX adds them."""
    return jnp.expand_dims(vector, range(like.ndim - 1))


class ConvNorm(nnx.Module):
    """Convolution without bias, then BatchNorm with its *running* statistics, then an activation.

    Backbones are made of these: pretrained, in evaluation mode whatever mode the model is in.  The
    normalisation is folded into the kernel at each call, so only a convolution and a bias run.

    Attributes:
      kernel: (kh, kw, C, D), or (kh, kw, C) when depthwise.
      scale, bias, mean, var: BatchNorm's parameters and statistics, each (D,).
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        kernel_size: int | tuple[int, int] = 1,
        *,
        stride: int = 1,
        padding: str = "SAME",
        depthwise: bool = False,
        activation=jax.nn.relu,
        epsilon: float = 1e-3,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        kh, kw = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        shape = (kh, kw, features_in) if depthwise else (kh, kw, features_in, features_out)
        fan_in = kh * kw * (1 if depthwise else features_in)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), shape) * (2 / fan_in) ** 0.5)
        self.scale = nnx.Param(jnp.ones(features_out))
        self.bias = nnx.Param(jnp.zeros(features_out))
        self.mean = nnx.BatchStat(jnp.zeros(features_out))
        self.var = nnx.BatchStat(jnp.ones(features_out))
        self.stride, self.padding, self.depthwise = stride, padding, depthwise
        self.activation, self.epsilon, self.dtype = activation, epsilon, dtype

    def folded(self) -> tuple[jax.Array, jax.Array]:
        """Kernel and bias of the equivalent convolution without BatchNorm."""
        factor = self.scale[...] * lax.rsqrt(self.var[...] + self.epsilon)
        bias = self.bias[...] - self.mean[...] * factor
        kernel = self.kernel[...]
        return (kernel * by_channel(factor, kernel)).astype(self.dtype), bias.astype(self.dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, bias = self.folded()
        x = x.astype(self.dtype)
        if self.depthwise:
            y = depthwise_conv2d(x, kernel, stride=self.stride)
        else:
            y = conv2d(x, kernel, stride=self.stride, padding=self.padding)
        return self.activation(y + by_channel(bias, y))


def pointwise_branches(x: jax.Array, *branches: ConvNorm) -> list[jax.Array]:
    """Several 1 x 1 `ConvNorm`s with ReLU that read the same input, as one matrix product."""
    kernels, biases = zip(*(branch.folded() for branch in branches), strict=True)
    kernel, bias = jnp.concatenate(kernels, axis=-1), jnp.concatenate(biases)
    y = x.astype(kernel.dtype) @ kernel[0, 0]
    y = jax.nn.relu(y + by_channel(bias, y))
    edges = [0]
    for part in biases:
        edges.append(edges[-1] + part.shape[0])
    return [y[..., a:b] for a, b in zip(edges, edges[1:], strict=False)]


class BatchNorm(nnx.Module):
    """BatchNorm with PyTorch's semantics: momentum 0.1, unbiased variance in the running estimate.

    Statistics are kept in float32 and, under `jax.jit` over a mesh, are those of the global batch.
    `use_running_average` is what `model.train()` and `model.eval()` set.
    """

    def __init__(self, features: int, *, momentum: float = 0.1, epsilon: float = 1e-5):
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.mean = nnx.BatchStat(jnp.zeros(features))
        self.var = nnx.BatchStat(jnp.ones(features))
        self.momentum, self.epsilon = momentum, epsilon
        self.use_running_average = False

    def __call__(self, x: jax.Array) -> jax.Array:
        dtype = x.dtype
        x = x.astype(jnp.float32)
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            axes = tuple(range(x.ndim - 1))
            mean = x.mean(axes)
            var = jnp.square(x - by_channel(mean, x)).mean(axes)
            count = x.size // x.shape[-1]
            unbiased = var * (count / (count - 1))
            self.mean[...] += self.momentum * lax.stop_gradient(mean - self.mean[...])
            self.var[...] += self.momentum * lax.stop_gradient(unbiased - self.var[...])
        factor = self.scale[...] * lax.rsqrt(var + self.epsilon)
        mean, factor, bias = (by_channel(v, x) for v in (mean, factor, self.bias[...]))
        return ((x - mean) * factor + bias).astype(dtype)


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

    def noisy(self, key: jax.Array, x: jax.Array) -> jax.Array:
        raise NotImplementedError


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
        source = x if memory is None else memory

        def by_head(y):
            return y.reshape(*y.shape[:2], self.heads, -1)  # (B, L, N, D / N)

        y = dot_product_attention(
            by_head(self.query_layer(x)),
            by_head(self.key_layer(source)),
            by_head(self.value_layer(source)),
        )
        return self.dropout(self.output_layer(y.reshape(x.shape)), rngs=rngs)


class Head(nnx.Module):
    """Linear, ReLU, Linear: (B, D) -> (B,)."""

    def __init__(self, dim: int, *, dtype, rngs: nnx.Rngs):
        self.hidden = dense(dim, dim, dtype=dtype, rngs=rngs)
        self.output = dense(dim, 1, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.output(jax.nn.relu(self.hidden(x)))[:, 0]
