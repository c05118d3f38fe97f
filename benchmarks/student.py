"""The student with and without pseudo-labels and noise, over seeds, on the built-in set.

    python benchmarks/student.py --output docs/student_results.md

Trains for each seed a teacher, then three students with the same number of steps on the same labelled
images: with the labels alone, with pseudo-labels, and with noise on the pseudo-labelled images too.
Measures all on the held-out photographs. The runs are kept in --workdir; run the same command again to
resume. The baselines are total variation and, if the package `brisque` is installed, BRISQUE.
"""

import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from measures import brisque, installed
from tables import ROOT, Output, Small, put_out

from iqa_jax.data.preparation import prepare_dataset
from iqa_jax.data.source import PairSource
from iqa_jax.evaluation.agreement import correlations
from iqa_jax.evaluation.baselines import luma
from iqa_jax.evaluation.statistics import bootstrap_intervals
from iqa_jax.ops.programs import keep_programs
from iqa_jax.scoring.dataset import Predictor

_QUIET = ("flip", "rotation", "cut_out", "grid_mask", "dropout", "stochastic_depth")
LABELS_ONLY = ["--config.pseudo_ratio=0", "--config.batch_size=8"]
ARMS = {
    "teacher, with reference": None,
    "student, labels only": LABELS_ONLY,
    "student, pseudo-labels without noise": [f"--config.noise.{name}=0" for name in _QUIET],
    "student, pseudo-labels with noise": [],
}


SMALL = {"num_steps": 1, "batch_size": 4, "taps": "stage1", "stride": 32, "dim": 16}
SMALL_STUDENT = {"unlabelled_split": "unlabelled[:2%]", "pseudo_crops": "center"}


def trained(workdir: Path, arm: str, seed: int, small: bool) -> Path:
    """The run of an arm, trained if it is not done; the teacher's first."""
    name = "".join(c if c.isalnum() else "-" for c in arm)
    run = workdir / f"{name}-{seed}"
    config, options, fields = "conformer", [], SMALL if small else {}
    if ARMS[arm] is not None:
        config, options = "student", [*ARMS[arm]]
        if ARMS[arm] is not LABELS_ONLY:
            options.append(f"--config.teacher={workdir / f'teacher--with-reference-{seed}'}")
            fields = fields | (SMALL_STUDENT if small else {})
    options += [f"--config.{name}={value}" for name, value in fields.items()]
    command = [sys.executable, "train.py", "--config", f"configs/{config}.py:demo", f"--config.seed={seed}"]
    subprocess.run([*command, *options, "--workdir", run.resolve()], cwd=ROOT, check=True)
    return run


def total_variation(image: np.ndarray) -> float:
    """Mean absolute difference of neighbours in the luma of (H, W, 3) uint8."""
    y = luma(image)
    return float(np.abs(np.diff(y, axis=0)).mean() + np.abs(np.diff(y, axis=1)).mean())


def outside_baselines() -> dict:
    """{name: function of an image}."""
    return {"total variation": total_variation} | ({"BRISQUE": brisque} if installed(["brisque"])[0] else {})


def row(name: str, source: PairSource, predictions: list[np.ndarray]) -> str:
    """Means over the seeds, with intervals over reference contents."""

    def measured(at):
        values = [correlations(p[at], source.mos[at]) for p in predictions]
        return {key: statistics.mean(v[key] for v in values) for key in ("plcc", "srcc")}

    means = measured(np.arange(len(source)))
    intervals = bootstrap_intervals(source.reference, measured, resamples=1000)
    cells = [f"{means[k]:.3f} ({intervals[k][0]:.3f} to {intervals[k][1]:.3f})" for k in ("plcc", "srcc")]
    seeds = ", ".join(f"{correlations(p, source.mos)['srcc']:.3f}" for p in predictions)
    return f"| {name} | {' | '.join(cells)} | {seeds} |"


def main(
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0, 1, ...")] = 3,
    workdir: Annotated[Path, typer.Option(help="Where the runs are kept.")] = Path("runs/student-benchmark"),
    small: Small = False,
    output: Output = None,
) -> None:
    """Train teachers and students over seeds and compare them."""
    keep_programs()
    source = PairSource(prepare_dataset("iqa_demo"), "validation[:5%]" if small else "validation")
    seeds, crops, workdir = (1, "center", workdir / "small") if small else (seeds, "ten", workdir)
    images = [source.distorted_image(position) for position in range(len(source))]
    lines = ["| | PLCC | SRCC | SRCC of each seed |", "|---|---:|---:|---:|"]
    rates = {}
    for arm in ARMS:
        runs = [trained(workdir, arm, seed, small) for seed in range(seeds)]
        predictions = []
        for run in runs:
            predictor = Predictor(run, step="latest", ema=True, crops=crops)
            predictions.append(predictor(source))
            start = time.perf_counter()
            predictor(source)
            rates.setdefault(arm, []).append(len(source) / (time.perf_counter() - start))
        lines.append(row(arm, source, predictions))
    for name, function in outside_baselines().items():
        lines.append(row(name, source, [np.array([function(image) for image in images])]))
    lines += [
        "",
        "Means over the seeds, with 95 % bootstrap intervals over reference contents; averaged weights of "
        f"the last step, ten crops, {len(source)} pairs of {len(set(source.reference))} photographs.",
        "",
        "| ten crops an image | images a second |",
        "|---|---:|",
        *(f"| {arm} | {statistics.median(found):.1f} |" for arm, found in rates.items()),
        "",
        f"On {os.cpu_count()} {platform.machine()} cores; the teacher reads each reference once.",
    ]
    put_out("\n".join(lines) + "\n", output)


if __name__ == "__main__":
    typer.run(main)
