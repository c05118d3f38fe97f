"""IQA Conformer (Conde, Burchi and Timofte, CVPRW 2022, section 3.1; block: Gulati et al., 2020)."""

import jax
import jax.numpy as jnp
from flax import nnx

from iqa_jax.models.base import FullReferenceModel
from iqa_jax.models.config import ModelConfig
from iqa_jax.models.layers import (
    BatchNorm,
    Dropout,
    Head,
    MultiHeadAttention,
    NoiseFor,
    StochasticDepth,
    by_channel,
    dense,
    layer_norm,
)
from iqa_jax.ops.conv import depthwise_conv2d


class FeedForward(nnx.Module):
    """LayerNorm, Linear to 4 x dim, Swish, dropout, Linear, dropout."""

    def __init__(self, dim: int, dropout: float, *, dtype, rngs: nnx.Rngs):
        kw = {"dtype": dtype, "rngs": rngs}
        self.norm = layer_norm(dim, **kw)
        self.expand = dense(dim, 4 * dim, **kw)
        self.project = dense(4 * dim, dim, **kw)
        self.dropout = Dropout(dropout)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | NoiseFor | None = None) -> jax.Array:
        x = self.dropout(jax.nn.swish(self.expand(self.norm(x))), rngs=rngs)
        return self.dropout(self.project(x), rngs=rngs)


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
        value, gate = jnp.split(self.expand(self.norm(x)), 2, axis=-1)
        x = value * jax.nn.sigmoid(gate)  # (B, h, w, D)
        x = depthwise_conv2d(x, self.depthwise_kernel[...].astype(x.dtype))
        x = self.batch_norm(x + by_channel(self.depthwise_bias[...].astype(x.dtype), x))
        return self.dropout(self.project(jax.nn.swish(x)), rngs=rngs)


class ConformerBlock(nnx.Module):
    """Half a feed-forward, attention, (cross-attention,) convolution, half a feed-forward, LayerNorm.

    Maps (B, h, w, D) to the same shape; attention sees the h * w positions as tokens.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        dropout: float,
        *,
        cross: bool,
        stochastic_depth: float = 0.0,
        dtype,
        rngs: nnx.Rngs,
    ):
        kw = {"dtype": dtype, "rngs": rngs}
        self.ff_module1 = FeedForward(dim, dropout, **kw)
        self.self_att_module = MultiHeadAttention(dim, heads, dropout, **kw)
        self.cross_attention_module = MultiHeadAttention(dim, heads, dropout, **kw) if cross else None
        self.conv_module = ConvolutionModule(dim, dropout, **kw)
        self.ff_module2 = FeedForward(dim, dropout, **kw)
        self.norm = layer_norm(dim, **kw)
        self.stochastic_depth = StochasticDepth(stochastic_depth)

    @classmethod
    def of(cls, config: ModelConfig, *, cross: bool, rngs: nnx.Rngs) -> "ConformerBlock":
        """A block of the configuration's width, heads and noise."""
        return cls(
            config.dim,
            config.heads,
            config.dropout,
            cross=cross,
            stochastic_depth=config.stochastic_depth,
            dtype=jnp.dtype(config.dtype),
            rngs=rngs,
        )

    def __call__(
        self, x: jax.Array, memory: jax.Array | None = None, *, rngs: nnx.Rngs | NoiseFor | None = None
    ) -> jax.Array:
        def branch(y):
            return self.stochastic_depth(y, rngs=rngs)

        def tokens(y):
            return y.reshape(shape[0], -1, shape[-1])  # (B, h * w, D)

        shape = x.shape
        x = tokens(x)
        x = x + branch(0.5 * self.ff_module1(x, rngs=rngs))
        x = x + branch(self.self_att_module(x, rngs=rngs))
        if self.cross_attention_module is not None:
            x = x + branch(self.cross_attention_module(x, tokens(memory), rngs=rngs))
        x = x + branch(self.conv_module(x.reshape(shape), rngs=rngs).reshape(x.shape))
        x = x + branch(0.5 * self.ff_module2(x, rngs=rngs))
        return self.norm(x).reshape(shape)


def positions(config: ModelConfig, grid: int, *, rngs: nnx.Rngs) -> nnx.Param:
    """A learnt embedding of each position, (grid, grid, D)."""
    return nnx.Param(0.02 * jax.random.normal(rngs.params(), (grid, grid, config.dim)))


class IQAConformer(FullReferenceModel):
    """Conformer encoder on the difference of the features, cross Conformer decoder on the reference."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.emb_p = positions(config, self.grid, rngs=rngs)
        self.dropout = Dropout(config.dropout)
        self.encoder = ConformerBlock.of(config, cross=False, rngs=rngs)
        self.decoder = ConformerBlock.of(config, cross=True, rngs=rngs)
        self.head = Head(config.dim, dtype=jnp.dtype(config.dtype), rngs=rngs)

    def compare(self, reference, difference, *, rngs=None):
        def positioned(x):
            return self.dropout(x + self.emb_p[None].astype(x.dtype), rngs=rngs)

        encoded = self.encoder(positioned(difference), rngs=rngs)
        decoded = self.decoder(positioned(reference), encoded, rngs=rngs)
        return self.head(decoded.mean((1, 2)))
