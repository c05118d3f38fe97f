"""EfficientNet-Lite0 (Tan and Le, 2019, without squeeze-and-excitation, ReLU6 throughout)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from iqa_jax.models.backbones.base import ConvNorm, check_images, collect_taps

# Taps for image quality assessment (our choice): the stem and the stages of stride 4, 8 and 16.
TAPS = ("conv_stem", "stage1", "stage2", "stage4")

# (blocks, kernel size, stride of the first block, expansion, channels) of each stage.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# Channels and stride of every feature map.
MAPS = {"conv_stem": (32, 2), "stage0": (16, 2), "stage1": (24, 4), "stage2": (40, 8), "stage3": (80, 16)}
MAPS |= {"stage4": (112, 16), "stage5": (192, 32), "stage6": (320, 32)}


def _identity(x: jax.Array) -> jax.Array:
    return x


class InvertedResidual(nnx.Module):
    """Expand 1 x 1, depthwise k x k, project 1 x 1; a residual where the shape allows it."""

    def __init__(self, channels_in, channels_out, kernel_size, stride, expansion, *, dtype, rngs):
        kw = {"dtype": dtype, "rngs": rngs, "activation": jax.nn.relu6}
        width = channels_in * expansion
        self.expand = ConvNorm(channels_in, width, **kw) if expansion > 1 else None
        self.depthwise = ConvNorm(width, width, kernel_size, stride=stride, depthwise=True, **kw)
        self.project = ConvNorm(width, channels_out, **{**kw, "activation": _identity})
        self.residual = stride == 1 and channels_in == channels_out

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.residual else y


class EfficientNetLite0(nnx.Module):
    """The ImageNet network.  Input: float images in [0, 1], (B, H, W, 3), of any size.

    Args:
      num_classes: size of the classifier; 0 leaves out every layer after the last of `used`.
      used: the feature maps that are asked for where there is no classifier.
      dtype: the compute type; parameters and statistics are float32.
      rngs: keys for the random initialisation.
    """

    taps: tuple[str, ...] = TAPS
    tap_channels = 32 + 24 + 40 + 112
    maps = MAPS

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        used: tuple[str, ...] = TAPS,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        kw: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.conv_stem = ConvNorm(3, 32, 3, stride=2, activation=jax.nn.relu6, **kw)
        self.stages: nnx.List[nnx.List[InvertedResidual]] = nnx.List()
        channels = 32
        last = len(STAGES) if num_classes else max(list(MAPS).index(name) for name in used)
        for blocks, kernel_size, stride, expansion, width in STAGES[:last]:
            stage: nnx.List[InvertedResidual] = nnx.List()
            for index in range(blocks):
                first = index == 0
                stage.append(
                    InvertedResidual(
                        channels if first else width,
                        width,
                        kernel_size,
                        stride if first else 1,
                        expansion,
                        **kw,
                    )
                )
            self.stages.append(stage)
            channels = width
        self.num_classes = num_classes
        if num_classes:
            self.conv_head = ConvNorm(320, 1280, activation=jax.nn.relu6, **kw)
            self.classifier = nnx.Linear(1280, num_classes, **kw)

    @staticmethod
    def grid(size: int) -> int:
        """Side of the grid to which `stacked_taps` brings all taps: stride 8 (192 -> 24)."""
        return -(-size // 8)

    def _stages(self, images: jax.Array):
        check_images(images)
        x = self.conv_stem(2.0 * images - 1.0)
        yield "conv_stem", x
        for number, stage in enumerate(self.stages):
            for block in stage:
                x = block(x)
            yield f"stage{number}", x

    def features(self, images: jax.Array, taps: tuple[str, ...] = TAPS) -> dict[str, jax.Array]:
        """The named feature maps; computes nothing after the last one asked for.

        Args:
          images: (B, H, W, 3) float in [0, 1].
          taps: "conv_stem" and "stage0" to "stage6" (timm's `blocks.0` to `blocks.6`).
        Returns:
          {name: (B, h, w, C)} in the order of `taps`.
        Raises:
          ValueError: a tap that this network does not have.
        """
        return collect_taps(self._stages(images), taps)

    def stacked_taps(self, images: jax.Array) -> jax.Array:
        """The taps brought to one grid and put side by side: (B, 192, 192, 3) -> (B, 24, 24, 208).

        Finer maps are averaged down, the coarser one is interpolated linearly (our choice).
        """
        maps = self.features(images).values()
        height, width = (self.grid(side) for side in images.shape[1:3])
        resized = [
            jax.image.resize(m, (m.shape[0], height, width, m.shape[-1]), "linear", antialias=True)
            for m in maps
        ]
        return jnp.concatenate(resized, axis=-1)

    def __call__(self, images: jax.Array) -> jax.Array:
        """ImageNet logits (B, num_classes) of images (B, H, W, 3) in [0, 1]."""
        if not self.num_classes:
            raise ValueError("this EfficientNetLite0 has no classifier (num_classes=0): use features()")
        x = self.conv_head(self.features(images, ("stage6",))["stage6"])
        return self.classifier(x.mean((1, 2)))
