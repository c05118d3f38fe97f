"""Images and masks as users give them -> checked arrays.

Everything that takes images checks them here, so that all of it accepts and refuses the same.
"""

import os
import warnings
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from PIL import Image

from iqa_jax.data.images import (
    BACKGROUND,
    COMPOSITED,
    Encoded,
    from_pillow,
    from_values,
    is_encoded,
    read_image,
)
from iqa_jax.errors import DataError, UserError
from iqa_jax.ops import Array, is_array, is_traced
from iqa_jax.ops.windows import SMALLEST

Given = Array | str | os.PathLike | Image.Image | Encoded  # what counts as an image

_ROUNDING = 1e-3  # values this far outside [0, 1] are clipped; further out they are an error
_RINGING = 0.25  # resizing and restoring overshoot [0, 1] by up to this much
# The range of pixels normalised by the mean and deviation of ImageNet's or CLIP's channels.
_NORMALISED = (-2.12, 2.65)
_BATCHES = "expected a NumPy or JAX array (H, W, 3) or (B, H, W, 3)"
_WANTED = f"{_BATCHES}, or one of grey or with alpha, uint8, uint16 or float in [0, 1]"
_WANTED_TRACEABLE = f"{_BATCHES}, uint8 or float in [0, 1]"
_WANTED_MASK = "expected (H, W) or (B, H, W), bool, uint8 (255 is 1) or float in [0, 1]"
_CONVERTED = {
    "torch": "convert it: image.permute(1, 2, 0).cpu().numpy() of (3, H, W)",
    "tensorflow": "convert it: image.numpy()",
}


def images_of(given: Given, name: str) -> np.ndarray:
    """The images of an array, of a file, or of one of Pillow's, checked and on the host.

    A file is given by its name or path, as bytes, or open.  Arrays are (H, W, 3) or (B, H, W, 3); grey is
    (H, W), (H, W, 1) or (B, H, W, 1); a second or fourth channel is alpha.  They are taken as their files
    would be: 16 bits are rounded to 8, and what is transparent is composited over mid-grey.

    Args:
      name: what to call them.
    Returns:
      (H, W, 3) or (B, H, W, 3), uint8, or float with nothing outside [0, 1] but rounding errors.
    Raises:
      UserError: names what was given and what was expected.
      DataError: a file that cannot be read, see `iqa_jax.data.images.read_image`.
    """
    if isinstance(given, str | os.PathLike):
        given = read_image(given)
    elif isinstance(given, Image.Image):
        given = from_pillow(given)
    elif is_encoded(given):
        given = _read_encoded(read_image, given, name)
    if is_traced(given):
        raise UserError(
            f"{name}: traced by jax.jit, jax.vmap or jax.grad; a metric scores arrays whose values are "
            "known: inside a transformed function, use metric.loss"
        )
    arrays = cast(Array, given)
    _check_kind(arrays, name)
    images = _on_host(arrays, name)
    _check_range(images, name)
    return _as_colours(images)


def pair_of(reference: Given, distorted: Given) -> tuple[np.ndarray, np.ndarray]:
    """Both as `images_of` gives them.

    Raises:
      UserError, DataError: see there, or they differ in shape.
    """
    images = images_of(reference, "reference"), images_of(distorted, "distorted")
    check_one_shape(*images)
    return images


def image_of(given: Given, name: str, purpose: str) -> np.ndarray:
    """One image, (H, W, 3), as `images_of` gives it, to be used for a purpose ("map")."""
    image = images_of(given, name)
    if image.ndim != 3:
        raise UserError(f"{name} {image.shape}: expected one image, (H, W, 3), to {purpose}")
    return image


def traceable(images: Array, name: str) -> Array:
    """Images for `jax.jit`, `jax.grad` and the like, checked as `images_of` does where the values are known.

    Raises:
      UserError: see there; files are not taken.
    """
    _check_kind(images, name, traced=True)
    if is_traced(images):
        return images
    if isinstance(images, np.ndarray) or images.is_fully_addressable:  # else other processes have a part
        host = _on_host(images, name)
        _check_range(host, name)
        return host if isinstance(images, np.ndarray) else images
    return images


