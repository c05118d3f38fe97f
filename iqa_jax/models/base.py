"""What the IQA models share: backbone, projection, scale."""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import nnx

from iqa_jax.models.backbones import build_backbone
from iqa_jax.models.config import ModelConfig
from iqa_jax.models.layers import dense
from iqa_jax.ops import similarity
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
        at the position that it belongs to; where it has `similarities`, the planes of
        `iqa_jax.ops.similarity` stand behind both.

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
        taps, pixelwise = self.config.taps, self.config.magnitudes
        maps = self.backbone.features(images, tuple(dict.fromkeys(taps + pixelwise)))
        cells = {name: cells_of(values, self.grid) for name, values in maps.items()}
        averages = [cells[name].mean(axis=-2) for name in taps]
        pixels = [cells[name] for name in pixelwise]
        if self.config.similarities:
            luma, chroma = similarity.planes(images)
            pixels += [cells_of(luma[..., None], self.grid), cells_of(chroma, self.grid)]
        return jnp.concatenate(averages + [x.reshape(*x.shape[:3], -1) for x in pixels], axis=-1)

    def projected(self, features: jax.Array) -> jax.Array:
        """Features after `conv_proj`; single pixels stay as they are, behind them."""
        if features.shape[-1] == self.conv_proj.in_features:
            return self.conv_proj(features)
        averages, pixels = jnp.split(features, [self.conv_proj.in_features], axis=-1)
        return jnp.concatenate([self.conv_proj(averages), pixels], axis=-1)

    def project(self, images: jax.Array) -> jax.Array:
        """What `assess` takes: the features of crops (B, S, S, 3) after `projected`, (B, h, w, D or more)."""
        return few_at_a_time(lambda x: self.projected(self.features(x)), images)

    def denormalise(self, prediction: jax.Array) -> jax.Array:
        """Normalised predictions -> MOS units."""
        return prediction * self.config.mos_std + self.config.mos_mean


class Compared(NamedTuple):
    """What a full-reference model's last layers see of pairs of crops.

    Attributes:
      reference, distorted: features (B, h, w, C), averages or their projections.
      magnitudes: with the configuration's `magnitudes`, (B, h, w, channels).
      similarities, error: with its `similarities`, what `iqa_jax.ops.similarity` gives: maps
        (B, h, w, channels) and mean squared error (B,).
    """

    reference: jax.Array
    distorted: jax.Array
    magnitudes: jax.Array | None = None
    similarities: jax.Array | None = None
    error: jax.Array | None = None


