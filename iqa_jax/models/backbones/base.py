"""What a backbone has to give, and what the backbones share."""

from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from iqa_jax.ops.conv import conv2d, depthwise_conv2d


class Backbone(Protocol):
    """An ImageNet network whose feature maps an IQA model compares.

    A backbone is an `nnx.Module` in a file of its own, with a table of its PyTorch names in
    `iqa_jax.weights.pytorch.tables`, and a line in `iqa_jax.models.backbones.BACKBONES`.  It

    - takes float images in [0, 1], (B, H, W, 3), and normalises them itself;
    - is built by `Kind(num_classes=…, dtype=…, rngs=…)`; `num_classes=0` leaves out every layer after the
      last of `taps`, so that no weight is there that the features do not need; one that has `maps` also
      takes `used=…`, names of the maps that are needed instead of `taps`;
    - normalises with running statistics whatever mode a model is in (`ConvNorm`
      does): there is no training mode, and batches do not change its features;
    - computes each example by itself, in `dtype`, from parameters in float32.

    Attributes:
      taps: names of the feature maps that are compared.
      tap_channels: channels of `stacked_taps`.
      maps: channels and stride of the maps whose pixels divide an image evenly, for models that choose their
        taps; may be empty.
      num_classes: 0, or how many logits a call gives.
    """

    taps: tuple[str, ...]
    tap_channels: int
    maps: dict[str, tuple[int, int]]
    num_classes: int

    def __init__(self, *, num_classes: int, dtype: jnp.dtype, rngs: nnx.Rngs) -> None: ...

    @staticmethod
    def grid(size: int) -> int:
        """Side of the map of `stacked_taps` for square images of `size` pixels."""
        ...

    def features(self, images: jax.Array, taps: tuple[str, ...]) -> dict[str, jax.Array]:
        """{name: (B, h, w, C)} of the named maps, in that order; computes nothing after the last.

        Raises:
          ValueError: a tap that the network does not have, or images that it does not take.
        """
        ...

    def stacked_taps(self, images: jax.Array) -> jax.Array:
        """All `taps` on one grid, side by side: (B, grid, grid, tap_channels)."""
        ...

    def __call__(self, images: jax.Array) -> jax.Array:
        """ImageNet logits (B, num_classes).

        Raises:
          ValueError: the network was built without its classifier.
        """
        ...


def check_images(images: jax.Array, smallest: int = 1) -> None:
    """Raises ValueError unless `images` are float (B, H, W, 3), H and W of at least `smallest`."""
    fits = images.ndim == 4 and images.shape[-1] == 3 and min(images.shape[1:3]) >= smallest
    if not fits or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images of shape {images.shape}, {images.dtype}: expected float in [0, 1], "
            f"(B, H, W, 3), H and W of at least {smallest}"
        )


def collect_taps(stages, taps: tuple[str, ...]) -> dict[str, jax.Array]:
    """Runs a generator of (name, output) until every name in `taps` has come."""
    outputs, wanted, seen = {}, set(taps), []
    for name, output in stages:
        seen.append(name)
        if name in wanted:
            outputs[name] = output
        if len(outputs) == len(wanted):
            return {tap: outputs[tap] for tap in taps}
    missing = ", ".join(sorted(wanted - outputs.keys()))
    raise ValueError(f"no such tap: {missing}; this network has {', '.join(seen)}")


class ConvNorm(nnx.Module):
    """Convolution without bias, then BatchNorm with its *running* statistics, then an activation.

    Backbones are made of these: pretrained, in evaluation mode whatever mode the model is in.  The
    normalisation is folded into the kernel at each call, so only a convolution and a bias run.

    Attributes:
      kernel: (kh, kw, C, D), or (kh, kw, C) when depthwise.
      scale, bias, mean, var: BatchNorm's parameters and statistics, each (D,).
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        kernel_size: int | tuple[int, int] = 1,
        *,
        stride: int = 1,
        padding: str = "SAME",
        depthwise: bool = False,
        activation=jax.nn.relu,
        epsilon: float = 1e-3,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        kh, kw = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        shape = (kh, kw, features_in) if depthwise else (kh, kw, features_in, features_out)
        fan_in = kh * kw * (1 if depthwise else features_in)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), shape) * (2 / fan_in) ** 0.5)
        self.scale = nnx.Param(jnp.ones(features_out))
        self.bias = nnx.Param(jnp.zeros(features_out))
        self.mean = nnx.BatchStat(jnp.zeros(features_out))
        self.var = nnx.BatchStat(jnp.ones(features_out))
        self.stride, self.padding, self.depthwise = stride, padding, depthwise
        self.activation, self.epsilon, self.dtype = activation, epsilon, dtype

    def folded(self) -> tuple[jax.Array, jax.Array]:
        """Kernel and bias, (1, 1, 1, D), of the equivalent convolution without BatchNorm."""
        factor = self.scale[...] * lax.rsqrt(self.var[...] + self.epsilon)
        bias = self.bias[...] - self.mean[...] * factor
        kernel = self.kernel[...]
        factor = factor.reshape(*[1] * (kernel.ndim - 1), -1)
        return (kernel * factor).astype(self.dtype), bias.astype(self.dtype).reshape(1, 1, 1, -1)

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, bias = self.folded()
        x = x.astype(self.dtype)
        if self.depthwise:
            y = depthwise_conv2d(x, kernel, stride=self.stride)
        elif (*kernel.shape[:2], self.stride) == (1, 1, 1):
            y = x @ kernel[0, 0]
        else:
            y = conv2d(x, kernel, stride=self.stride, padding=self.padding)
        return self.activation(y + bias)  # (B, H', W', D)


def pointwise_branches(x: jax.Array, *branches: ConvNorm) -> list[jax.Array]:
    """Several 1 x 1 `ConvNorm`s with ReLU that read the same input, as one matrix product."""
    kernels, biases = zip(*(branch.folded() for branch in branches), strict=True)
    kernel, bias = jnp.concatenate(kernels, axis=-1), jnp.concatenate(biases, axis=-1)
    y = x.astype(kernel.dtype) @ kernel[0, 0]
    y = jax.nn.relu(y + bias)
    edges = [0]
    for part in biases:
        edges.append(edges[-1] + part.shape[-1])
    return [y[..., a:b] for a, b in zip(edges, edges[1:], strict=False)]
