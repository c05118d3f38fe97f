"""What an image has to be."""

import jax
import jax.numpy as jnp
import numpy as np

from iqa_jax.errors import UserError
from iqa_jax.ops import Array
from iqa_jax.ops.windows import SMALLEST

_ROUNDING = 1e-3  # so far outside [0, 1] a value is clipped; further out it is an error
_WANTED = "expected a NumPy or JAX array (H, W, 3) or (B, H, W, 3), uint8 or float in [0, 1]"


def check_images(images: Array, name: str, *, traced: bool = False) -> None:
    """Raises UserError unless `images` are what a metric takes.

    Args:
      name: what to call them.
      traced: whether `jax.jit` and the like may be at work; values are then checked where they are known.
    """
    is_traced = isinstance(images, jax.core.Tracer)
    if is_traced and not traced:
        raise UserError(
            f"{name}: traced by jax.jit, jax.vmap or jax.grad; a metric scores arrays whose values are "
            "known: inside a transformed function, use metric.loss"
        )
    if not is_traced and not isinstance(images, np.ndarray | jax.Array):
        raise UserError(f"{name}: a {type(images).__name__}; {_WANTED}")
    if images.ndim not in (3, 4) or images.shape[-1] != 3:
        raise UserError(f"{name}: shape {images.shape}; {_WANTED}")
    if images.dtype != np.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(f"{name}: {images.dtype}; {_WANTED}")
    if min(images.shape) < 1 or min(images.shape[-3:-1]) < SMALLEST:
        raise UserError(f"{name}: shape {images.shape}; expected {SMALLEST} pixels or more on each side")
    if images.dtype != np.uint8 and not is_traced:
        _check_range(images, name)


def _check_range(images: Array, name: str) -> None:
    low, high = float(images.min()), float(images.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UserError(f"{name}: holds NaN or infinite values; {_WANTED}")
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        hint = "; divide by 255?" if 1.5 < high <= 255 and low >= 0 else "; clip them?"
        raise UserError(f"{name}: values from {low} to {high}; expected [0, 1]{hint}")


def check_pair(reference: Array, distorted: Array, *, traced: bool = False) -> None:
    """Raises UserError unless both are what a metric takes, and of one shape."""
    check_images(reference, "reference", traced=traced)
    check_images(distorted, "distorted", traced=traced)
    if reference.shape != distorted.shape:
        raise UserError(f"reference {reference.shape} and distorted {distorted.shape} differ in shape")


def check_one(image: Array, name: str, purpose: str) -> None:
    """Raises UserError unless it is one image, (H, W, 3)."""
    check_images(image, name)
    if image.ndim != 3:
        raise UserError(f"{name} {image.shape}: expected one image, (H, W, 3), to {purpose}")
