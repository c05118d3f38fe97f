"""Agreement of predictions with human opinion, and the classical baselines."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from iqa_jax.data import PairSource


def correlations(predicted: np.ndarray, mos: np.ndarray) -> dict[str, float]:
    """PLCC, SRCC, KRCC, RMSE and the NTIRE main score (PLCC + SRCC) over a whole split.

    Args:
      predicted, mos: (N,) in the same units.
    Returns:
      {"plcc", "srcc", "krcc", "rmse", "main_score"}; a correlation that is undefined, because one
      side is constant or there are fewer than two pairs, is NaN.
    """
    from scipy import stats

    predicted, mos = np.asarray(predicted, np.float64), np.asarray(mos, np.float64)
    if predicted.shape != mos.shape or predicted.ndim != 1:
        raise ValueError(f"predicted {predicted.shape} and mos {mos.shape}: expected (N,) both")
    plcc = srcc = krcc = float("nan")
    if len(mos) > 1 and np.ptp(predicted) > 0 and np.ptp(mos) > 0:
        plcc = float(stats.pearsonr(predicted, mos).statistic)
        srcc = float(stats.spearmanr(predicted, mos).statistic)
        krcc = float(stats.kendalltau(predicted, mos).statistic)
    rmse = float(np.sqrt(np.mean(np.square(predicted - mos))))
    return {"plcc": plcc, "srcc": srcc, "krcc": krcc, "rmse": rmse, "main_score": plcc + srcc}


def without_rmse(metrics: dict[str, float]) -> dict[str, float]:
    """The same where predictions and MOS are on different scales, whose difference means nothing: no RMSE."""
    return {name: float("nan") if name == "rmse" else value for name, value in metrics.items()}


def srcc(predicted: np.ndarray, mos: np.ndarray) -> float:
    """Spearman's rank correlation of (N,) and (N,); infinite values rank first or last."""
    from scipy import stats

    return float(stats.spearmanr(predicted, mos).statistic)


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
