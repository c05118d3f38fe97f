"""Makes both shipped metrics from scratch: photographs, pairs, training, the folders to ship.

    python examples/pretrain/run.py --commons DIR --debian DIR --output DIR

Run the same command again to resume.  Needs all extras, 25 GB of disk and 8 GB of memory.  On two CPU cores
it takes 20 to 60 minutes for the pairs and 20 to 40 for each model.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent  # of the clone, which need not be installed
sys.path[:0] = [str(HERE), str(ROOT)]

from card import write_card
from pairs import make_all
from photographs import photographs
from sets import write_set

PARTS = 2  # of each photograph that is trained on
SHIPPED = {"conformer": "full-reference", "student": "blind"}  # recipes, and the metrics they make
HALVED = {"conformer"}  # kept as float16; the student's scores would move by up to 0.007


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--commons", type=Path, required=True, help="NNN.webp, see photographs.csv")
    parser.add_argument("--debian", type=Path, required=True, help="where the packages were unpacked")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--judged", type=Path, help="judged.csv, a table of pairs that people judged")
    parser.add_argument("--without", nargs="*", default=(), help="types that are left out of training")
    parser.add_argument("--models", nargs="+", choices=[*SHIPPED], default=[*SHIPPED], help="both by default")
    asked = parser.parse_args()
    listed = photographs({"commons": asked.commons, "debian": asked.debian})
    make_all(listed, PARTS, asked.output / "pairs")
    name = "-".join(["set", *asked.without])
    made = asked.output / name
    splits = made / "splits.json"
    if not splits.exists():
        write_set(listed, asked.output / "pairs", made, without=tuple(asked.without))
    data_dir = asked.output / f"data-{name}"
    tables = [made / "windows.csv"] + ([made / "left_out.csv"] if asked.without else [])
    for table in tables:
        command("prepare", "pairs", "--manual-dir", table, "--scale", "1-5", "--data-dir", data_dir)
    if asked.judged:
        command("prepare", "pairs", "--manual-dir", asked.judged, "--data-dir", data_dir)
    # Of the windows, those that the run was validated on.
    tested = ["iqa_demo", *(f"pairs/{table.stem}" for table in (*tables, asked.judged) if table)]
    runs = {recipe: asked.output / f"{recipe}-{name}-{asked.seed}" for recipe in SHIPPED}
    for recipe in asked.models:
        run, weights = runs[recipe], ["--weights", runs[recipe], "--step", "latest", "--ema"]
        options = [
            f"--config.data_dir={data_dir}",
            f"--config.splits={splits}",
            f"--config.seed={asked.seed}",
        ]
        if recipe == "student":
            options.append(f"--config.teacher={runs['conformer']}")
        command("train", "--config", f"{HERE / 'recipe.py'}:{recipe}", "--workdir", run, *options)
        measured = {dataset: run / "measured" / dataset.replace("/", "-") for dataset in tested}
        for dataset, output in measured.items():
            if not list(output.glob("metrics-*.json")):
                options = ["--dataset", dataset, "--crops", "grid", "--baselines"]
                command("evaluate", *weights, *options, "--data-dir", data_dir, "--output", output)
        judged = next(measured[tested[-1]].glob("metrics-*.json")) if asked.judged else None
        folder = asked.output / f"{SHIPPED[recipe]}-{name}-{asked.seed}"
        if not folder.exists():
            half = recipe in HALVED
            card = write_card(folder.with_name(f"{folder.name}.md"), run, listed, judged, half=half)
            command("pack", *weights, *(["--half"] if half else []), "--card", card, "--output", folder)


def command(*arguments) -> None:
    """Runs one of the project's commands."""
    print("iqa-jax", *arguments, flush=True)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-m", "iqa_jax", *map(str, arguments)], env=environment)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
