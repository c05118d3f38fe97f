"""The training loss of each epoch in float32 and in bfloat16, on the built-in set.

    python benchmarks/bfloat16.py --output docs/bfloat16.md

Trains `configs/conformer.py:demo` once for each dtype and seed.  The runs are kept in --workdir; run the same
command again to resume.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from tables import ROOT, Output, Small, put_out

SEEDS = {"float32": (0, 1, 2), "bfloat16": (0, 1)}
SMALL = {"num_steps": 2, "eval_every": 1, "batch_size": 4, "taps": "stage1", "stride": 32, "dim": 16}


def trained(workdir: Path, dtype: str, seed: int, fields: dict) -> list[dict]:
    """The lines of `metrics.jsonl` of a run, trained if it is not done."""
    run = (workdir / f"{dtype}-{seed}").resolve()
    fields = {"dtype": dtype, "seed": seed, **fields}
    command = [sys.executable, "train.py", "--config", "configs/conformer.py:demo", "--workdir", run]
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    subprocess.run(command, cwd=ROOT, check=True)
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def main(
    workdir: Annotated[Path, typer.Option(help="Where the runs are kept.")] = Path("runs/bfloat16"),
    small: Small = False,
    output: Output = None,
) -> None:
    """Train in both dtypes and compare the losses."""
    seeds, fields = (dict.fromkeys(SEEDS, (0,)), SMALL) if small else (SEEDS, {})
    workdir = workdir / "small" if small else workdir
    runs = {dtype: [trained(workdir, dtype, seed, fields) for seed in seeds[dtype]] for dtype in seeds}

    def cells(measure: str, at: int) -> str:
        values = (", ".join(f"{lines[at][measure]:.3f}" for lines in runs[dtype]) for dtype in runs)
        return " | ".join(values)

    titles = (f"{dtype}, seeds {', '.join(map(str, seeds[dtype]))}" for dtype in runs)
    lines = [f"| | {' | '.join(titles)} |", f"|---|{'---:|' * len(runs)}"]
    for at, line in enumerate(runs["float32"][0]):
        lines.append(f"| mean loss of epoch {line['epoch']} | {cells('loss', at)} |")
    lines.append(f"| SRCC at the end | {cells('srcc', -1)} |")
    put_out("\n".join(lines) + "\n", output)


if __name__ == "__main__":
    typer.run(main)
