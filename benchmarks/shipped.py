"""Seconds of the shipped metrics on JAX's default device, and of other weights.

    python benchmarks/shipped.py --beside runs/conformer      # a run of configs/conformer.py:demo

The contestants take turns in three tasks: a pair of 288 x 288 pixels in memory; a pair of 12-megapixel JPEG
files with decoding; the command `score` for a pair of 288 x 288 from its start, with programs compiled
before.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from scoring import PHOTOGRAPH, SMALL_PHOTOGRAPH, example_images, folder_pairs, write_folder
from tables import ROOT, Output, Small, put_out
from tqdm import tqdm

import iqa_jax

TASKS = ("a pair of 288 x 288", "a pair of 12-megapixel files", "the whole command, 288 x 288")


def tasks(weights: str, folder: Path) -> list:
    """What is timed, a function each."""
    metric = iqa_jax.load(weights)
    small_files = folder / "small.png", folder / "small-reference.png"
    small, large = [np.asarray(Image.open(path)) for path in small_files], folder_pairs(folder)[0]

    def score(distorted, reference):
        return float(metric(reference, distorted) if metric.full_reference else metric(distorted))

    command = [sys.executable, "-m", "iqa_jax", "score", "--weights", weights, "-t", small_files[0]]
    if metric.full_reference:
        command += ["-r", small_files[1]]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return [
        lambda: score(*small),
        lambda: score(*large),
        lambda: subprocess.run(command, check=True, capture_output=True, env=environment),
    ]


def main(
    beside: Annotated[
        list[str] | None, typer.Option(help="Other weights to measure; may be repeated.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each contestant is measured.")] = 9,
    small: Small = False,
    output: Output = None,
) -> None:
    """Measure the seconds of the shipped metrics."""
    rounds, size = (1, SMALL_PHOTOGRAPH) if small else (rounds, PHOTOGRAPH)
    contestants = ["full-reference", "blind", *(beside or [])]
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        write_folder(folder, size)
        reference, (distorted,) = example_images(288, 288, 1)
        Image.fromarray(reference).save(folder / "small-reference.png")
        Image.fromarray(distorted).save(folder / "small.png")
        timed = {name: tasks(name, folder) for name in contestants}
        seconds = {name: [[] for _ in TASKS] for name in contestants}
        for task in tqdm(range(len(TASKS)), unit="task"):
            for number in range(rounds + 1):
                for name, functions in timed.items():
                    start = time.perf_counter()
                    functions[task]()
                    if number:  # the first round compiles
                        seconds[name][task].append(time.perf_counter() - start)
    lines = [f"| seconds | {' | '.join(contestants)} |", f"|---|{'---:|' * len(contestants)}"]
    for task, title in enumerate(TASKS):
        cells = (f"{statistics.median(seconds[name][task]):.3f}" for name in contestants)
        lines.append(f"| {title} | {' | '.join(cells)} |")
    put_out("\n".join(lines) + "\n", output)


if __name__ == "__main__":
    typer.run(main)
