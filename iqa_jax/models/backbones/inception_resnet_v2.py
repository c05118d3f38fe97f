"""Inception-ResNet-v2 (Szegedy et al., 2016, arXiv:1602.07261), named and laid out as in timm."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from iqa_jax.models.backbones.base import ConvNorm, check_images, collect_taps, pointwise_branches
from iqa_jax.ops.conv import max_pool

# Taps for image quality assessment: after `mixed_5b` and after blocks 2, 4, 6, 8, 10 of `repeat`.
TAPS = ("mixed_5b", "block35_2", "block35_4", "block35_6", "block35_8", "block35_10")
LATER_TAPS = ("mixed_6a", "repeat_1", "mixed_7a", "repeat_2", "block8", "conv2d_7b")

# Sides of the smallest images that leave a pixel at the end of the network, and at `TAPS`.
SMALLEST, SMALLEST_FOR_TAPS = 75, 27


def _avg_pool_inside(x: jax.Array) -> jax.Array:
    """3 x 3 average with stride 1; at the border only pixels inside the image count."""
    return nnx.avg_pool(x, (3, 3), strides=(1, 1), padding="SAME", count_include_pad=False)


class Mixed5b(nnx.Module):
    """35 x 35 at the ImageNet size: 192 channels -> 320."""

    def __init__(self, *, dtype, rngs):
        kw = {"dtype": dtype, "rngs": rngs}
        self.branch0 = ConvNorm(192, 96, **kw)
        self.branch1 = nnx.List([ConvNorm(192, 48, **kw), ConvNorm(48, 64, 5, **kw)])
        self.branch2 = nnx.List(
            [ConvNorm(192, 64, **kw), ConvNorm(64, 96, 3, **kw), ConvNorm(96, 96, 3, **kw)]
        )
        self.branch3 = ConvNorm(192, 64, **kw)

    def __call__(self, x: jax.Array) -> jax.Array:
        a, b, c = pointwise_branches(x, self.branch0, self.branch1[0], self.branch2[0])
        b = self.branch1[1](b)
        c = self.branch2[2](self.branch2[1](c))
        return jnp.concatenate([a, b, c, self.branch3(_avg_pool_inside(x))], axis=-1)  # 320 channels


class Block35(nnx.Module):
    """Residual block of 320 channels (35 x 35 at the ImageNet size)."""

    def __init__(self, *, dtype, rngs):
        kw = {"dtype": dtype, "rngs": rngs}
        self.branch0 = ConvNorm(320, 32, **kw)
        self.branch1 = nnx.List([ConvNorm(320, 32, **kw), ConvNorm(32, 32, 3, **kw)])
        self.branch2 = nnx.List(
            [ConvNorm(320, 32, **kw), ConvNorm(32, 48, 3, **kw), ConvNorm(48, 64, 3, **kw)]
        )
        self.conv2d = nnx.Linear(128, 320, **kw)

    def __call__(self, x: jax.Array) -> jax.Array:
        a, b, c = pointwise_branches(x, self.branch0, self.branch1[0], self.branch2[0])
        b = self.branch1[1](b)
        c = self.branch2[2](self.branch2[1](c))
        return jax.nn.relu(0.17 * self.conv2d(jnp.concatenate([a, b, c], axis=-1)) + x)


class Mixed6a(nnx.Module):
    """Reduction to 17 x 17: 320 channels -> 1,088."""

    def __init__(self, *, dtype, rngs):
        kw = {"dtype": dtype, "rngs": rngs}
        self.branch0 = ConvNorm(320, 384, 3, stride=2, padding="VALID", **kw)
        self.branch1 = nnx.List(
            [
                ConvNorm(320, 256, **kw),
                ConvNorm(256, 256, 3, **kw),
                ConvNorm(256, 384, 3, stride=2, padding="VALID", **kw),
            ]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        b = x
        for conv in self.branch1:
            b = conv(b)
        return jnp.concatenate([self.branch0(x), b, max_pool(x)], axis=-1)  # 1088 channels


class ResidualBlock(nnx.Module):
    """`block17` and `block8`: a 1 x 1 branch beside one with a (1, k) and a (k, 1) convolution."""

    def __init__(self, channels, branch0, branch1, kernel_size, *, scale, final=False, dtype, rngs):
        kw = {"dtype": dtype, "rngs": rngs}
        a, b, c = branch1
        self.branch0 = ConvNorm(channels, branch0, **kw)
        self.branch1 = nnx.List(
            [
                ConvNorm(channels, a, **kw),
                ConvNorm(a, b, (1, kernel_size), **kw),
                ConvNorm(b, c, (kernel_size, 1), **kw),
            ]
        )
        self.conv2d = nnx.Linear(branch0 + c, channels, **kw)
        self.scale, self.final = scale, final

    def __call__(self, x: jax.Array) -> jax.Array:
        a, b = pointwise_branches(x, self.branch0, self.branch1[0])
        b = self.branch1[2](self.branch1[1](b))
        y = self.scale * self.conv2d(jnp.concatenate([a, b], axis=-1)) + x
        return y if self.final else jax.nn.relu(y)


class Mixed7a(nnx.Module):
    """Reduction to 8 x 8: 1,088 channels -> 2,080."""

    def __init__(self, *, dtype, rngs):
        kw = {"dtype": dtype, "rngs": rngs}
        half = {"stride": 2, "padding": "VALID", **kw}
        self.branch0 = nnx.List([ConvNorm(1088, 256, **kw), ConvNorm(256, 384, 3, **half)])
        self.branch1 = nnx.List([ConvNorm(1088, 256, **kw), ConvNorm(256, 288, 3, **half)])
        self.branch2 = nnx.List(
            [ConvNorm(1088, 256, **kw), ConvNorm(256, 288, 3, **kw), ConvNorm(288, 320, 3, **half)]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        a, b, c = pointwise_branches(x, self.branch0[0], self.branch1[0], self.branch2[0])
        a, b = self.branch0[1](a), self.branch1[1](b)
        c = self.branch2[2](self.branch2[1](c))
        return jnp.concatenate([a, b, c, max_pool(x)], axis=-1)  # 2080 channels


class InceptionResNetV2(nnx.Module):
    """The ImageNet network.  Input: float images in [0, 1], (B, H, W, 3), H and W of at least 75 (27 for
    the features up to the last of `TAPS`).

    Args:
      num_classes: size of the classifier; 0 leaves out every layer after the last of `TAPS`.
      dtype: the compute type; parameters and statistics are float32.
      rngs: keys for the random initialisation.
    """

    taps: tuple[str, ...] = TAPS
    maps: dict[str, tuple[int, int]] = {}  # unpadded convolutions: no map divides the image evenly
    tap_channels = 6 * 320

    def __init__(self, *, num_classes: int = 1000, dtype: jnp.dtype = jnp.float32, rngs: nnx.Rngs):
        kw: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.conv2d_1a = ConvNorm(3, 32, 3, stride=2, padding="VALID", **kw)
        self.conv2d_2a = ConvNorm(32, 32, 3, padding="VALID", **kw)
        self.conv2d_2b = ConvNorm(32, 64, 3, **kw)
        self.conv2d_3b = ConvNorm(64, 80, **kw)
        self.conv2d_4a = ConvNorm(80, 192, 3, padding="VALID", **kw)
        self.mixed_5b = Mixed5b(**kw)
        self.repeat = nnx.List([Block35(**kw) for _ in range(10)])
        self.num_classes = num_classes
        if not num_classes:
            return
        self.mixed_6a = Mixed6a(**kw)
        self.repeat_1 = nnx.List(
            [ResidualBlock(1088, 192, (128, 160, 192), 7, scale=0.10, **kw) for _ in range(20)]
        )
        self.mixed_7a = Mixed7a(**kw)
        self.repeat_2 = nnx.List(
            [ResidualBlock(2080, 192, (192, 224, 256), 3, scale=0.20, **kw) for _ in range(9)]
        )
        self.block8 = ResidualBlock(2080, 192, (192, 224, 256), 3, scale=1.0, final=True, **kw)
        self.conv2d_7b = ConvNorm(2080, 1536, **kw)
        self.classif = nnx.Linear(1536, num_classes, **kw)

    @staticmethod
    def grid(size: int) -> int:
        """Side of the taps' feature map for square images of `size` pixels (192 -> 21)."""
        stem = ((size - 3) // 2 + 1) - 2
        return (((stem - 3) // 2 + 1) - 2 - 3) // 2 + 1

    def _stages(self, images: jax.Array):
        """Yields (name, output) of each stage in order; what is not asked for is not computed."""
        check_images(images, SMALLEST_FOR_TAPS)
        x = 2.0 * images - 1.0
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x)))
        x = self.conv2d_4a(self.conv2d_3b(max_pool(x)))
        x = self.mixed_5b(max_pool(x))
        yield "mixed_5b", x
        for number, block35 in enumerate(self.repeat, start=1):
            x = block35(x)
            yield f"block35_{number}", x
        if not self.num_classes:
            return
        check_images(images, SMALLEST)
        x = self.mixed_6a(x)
        yield "mixed_6a", x
        for block in self.repeat_1:
            x = block(x)
        yield "repeat_1", x
        x = self.mixed_7a(x)
        yield "mixed_7a", x
        for block in self.repeat_2:
            x = block(x)
        yield "repeat_2", x
        x = self.block8(x)
        yield "block8", x
        yield "conv2d_7b", self.conv2d_7b(x)

    def features(self, images: jax.Array, taps: tuple[str, ...] = TAPS) -> dict[str, jax.Array]:
        """The named feature maps; computes nothing after the last one asked for.

        Args:
          images: (B, H, W, 3) float in [0, 1].
          taps: names from `TAPS` and, with a classifier, `LATER_TAPS`; also any `block35_N`.
        Returns:
          {name: (B, h, w, C)} in the order of `taps`.
        Raises:
          ValueError: a tap that this network does not have; images that are too small.
        """
        return collect_taps(self._stages(images), taps)

    def stacked_taps(self, images: jax.Array) -> jax.Array:
        """The six taps side by side: (B, 192, 192, 3) -> (B, 21, 21, 1920)."""
        return jnp.concatenate(list(self.features(images).values()), axis=-1)

    def __call__(self, images: jax.Array) -> jax.Array:
        """ImageNet logits (B, num_classes) of images (B, H, W, 3) in [0, 1]."""
        if not self.num_classes:
            raise ValueError("this InceptionResNetV2 has no classifier (num_classes=0): use features()")
        x = self.features(images, ("conv2d_7b",))["conv2d_7b"]
        return self.classif(x.mean((1, 2)))
