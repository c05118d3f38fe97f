"""Classical full-reference measures, to compare a model with."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from iqa_jax.data.arrays import Given, pair_of
from iqa_jax.parallel.read_ahead import read_ahead

if TYPE_CHECKING:  # needs packages that the measures do not
    from iqa_jax.data.source import PairSource

_LUMA = np.array([0.299, 0.587, 0.114])
_RADIUS = 5  # of SSIM's window, 11 x 11
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def luma(image: np.ndarray) -> np.ndarray:
    """ITU-R BT.601 luma (H, W), 0 to 255, of an image (H, W, 3), uint8 or float in [0, 1]."""
    if image.dtype == np.uint8:
        return image @ _LUMA
    return (255 * np.clip(image.astype(np.float64), 0, 1)) @ _LUMA


def psnr(reference: Given, distorted: Given) -> float | np.ndarray:
    """PSNR in dB of the luma of two images; infinite for identical ones.

    Args:
      reference, distorted: as a metric takes them: files, images of Pillow's, or arrays (H, W, 3) or
        (B, H, W, 3), uint8 or float in [0, 1].
    Returns:
      A number, or (B,).
    Raises:
      UserError: see `iqa_jax.data.arrays.images_of`, or they differ in shape.
    """
    return _measured(_psnr, reference, distorted)


def ssim(reference: Given, distorted: Given) -> float | np.ndarray:
    """SSIM of the luma of two images, with the window and the constants of Wang et al. (2004).

    The mean is over all windows that lie in the image whole.

    Args:
      reference, distorted: see `psnr`.
    Returns:
      A number, or (B,).
    Raises:
      UserError: see `psnr`.
    """
    return _measured(_ssim, reference, distorted)


def _measured(
    measure: Callable[[np.ndarray, np.ndarray], float], reference: Given, distorted: Given
) -> float | np.ndarray:
    references, images = pair_of(reference, distorted)
    if images.ndim == 3:
        return measure(luma(references), luma(images))
    return np.array([measure(luma(a), luma(b)) for a, b in zip(references, images, strict=True)])


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    mse = np.mean(np.square(a - b))
    return float(10 * np.log10(255.0**2 / mse)) if mse > 0 else float("inf")


def _ssim(a: np.ndarray, b: np.ndarray) -> float:
    mean_a, mean_b = _blurred(a), _blurred(b)
    var_a, var_b = _blurred(a * a) - mean_a * mean_a, _blurred(b * b) - mean_b * mean_b
    covariance = _blurred(a * b) - mean_a * mean_b
    numerator = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)
    denominator = (mean_a * mean_a + mean_b * mean_b + _C1) * (var_a + var_b + _C2)
    return float(np.mean(numerator / denominator))


def _blurred(x: np.ndarray) -> np.ndarray:
    """(H - 10, W - 10): weighted means over windows of 11 x 11, Gaussian of standard deviation 1.5."""
    weights = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / 1.5) ** 2)
    weights /= weights.sum()
    for _ in range(2):  # rows, then columns
        length = x.shape[0] - 2 * _RADIUS
        total = weights[_RADIUS] * x[_RADIUS : _RADIUS + length]
        for k in range(_RADIUS):
            total += weights[k] * (x[k : k + length] + x[2 * _RADIUS - k : 2 * _RADIUS - k + length])
        x = total.T
    return x


def baselines(
    source: "PairSource", *, progress: Callable[[int], object] = lambda pairs: None
) -> dict[str, np.ndarray]:
    """{"psnr", "ssim"}: (N,) of every pair, on whole images.

    Args:
      progress: called with the number of pairs just done.
    """

    def of_pair(position):
        pair = source[position]
        return psnr(pair.reference, pair.distorted), ssim(pair.reference, pair.distorted)

    values = []
    for pair_values in read_ahead(of_pair, range(len(source)), ahead=64, threads=None):
        values.append(pair_values)
        progress(1)
    return dict(zip(("psnr", "ssim"), np.array(values).T, strict=True))
