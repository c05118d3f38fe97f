"""Attention and the regression head, shared by the Conformer and the Transformer."""

import jax
from flax import nnx

from iqa_jax.models.base import dense, layer_norm
from iqa_jax.models.layers import Dropout, dot_product_attention


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
        self, x: jax.Array, memory: jax.Array | None = None, *, rngs: nnx.Rngs | None = None
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