def check_one_shape(reference: Array, distorted: Array, name: str = "distorted") -> None:
    """Raises UserError unless both have the same; `name` is what to call the second."""
    a, b = reference.shape, distorted.shape
    if a == b:
        return
    if a[-3:] == b[-3:]:
        hint = "give both with a batch axis of one length, or both without; or distorted as a list"
    elif a == (*b[:-3], b[-2], b[-3], b[-1]):
        hint = "is one of them turned by 90 degrees?"
    else:
        hint = "scale one to the other's size (Image.resize, jax.image.resize) or cut the same part of both"
    raise UserError(f"reference {a} and {name} {b} differ in shape; {hint}")


def mask_of(given: Any, images: Array, name: str = "mask") -> np.ndarray:
    """A mask as an array of the images' height and width, and batch, float32 in [0, 1].

    Args:
      given: (H, W), for all images of a batch, or (B, H, W); bool, uint8 (255 is 1) or float in [0, 1]; where
        an array of `numpy.ma` is masked it is 0.  Or a file or an image of Pillow's, see `read_mask`.
      name: what to call it.
    Raises:
      UserError: it has another shape, dtype or range, or is 0 everywhere.
    """
    if isinstance(given, str | os.PathLike | Image.Image):
        given = read_mask(given)
    elif is_encoded(given):
        given = _read_encoded(read_mask, given, name)
    if is_traced(given):
        raise UserError(f"{name}: traced by jax.jit, jax.vmap or jax.grad; a mask's values have to be known")
    if not is_array(given):
        raise UserError(f"{name}: a {type(given).__name__}; {_WANTED_MASK}, or an image file")
    if given.dtype not in (np.bool_, np.uint8) and not _is_float(given.dtype):
        raise UserError(f"{name}: {given.dtype}; {_WANTED_MASK}; of labels, give mask == label")
    mask = np.asarray(given.filled(0) if isinstance(given, np.ma.MaskedArray) else given)
    mask = mask.astype(np.float32) / (255 if mask.dtype == np.uint8 else 1)
    if mask.shape not in (images.shape[:-1], images.shape[-3:-1]):
        expected = " or ".join(map(str, dict.fromkeys((images.shape[-3:-1], images.shape[:-1]))))
        raise UserError(f"{name}: shape {mask.shape}; expected {expected}, as the images are")
    if not (mask.min() >= 0 and mask.max() <= 1):  # NaN is neither
        raise UserError(f"{name}: values from {mask.min()} to {mask.max()}; expected [0, 1]")
    if not np.all(mask.any(axis=(-2, -1))):
        raise UserError(f"{name}: 0 everywhere; expected a part to score")
    return np.broadcast_to(mask, images.shape[:-1])


def _read_encoded(read: Callable[[Encoded], np.ndarray], given: object, name: str) -> np.ndarray:
    """What bytes or an open file hold; their errors say which of the arguments it is."""
    try:
        return read(cast(Encoded, given))
    except DataError as error:
        raise DataError(f"{name}: {error}") from None


def read_mask(
    given: str | os.PathLike | Image.Image | Encoded, *, say: Callable[[str], object] = warnings.warn
) -> np.ndarray:
    """A mask from an image file or one of Pillow's: its brightness, black where it is transparent.

    Args:
      say: see `iqa_jax.data.images.read_image`.
    Returns:
      (H, W) uint8, 255 where it shows all.
    Raises:
      DataError: see `iqa_jax.data.images.read_image`.
    """
    if isinstance(given, Image.Image):
        pixels = from_pillow(given, say=say, background=0)
    else:
        pixels = read_image(given, say=say, background=0)
    if np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 0], pixels[..., 2]):
        return np.ascontiguousarray(pixels[..., 0])
    return np.rint(pixels.mean(axis=-1, dtype=np.float32)).astype(np.uint8)


def _check_kind(images: Array, name: str, *, traced: bool = False) -> None:
    """Raises UserError unless type, shape and dtype are those of images, or of RGB images to be traced."""
    wanted = _WANTED_TRACEABLE if traced else _WANTED
    if not is_array(images):
        hint = _CONVERTED.get(type(images).__module__.partition(".")[0], wanted)
        raise UserError(f"{name}: a {type(images).__name__}; {hint}")
    if np.ma.is_masked(images):
        raise UserError(
            f"{name}: a masked array; give its values, image.data, and the part to be scored as a mask (H, W)"
        )
    channels = (3,) if traced else (1, 2, 3, 4)
    grey = images.ndim == 2 and not traced
    if not grey and (images.ndim not in (3, 4) or images.shape[-1] not in channels):
        raise UserError(f"{name}: shape {images.shape}; {wanted}{_misplaced(images.shape)}")
    if images.dtype != np.uint8 and not _is_float(images.dtype) and (traced or not _is_16_bit(images.dtype)):
        hint = "; of 16 bits, give image / 65535" if _is_16_bit(images.dtype) else ""
        raise UserError(f"{name}: {images.dtype}; {wanted}{hint}")
    if images.ndim == 4 and not images.shape[0]:
        raise UserError(f"{name}: shape {images.shape}; an empty batch, expected one image or more")
    if min(images.shape if grey else images.shape[-3:-1]) < SMALLEST:
        raise UserError(f"{name}: shape {images.shape}; expected {SMALLEST} pixels or more on each side")


