"""Agreement of predictions with human opinion."""

from typing import Any

import numpy as np

THIRDS = ("best third", "middle third", "worst third")


def correlations(predicted: np.ndarray, mos: np.ndarray) -> dict[str, float]:
    """PLCC, SRCC, KRCC, RMSE and the NTIRE main score (PLCC + SRCC) over a whole split.

    Args:
      predicted, mos: (N,) in the same units.
    Returns:
      {"plcc", "srcc", "krcc", "rmse", "main_score"}; a correlation that is undefined, because one
      side is constant or there are fewer than two pairs, is NaN; so is the RMSE of no pair.
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
    rmse = float(np.sqrt(np.mean(np.square(predicted - mos)))) if len(mos) else float("nan")
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


def thirds(mos: np.ndarray) -> dict[str, np.ndarray]:
    """The pairs of the best, the middle and the worst third of the opinions.

    Pairs with one opinion are never divided: where they lie across a border, all go to the third in which
    their middle lies, and to the middle third if that is the border itself.  The thirds then differ in size,
    and one may be empty.

    Args:
      mos: (N,), higher is better.
    Returns:
      For each of `THIRDS` the positions of its pairs, in ascending order.
    """
    from scipy import stats

    mos = np.asarray(mos, np.float64)
    # Twice the number of pairs below the middle of each group of equal opinions, from 1 to 2 N - 1.
    below = np.rint(2 * stats.rankdata(mos)).astype(int) - 1
    worst, best = 3 * below < 2 * len(mos), 3 * below > 4 * len(mos)
    chosen = best, ~(worst | best), worst
    return {name: np.flatnonzero(mask) for name, mask in zip(THIRDS, chosen, strict=True)}
