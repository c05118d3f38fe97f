"""Pictures that are moved against their references -> the part that both show, moved back.

Translation alone is found and undone: neither zoom nor rotation.
"""

from typing import Any, NamedTuple

import numpy as np

from iqa_jax.data.arrays import Given, check_one_shape, image_of
from iqa_jax.errors import UserError, extra_named
from iqa_jax.evaluation.baselines import luma

FARTHEST = 32  # pixels that a picture may have moved
FARTHEST_SHARE = 0.05  # of its side, if that is less
_PARTS = 10  # of a pixel, the steps in which shifts are found
_WHOLE = 0.15  # pixels: a shift that is so near to a whole number is taken for it
# A shift must lower what luma leaves unexplained to this share, or it may be found by chance.
_BETTER, _BETTER_BY_PARTS = 0.9, 0.8
_BLOCK = 16  # pixels, of places that are looked at alone
_NOTHING = 0.1  # of luma squared, as much as rounding leaves after smoothing
_SMOOTH = 1.5  # standard deviation in pixels: noise and sharpness do not decide


class Aligned(NamedTuple):
    """A pair after `align`, cut to the part that both pictures show.

    Attributes:
      reference, distorted: (H, W, 3) of one size, of the dtypes that were given.
      shift: how many pixels the distorted picture lay to the right of its reference, and how many below it;
        (0, 0) if the pair was aligned already, which then comes back as it was.
    """

    reference: np.ndarray
    distorted: np.ndarray
    shift: tuple[float, float]

    def cut(self, mask: np.ndarray) -> np.ndarray:
        """The part of a mask of the distorted picture, (H, W), that belongs to what is left of it."""
        return mask if self.shift == (0, 0) else _parted(mask, mask, self.shift)[1]


def align(reference: Given, distorted: Given) -> Aligned:
    """Moves a picture back over its reference, and cuts both to the part that they share.

    The shift is the peak of the cross-correlation of both lumas (scikit-image's `phase_cross_correlation`,
    without normalisation, under a Hann window), in steps of a tenth of a pixel.  A shift by whole pixels
    changes no pixel.  Any other is undone by cubic interpolation, half of it in each picture, so that both
    stay equally sharp.

    Args:
      reference, distorted: (H, W, 3) of one size, or what else a metric takes for one picture.
    Raises:
      UserError: they are no such pictures, or the shift is too large to be believed: more than 32 pixels, or
        more than 5 % of a side.
    """
    images = image_of(reference, "reference", "align"), image_of(distorted, "distorted", "align")
    check_one_shape(*images)
    shift = _shift_of(*(luma(image).astype(np.float32) for image in images))  # half the memory
    if shift == (0, 0):
        return Aligned(*images, shift)
    height, width = images[0].shape[:2]
    for moved, side in zip(shift, (width, height), strict=True):
        if abs(moved) > min(FARTHEST, FARTHEST_SHARE * side):
            raise UserError(
                f"the picture seems to lie {describe(shift)} its reference; more than {FARTHEST} pixels or "
                f"{FARTHEST_SHARE:.0%} of a side is not believed: cut both to the same part first"
            )
    return Aligned(*_parted(*images, shift), shift)


def describe(shift: tuple[float, float]) -> str:
    """A shift in words: "1.5 pixels right of and 2 pixels above"."""
    right, below = shift
    where = {"right of" if right > 0 else "left of": right, "below" if below > 0 else "above": below}
    parts = [f"{abs(by):g} pixel{'s' * (abs(by) != 1)} {side}" for side, by in where.items() if by]
    return " and ".join(parts) or "exactly over"


def _shift_of(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """How far the luma b lies to the right of and below a; 0 unless that explains it clearly better."""
    with extra_named("align", "align", "scipy", "skimage"):
        from scipy import ndimage
        from skimage.registration import phase_cross_correlation

    if not (np.ptp(a) > 0 and np.ptp(b) > 0):
        return 0.0, 0.0
    window = np.outer(*(np.hanning(side + 2)[1:-1].astype(a.dtype) for side in a.shape))
    windowed = [(x - x.mean()) * window for x in (a, b)]
    none: Any = None  # the function's annotation lacks it
    back, _, _ = phase_cross_correlation(*windowed, upsample_factor=_PARTS, normalization=none)
    below, right = (round(-float(x), 6) for x in back)
    whole = float(round(right)), float(round(below))
    part = _snapped(right), _snapped(below)
    smooth = ndimage.gaussian_filter(a, _SMOOTH), ndimage.gaussian_filter(b, _SMOOTH)
    best, left = (0.0, 0.0), _unexplained(*smooth)
    for shift, share in ((whole, _BETTER), (part, _BETTER_BY_PARTS)):
        if shift != best and max(abs(shift[0]) / a.shape[1], abs(shift[1]) / a.shape[0]) < 0.5:
            now = _unexplained(*_parted(*smooth, shift))
            if now < share * left:
                best, left = shift, now
    return best


def _snapped(shift: float) -> float:
    """The next whole number, if it is near."""
    whole = float(round(shift))
    return whole if abs(shift - whole) <= _WHOLE else shift


def _unexplained(a: np.ndarray, b: np.ndarray) -> float:
    """What no linear function of b gives of a, a geometric mean over blocks.

    So neither brightness and contrast count, nor do a few places that differ altogether.
    """
    rows, columns = (side // _BLOCK for side in a.shape)
    height, width = rows * _BLOCK, columns * _BLOCK
    a, b = (x[:height, :width].reshape(rows, _BLOCK, columns, _BLOCK) for x in (a, b))
    a, b = (x - x.mean(axis=(1, 3), keepdims=True) for x in (a, b))
    both, of_b = ((x * b).mean(axis=(1, 3)) for x in (a, b))
    left = (a * a).mean(axis=(1, 3)) - both * both / (of_b + _NOTHING)
    return float(np.exp(np.log(left.clip(0) + _NOTHING).mean()))


def _parted(
    reference: np.ndarray, distorted: np.ndarray, shift: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """The part of both that the other shows, where the distorted one lies `shift` to the right and below."""
    rest = [x - round(x) for x in shift]
    for axis, moved in ((1, shift[0]), (0, shift[1])):
        whole, length = round(moved), reference.shape[axis]
        slices = [
            slice(max(0, -whole), length - max(0, whole)),
            slice(max(0, whole), length - max(0, -whole)),
        ]
        reference, distorted = (
            image[(slice(None),) * axis + (where,)]
            for image, where in zip((reference, distorted), slices, strict=True)
        )
    if not any(rest):
        return np.ascontiguousarray(reference), np.ascontiguousarray(distorted)
    return _moved(reference, [x / 2 for x in rest]), _moved(distorted, [-x / 2 for x in rest])


def _moved(image: np.ndarray, by: list[float]) -> np.ndarray:
    """An image moved to the right and down by parts of a pixel, without its border of one pixel."""
    from scipy import ndimage

    offset = (by[1], by[0], *(0,) * (image.ndim - 2))
    moved = ndimage.shift(image.astype(np.result_type(image, np.float32)), offset, order=3, mode="mirror")
    inner = moved[(slice(1, -1) if by[1] else slice(None)), (slice(1, -1) if by[0] else slice(None))]
    if image.dtype == np.uint8:
        return np.rint(inner).clip(0, 255).astype(np.uint8)
    if image.dtype == bool:
        return inner >= 0.5
    return inner.clip(image.min(), image.max()).astype(image.dtype)