def _misplaced(shape: tuple[int, ...]) -> str:
    """What may be wrong with a shape."""
    if len(shape) in (3, 4) and shape[-3] in (1, 3, 4):
        return "; channels come last: jnp.moveaxis(image, -3, -1)"
    return "; grey images of a batch are (B, H, W, 1)" if len(shape) == 3 else ""


def _is_16_bit(dtype) -> bool:
    return dtype.kind == "u" and dtype.itemsize == 2


def _is_float(dtype) -> bool:
    """Whether it is a float of NumPy's or JAX's; JAX refuses to compare others, such as objects."""
    if dtype.kind != "V":
        return dtype.kind == "f"
    try:
        from ml_dtypes import finfo  # of JAX's package of number formats, such as bfloat16

        finfo(dtype)
    except (ImportError, ValueError):
        return False
    return True


def _on_host(images: Array, name: str) -> np.ndarray:
    """The same values in NumPy, of a dtype that JAX knows too."""
    try:
        host = np.asarray(images)
    except RuntimeError as error:  # deleted, or of several processes
        raise UserError(f"{name}: its values cannot be read ({error})") from None
    if host.dtype.kind == "f" and (not host.dtype.isnative or host.dtype.itemsize > 8):
        return host.astype(np.float32)
    return host if host.dtype.isnative else host.astype(np.uint16)


def _as_colours(images: np.ndarray) -> np.ndarray:
    """(…, H, W, 3) of RGB or grey, with or without alpha, as files of such values are read."""
    if images.ndim == 2:
        images = images[..., None]
    channels = images.shape[-1]
    if images.dtype.kind == "u" and (channels != 3 or images.dtype != np.uint8):
        single = images.ndim == 3
        read = np.stack([from_values(image) for image in ([images] if single else images)])
        return read[0] if single else read
    if channels in (2, 4):
        alpha, images = images[..., -1:], images[..., :-1]
        if alpha.min() < 1:
            warnings.warn(COMPOSITED, stacklevel=2)
        images = images * alpha + (1 - alpha) * images.dtype.type(BACKGROUND / 255)
    return images if images.shape[-1] == 3 else np.repeat(images, 3, axis=-1)


def _check_range(images: np.ndarray, name: str) -> None:
    """Raises UserError unless all values are in [0, 1], or nearly; NumPy compiles nothing for each shape."""
    if images.dtype == np.uint8:
        return
    low, high = float(images.min()), float(images.max())
    if images.dtype.kind == "u":
        if 0 < high <= 255:
            raise UserError(
                f"{name}: {images.dtype}, and no value is above {high:.0f}; of 8 bits, give "
                "image.astype(np.uint8); of a picture of 16 bits that is as dark, image / 65535"
            )
        return
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UserError(f"{name}: holds NaN or infinite values; {_WANTED}")
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        hint = _undone(low, high)
        raise UserError(f"{name}: values from {low} to {high}; expected [0, 1]{hint and f'; {hint}'}")


def _undone(low: float, high: float) -> str:
    """How values of such a range are brought into [0, 1], as far as can be guessed."""
    if low >= -_RINGING and high <= 1 + _RINGING:
        return "clip them? np.clip(image, 0, 1)"
    if low >= 0:
        return next((f"divide by {white}?" for white in (255, 65535) if high <= white), "")
    if low >= -1 - _ROUNDING and high <= 1 + _ROUNDING:
        return "are they scaled to [-1, 1]? Then give (image + 1) / 2"
    if low >= _NORMALISED[0] and high <= _NORMALISED[1]:
        return (
            "are they normalised? Then give image * std + mean; of ImageNet's channels, std is "
            "[0.229, 0.224, 0.225] and mean [0.485, 0.456, 0.406]"
        )
    return ""
