"""Seconds and SRCC of fine-tuning the shipped metric on twelve pairs: kept features beside crops anywhere.

    python benchmarks/finetune.py judged.csv          # columns reference, distorted and mos

Takes four pairs of each of the first three references, and validates on the pairs of all others at the end.
Without a table the pairs are the built-in set's.  Both ways take turns, seed by seed; the seconds are those
of the whole command, from its start to its end, and of all cores together.
"""

import csv
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from PIL import Image
from tables import ROOT, Output, Small, put_out
from tqdm import tqdm

from iqa_jax.data.preparation import prepare_dataset
from iqa_jax.data.source import PairSource

WAYS = {"features of 8 places kept": 8, "crops anywhere": 0}
REFERENCES, VERSIONS = 3, 4


class Taken(NamedTuple):
    """What a run took and gave."""

    seconds: float
    cpu_seconds: float
    before: float
    after: float


def built_in(folder: Path, small: bool) -> list[dict[str, str]]:
    """Rows of a table of the built-in set's pairs, whose images are written into the folder."""
    rows = []
    for split, every in (("train", 5), ("validation", 60 if small else 15)):
        source = PairSource(prepare_dataset("iqa_demo"), split)
        for position in range(0, len(source), every):
            pair = source[position]
            names = folder / str(source.reference[position]), folder / f"{split}-{position}.png"
            for path, image in zip(names, (pair.reference, pair.distorted), strict=True):
                Image.fromarray(image).save(path.with_suffix(".png"))
            reference, distorted = (str(path.with_suffix(".png")) for path in names)
            rows.append({"reference": reference, "distorted": distorted, "mos": str(pair.mos)})
    return rows


def chosen(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The pairs that are trained on, then those of the other references."""
    of_each: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        of_each.setdefault(row["reference"], []).append(row)
    names = [name for name, own in of_each.items() if len(own) >= VERSIONS][:REFERENCES]
    spread = [np.linspace(0, len(of_each[name]) - 1, VERSIONS).astype(int) for name in names]
    training = [of_each[name][k] for name, places in zip(names, spread, strict=True) for k in places]
    return training + [row for row in rows if row["reference"] not in names]


def run(data: Path, workdir: Path, small: bool, **fields: int) -> Taken:
    """Trains once with the command."""
    pairs = REFERENCES * VERSIONS
    steps = 2 if small else 40 * pairs // 4
    given = {
        "dataset": "pairs/judged",
        "data_dir": data,
        "splits": data.parent / "splits.json",
        "num_steps": steps,
        "eval_every": steps,
        **fields,
    }
    command = [sys.executable, ROOT / "train.py", "--config", ROOT / "configs/conformer.py:finetune"]
    command += ["--workdir", workdir, *(f"--config.{name}={value}" for name, value in given.items())]
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return Taken(seconds, cpu, *(line["srcc"] for line in (lines[0], lines[-1])))


def main(
    judged: Annotated[Path | None, typer.Argument(help="A table of pairs with MOS, from 0 to 9.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 3,
    small: Small = False,
    output: Output = None,
) -> None:
    """Measure fine-tuning with kept features and without."""
    taken: dict[str, list[Taken]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        if judged:
            with judged.open(newline="") as file:
                rows = list(csv.DictReader(file))
            for row in rows:
                row |= {
                    name: str((judged.parent / row[name]).resolve()) for name in ("reference", "distorted")
                }
        else:
            rows = built_in(folder, small)
        with (folder / "judged.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, ["reference", "distorted", "mos"], extrasaction="ignore")
            table.writeheader()
            rows = chosen(rows)
            table.writerows(rows)
        pairs = REFERENCES * VERSIONS
        content = {"dataset": "pairs/judged", "split": "train"}
        for part, of in (("train", rows[:pairs]), ("validation", rows[pairs:])):
            content |= {part: list(dict.fromkeys(row["reference"] for row in of))}
        (folder / "splits.json").write_text(json.dumps(content), encoding="utf-8")
        scale = "0-9" if judged else "1-5"
        prepare = [sys.executable, "-m", "iqa_jax", "prepare", "pairs", "--manual-dir", folder / "judged.csv"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        prepare += ["--scale", scale, "--data-dir", folder / "data"]
        subprocess.run(prepare, check=True, capture_output=True, env=environment)
        for seed in tqdm(range(1 if small else seeds), unit="seed"):
            for way, places in WAYS.items():
                workdir = folder / f"{places}-{seed}"
                taken[way].append(run(folder / "data", workdir, small, keep_features=places, seed=seed))
    lines = [
        "| | seconds | CPU seconds | SRCC before | SRCC after, seed by seed |",
        "|---|---:|---:|---:|---:|",
    ]
    for way, runs in taken.items():
        seconds, cpu = (statistics.median(r[k] for r in runs) for k in (0, 1))
        after = ", ".join(f"{r.after:.3f}" for r in runs)
        lines.append(f"| {way} | {seconds:.1f} | {cpu:.1f} | {runs[0].before:.3f} | {after} |")
    lines += ["", f"Median seconds on {os.cpu_count()} cores."]
    put_out("\n".join(lines) + "\n", output)


if __name__ == "__main__":
    typer.run(main)
