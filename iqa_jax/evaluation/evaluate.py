"""Evaluation of one model on one split, the way the field reports it."""

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from iqa_jax.data.source import PairSource
from iqa_jax.errors import DataError
from iqa_jax.evaluation.agreement import correlations, without_rmse
from iqa_jax.evaluation.statistics import Fit, bootstrap_intervals, fit_logistic
from iqa_jax.files import write_whole

_FEW_REFERENCES = 10  # from fewer, an interval is rough


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Predictions for a whole split and what they are worth.

    Attributes:
      source: the pairs; `source.mos` is higher for better images whatever the data set's direction.
      predicted: (N,) predicted MOS, in the units that the model was trained in.
      trained_on: (N,) bool, the pairs whose reference the model was trained on, as far as is known.
      weights: what to call the weights.
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
        found = {}
        for label, positions in groups.items():
            metrics = correlations(self.predicted[positions], self.source.mos[positions])
            if np.isnan(self.metrics["rmse"]):
                metrics = without_rmse(metrics)
            found[label] = {"pairs": len(positions), **metrics}
        return found

    def baseline_metrics(self) -> dict[str, dict[str, float]]:
        """Metrics of PSNR and SSIM on the same pairs; infinite PSNRs count as 100 dB."""
        return {
            name: without_rmse(correlations(np.minimum(values, 100.0), self.source.mos))
            for name, values in self.baselines.items()
        }

    @property
    def remarks(self) -> list[str]:
        """What a reader of the numbers has to know."""
        remarks = []
        if np.isnan(self.metrics["rmse"]):
            remarks.append("no RMSE: the model was trained on another scale than that of these labels")
        if (references := len(set(self.source.reference))) < _FEW_REFERENCES:
            remarks.append(f"the intervals come from {references} references alone: take them as rough")
        return remarks

    @property
    def warning(self) -> str:
        """What has to stand beside the numbers if the model was trained on some of the pairs; else ""."""
        count = int(self.trained_on.sum())
        if not count:
            return ""
        share = "all" if count == len(self.source) else f"{count:,} of {len(self.source):,}"
        return f"trained on: {share} pairs are of references that the model was trained on"


def file_name(source: PairSource) -> str:
    """Data set and split, fit for a file name."""
    split = "".join(c if c.isalnum() else "-" for c in source.split).strip("-")
    return f"{source.dataset.replace('/', '-')}-{split}"


def evaluate(
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
    """Measures predictions against the labels of `source`.

    Args:
      predicted: (N,) for the pairs of `source`.
      trained_on: see `Evaluation`; none if not given.
      same_scale: whether the model was trained on the scale of these labels.
      resamples: of the bootstrap.
      progress: is told how many more resamples are done.
    Raises:
      DataError: pairs without a label, or a prediction that is not finite.
    """
    check_labels(source)
    if not np.isfinite(predicted).all():
        name = source.name[np.flatnonzero(~np.isfinite(predicted))[0]]
        raise DataError(f"{name}: its prediction is not finite, so that no measure means anything")
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
    """Raises DataError where there is no label to evaluate against."""
    missing = int(np.isnan(source.mos).sum())
    if missing:
        raise DataError(
            f"{source.dataset}, split {source.split}: {missing} pairs have no label to evaluate against"
        )


def save(evaluation: Evaluation, directory: Path) -> dict:
    """Writes `predictions-NAME.csv` and `metrics-NAME.json`; returns what is in the latter."""
    source = evaluation.source
    labels = {"mos": [f"{v + 0.0:.6f}" for v in source.mos]}  # no -0
    if not source.score.higher_is_better:
        labels[source.score.kind.lower()] = [f"{0.0 - v:.6f}" for v in source.mos]
    columns = {
        "name": source.name,
        "reference": source.reference,
        "distortion": source.distortion,
        "level": source.level,
        **labels,
        "predicted": [f"{v:.6f}" for v in evaluation.predicted],
        **{name: [f"{v:.6f}" for v in values] for name, values in evaluation.baselines.items()},
    }
    rows = [list(columns), *zip(*columns.values(), strict=True)]
    write_whole(directory / f"predictions-{evaluation.name}.csv", _csv(rows))
    content = {
        "dataset": source.dataset,
        "split": source.split,
        "weights": evaluation.weights,
        "crops": evaluation.crops,
        "pairs": len(source),
        "references": len(set(source.reference)),
        "trained_on": int(evaluation.trained_on.sum()),
        "label": f"{source.score.kind}, {'higher' if source.score.higher_is_better else 'lower'} is better",
        "predictions": "mos and predicted: higher is better"
        + ("" if source.score.higher_is_better else "; mos is dmos negated"),
        "metrics": evaluation.metrics,
        "remarks": evaluation.remarks,
        "intervals_95": evaluation.intervals,
        "fits": {name: fit.report() for name, fit in evaluation.fits.items()},
        "mapped": evaluation.mapped(),
        "by_distortion": evaluation.by("distortion"),
        "by_reference": evaluation.by("reference"),
        "baselines": evaluation.baseline_metrics(),
    }
    content = _without_nan(content)
    write_whole(directory / f"metrics-{evaluation.name}.json", json.dumps(content, indent=2) + "\n")
    return content


def _csv(rows: Iterable[Sequence]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _without_nan(value):
    """JSON has no NaN: None in its place."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


_CROSS_COLUMNS = ("plcc", "srcc", "krcc", "rmse", "main_score")


def cross_table(evaluations: list[Evaluation], directory: Path) -> str:
    """One row a data set: writes `cross.csv` and `cross.md`; returns the Markdown."""
    rows = []
    for evaluation in evaluations:
        methods = {"model": evaluation.metrics, **evaluation.baseline_metrics()}
        for method, metrics in methods.items():
            source = evaluation.source
            values = [_cell(metrics[column]) for column in _CROSS_COLUMNS]
            seen = str(int(evaluation.trained_on.sum()))
            rows.append([source.dataset, source.split, method, str(len(source)), seen, *values])
    header = ["dataset", "split", "method", "pairs", "trained on", *_CROSS_COLUMNS]
    write_whole(directory / "cross.csv", _csv([header, *rows]))
    lines = [header, ["---"] * 3 + ["---:"] * (len(header) - 3), *rows]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    write_whole(directory / "cross.md", text)
    return text


def _cell(value: float) -> str:
    """A number that is undefined, or means nothing, is left out."""
    return "" if np.isnan(value) else f"{value:.4f}"
