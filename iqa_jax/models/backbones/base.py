"""What a backbone has to give, and what the backbones share."""

from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx


class Backbone(Protocol):
    """An ImageNet network whose feature maps an IQA model compares.

    A backbone is an `nnx.Module` in a file of its own, with a table of its PyTorch names in
    `iqa_jax.weights.pytorch.tables`, and a line in `iqa_jax.models.backbones.BACKBONES`.  It

    - takes float images in [0, 1], (B, H, W, 3), and normalises them itself;
    - is built by `Kind(num_classes=…, dtype=…, rngs=…)`; `num_classes=0` leaves out every layer after the
      last of `taps`, so that no weight is there that the features do not need; one that has `maps` also
      takes `used=…`, names of the maps that are needed instead of `taps`;
    - normalises with running statistics whatever mode a model is in (`iqa_jax.models.layers.ConvNorm`
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
    found, wanted, seen = {}, set(taps), []
    for name, output in stages:
        seen.append(name)
        if name in wanted:
            found[name] = output
        if len(found) == len(wanted):
            return {tap: found[tap] for tap in taps}
    missing = ", ".join(sorted(wanted - found.keys()))
    raise ValueError(f"no such tap: {missing}; this network has {', '.join(seen)}")
