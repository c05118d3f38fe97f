"""Square windows of images: where they are, and cutting them.  A window is a crop of a protocol.

    center       the middle of the image
    ten          the paper's: four corners, the centre, and the same of the mirrored image
    grid         the fewest evenly spaced windows that cover the image
    overlapping  windows that overlap by half or more, for quality maps

An image below the window's size on a side is first mirrored up to it, at the bottom and on the right.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import jax

CROPS = ("grid", "ten", "center")
SMALLEST = 32  # pixels on a side, below which an image is not mirrored up but refused


class Place(NamedTuple):
    """Where a window is in an image; a mirrored one is cut and then mirrored left to right."""

    top: int
    left: int
    mirrored: bool = False


def places(crops: str, height: int, width: int, size: int) -> list[Place]:
    """The windows of side `size` of a protocol in an image, which is mirrored up where it is smaller.

    Args:
      crops: one of `CROPS`, or "overlapping".
    """
    height, width = max(height, size), max(width, size)
    if crops in ("grid", "overlapping"):
        along = covering if crops == "grid" else overlapping
        return [Place(top, left) for top in along(height, size) for left in along(width, size)]
    bottom, right = height - size, width - size
    center = (bottom // 2, right // 2)
    if crops == "center":
        return [Place(*center)]
    if crops != "ten":
        raise ValueError(f"crops {crops!r}: expected one of {', '.join(CROPS)} or overlapping")
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), center]
    # The mirrored image's crop at the left is this image's at the right, mirrored.
    return [Place(*corner) for corner in corners] + [Place(top, right - left, True) for top, left in corners]


def places_of_part(crops: str, mask: np.ndarray, size: int) -> tuple[list[Place], np.ndarray]:
    """The windows of a protocol in the part of an image that a mask shows, and how much each has of it.

    They lie in the box around the part, enlarged to a window's size where the image allows it;
    windows that have nothing of the part are left out.  Where none has anything of it, the part being in the
    corners of its box say and the protocol in the centre, they are those of the grid, which covers the box.

    Args:
      mask: (H, W), 0 outside the part, up to 1 within; not 0 everywhere.
    Returns:
      The places, and for each the mean of the mask over its window.
    """
    (top, height), (left, width) = (_extent(np.any(mask, axis=axis), size) for axis in (1, 0))
    large = mirrored_up(mask[..., None].astype(np.float64), size)
    for protocol in (crops, "grid"):
        inside = places(protocol, height, width, size)
        shifted = [Place(place.top + top, place.left + left, place.mirrored) for place in inside]
        weights = np.array([cut(large, place, size).mean() for place in shifted])
        if weights.any():
            break
    seen = np.flatnonzero(weights)
    return [shifted[k] for k in seen], weights[seen]


def _extent(shown: np.ndarray, size: int) -> tuple[int, int]:
    """Where the box around what is shown begins along a side, and its length, `size` or more if it can be."""
    (inside,) = np.nonzero(shown)
    length = max(inside[-1] + 1 - inside[0], min(size, len(shown)))
    middle = inside[0] - (length - (inside[-1] + 1 - inside[0])) // 2
    return int(np.clip(middle, 0, len(shown) - length)), int(length)


def covering(length: int, size: int) -> list[int]:
    """Where the fewest windows of `size` that cover `length` begin, evenly spaced."""
    count = max(-(-length // size), 1)
    return [round(k * (length - size) / max(count - 1, 1)) for k in range(count)]


def overlapping(length: int, size: int) -> list[int]:
    """Evenly spaced windows that overlap by half or more and reach both ends."""
    count = -(-(length - size) // (size // 2)) + 1
    return [round(k * (length - size) / max(count - 1, 1)) for k in range(count)]


def mirrored_up(image, size: int):
    """(…, H, W, C) mirrored at the bottom and on the right until H and W are `size` or more."""
    height, width = image.shape[-3:-1]
    if min(height, width) >= size:
        return image
    missing = [(0, 0)] * (image.ndim - 3) + [(0, max(size - height, 0)), (0, max(size - width, 0)), (0, 0)]
    if isinstance(image, np.ndarray):
        return np.pad(image, missing, mode="symmetric")
    import jax.numpy as jnp

    return jnp.pad(image, missing, mode="symmetric")


def cut(image, place: Place, size: int):
    """The window (…, size, size, C) of an image (…, H, W, C) that is large enough."""
    window = image[..., place.top : place.top + size, place.left : place.left + size, :]
    return window[..., ::-1, :] if place.mirrored else window


def windows(images: "jax.Array", crops: str, size: int) -> "jax.Array":
    """All windows of a protocol: (B, H, W, 3) -> (B, windows, size, size, 3)."""
    import jax.numpy as jnp

    height, width = images.shape[1:3]
    large = mirrored_up(images, size)
    return jnp.stack([cut(large, place, size) for place in places(crops, height, width, size)], axis=1)


def weighted_mean(
    scores: Sequence[float], places: Sequence[Place], height: int, width: int, size: int
) -> np.ndarray:
    """Scores of overlapping windows as a map (H, W) float32; a window weighs most in its middle."""
    ramp = np.minimum(np.arange(size) + 1, size - np.arange(size)).astype(np.float64)
    weight = np.outer(ramp, ramp)
    total = np.zeros((max(height, size), max(width, size)))
    weights = np.zeros_like(total)
    for (top, left, _), score in zip(places, scores, strict=True):
        area = np.s_[top : top + size, left : left + size]
        total[area] += score * weight
        weights[area] += weight
    return (total / weights)[:height, :width].astype(np.float32)
