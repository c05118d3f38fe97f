"""Data sets and pairs from the command line."""

import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from iqa_jax.cli.options import DataDir, Json, Splits, arguments_as_options, numbers_of
from iqa_jax.cli.output import put_out, remark, table_of
from iqa_jax.errors import DataError, UserError
from iqa_jax.files import new_directory, output_file, writable_directory, write_whole
from iqa_jax.progress import progress_bar


def prepare(
    name: Annotated[str, typer.Argument(help="Data set.")],
    manual_dir: Annotated[
        Path | None,
        typer.Option(
            help="The downloaded folder; for pairs, the table, or a folder of images without labels."
        ),
    ] = None,
    scale: Annotated[
        str,
        typer.Option(
            help="For pairs: the ends of the scale, such as 1-5; by default the lowest and highest label."
        ),
    ] = "",
    average_opinions: Annotated[
        bool, typer.Option("--average-opinions", help="For pairs: average the rows of one image.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Prepare again, even if another table of this name was prepared.")
    ] = False,
    data_dir: DataDir = "",
    as_json: Json = False,
) -> None:
    """Check a downloaded data set and prepare it for training and evaluation.

    A prepared set is read whole and compared with its folder or table; it is prepared again if anything
    has changed or is damaged.

    Example: python -m iqa_jax prepare kadid10k --manual-dir ~/Downloads/kadid10k
    """
    from iqa_jax.data.datasets.overview import summary
    from iqa_jax.data.datasets.pairs import TableOptions
    from iqa_jax.data.preparation import prepare_dataset

    options = None
    if scale or average_opinions:
        options = TableOptions(_ends_of(scale), average_opinions)
    with arguments_as_options("manual_dir", "average_opinions", "data_dir", "force"):
        builder = prepare_dataset(
            name,
            data_dir=data_dir or None,
            manual_dir=manual_dir,
            options=options,
            check=True,
            force=force,
        )
    overview = summary(builder)
    header = ["split", "pairs", "references", "min", "max", "mean", "std"]
    rows = [[split, *(part[k] for k in header[1:])] for split, part in overview["splits"].items()]
    types = {kind: None for part in overview["splits"].values() for kind in part["distortions"]}
    notes = [
        f"labels: {overview['score']['kind']}, "
        f"{'higher' if overview['score']['higher_is_better'] else 'lower'} is better",
        f"distortion types: {_shortened(list(types)) or 'not given'}",
    ]
    if not builder.paired:
        notes.append("no references: single images, for models that need no reference")
    if overview["deviation"]:
        notes.append(overview["deviation"])
    put_out(overview, as_json, table_of(f"{name}, in {builder.data_dir}", header, rows), *notes)


def _ends_of(scale: str) -> tuple[float, float] | None:
    """ "1-5", "0..100", "0,5-4,5" or "-1:1" as two numbers."""
    if not scale:
        return None
    from iqa_jax.data.numerals import AmbiguousNumber, numbers

    end = r"([+\-\u2212]?[\d.,'’]+?)"
    ends = re.fullmatch(rf"{end}(?:-|–|\.\.|:){end}", scale.replace(" ", ""))
    try:
        low, high = numbers(ends.groups()) if ends else (None, None)
    except AmbiguousNumber as error:
        raise DataError(f"--scale {scale}: {error}") from None
    if low is None or high is None:
        raise DataError(f"--scale {scale}: expected two numbers, as in 1-5")
    return low, high


