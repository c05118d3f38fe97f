"""An evaluation as tables: predictions, measures, several data sets side by side."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from iqa_jax.evaluation.evaluation import Evaluation
from iqa_jax.files import write_whole
from iqa_jax.scoring.results import csv_text


def save_evaluation(evaluation: Evaluation, directory: Path) -> dict:
    """Writes `predictions-NAME.csv` and `metrics-NAME.json`; returns the content of the latter."""
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
    write_whole(directory / f"predictions-{evaluation.name}.csv", csv_text(rows))
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
        "by_opinion": evaluation.by_opinion(),
        "by_distortion": evaluation.by("distortion"),
        "by_reference": evaluation.by("reference"),
        "baselines": evaluation.baseline_metrics(),
    }
    content = _without_nan(content)
    write_whole(directory / f"metrics-{evaluation.name}.json", json.dumps(content, indent=2) + "\n")
    return content


def _without_nan(value: Any) -> Any:
    """None for NaN, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def replaced_by(evaluation: Evaluation, directory: Path) -> str:
    """Whose results an evaluation will replace in a directory; "" if none, or its own."""
    try:
        file = directory / f"metrics-{evaluation.name}.json"
        before = json.loads(file.read_text(encoding="utf-8"))
        weights, crops = before["weights"], before["crops"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return "" if (weights, crops) == (evaluation.weights, evaluation.crops) else f"{weights}, {crops} crops"


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
    write_whole(directory / "cross.csv", csv_text([header, *rows]))
    lines = [header, ["---"] * 3 + ["---:"] * (len(header) - 3), *rows]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    write_whole(directory / "cross.md", text)
    return text


def _cell(value: float) -> str:
    """Empty for NaN."""
    return "" if np.isnan(value) else f"{value:.4f}"
