"""The Blind Noisy Student (Conde, Burchi and Timofte, CVPRW 2022): quality without a reference.

The paper gives the idea and a figure, no code; what its figure does not show is our choice.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from iqa_jax.models.base import IQAModel
from iqa_jax.models.config import ModelConfig
from iqa_jax.models.conformer import ConformerBlock, positions
from iqa_jax.models.layers import Dropout, Head, NoiseFor


class BlindStudent(IQAModel):
    """Conformer encoder on the features of the distorted image, then the mean over its positions."""

    full_reference = False

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)  # backbone, conv_proj
        self.emb_p = positions(config, self.grid, rngs=rngs)
        self.dropout = Dropout(config.dropout)
        self.encoder = ConformerBlock(config, cross=False, rngs=rngs)
        self.head = Head(config.dim, dtype=jnp.dtype(config.dtype), rngs=rngs)

    def __call__(self, distorted: jax.Array, *, rngs: nnx.Rngs | NoiseFor | None = None) -> jax.Array:
        """Normalised MOS (B,) of crops (B, S, S, 3), uint8 or float in [0, 1].

        Args:
          rngs: keys for dropout and stochastic depth (a `dropout` stream), for all examples or for
            some; needed in training mode only.
        """
        projected = self.project(distorted)  # backbone and conv_proj: (B, h, w, D)
        return self.assess(projected, rngs=rngs)  # (B,)

    def assess(self, distorted: jax.Array, *, rngs: nnx.Rngs | NoiseFor | None = None) -> jax.Array:
        """Normalised MOS (B,) from what `project` gave."""
        positioned = self.dropout(distorted + self.emb_p[None].astype(distorted.dtype), rngs=rngs)
        encoded = self.encoder(positioned, rngs=rngs)  # (B, h, w, D)
        return self.head(encoded.mean((1, 2))).astype(jnp.float32)  # (B, D) -> (B,)
