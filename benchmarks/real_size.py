"""PIPAL at its real size, from preparation to the submission: seconds, rates and peak memory of each stage.

    python benchmarks/real_size.py --output docs/real_size.md
    python benchmarks/real_size.py --references 4 --per-reference 6 --test-per-reference 3 --shard-mib 1

Makes a PIPAL with the real names and sizes (200 references, 23,200 distorted images of 288 x 288, 25 x 66
test pairs), whose distorted images are links to a few files, so that it needs little disk.  Then runs the
project's commands on it: preparation, some steps of the paper's recipe with the images in each place,
evaluation of the last fifth, and the submission.  The labels are made up and the backbone is random, so that
nothing here measures quality.  Each stage runs in its own process.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from tables import ROOT, Output, put_out

_SIDE, _PICTURES = 288, 5  # distorted pictures that the files are links to; each reference is another
_GROUPS = (12, 16, 10, 24, 13, 14, 27)  # distorted images of a reference in PIPAL's groups 00 to 06


def make_pipal(folder: Path, references: int, per_reference: int, test_per_reference: int) -> None:
    """A PIPAL of made-up pictures under its real names."""
    rng = np.random.default_rng(0)
    pictures = folder.with_name("pictures")
    pictures.mkdir()
    images = []
    for number in range(_PICTURES):
        coarse = Image.fromarray(rng.integers(0, 256, (36, 36, 3), np.uint8))
        images.append(np.asarray(coarse.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)))
        noisy = images[-1] + 20.0 * rng.standard_normal(images[-1].shape)
        pixels = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(pictures / f"{number}.bmp")

    def link(path: Path, number: int):
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(pictures / f"{number % _PICTURES}.bmp", path)

    def save_reference(path: Path, number: int):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(images[number % _PICTURES], number, axis=1)).save(path)

    names = [(group, index) for group, count in enumerate(_GROUPS) for index in range(count)]
    for number in range(references):
        name = f"A{number + 1:04d}"
        save_reference(folder / "Train_Ref" / f"{name}.bmp", number)
        lines = []
        for group, index in names[:per_reference]:
            file = f"{name}_{group:02d}_{index:02d}.bmp"
            link(folder / f"Distortion_{4 * number // references + 1}" / file, number)
            lines.append(f"{file},{rng.uniform(916.71, 1835.99):.4f}\n")
        labels = folder / "Train_Label" / f"{name}.txt"
        labels.parent.mkdir(exist_ok=True)
        labels.write_text("".join(lines))
    for number in range(25):
        name = f"A{number + 300:04d}"
        save_reference(folder / "NTIRE2022_FR_Testing_Ref" / f"{name}.bmp", number)
        for index in range(test_per_reference):
            link(folder / "NTIRE2022_FR_Testing_Dis" / f"{name}_10_{index:02d}.bmp", number)


def measured(command: list[str], environment: dict) -> tuple[float, float]:
    """Seconds and peak memory (MiB) of a command; ends here, with its output, if it fails."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            sys.exit(f"{' '.join(command)}\n{log.read()[-3000:]}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main(
    references: Annotated[int, typer.Option(min=5, help="Training references.")] = 200,
    per_reference: Annotated[int, typer.Option(min=1, max=116, help="Distorted images of each.")] = 116,
    test_per_reference: Annotated[int, typer.Option(min=1, help="Test pairs of each of 25.")] = 66,
    steps: Annotated[int, typer.Option(min=1, help="Training steps for each place of the images.")] = 20,
    backbone: Annotated[str, typer.Option(help="The model's backbone.")] = "inception_resnet_v2",
    shard_mib: Annotated[
        int, typer.Option(min=0, help="Largest size of a shard; 0: the writer's default.")
    ] = 0,
    work_dir: Annotated[
        Path | None, typer.Option(help="Folder for all files; they are removed at the end.")
    ] = None,
    output: Output = None,
) -> None:
    """Prepare, train on, evaluate and submit a PIPAL of real size."""
    pairs, tests = references * per_reference, 25 * test_per_reference
    batch = min(16, pairs // 5 // 2)
    with tempfile.TemporaryDirectory(dir=work_dir) as name:
        place = Path(name)
        make_pipal(place / "PIPAL", references, per_reference, test_per_reference)
        environment = {**os.environ, "IQA_JAX_CACHE": str(place / "cache")}
        data = ["--data-dir", str(place)]
        iqa = [sys.executable, "-m", "iqa_jax"]
        prepare = [*iqa]
        if shard_mib:
            bound = f"from iqa_jax.data.datasets import writer; writer.SHARD_BYTES = {shard_mib} * 2**20; "
            prepare = [sys.executable, "-c", bound + "from iqa_jax.cli.app import main; main()"]
        train = [sys.executable, "train.py", f"--config={ROOT}/configs/conformer.py:pipal"]
        train += [
            f"--config.{field}"
            for field in (
                f"data_dir={place}",
                "backbone_weights=random",
                f"backbone={backbone}",
                f"batch_size={batch}",
                f"num_steps={steps}",
                "validation_split=train[99%:]" if references >= 100 else "seed=0",
            )
        ]
        run = place / "stream"
        stages = {
            "prepare": ([*prepare, "prepare", "pipal", *data], pairs + tests + references + 25, "images"),
            **{
                f"train {steps} steps of {batch}, {kept}": (
                    [*train, f"--config.data.placement={kept}", f"--workdir={place / kept}"],
                    steps * batch,
                    "pairs",
                )
                for kept in ("stream", "host", "device")
            },
            "evaluate train[80%:]": (
                [
                    *iqa,
                    "evaluate",
                    "--weights",
                    str(run),
                    "--dataset",
                    "pipal",
                    "--split",
                    "train[80%:]",
                    "--crops",
                    "center",
                    "--output",
                    str(place / "evaluation"),
                    *data,
                ],
                pairs // 5,
                "pairs",
            ),
            "submit": (
                [
                    *iqa,
                    "submit",
                    "--weights",
                    str(run),
                    "--output",
                    str(place / "submission"),
                    "--crops",
                    "center",
                    *data,
                ],
                tests,
                "pairs",
            ),
        }
        lines = ["| stage | seconds | a second | peak memory |", "|---|---:|---:|---:|"]
        for stage, (command, count, unit) in stages.items():
            seconds, peak = measured(command, environment)
            lines.append(f"| {stage} | {seconds:,.1f} | {count / seconds:,.0f} {unit} | {peak:,.0f} MiB |")
            print(lines[-1], file=sys.stderr)
        prepared = sum(f.stat().st_size for f in (place / "pipal").rglob("*") if f.is_file())
        submitted = (place / "submission" / "output.txt").read_text().splitlines()
        if len(submitted) != tests:
            sys.exit(f"output.txt has {len(submitted)} lines, expected {tests}")
        disk = shutil.disk_usage(place)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ("jax", "tensorflow-datasets", "pillow")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    lines += [
        "",
        f"{pairs:,} pairs of {references} references and {tests:,} test pairs of 288 x 288; prepared: "
        f"{prepared / 1e9:.2f} GB. The seconds are those of whole commands. They include starting, compiling "
        "and, in training, decoding, validation and checkpoints. Measured on "
        f"{os.cpu_count()} {platform.machine()} cores, {memory:.0f} GiB of memory, a disk of "
        f"{disk.total / 2**30:,.0f} GiB, Python {platform.python_version()}, {versions}.",
    ]
    put_out("\n".join(lines) + "\n", output)


if __name__ == "__main__":
    typer.run(main)
