"""Agreement of predictions with human opinion."""

from typing import Any

import numpy as np


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
        plcc = _statistic(stats.pearsonr(predicted, mos))
        srcc = _statistic(stats.spearmanr(predicted, mos))
        krcc = _statistic(stats.kendalltau(predicted, mos))
    rmse = float(np.sqrt(np.mean(np.square(predicted - mos))))
    return {"plcc": plcc, "srcc": srcc, "krcc": krcc, "rmse": rmse, "main_score": plcc + srcc}


def _statistic(result: Any) -> float:
    return float(result.statistic)


def without_rmse(metrics: dict[str, float]) -> dict[str, float]:
    """The same with NaN for RMSE, which means nothing where predictions and MOS are on different scales."""
    return {name: float("nan") if name == "rmse" else value for name, value in metrics.items()}


def srcc(predicted: np.ndarray, mos: np.ndarray) -> float:
    """Spearman's rank correlation of (N,) and (N,); infinite values rank first or last."""
    from scipy import stats

    return _statistic(stats.spearmanr(predicted, mos))
