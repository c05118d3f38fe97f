"""Dot-product attention in the form that each platform runs fastest."""

import jax
import jax.numpy as jnp
from jax import lax

from iqa_jax.ops.programs import by_platform, summed_in_float32


def dot_product_attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """softmax(Q K^T / sqrt(D)) V for query (B, L, N, D), key and value (B, S, N, D).

    On CPUs the examples are attended to one after the other, recomputing the (N, L, S) scores in
    the backward pass: they stay in the cache, which is several times faster than one large tensor.
    """

    def attend(qkv):
        q, k, v = qkv  # (N, L, D), (N, S, D), (N, S, D)
        scores = (q / q.shape[-1] ** 0.5) @ k.swapaxes(-1, -2)
        weights = jnp.exp(scores - lax.stop_gradient(scores.max(-1, keepdims=True)))
        return (weights @ v) / weights.sum(-1, keepdims=True)

    @summed_in_float32
    def on_cpu(*qkv):
        heads_first = tuple(a.transpose(0, 2, 1, 3) for a in qkv)
        return lax.map(jax.checkpoint(attend), heads_first).transpose(0, 2, 1, 3)

    return by_platform(query, key, value, cpu=on_cpu, default=jax.nn.dot_product_attention)
