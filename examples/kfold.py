"""Trains on ten splits of a data set by reference and prints the medians, as papers report them.

    python examples/kfold.py kadid10k --data-dir /data --config conformer:demo --output runs/kadid10k

Trains and evaluates on every split with the project's own commands, one after the other. Run the same
command again to resume. Options that this script does not know go to `train`, as in --config.num_epochs=3.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

MEASURES = ("plcc", "srcc", "krcc")
_ROOT = Path(__file__).resolve().parent.parent  # of the clone, which need not be installed


def main(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Data set.")],
    data_dir: Annotated[str, typer.Option(help="Folder in which it was prepared.")],
    output: Annotated[Path, typer.Option(help="Directory for splits, runs and evaluations.")],
    config: Annotated[str, typer.Option(help="The recipe.")] = "conformer:demo",
    folds: Annotated[int, typer.Option(min=1, help="How many splits.")] = 10,
    train: Annotated[float, typer.Option(help="Share of the references to train on.")] = 0.8,
) -> None:
    """Train on several splits of a data set and print the median of each measure."""
    place = ["--data-dir", data_dir]
    same_recipe(output, {"data set": name, "config": config, "train": train, "options": context.args})
    command("splits", name, *place, "--seeds", folds, "--train", train, "--output", output / "splits")
    files = sorted((output / "splits").glob(f"{name.replace('/', '-')}-*.json"), key=_seed)
    results = []
    for number, splits in enumerate(files[:folds]):
        run, evaluation = output / f"run-{number}", output / f"evaluation-{number}"
        if not list(evaluation.glob("metrics-*.json")):
            fields = [
                f"--config.dataset={name}",
                f"--config.data_dir={data_dir}",
                f"--config.splits={splits}",
            ]
            command("train", "--config", config, "--workdir", run, *fields, *context.args)
            options = ["--dataset", name, "--splits", splits, "--output", evaluation]
            command("evaluate", "--weights", run, *place, *options)
        (metrics,) = evaluation.glob("metrics-*.json")
        results.append(json.loads(metrics.read_text())["metrics"])
    print(f"{len(results)} divisions of {name}: median (lowest to highest)")
    for measure in MEASURES:
        values = [metrics[measure] for metrics in results]
        print(
            f"{measure.upper():5s} {statistics.median(values):.4f} ({min(values):.4f} to {max(values):.4f})"
        )


def same_recipe(output: Path, recipe: dict) -> None:
    """Notes what the runs in `output` are made with, or makes sure that it is the same as before."""
    file = output / "kfold.json"
    if file.exists():
        before = json.loads(file.read_text())
        if before != recipe:
            other = next(field for field in recipe if before.get(field) != recipe[field])
            sys.exit(f"{output}: its runs have another {other}, {before.get(other)}; choose another --output")
        return
    output.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(recipe, indent=2) + "\n")


def _seed(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def command(*arguments) -> None:
    """Runs one of the project's commands."""
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-m", "iqa_jax", *map(str, arguments)], env=environment)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    app = typer.Typer()
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(main)
    app()
