"""Makes both metrics of the package from nothing: photographs, pairs, training, the folders to ship.

    python examples/pretrain/run.py --commons DIR --debian DIR --output DIR

Every step goes on where it was stopped.  Needs `iqa_jax[all]`, 25 GB of disk and 8 GB of memory; on two CPU
cores about an hour for the pairs, half an hour for each model.
"""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from card import write_card  # noqa: E402
from pairs import make_all  # noqa: E402
from photographs import photographs  # noqa: E402
from sets import write_set  # noqa: E402

PARTS = 2  # of each photograph that is trained on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--commons", type=Path, required=True, help="NNN.webp, see photographs.csv")
    parser.add_argument("--debian", type=Path, required=True, help="where the packages were unpacked")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--judged", type=Path, help="judged.csv, a table of pairs that people judged")
    parser.add_argument("--without", nargs="*", default=(), help="types that are left out of training")
    asked = parser.parse_args()
    found = photographs({"commons": asked.commons, "debian": asked.debian})
    make_all(found, PARTS, asked.output / "pairs")
    name = "-".join(["set", *asked.without])
    table = asked.output / name / "windows.csv"
    data = asked.output / f"data-{name}"
    if not (table.parent / "splits.json").exists():
        write_set(found, asked.output / "pairs", table.parent, without=tuple(asked.without))
    command("prepare", "pairs", "--manual-dir", table, "--scale", "1-5", "--data-dir", data)
    runs = {kind: asked.output / f"{kind}-{name}-{asked.seed}" for kind in ("conformer", "student")}
    for kind, run in runs.items():
        options = [f"--config.data_dir={data}", f"--config.splits={table.parent / 'splits.json'}"]
        options += [f"--config.seed={asked.seed}"]
        if kind == "student":
            options.append(f"--config.teacher={runs['conformer']}")
        command("train", "--config", f"{HERE / 'recipe.py'}:{kind}", "--workdir", run, *options)
    if asked.judged:
        command("prepare", "pairs", "--manual-dir", asked.judged, "--data-dir", data)
    for kind, shipped in (("conformer", "full-reference"), ("student", "blind")):
        folder = asked.output / f"{shipped}-{name}-{asked.seed}"
        if folder.exists():
            continue
        weights = ["--weights", runs[kind], "--step", "latest", "--ema"]
        measured = None
        if asked.judged:
            output = folder.with_suffix(".judged")
            options = ["--dataset", f"pairs/{asked.judged.stem}", "--crops", "grid", "--baselines"]
            command("evaluate", *weights, *options, "--data-dir", data, "--output", output)
            (measured,) = output.glob("metrics-*.json")
        card = write_card(folder.with_suffix(".md"), runs[kind], found, measured)
        command("pack", *weights, "--half", "--card", card, "--output", folder)


def command(*arguments) -> None:
    """Runs one of the project's commands."""
    print("iqa-jax", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "iqa_jax", *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