class FullReferenceModel(IQAModel):
    """Compares the projections of f_ref and of f_ref - f_dis; subclasses give `judge`."""

    full_reference = True

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        channels = sum(self.backbone.maps[name][0] for name in config.magnitudes)
        kw: dict[str, Any] = {"dtype": jnp.dtype(config.dtype), "rngs": rngs}
        self.magnitude_proj = dense(channels, config.dim, **kw) if channels else None
        self.similarity_proj = dense(similarity.CHANNELS, config.dim, **kw) if config.similarities else None

    def compared(self, reference: jax.Array, distorted: jax.Array) -> "Compared":
        """What `judge` takes, from what `project` gave of both images.

        Each image is projected once, and a reference once for all its distorted versions.
        """
        return self._compared(reference, distorted, self.config.dim)

    def compared_features(self, reference: jax.Array, distorted: jax.Array) -> "Compared":
        """All that training needs of `features` of both images, with averages that are not yet projected.

        It depends on frozen weights alone, so that it can be kept; `projected_comparison` goes on from it.
        """
        return self._compared(reference, distorted, self.conv_proj.in_features)

    def projected_comparison(self, features: "Compared") -> "Compared":
        """What `judge` takes, from what `compared_features` gave."""
        reference, distorted = self.conv_proj(features.reference), self.conv_proj(features.distorted)
        return features._replace(reference=reference, distorted=distorted)

    def _compared(self, reference: jax.Array, distorted: jax.Array, channels: int) -> "Compared":
        """The first `channels` of both images, and what the single pixels behind them show."""
        details: dict[str, Any] = {}
        if self.config.magnitudes:
            details["magnitudes"] = self.magnitudes(reference[..., channels:], distorted[..., channels:])
        if self.config.similarities:
            planes = self.planes(reference), self.planes(distorted)
            details["similarities"] = similarity.maps(*planes, self.grid)
            details["error"] = similarity.error(*planes)
        return Compared(reference[..., :channels], distorted[..., :channels], **details)

    def difference(self, compared: "Compared") -> jax.Array:
        """The projection of f_ref - f_dis and of what else tells them apart, (B, h, w, D).

        The projection of f_ref - f_dis is the difference of both projections plus the bias.
        """
        parameter = cast("nnx.Param[jax.Array]", self.conv_proj.bias)  # `dense` gives one
        bias = parameter[...].astype(compared.reference.dtype).reshape(1, 1, 1, -1)
        difference = compared.reference - compared.distorted + bias
        if self.magnitude_proj is not None:
            difference += self.magnitude_proj(cast(jax.Array, compared.magnitudes))
        if self.similarity_proj is not None:
            maps = cast(jax.Array, compared.similarities)
            typical = jnp.asarray(similarity.TYPICAL, maps.dtype).reshape(1, 1, 1, -1)
            difference += self.similarity_proj(maps / typical)
        return difference

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

    def planes(self, projected: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What `iqa_jax.ops.similarity.maps` takes, from what `project` gave of an image."""
        side = self.config.stride
        luma, chroma = jnp.split(projected[..., -(side**2) * 3 // 2 :], [side**2], axis=-1)
        return image_of_cells(luma, side, 1)[..., 0], image_of_cells(chroma, side // 2, 2)

    def graded(self, prediction: jax.Array, compared: "Compared") -> jax.Array:
        """The score (B,) float32 from the last layer's output.

        With `similarities` the output says how far the score is below the best, in quarters of the scale.  So
        no score is above the best, and equal crops have it.  Errors with a PSNR far above 70 dB do not count.
        """
        prediction = prediction.astype(jnp.float32)
        if compared.error is None:
            return prediction
        config = self.config
        best = (config.mos_high - config.mos_mean) / config.mos_std
        quarter = (config.mos_high - config.mos_low) / config.mos_std / 4
        return best - quarter * jax.nn.softplus(prediction) * compared.error / (compared.error + 1e-7)

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

    def assess(
        self, reference: jax.Array, distorted: jax.Array, *, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Normalised MOS (B,) from what `project` gave of both images."""
        return self.judge(self.compared(reference, distorted), rngs=rngs)

    @abc.abstractmethod
    def judge(self, compared: "Compared", *, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Normalised MOS (B,) from the comparison of projected features."""


def cells_of(values: jax.Array, grid: int) -> jax.Array:
    """The pixels of each of grid x grid cells: (B, H, W, C) -> (B, grid, grid, pixels, C)."""
    batch, height, _, channels = values.shape
    side = height // grid
    cells = values.reshape(batch, grid, side, grid, side, channels).swapaxes(2, 3)
    return cells.reshape(batch, grid, grid, side * side, channels)


def image_of_cells(cells: jax.Array, side: int, channels: int) -> jax.Array:
    """What `cells_of` took apart: (B, grid, grid, side * side * C) -> (B, H, W, C)."""
    batch, grid = cells.shape[:2]
    image = cells.reshape(batch, grid, grid, side, side, channels).swapaxes(2, 3)
    return image.reshape(batch, grid * side, grid * side, channels)


def split_model(model: IQAModel, *, tune_backbone: bool = False) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """Structure, what training changes (parameters and statistics), and what stays frozen.

    The backbone is frozen; with `tune_backbone` only its statistics are.  `nnx.merge` puts the parts
    together again.
    """
    frozen: nnx.filterlib.Filter = nnx.PathContains("backbone")
    if tune_backbone:
        frozen = nnx.All(frozen, nnx.Not(nnx.Param))
    return nnx.split(model, nnx.Not(frozen), ...)  # type: ignore[return-value]  # a state for each filter