def _shortened(names: list[str], most: int = 40) -> str:
    """The names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def splits(
    name: Annotated[str, typer.Argument(help="Data set.")],
    seeds: Annotated[int, typer.Option(min=1, help="How many splits, with seeds 0, 1, ...")] = 10,
    train: Annotated[float, typer.Option(help="Share of the references to train on.")] = 0.8,
    split: Annotated[str, typer.Option(help="The split to divide.")] = "train",
    output: Annotated[Path, typer.Option(help="Directory for the files.")] = Path("splits"),
    data_dir: DataDir = "",
    as_json: Json = False,
) -> None:
    """Divide a data set by reference content, once for each seed; train with --config.splits=FILE.

    Example: python -m iqa_jax splits kadid10k --seeds 10 --train 0.8
    """
    from iqa_jax.data.splits import reference_splits

    if not 0 < train < 1:
        raise UserError(f"--train {train}: expected a share between 0 and 1")
    output = new_directory(output)
    source = opened(name, split, data_dir)
    divided = reference_splits(source.digests(), seeds, train)
    directory = writable_directory(output)
    files = []
    for part in divided:
        path = directory / f"{name.replace('/', '-')}-{part['seed']}.json"
        write_whole(path, json.dumps({"dataset": name, "split": split, **part}, indent=2) + "\n")
        files.append(str(path))
    count = f"{len(divided[0]['train'])} references to train on, {len(divided[0]['validation'])} to validate"
    put_out(files, as_json, f"wrote {files[0]} to {Path(files[-1]).name}: split {split} divided, {count}")


def show(
    dataset: Annotated[str, typer.Option(help="Data set.")],
    split: Annotated[str, typer.Option(help="Which pairs; by default train.")] = "",
    splits: Splits = None,
    output: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("samples.png"),
    count: Annotated[int, typer.Option(min=1, max=64, help="How many pairs.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the choice and of the augmentation.")] = 0,
    crop_size: Annotated[int, typer.Option(min=32, help="Side of the crops, pixels.")] = 192,
    rotation: Annotated[float, typer.Option(help="Largest rotation, degrees.")] = 180.0,
    data_dir: DataDir = "",
    as_json: Json = False,
) -> None:
    """Draw samples of a data set as the model sees them in training.

    Example: python -m iqa_jax show --dataset iqa_demo --output samples.png
    """
    from iqa_jax.data.marks import FIGURE, check_picture_replaceable
    from iqa_jax.reporting.report import save_samples

    output = output_file(output, ".png")
    check_picture_replaceable(output, FIGURE)
    source = opened(dataset, split, data_dir, splits)
    if source.size.min() < crop_size:
        raise DataError(f"{dataset}: an image of {source.size.min()} pixels, --crop-size is {crop_size}")
    save_samples(output, source, count=count, seed=seed, crop_size=crop_size, rotation=rotation)
    put_out({"output": str(output)}, as_json, f"wrote {output}")


def distort(
    images: Annotated[list[str], typer.Option(help="Photographs: file, directory or pattern.")],
    output: Annotated[Path, typer.Option(help="Directory for the pairs and their table, NAME.csv.")],
    name: Annotated[str, typer.Option(help="Name of the set; by default the directory's.")] = "",
    types: Annotated[str, typer.Option(help="Distortion types, such as jpeg,lens_blur; default: all.")] = "",
    levels: Annotated[str, typer.Option(help="Levels, such as 1-5 or 2,4.")] = "1-5",
    per_image: Annotated[
        int, typer.Option(min=0, help="How many combinations to draw at random for each photograph; 0: all.")
    ] = 0,
    short_side: Annotated[
        int, typer.Option(min=0, help="Scale larger photographs to this short side, pixels; 0: as they are.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw and of the random distortions.")] = 0,
    label: Annotated[
        bool, typer.Option("--label", help="Add KADID-10k's mean opinion score of type and level as mos.")
    ] = False,
    processes: Annotated[int, typer.Option(min=0, help="Number of processes; 0: one per core.")] = 0,
    as_json: Json = False,
) -> None:
    """Make reference-distorted pairs of photographs with KADID-10k's distortions.

    Run the same command again to resume.

    Example: python -m iqa_jax distort --images photos/ --output made --per-image 15 --short-side 384
    """
    from iqa_jax.data import make_pairs as making
    from iqa_jax.data.selection import expand

    if name != Path(name).name:
        raise UserError(f"--name {name}: expected a name without folders; give the folder as --output")
    chosen = tuple(filter(None, map(str.strip, types.split(","))))
    chosen_levels = tuple(numbers_of("--levels", levels))
    if types and not chosen:
        raise UserError(f"--types {types}: names no distortion type")
    if not chosen_levels:
        raise UserError("--levels: expected levels such as 1-5 or 2,4")
    plan = making.Plan(
        types=chosen or making.Plan.types,
        levels=chosen_levels,
        per_image=per_image,
        seed=seed,
        short_side=short_side,
        label=label,
    )
    photographs = expand(images, leave_out=[output], say=remark)
    directory = writable_directory(output)
    manifest = directory / f"{name or directory.resolve().name}.csv"
    total = sum(len(plan.versions(number)) for number in range(len(photographs)))
    with progress_bar(total, "distorting", "pair") as bar:
        problems = making.make_pairs(
            photographs, manifest, plan, processes=processes or None, progress=bar.update, say=remark
        )
    result = {"output": str(manifest), "photographs": len(photographs) - len(problems), "errors": problems}
    put_out(result, as_json, f"wrote {manifest}: pairs of {result['photographs']} photographs")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    raise typer.Exit(1 if problems else 0)


def opened(name: str, split: str, data_dir: str, splits: Path | None = None, *, default: str = "train"):
    """The pairs of a split of a data set, or of the validation part of a file of splits."""
    if split and splits:
        raise UserError("--split and --splits: give one of them")
    from iqa_jax.data.preparation import prepare_dataset
    from iqa_jax.data.source import PairSource
    from iqa_jax.data.splits import part_of_splits

    with arguments_as_options("manual_dir", "data_dir"):
        builder = prepare_dataset(name, data_dir=data_dir or None)
    return part_of_splits(builder, splits, "validation") if splits else PairSource(builder, split or default)
