"""What the IQA models share: backbone, projection, scale."""

import abc
from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx

from iqa_jax.models.backbones import build_backbone
from iqa_jax.models.config import ModelConfig
from iqa_jax.models.layers import dense
from iqa_jax.ops.programs import few_at_a_time


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
        used = config.taps + config.magnitudes
        self.backbone = build_backbone(config.backbone, used=used, dtype=dtype, rngs=rngs)
        self.grid, channels = self.backbone.grid(config.crop_size), self.backbone.tap_channels
        if config.stride:
            self.grid = config.crop_size // config.stride
            channels = sum(self.backbone.maps[tap][0] for tap in config.taps)
        self.conv_proj = dense(channels, config.dim, dtype=dtype, rngs=rngs)

    def features(self, images: jax.Array) -> jax.Array:
        """Backbone features of crops (B, S, S, 3), uint8 or float in [0, 1]: (B, h, w, C).

        Where the configuration has `magnitudes`, every pixel of those maps stands behind the taps' channels,
        at the position that it belongs to.

        Raises:
          ValueError: the crops are not of the size the model was made for.
        """
        size = self.config.crop_size
        if images.ndim != 4 or images.shape[1:] != (size, size, 3):
            raise ValueError(
                f"crops of shape {images.shape}: expected (B, {size}, {size}, 3); "
                "cut images with iqa_jax.ops.windows.windows"
            )
        taps = self._averaged_taps if self.config.stride else self.backbone.stacked_taps
        return few_at_a_time(taps, as_unit_float(images))

    def _averaged_taps(self, images: jax.Array) -> jax.Array:
        taps, pixelwise = self.config.taps, self.config.magnitudes if self.full_reference else ()
        maps = self.backbone.features(images, tuple(dict.fromkeys(taps + pixelwise)))
        cells = {name: cells_of(values, self.grid) for name, values in maps.items()}
        averages = [cells[name].mean(axis=-2) for name in taps]
        pixels = [cells[name].reshape(*cells[name].shape[:3], -1) for name in pixelwise]
        return jnp.concatenate(averages + pixels, axis=-1)

    def projected(self, features: jax.Array) -> jax.Array:
        """Features after `conv_proj`; the pixels for `magnitudes` stay as they are, behind them."""
        if not self.config.magnitudes:
            return self.conv_proj(features)
        averages, pixels = jnp.split(features, [self.conv_proj.in_features], axis=-1)
        return jnp.concatenate([self.conv_proj(averages), pixels], axis=-1)

    def project(self, images: jax.Array) -> jax.Array:
        """What `assess` takes: the features of crops (B, S, S, 3) after `projected`, (B, h, w, D or more)."""
        return few_at_a_time(lambda x: self.projected(self.features(x)), images)

    def denormalise(self, prediction: jax.Array) -> jax.Array:
        """Normalised predictions -> MOS units."""
        return prediction * self.config.mos_std + self.config.mos_mean


class FullReferenceModel(IQAModel):
    """Compares the projections of f_ref and of f_ref - f_dis; subclasses give `assess`."""

    full_reference = True

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        channels = sum(self.backbone.maps[name][0] for name in config.magnitudes)
        dtype = jnp.dtype(config.dtype)
        self.magnitude_proj = dense(channels, config.dim, dtype=dtype, rngs=rngs) if channels else None

    def compared(self, reference: jax.Array, distorted: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The projections of f_ref and of f_ref - f_dis, each (B, h, w, D), from what `project` gave.

        The projection of f_ref - f_dis is the difference of both projections plus the bias, so each image is
        projected once, and a reference once for all its distorted versions.
        """
        dim = self.config.dim
        parameter = cast("nnx.Param[jax.Array]", self.conv_proj.bias)  # `dense` gives one
        bias = parameter[...].astype(reference.dtype).reshape(1, 1, 1, -1)
        difference = reference[..., :dim] - distorted[..., :dim] + bias
        if self.magnitude_proj is not None:
            difference += self.magnitude_proj(self.magnitudes(reference[..., dim:], distorted[..., dim:]))
        return reference[..., :dim], difference

    def magnitudes(self, reference: jax.Array, distorted: jax.Array) -> jax.Array:
        """The mean of |f_ref - f_dis| over the pixels of each position, (B, h, w, channels)."""
        means, start = [], 0
        for name in self.config.magnitudes:
            channels, stride = self.backbone.maps[name]
            end = start + (self.config.stride // stride) ** 2 * channels
            differences = jnp.abs(reference[..., start:end] - distorted[..., start:end])
            means.append(differences.reshape(*differences.shape[:3], -1, channels).mean(axis=-2))
            start = end
        return jnp.concatenate(means, axis=-1)

    def __call__(
        self, reference: jax.Array, distorted: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Normalised MOS (B,) of pairs of crops, each (B, S, S, 3), uint8 or float in [0, 1].

        Args:
          rngs: keys for dropout (a `dropout` stream); needed in training mode only.
        Raises:
          ValueError: the crops differ in shape, or are not of the size the model was made for.
        """
        if reference.shape != distorted.shape:
            raise ValueError(
                f"reference {reference.shape} and distorted {distorted.shape} images differ in shape"
            )
        images = jnp.concatenate([as_unit_float(reference), as_unit_float(distorted)])  # (2 B, S, S, 3)
        projected = self.project(images)  # backbone and conv_proj: (2 B, h, w, D)
        return self.assess(*jnp.split(projected, 2), rngs=rngs)  # (B,)

    @abc.abstractmethod
    def assess(
        self, reference: jax.Array, distorted: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Normalised MOS (B,) from what `project` gave of both images."""


def cells_of(values: jax.Array, grid: int) -> jax.Array:
    """The pixels of each of grid x grid cells: (B, H, W, C) -> (B, grid, grid, pixels, C)."""
    batch, height, _, channels = values.shape
    side = height // grid
    cells = values.reshape(batch, grid, side, grid, side, channels).swapaxes(2, 3)
    return cells.reshape(batch, grid, grid, side * side, channels)


def split_model(model: IQAModel, *, tune_backbone: bool = False) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """Structure, what training changes (parameters and statistics), and what stays frozen.

    The backbone is frozen; with `tune_backbone` only its statistics are.  `nnx.merge` puts the parts
    together again.
    """
    frozen: nnx.filterlib.Filter = nnx.PathContains("backbone")
    if tune_backbone:
        frozen = nnx.All(frozen, nnx.Not(nnx.Param))
    return nnx.split(model, nnx.Not(frozen), ...)  # type: ignore[return-value]  # a state for each filter
