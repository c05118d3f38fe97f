"""What the IQA models share: backbone, projection, scale."""

from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx

from iqa_jax.models.backbones import BACKBONES
from iqa_jax.models.backbones.base import Backbone
from iqa_jax.models.config import ModelConfig
from iqa_jax.models.layers import dense
from iqa_jax.ops.programs import few_at_a_time

# What trains in a full-reference model: everything but the backbone.
TRAINABLE = nnx.All(nnx.Param, nnx.Not(nnx.PathContains("backbone")))


def as_unit_float(images: jax.Array) -> jax.Array:
    """uint8 images -> float32 in [0, 1]; float images are taken to be in [0, 1] already."""
    return images.astype(jnp.float32) / 255.0 if images.dtype == jnp.uint8 else images


class IQAModel(nnx.Module):
    """A backbone and a 1 x 1 projection of its features.

    The backbone normalises with running statistics only, so it is in evaluation mode whatever mode
    the model is in; gradients with respect to the images flow through it.

    Subclasses give `full_reference`, whether they compare with a reference, a call with one or two batches
    of crops, and `assess`: normalised MOS (B,) float32 from what `project` gave of each image, reference
    first.
    """

    full_reference: bool
    assess: Callable[..., jax.Array]

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.dtype)
        self.config = config
        self.backbone: Backbone = BACKBONES[config.backbone](num_classes=0, dtype=dtype, rngs=rngs)
        self.grid = self.backbone.grid(config.crop_size)
        self.conv_proj = dense(self.backbone.tap_channels, config.dim, dtype=dtype, rngs=rngs)

    def features(self, images: jax.Array) -> jax.Array:
        """Backbone features of crops (B, S, S, 3), uint8 or float in [0, 1]: (B, h, w, C).

        Raises:
          ValueError: the crops are not of the size the model was made for.
        """
        size = self.config.crop_size
        if images.ndim != 4 or images.shape[1:] != (size, size, 3):
            raise ValueError(
                f"crops of shape {images.shape}: expected (B, {size}, {size}, 3); "
                "cut images with iqa_jax.ops.windows.windows"
            )
        return few_at_a_time(self.backbone.stacked_taps, as_unit_float(images))

    def project(self, images: jax.Array) -> jax.Array:
        """What `assess` takes: the features of crops (B, S, S, 3) after `conv_proj`, (B, h, w, D)."""
        return few_at_a_time(lambda x: self.conv_proj(self.features(x)), images)

    def denormalise(self, prediction: jax.Array) -> jax.Array:
        """Normalised predictions -> MOS units."""
        return prediction * self.config.mos_std + self.config.mos_mean


class FullReferenceModel(IQAModel):
    """Projects f_ref and f_ref - f_dis.  Subclasses give `compare`."""

    full_reference = True

    def assess(
        self, reference: jax.Array, distorted: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Normalised MOS (B,) from both images' features after `conv_proj`, each (B, h, w, D).

        The projection of f_ref - f_dis is the difference of both projections plus the bias, so
        each image is projected once, and a reference once for all its distorted versions.
        """
        bias = cast("nnx.Param[jax.Array]", self.conv_proj.bias)  # `dense` gives one
        difference = reference - distorted + bias[...].astype(reference.dtype)
        return self.compare(reference, difference, rngs=rngs).astype(jnp.float32)

    def compare(
        self, reference: jax.Array, difference: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Normalised MOS (B,) from the projections of f_ref and of f_ref - f_dis, each (B, h, w, D)."""
        raise NotImplementedError

    def __call__(
        self, reference: jax.Array, distorted: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Normalised MOS (B,) of pairs of crops, each (B, S, S, 3), uint8 or float in [0, 1].

        Args:
          rngs: keys for dropout (a `dropout` stream); needed in training mode only.
        """
        if reference.shape != distorted.shape:
            raise ValueError(
                f"reference {reference.shape} and distorted {distorted.shape} images differ in shape"
            )
        both = jnp.concatenate([as_unit_float(reference), as_unit_float(distorted)])
        return self.assess(*jnp.split(self.project(both), 2), rngs=rngs)


def split_model(model: IQAModel, *, tune_backbone: bool = False) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """Structure, what training changes (parameters and statistics), and what stays frozen.

    The backbone is frozen; with `tune_backbone` only its statistics are.  `nnx.merge` puts the parts
    together again.
    """
    frozen: nnx.filterlib.Filter = nnx.PathContains("backbone")
    if tune_backbone:
        frozen = nnx.All(frozen, nnx.Not(nnx.Param))
    return nnx.split(model, nnx.Not(frozen), ...)  # type: ignore[return-value]  # a state for each filter
