"""The notebook's code cells, on the CPU with the built-in set."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

from tests import networks

# Of the recipe's backbone, quick to compile.
SMALL = {name: value for name, value in networks.SMALL_RUN.items() if name != "backbone"}
ROOT = Path(__file__).resolve().parent.parent


def test_the_cells_run(packaged_weights, tmp_path):
    notebook = json.loads((ROOT / "notebooks" / "colab_tpu.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 7 and all(not cell["outputs"] for cell in cells)
    script = tmp_path / "cells.py"
    script.write_text("\n\n".join("".join(cell["source"]) for cell in cells))
    env = {
        **os.environ,
        "IQA_JAX_PROJECT": str(ROOT),
        "IQA_JAX_RUNS": str(tmp_path / "runs"),
        "IQA_JAX_STEPS": "2",
        "IQA_JAX_FIELDS": " ".join(f"--config.{name}={value}" for name, value in SMALL.items()),
        "IQA_JAX_CACHE": str(packaged_weights),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # of programs that run once
    }
    done = subprocess.run([sys.executable, script], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    with open(tmp_path / "runs" / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and all(float(row["score"]) for row in rows)
    assert len(list((tmp_path / "runs" / "maps").iterdir())) == 2
