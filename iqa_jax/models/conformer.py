"""IQA Conformer (Conde, Burchi and Timofte, CVPRW 2022, section 3.1; block: Gulati et al., 2020).

Shapes: B pairs of crops of S pixels on a side, h x w positions of the backbone's grid, width D.  For the
paper's Inception-ResNet-v2, S = 192, h = w = 21 and D = 128.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from iqa_jax.models.base import FullReferenceModel
from iqa_jax.models.config import ModelConfig
from iqa_jax.models.layers import (
    Dropout,
    Head,
    MultiHeadAttention,
    NoiseFor,
    StochasticDepth,
    dense,
    layer_norm,
)
from iqa_jax.ops.conv import depthwise_conv2d


def by_channel(vector: jax.Array, like: jax.Array) -> jax.Array:
    """A vector (C,) beside an array (…, C), of as many axes: callers may forbid that JAX adds them."""
    return jnp.expand_dims(vector, range(like.ndim - 1))


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


class FeedForward(nnx.Module):
    """LayerNorm, Linear to 4 x dim, Swish, dropout, Linear, dropout."""

    def __init__(self, dim: int, dropout: float, *, dtype, rngs: nnx.Rngs):
        kw = {"dtype": dtype, "rngs": rngs}
        self.norm = layer_norm(dim, **kw)
        self.expand = dense(dim, 4 * dim, **kw)
        self.project = dense(4 * dim, dim, **kw)
        self.dropout = Dropout(dropout)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | NoiseFor | None = None) -> jax.Array:
        x = self.dropout(jax.nn.swish(self.expand(self.norm(x))), rngs=rngs)  # (B, L, 4 D)
        return self.dropout(self.project(x), rngs=rngs)  # (B, L, D)


class ConvolutionModule(nnx.Module):
    """LayerNorm, 1 x 1 and GLU, depthwise 7 x 7, BatchNorm, Swish, 1 x 1, dropout."""

    def __init__(self, dim: int, dropout: float, *, kernel_size: int = 7, dtype, rngs: nnx.Rngs):
        kw = {"dtype": dtype, "rngs": rngs}
        self.norm = layer_norm(dim, **kw)
        self.expand = dense(dim, 2 * dim, **kw)
        bound = 1 / kernel_size
        shape = (kernel_size, kernel_size, dim)
        self.depthwise_kernel = nnx.Param(
            jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)
        )
        self.depthwise_bias = nnx.Param(jnp.zeros(dim))
        self.batch_norm = BatchNorm(dim)
        self.project = dense(dim, dim, **kw)
        self.dropout = Dropout(dropout)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | NoiseFor | None = None) -> jax.Array:
        value, gate = jnp.split(self.expand(self.norm(x)), 2, axis=-1)  # (B, h, w, D) each
        x = value * jax.nn.sigmoid(gate)  # (B, h, w, D)
        x = depthwise_conv2d(x, self.depthwise_kernel[...].astype(x.dtype))
        x = self.batch_norm(x + by_channel(self.depthwise_bias[...].astype(x.dtype), x))
        return self.dropout(self.project(jax.nn.swish(x)), rngs=rngs)


class ConformerBlock(nnx.Module):
    """Half a feed-forward, attention, (cross-attention,) convolution, half a feed-forward, LayerNorm.

    Maps (B, h, w, D) to the same shape; attention sees the h * w positions as tokens.
    """

    def __init__(self, config: ModelConfig, *, cross: bool, rngs: nnx.Rngs):
        dim, heads, dropout = config.dim, config.heads, config.dropout
        kw: dict[str, Any] = {"dtype": jnp.dtype(config.dtype), "rngs": rngs}
        self.ff_module1 = FeedForward(dim, dropout, **kw)
        self.self_att_module = MultiHeadAttention(dim, heads, dropout, **kw)
        self.cross_attention_module = MultiHeadAttention(dim, heads, dropout, **kw) if cross else None
        self.conv_module = ConvolutionModule(dim, dropout, **kw)
        self.ff_module2 = FeedForward(dim, dropout, **kw)
        self.norm = layer_norm(dim, **kw)
        self.stochastic_depth = StochasticDepth(config.stochastic_depth)

    def __call__(
        self, x: jax.Array, memory: jax.Array | None = None, *, rngs: nnx.Rngs | NoiseFor | None = None
    ) -> jax.Array:
        def branch(y):
            return self.stochastic_depth(y, rngs=rngs)

        shape = x.shape
        tokens = (shape[0], -1, shape[-1])
        x = x.reshape(tokens)  # (B, h * w, D)
        x = x + branch(0.5 * self.ff_module1(x, rngs=rngs))
        x = x + branch(self.self_att_module(x, rngs=rngs))
        if self.cross_attention_module is not None and memory is not None:
            x = x + branch(self.cross_attention_module(x, memory.reshape(tokens), rngs=rngs))
        x = x + branch(self.conv_module(x.reshape(shape), rngs=rngs).reshape(x.shape))
        x = x + branch(0.5 * self.ff_module2(x, rngs=rngs))
        return self.norm(x).reshape(shape)  # (B, h, w, D)


def positions(config: ModelConfig, grid: int, *, rngs: nnx.Rngs) -> nnx.Param:
    """A learnt embedding of each position, (grid, grid, D)."""
    return nnx.Param(0.02 * jax.random.normal(rngs.params(), (grid, grid, config.dim)))


class IQAConformer(FullReferenceModel):
    """Conformer encoder on the difference of the features, cross Conformer decoder on the reference."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)  # backbone, conv_proj
        self.emb_p = positions(config, self.grid, rngs=rngs)
        self.dropout = Dropout(config.dropout)
        self.encoder = ConformerBlock(config, cross=False, rngs=rngs)
        self.decoder = ConformerBlock(config, cross=True, rngs=rngs)
        self.head = Head(config.dim, dtype=jnp.dtype(config.dtype), rngs=rngs)

    def judge(self, compared, *, rngs=None):
        def positioned(x):
            return self.dropout(x + self.emb_p[None].astype(x.dtype), rngs=rngs)

        encoded = self.encoder(positioned(self.difference(compared)), rngs=rngs)  # (B, h, w, D)
        decoded = self.decoder(positioned(compared.reference), encoded, rngs=rngs)  # (B, h, w, D)
        return self.graded(self.head(decoded.mean((1, 2))), compared)  # (B, D) -> (B,)
