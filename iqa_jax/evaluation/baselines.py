"""The classical full-reference measures beside which a model is shown."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from iqa_jax.data.source import PairSource


def luma(image: np.ndarray) -> np.ndarray:
    """ITU-R BT.601 luma (H, W) of a uint8 image (H, W, 3), 0 to 255."""
    return image @ np.array([0.299, 0.587, 0.114])


def psnr(reference: np.ndarray, distorted: np.ndarray) -> float:
    """PSNR in dB of the luma of two uint8 images (H, W, 3); infinite for identical images."""
    mse = np.mean(np.square(luma(reference) - luma(distorted)))
    return float(10 * np.log10(255.0**2 / mse)) if mse > 0 else float("inf")


def ssim(reference: np.ndarray, distorted: np.ndarray) -> float:
    """SSIM of the luma of two uint8 images (H, W, 3), with the constants of Wang et al. (2004)."""
    from skimage.metrics import structural_similarity

    return float(
        structural_similarity(
            luma(reference),
            luma(distorted),
            data_range=255.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def baselines(
    source: PairSource, *, progress: Callable[[int], object] = lambda pairs: None
) -> dict[str, np.ndarray]:
    """{"psnr", "ssim"}: (N,) of every pair, on whole images.

    Args:
      progress: is told how many more pairs are done.
    """

    def of_pair(position):
        pair = source[position]
        return psnr(pair.reference, pair.distorted), ssim(pair.reference, pair.distorted)

    values = []
    with ThreadPoolExecutor() as pool:
        for pair_values in pool.map(of_pair, range(len(source))):
            values.append(pair_values)
            progress(1)
    return dict(zip(("psnr", "ssim"), np.array(values).T, strict=True))
