"""What an image has to be, and the images of files and other libraries as such."""

import os

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from iqa_jax.data.images import from_pillow, read_image
from iqa_jax.errors import UserError
from iqa_jax.ops import Array
from iqa_jax.ops.windows import SMALLEST

_ROUNDING = 1e-3  # so far outside [0, 1] a value is clipped; further out it is an error
_WANTED = "expected a NumPy or JAX array (H, W, 3) or (B, H, W, 3), uint8 or float in [0, 1]"
_CONVERTED = {
    "torch": "convert it: image.permute(1, 2, 0).cpu().numpy() of (3, H, W)",
    "tensorflow": "convert it: image.numpy()",
}


def image_of(given: "Array | str | os.PathLike | Image.Image") -> Array:
    """The array of an image that is given as a file's name or path, or as one of Pillow's.

    Anything else is given back, to be checked by `check_images`.

    Raises:
      DataError: a file that cannot be read, see `iqa_jax.data.images.read_image`.
    """
    if isinstance(given, str | os.PathLike):
        return read_image(given)
    if isinstance(given, Image.Image):
        return from_pillow(given)
    return given


def mask_of(given: "Array | str | os.PathLike | Image.Image", image: Array) -> np.ndarray:
    """A mask as an array (H, W) or (B, H, W), float in [0, 1], of `image`.

    Args:
      given: (H, W), for all images of a batch, or (B, H, W); bool, uint8 (255 is 1) or float in [0, 1]; or
        an image whose brightness it is.
    Raises:
      UserError: it has another shape, dtype or range, or shows nothing.
    """
    mask = np.asarray(image_of(given))
    if mask.dtype not in (np.bool_, np.uint8) and not np.issubdtype(mask.dtype, np.floating):
        raise UserError(f"mask: {mask.dtype}; expected bool, uint8 or float in [0, 1]")
    mask = mask.astype(np.float32) / (255 if mask.dtype == np.uint8 else 1)
    if not isinstance(given, np.ndarray | jax.Array):
        mask = mask.mean(axis=-1)
    if mask.shape not in (image.shape[:-1], image.shape[-3:-1]):
        raise UserError(
            f"mask: shape {mask.shape}; expected {image.shape[-3:-1]}, the image's height and width"
        )
    if not (mask.min() >= 0 and mask.max() <= 1):  # NaN is neither
        raise UserError(f"mask: values from {mask.min()} to {mask.max()}; expected [0, 1]")
    if not np.all(mask.any(axis=(-2, -1))):
        raise UserError("mask: shows nothing, it is 0 everywhere")
    return np.broadcast_to(mask, image.shape[:-1])


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
        hint = _CONVERTED.get(type(images).__module__.partition(".")[0], _WANTED)
        raise UserError(f"{name}: a {type(images).__name__}; {hint}")
    if images.ndim not in (3, 4) or images.shape[-1] != 3:
        first = images.ndim in (3, 4) and images.shape[-3] == 3
        hint = "; channels come last: jnp.moveaxis(image, -3, -1)" if first else ""
        raise UserError(f"{name}: shape {images.shape}; {_WANTED}{hint}")
    if images.dtype != np.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(f"{name}: {images.dtype}; {_WANTED}")
    if min(images.shape) < 1 or min(images.shape[-3:-1]) < SMALLEST:
        raise UserError(f"{name}: shape {images.shape}; expected {SMALLEST} pixels or more on each side")
    if images.dtype != np.uint8 and not is_traced:
        _check_range(images, name)


def _check_range(images: Array, name: str) -> None:
    with jax.ensure_compile_time_eval():  # known values inside a function that jax.jit traces
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
