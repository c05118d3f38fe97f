"""Evaluation of one model on one split, the way the field reports it."""

import dataclasses
from collections.abc import Callable

import numpy as np

from iqa_jax.data.source import PairSource
from iqa_jax.errors import DataError
from iqa_jax.evaluation.agreement import correlations, thirds, without_rmse
from iqa_jax.evaluation.statistics import Fit, bootstrap_intervals, fit_logistic

_FEW_REFERENCES = 10  # from fewer, an interval is rough


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Predictions for a whole split and how well they agree with people.

    Attributes:
      source: the pairs; `source.mos` is higher for better images whatever the data set's direction.
      predicted: (N,) predicted MOS, in the units that the model was trained in.
      trained_on: (N,) bool, the pairs whose reference is known to have been in the model's training.
      weights: the name of the weights.
      crops: the crop protocol.
      baselines: {"psnr": (N,), "ssim": (N,)}, or empty.
      metrics: {"plcc", "srcc", "krcc", "rmse", "main_score"} of `predicted`; RMSE is NaN where the model
        was trained on another scale.
      intervals: 95 % bootstrap interval over reference contents of each of them and of the mapped ones.
      fits: {"logistic4", "logistic5"}: VQEG's mappings of predictions to MOS.
    """

    source: PairSource
    predicted: np.ndarray
    trained_on: np.ndarray
    weights: str
    crops: str
    baselines: dict[str, np.ndarray]
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    fits: dict[str, Fit]

    @property
    def name(self) -> str:
        """Data set and split, fit for a file name."""
        return file_name(self.source)

    def mapped(self) -> dict[str, dict[str, float]]:
        """PLCC and RMSE after each mapping; NaN after one that failed."""
        mos = self.source.mos
        return {
            name: {k: v for k, v in correlations(fit.mapped, mos).items() if k in ("plcc", "rmse")}
            if fit.succeeded
            else {"plcc": float("nan"), "rmse": float("nan")}
            for name, fit in self.fits.items()
        }

    def by(self, column: str) -> dict[str, dict[str, float]]:
        """Metrics of each distortion type (`column="distortion"`) or reference, with `pairs`."""
        labels = getattr(self.source, column)
        groups = {label: np.flatnonzero(labels == label) for label in sorted(set(labels) - {""})}
        return {label: self._metrics_at(positions) for label, positions in groups.items()}

    def by_opinion(self) -> dict[str, dict[str, float]]:
        """Metrics of each third of the opinions, with `pairs`, `lowest_mos` and `highest_mos`.

        See `iqa_jax.evaluation.agreement.thirds`; the MOS of a third without pairs are NaN.
        """
        by_third = {}
        for name, positions in thirds(self.source.mos).items():
            mos = self.source.mos[positions] if len(positions) else np.array([np.nan])
            ends = {"lowest_mos": float(mos.min()), "highest_mos": float(mos.max())}
            by_third[name] = ends | self._metrics_at(positions)
        return by_third

    def _metrics_at(self, positions: np.ndarray) -> dict[str, float]:
        metrics = correlations(self.predicted[positions], self.source.mos[positions])
        if np.isnan(self.metrics["rmse"]):
            metrics = without_rmse(metrics)
        return {"pairs": len(positions), **metrics}

    def baseline_metrics(self) -> dict[str, dict[str, float]]:
        """Metrics of PSNR and SSIM on the same pairs; infinite PSNRs count as 100 dB."""
        return {
            name: without_rmse(correlations(np.minimum(values, 100.0), self.source.mos))
            for name, values in self.baselines.items()
        }

    @property
    def remarks(self) -> list[str]:
        """What a reader has to know to read the numbers right."""
        remarks = []
        if np.isnan(self.metrics["rmse"]):
            remarks.append("no RMSE: the model was trained on another scale than these labels have")
        if (references := len(set(self.source.reference))) < _FEW_REFERENCES:
            remarks.append(f"the intervals are rough: they come from {references} references only")
        return remarks

    @property
    def warning(self) -> str:
        """A warning to print beside the numbers if the model was trained on some of the pairs; else ""."""
        count = int(self.trained_on.sum())
        if not count:
            return ""
        share = "all" if count == len(self.source) else f"{count:,} of {len(self.source):,}"
        return f"trained on: the model has seen the references of {share} pairs in training"


def file_name(source: PairSource) -> str:
    """Data set and split, fit for a file name."""
    split = "".join(c if c.isalnum() else "-" for c in source.split).strip("-")
    return f"{source.dataset.replace('/', '-')}-{split}"


def measure_agreement(
    source: PairSource,
    predicted: np.ndarray,
    *,
    weights: str,
    crops: str,
    trained_on: np.ndarray | None = None,
    same_scale: bool = True,
    baselines: dict[str, np.ndarray] | None = None,
    resamples: int = 1000,
    progress: Callable[[int], object] = lambda resamples: None,
) -> Evaluation:
    """Compares predictions with the labels of `source`.

    Args:
      predicted: (N,) for the pairs of `source`.
      trained_on: see `Evaluation`; none if not given.
      same_scale: whether the model was trained on the scale of these labels.
      resamples: of the bootstrap.
      progress: called with the number of resamples just done.
    Raises:
      DataError: pairs have no label, or a prediction is not finite.
    """
    check_labels(source)
    if not np.isfinite(predicted).all():
        name = source.name[np.flatnonzero(~np.isfinite(predicted))[0]]
        raise DataError(f"{name}: the prediction is not finite; expected a number")
    fits = {f"logistic{n}": fit_logistic(predicted, source.mos, parameters=n) for n in (4, 5)}

    def metrics_of(positions):
        values = correlations(predicted[positions], source.mos[positions])
        return values if same_scale else without_rmse(values)

    def measured(positions):
        values = metrics_of(positions)
        for name, fit in fits.items():
            if fit.succeeded:
                after = correlations(fit.mapped[positions], source.mos[positions])
                values |= {f"{name}_{k}": after[k] for k in ("plcc", "rmse")}
        return values

    intervals = bootstrap_intervals(source.reference, measured, resamples=resamples, progress=progress)
    return Evaluation(
        source=source,
        predicted=np.asarray(predicted),
        trained_on=np.zeros(len(source), bool) if trained_on is None else trained_on,
        weights=weights,
        crops=crops,
        baselines=baselines or {},
        metrics=metrics_of(np.arange(len(source))),
        intervals=intervals,
        fits=fits,
    )


def check_labels(source: PairSource) -> None:
    """Raises DataError if a pair has no label."""
    missing = int(np.isnan(source.mos).sum())
    if missing:
        raise DataError(
            f"{source.dataset}, split {source.split}: {missing} pairs have no label to evaluate against"
        )
