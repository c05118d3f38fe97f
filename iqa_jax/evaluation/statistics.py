"""The statistics of IQA reports: VQEG's logistic mappings and bootstrap intervals."""

import dataclasses
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike


def logistic4(x: np.ndarray, top: float, bottom: float, middle: float, width: float) -> np.ndarray:
    """VQEG's 4-parameter logistic (FR-TV phase I, 2000): from `bottom` to `top` around `middle`."""
    from scipy.special import expit

    return bottom + (top - bottom) * expit((x - middle) / width)


def logistic5(x: np.ndarray, b1: float, b2: float, b3: float, b4: float, b5: float) -> np.ndarray:
    """The 5-parameter form of Sheikh, Sabir and Bovik (2006): a logistic and a line."""
    from scipy.special import expit

    return b1 * (0.5 - expit(-b2 * (x - b3))) + b4 * x + b5


@dataclasses.dataclass(frozen=True)
class Fit:
    """A fitted mapping of predictions to MOS.

    Attributes:
      succeeded: whether the fit converged to finite parameters.
      parameters: of the function, in its order; empty if the fit failed.
      mapped: (N,) predictions after the mapping; NaN if the fit failed.
      message: why it failed; empty if it did not.
    """

    succeeded: bool
    parameters: tuple[float, ...]
    mapped: np.ndarray
    message: str = ""

    def report(self) -> dict:
        """For JSON: success, parameters and the reason of a failure."""
        return {"succeeded": self.succeeded, "parameters": list(self.parameters), "message": self.message}


def fit_logistic(predicted: np.ndarray, mos: np.ndarray, *, parameters: int) -> Fit:
    """Least-squares fit of a VQEG logistic from predictions (N,) to MOS (N,).

    Both are standardised for the fit, so that start and bounds mean the same on every scale.  Start
    for 4 parameters: top and bottom at the extremes of the MOS, middle 0, width 1/2; the width is
    bounded to [1e-3, 1e3], the others are free.  Start for 5: the range of the MOS, 1, 0, 0, 0; all
    free.  Levenberg-Marquardt without bounds, trust region with them (scipy's `curve_fit`), at most
    10,000 evaluations.  A fit that fails is reported as failed and replaced by nothing.
    """
    from scipy.optimize import OptimizeWarning, curve_fit

    predicted, mos = np.asarray(predicted, np.float64), np.asarray(mos, np.float64)
    nothing = np.full(len(mos), np.nan)
    if len(mos) < parameters or not np.ptp(predicted) > 0 or not np.ptp(mos) > 0:
        return Fit(False, (), nothing, "too few pairs, or one side is constant")
    x = (predicted - predicted.mean()) / predicted.std()
    y = (mos - mos.mean()) / mos.std()
    function: Callable[..., np.ndarray]
    start: tuple[float, ...]
    bounds: tuple[ArrayLike, ArrayLike]
    if parameters == 4:
        function, start = logistic4, (y.max(), y.min(), 0.0, 0.5)
        bounds = ([-np.inf, -np.inf, -np.inf, 1e-3], [np.inf, np.inf, np.inf, 1e3])
    elif parameters == 5:
        function, start = logistic5, (np.ptp(y), 1.0, 0.0, 0.0, 0.0)
        bounds = (-np.inf, np.inf)
    else:
        raise ValueError(f"parameters={parameters}: expected 4 or 5")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)  # of the covariance, which is not used
            fitted, _ = curve_fit(function, x, y, start, bounds=bounds, maxfev=10_000)
    except RuntimeError as error:
        return Fit(False, (), nothing, str(error))
    mapped = function(x, *fitted) * mos.std() + mos.mean()
    if not np.isfinite(mapped).all():
        return Fit(False, tuple(map(float, fitted)), nothing, "the fitted parameters are not finite")
    return Fit(True, tuple(map(float, fitted)), mapped)


def bootstrap_intervals(
    contents: Sequence[str] | np.ndarray,
    measure: Callable[[np.ndarray], dict[str, float]],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    progress: Callable[[int], object] = lambda resamples: None,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of metrics, resampling reference contents with replacement.

    Pairs of one reference are not independent, so whole references are drawn, each with all its
    pairs.  A single reference gives no interval, but NaN.

    Args:
      contents: (N,) reference of each pair.
      measure: metrics of the pairs at the given positions.
      progress: called with the number of resamples just done.
    """
    values = _resampled(contents, measure, resamples, seed, progress)
    return {name: _percentiles(drawn, level) for name, drawn in values.items()}


@dataclasses.dataclass(frozen=True)
class ComparedNumber:
    """A metric's number beside that of another metric on the same pairs.

    Attributes:
      value, interval: the number, and its bootstrap interval.
      difference, difference_interval: how far it lies above the other's, and the interval of that.
    """

    value: float
    interval: tuple[float, float]
    difference: float
    difference_interval: tuple[float, float]

    @property
    def verdict(self) -> str:
        """ "higher" or "lower" where the interval of the difference leaves out 0, else "no difference".

        Empty where there is no interval.
        """
        low, high = self.difference_interval
        if np.isnan(low) or np.isnan(high):
            return ""
        return "higher" if low > 0 else "lower" if high < 0 else "no difference"


def compare_numbers(
    contents: Sequence[str] | np.ndarray,
    measure: Callable[[np.ndarray], dict[str, float]],
    base: str,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    progress: Callable[[int], object] = lambda resamples: None,
) -> dict[str, ComparedNumber]:
    """Compares the numbers of several metrics with that of one of them.

    The difference is taken within each resample.  Metrics tend to be right on the same pictures, so the
    interval of the difference is narrower than the two intervals of the metrics suggest.

    Args:
      measure: the number of each metric, by its name, of the pairs at the given positions.
      base: the name of the metric that the others are compared with.
      contents, resamples, level, seed, progress: see `bootstrap_intervals`.
    """
    everything = measure(np.arange(len(contents)))
    drawn = _resampled(contents, measure, resamples, seed, progress)
    return {
        name: ComparedNumber(
            value,
            _percentiles(drawn[name], level),
            value - everything[base],
            _percentiles(drawn[name] - drawn[base], level),
        )
        for name, value in everything.items()
    }


def _resampled(
    contents: Sequence[str] | np.ndarray,
    measure: Callable[[np.ndarray], dict[str, float]],
    resamples: int,
    seed: int,
    progress: Callable[[int], object],
) -> dict[str, np.ndarray]:
    """The metrics of each resample of reference contents; of none where there is a single content."""
    names, group = np.unique(np.asarray(contents), return_inverse=True)
    positions = np.argsort(group, kind="stable")  # those of one reference stand together
    sizes = np.bincount(group, minlength=len(names))
    starts = np.cumsum(sizes) - sizes
    values: dict[str, list[float]] = {name: [] for name in measure(np.arange(len(group)))}
    rng = np.random.default_rng(seed)
    for _ in range(resamples if len(names) > 1 else 0):
        chosen = rng.integers(len(names), size=len(names))
        counts = sizes[chosen]
        firsts = np.repeat(starts[chosen] - (np.cumsum(counts) - counts), counts)
        for name, value in measure(positions[firsts + np.arange(len(firsts))]).items():
            values[name].append(value)
        progress(1)
    return {name: np.array(drawn) for name, drawn in values.items()}


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    """The ends of the middle part of the values that are numbers; NaN where none is."""
    known, tail = values[~np.isnan(values)], 50 * (1 - level)
    low, high = np.percentile(known, (tail, 100 - tail)) if len(known) else (np.nan, np.nan)
    return float(low), float(high)
