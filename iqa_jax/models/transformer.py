"""IQA Transformer (after IQT: Cheon et al., 2021), the paper's second full-reference model.

Shapes: B pairs of crops of S pixels on a side, h x w positions of the backbone's grid, width D,
L = h * w + 1 tokens.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from iqa_jax.models.base import FullReferenceModel
from iqa_jax.models.config import ModelConfig
from iqa_jax.models.layers import Dropout, Head, MultiHeadAttention, dense, layer_norm


class FeedForward(nnx.Module):
    """LayerNorm, Linear to 8 x dim, ReLU, Linear, dropout."""

    def __init__(self, dim: int, dropout: float, *, dtype, rngs: nnx.Rngs):
        kw = {"dtype": dtype, "rngs": rngs}
        self.norm = layer_norm(dim, **kw)
        self.expand = dense(dim, 8 * dim, **kw)
        self.project = dense(8 * dim, dim, **kw)
        self.dropout = Dropout(dropout)

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | None = None) -> jax.Array:
        x = jax.nn.relu(self.expand(self.norm(x)))  # (B, L, 8 D)
        return self.dropout(self.project(x), rngs=rngs)  # (B, L, D)


class TransformerBlock(nnx.Module):
    """Pre-norm self-attention, (cross-attention,) feed-forward; then the stack's LayerNorm."""

    def __init__(self, config: ModelConfig, *, cross: bool, rngs: nnx.Rngs):
        dim, heads, dropout = config.dim, config.heads, config.dropout
        kw: dict[str, Any] = {"dtype": jnp.dtype(config.dtype), "rngs": rngs}
        self.self_att_module = MultiHeadAttention(dim, heads, dropout, **kw)
        self.cross_attention_module = MultiHeadAttention(dim, heads, dropout, **kw) if cross else None
        self.ff_module = FeedForward(dim, dropout, **kw)
        self.layernorm = layer_norm(dim, **kw)

    def __call__(
        self, x: jax.Array, memory: jax.Array | None = None, *, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        x = x + self.self_att_module(x, rngs=rngs)  # (B, L, D)
        if self.cross_attention_module is not None:
            x = x + self.cross_attention_module(x, memory, rngs=rngs)
        x = x + self.ff_module(x, rngs=rngs)
        return self.layernorm(x)


class IQATransformer(FullReferenceModel):
    """Transformer encoder on the difference, cross decoder on the reference, one extra token each."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)  # backbone, conv_proj
        tokens = self.grid**2 + 1
        self.emb_q = nnx.Param(0.02 * jax.random.normal(rngs.params(), (2, config.dim)))
        self.emb_p = nnx.Param(0.02 * jax.random.normal(rngs.params(), (tokens, config.dim)))
        self.dropout = Dropout(config.dropout)
        self.encoder = TransformerBlock(config, cross=False, rngs=rngs)
        self.decoder = TransformerBlock(config, cross=True, rngs=rngs)
        self.head = Head(config.dim, dtype=jnp.dtype(config.dtype), rngs=rngs)

    def judge(self, compared, *, rngs=None):
        def tokens(x, quality_token):
            x = x.reshape(x.shape[0], -1, x.shape[-1])  # (B, h * w, D)
            first = jnp.broadcast_to(quality_token, (x.shape[0], 1, x.shape[-1])).astype(x.dtype)
            x = jnp.concatenate([first, x], axis=1) + self.emb_p[None].astype(x.dtype)
            return self.dropout(x, rngs=rngs)  # (B, L, D)

        encoded = self.encoder(tokens(self.difference(compared), self.emb_q[1]), rngs=rngs)  # (B, L, D)
        decoded = self.decoder(tokens(compared.reference, self.emb_q[0]), encoded, rngs=rngs)  # (B, L, D)
        return self.graded(self.head(decoded[:, 0]), compared)  # (B, D) -> (B,)
