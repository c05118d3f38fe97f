"""The command line: `python -m iqa_jax COMMAND`."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from iqa_jax.ending import shown_plainly
from iqa_jax.errors import DataError, UserError
from iqa_jax.files import output_file, writable_directory, write_whole


class _Commands(typer.core.TyperGroup):
    """Ends a command with one plain line where it fails, before typer sees what happened."""

    def invoke(self, ctx):
        with shown_plainly():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Commands,
    help="Learned, perceptual image quality assessment.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Weights = Annotated[Path, typer.Option(help="A run, a converted directory or an averaged checkpoint.")]
DataDir = Annotated[str, typer.Option(help="Where prepared data lie; the cache directory if not given.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Step = Annotated[str, typer.Option(help="Of a run: best, latest or a step.")]
Ema = Annotated[bool, typer.Option("--ema", help="Of a run: the moving average of the weights.")]
Together = Annotated[
    Path | None,
    typer.Option(
        help="A directory that other processes, given the same command, see too: they share the work."
    ),
]
Crops = Annotated[str, typer.Option(help="center, ten or grid.")]


def main() -> None:
    """Runs a command."""
    import warnings

    from absl import logging
    from PIL import Image

    logging.set_verbosity(logging.ERROR)  # tensorflow-datasets and orbax warn of what is meant to be
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # what is too large is refused
    app()


@contextlib.contextmanager
def _bar(total: int, what: str, unit: str) -> Iterator:
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit=unit, leave=False, dynamic_ncols=True) as bar:
        yield bar


def _print(result: dict | list, as_json: bool, *tables: Table | str) -> None:
    if as_json:
        print(json.dumps(result, indent=2))
        return
    console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 160)
    for table in tables:
        console.print(table, highlight=False, markup=False)


def _table(title: str, header: list[str], rows: list[list]) -> Table:
    table = Table(title=title)
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    return table


def _cell(value) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _predictor(weights: Path, *, step: str, ema: bool, crops: str):
    from iqa_jax.compilation import keep_programs
    from iqa_jax.scoring import Predictor

    keep_programs()
    return Predictor(weights, step=_step(step), ema=ema, crops=crops)


def _step(text: str) -> int | str:
    """Of --step: a number, or the word that `read_any` knows."""
    return int(text) if text.isdigit() else text


def _source(name: str, split: str, data_dir: str):
    from iqa_jax.data import PairSource
    from iqa_jax.datasets import prepare

    return PairSource(prepare(name, data_dir=data_dir or None), split)


@app.command()
def average(
    workdir: Annotated[Path, typer.Option(help="A training run.")],
    epochs: Annotated[str, typer.Option(help="First and last epoch, 21-30.")] = "",
    listed: Annotated[str, typer.Option("--list", help="Single epochs instead, 5,9,12.")] = "",
    kind: Annotated[str, typer.Option("--type", help="equal (arithmetic mean) or exp.")] = "equal",
    decay: Annotated[float, typer.Option(help="Of exp: the weight of each new epoch.")] = 0.9,
    steps: Annotated[
        int | None, typer.Option(help="Batches for BatchNorm's statistics; an epoch if not given.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Directory; in the run if not given.")] = None,
    data_dir: DataDir = "",
    as_json: Json = False,
) -> None:
    """Average the weights of some epochs of a run and estimate BatchNorm's statistics anew.

    Example: python -m iqa_jax average --workdir runs/conformer --epochs 21-30
    """
    from iqa_jax.averaging import average_run
    from iqa_jax.compilation import keep_programs

    chosen = _numbers("--epochs", epochs) if epochs else _numbers("--list", listed)
    if bool(epochs) == bool(listed):
        raise UserError("give either --epochs FIRST-LAST or --list A,B,C")
    keep_programs()
    with _bar(0, "BatchNorm statistics", "step") as bar:

        def progress(step, of):
            bar.total = of
            bar.update()

        written = average_run(
            workdir,
            chosen,
            kind=kind,
            decay=decay,
            steps=steps,
            data_dir=data_dir or None,
            output=output,
            progress=progress,
        )
    _print({"output": str(written), "epochs": chosen, "type": kind}, as_json, f"wrote {written}")


def _numbers(option: str, text: str) -> list[int]:
    """ "21-30" or "5,9,12" or both mixed, as numbers."""
    numbers = []
    try:
        for part in filter(None, text.split(",")):
            first, _, last = part.partition("-")
            numbers += range(int(first), int(last or first) + 1)
    except ValueError:
        numbers = []
    if text and not numbers:
        raise UserError(f"{option} {text}: expected numbers such as 2-4 or 1,3,5")
    return numbers


@app.command()
def prepare(
    name: Annotated[str, typer.Argument(help="Data set.")],
    manual_dir: Annotated[
        Path | None, typer.Option(help="The downloaded folder; for pairs, the CSV file.")
    ] = None,
    data_dir: DataDir = "",
    as_json: Json = False,
) -> None:
    """Check a downloaded data set and prepare it for training and evaluation.

    Example: python -m iqa_jax prepare kadid10k --manual-dir ~/Downloads/kadid10k
    """
    from iqa_jax import datasets

    builder = datasets.prepare(name, data_dir=data_dir or None, manual_dir=manual_dir)
    found = datasets.summary(builder)
    rows = [
        [split, *(part[k] for k in ("pairs", "references", "min", "max", "mean", "std"))]
        for split, part in found["splits"].items()
    ]
    header = ["split", "pairs", "references", "min", "max", "mean", "std"]
    types = {kind: None for part in found["splits"].values() for kind in part["distortions"]}
    notes = [
        f"labels: {found['score']['kind']}, "
        f"{'higher' if found['score']['higher_is_better'] else 'lower'} is better",
        f"distortion types: {', '.join(types) or 'not told'}",
    ]
    if found.get("deviation"):
        notes.append(found["deviation"])
    _print(found, as_json, _table(f"{name}, in {builder.data_dir}", header, rows), *notes)


@app.command()
def splits(
    name: Annotated[str, typer.Argument(help="Data set.")],
    seeds: Annotated[int, typer.Option(help="How many splits, with seeds 0, 1, ...")] = 10,
    train: Annotated[float, typer.Option(help="Share of the references to train on.")] = 0.8,
    split: Annotated[str, typer.Option(help="The split that is divided.")] = "train",
    output: Annotated[Path, typer.Option(help="Directory for the files.")] = Path("splits"),
    data_dir: DataDir = "",
    as_json: Json = False,
) -> None:
    """Divide a data set by reference content, once for each seed; config.splits takes a file.

    Example: python -m iqa_jax splits kadid10k --seeds 10 --train 0.8
    """
    from iqa_jax.datasets import reference_splits

    source = _source(name, split, data_dir)
    divided = reference_splits(sorted(set(source.reference)), seeds, train)
    directory = writable_directory(output)
    files = []
    for part in divided:
        path = directory / f"{name.replace('/', '-')}-{part['seed']}.json"
        write_whole(path, json.dumps({"dataset": name, "split": split, **part}, indent=2) + "\n")
        files.append(str(path))
    count = f"{len(divided[0]['train'])} references to train on, {len(divided[0]['validation'])} to validate"
    _print(files, as_json, f"wrote {files[0]} to {Path(files[-1]).name}: {count}")


@app.command()
def evaluate(
    weights: Weights,
    dataset: Annotated[list[str], typer.Option(help="Data set; several make one table.")],
    split: Annotated[
        str, typer.Option(help="What to evaluate; what the weights were validated on by default.")
    ] = "",
    splits: Annotated[
        Path | None, typer.Option(help="A file of `splits`, to evaluate on its validation part.")
    ] = None,
    crops: Crops = "ten",
    baselines: Annotated[bool, typer.Option("--baselines", help="PSNR and SSIM too.")] = False,
    report: Annotated[Path | None, typer.Option(help="Directory for pictures and an HTML page.")] = None,
    output: Annotated[Path, typer.Option(help="Directory for CSV and JSON.")] = Path("evaluation"),
    resamples: Annotated[int, typer.Option(min=1, help="Of the bootstrap.")] = 1000,
    together: Together = None,
    step: Step = "best",
    ema: Ema = False,
    data_dir: DataDir = "",
    as_json: Json = False,
) -> None:
    """Predict a whole split and measure the predictions as the field does.

    Example: python -m iqa_jax evaluate --weights runs/conformer --dataset iqa_demo --baselines
    """
    from iqa_jax import evaluation
    from iqa_jax.metrics import baselines as measure_baselines
    from iqa_jax.splits import trained_on

    predictor = _predictor(weights, step=step, ema=ema, crops=crops)
    sources = _sources_to_evaluate(dataset, predictor.record, split, splits, data_dir)
    directory = writable_directory(output)
    pages = writable_directory(report) if report else None
    evaluations, results, tables = [], [], []
    for source, why in sources:
        start = time.perf_counter()
        with _bar(len(source), f"predicting {source.dataset}", "pair") as bar:
            if together:
                predicted = predictor.together(source, together / evaluation.file_name(source), bar.update)
            else:
                predicted = predictor(source, bar.update)
        seconds = time.perf_counter() - start
        measured = None
        if baselines:
            with _bar(len(source), "PSNR and SSIM", "pair") as bar:
                measured = measure_baselines(source, progress=bar.update)
        with _bar(resamples, "bootstrap", "resample") as bar:
            evaluated = evaluation.evaluate(
                source,
                predicted,
                weights=predictor.name,
                crops=crops,
                trained_on=trained_on(predictor.record, source),
                same_scale=predictor.on_scale_of(source),
                baselines=measured,
                resamples=resamples,
                progress=bar.update,
            )
        evaluations.append(evaluated)
        results.append(evaluation.save(evaluated, directory))
        tables += [_metrics_table(evaluated, results[-1]), f"split: {source.split}, {why}"]
        tables += [line for line in (evaluated.warning, evaluated.remark) if line]
        tables.append(_rate(source, seconds, predictor))
        if pages:
            from iqa_jax.report import write_report

            tables.append(f"report: {write_report(evaluated, pages)}")
    if len(evaluations) > 1:
        tables.append(evaluation.cross_table(evaluations, directory))
    tables.append(f"written to {directory}")
    _print(results, as_json, *tables)


def _sources_to_evaluate(names: list[str], record: dict, split: str, splits: Path | None, data_dir: str):
    """The pairs of each data set, with why these; checked before anything is predicted."""
    from iqa_jax import evaluation
    from iqa_jax.datasets import prepare
    from iqa_jax.splits import part_to_evaluate

    if split and splits:
        raise UserError("--split and --splits: give one of them")
    found = {}
    for name in names:
        builder = prepare(name, data_dir=data_dir or None)
        source, why = part_to_evaluate(builder, record, split=split, splits=splits or "")
        evaluation.check_labels(source)
        file = evaluation.file_name(source)
        if file in found:
            raise UserError(
                f"--dataset {name}: its files would be called {file}, as another's; give it alone"
            )
        found[file] = source, why
    return list(found.values())


def _rate(source, seconds: float, predictor) -> str:
    told = f"{len(source):,} pairs in {seconds:.1f} s, {len(source) / seconds:.1f} pairs/s"
    if predictor.full_reference:
        told += f"; {len(set(source.reference))} references loaded once each"
    return told


def _metrics_table(evaluated, result: dict) -> Table:
    rows = []
    for name, value in result["metrics"].items():
        low, high = result["intervals_95"][name]
        mapped = [result["mapped"][fit].get(name, "") for fit in ("logistic4", "logistic5")]
        failed = [not evaluated.fits[fit].succeeded for fit in ("logistic4", "logistic5")]
        mapped = [
            "failed" if bad and value != "" else value for bad, value in zip(failed, mapped, strict=True)
        ]
        baselines = [result["baselines"][b][name] for b in result["baselines"]]
        rows.append([name, value, f"{_cell(low)} to {_cell(high)}", *mapped, *baselines])
    header = ["metric", "value", "95 % interval", "logistic 4", "logistic 5", *result["baselines"]]
    title = f"{result['dataset']}, {result['split']}: {evaluated.weights}, {evaluated.crops} crops"
    return _table(title, header, rows)


@app.command()
def submit(
    weights: Weights,
    output: Annotated[Path, typer.Option(help="Directory for output.txt, readme.txt and the zip.")],
    dataset: Annotated[str, typer.Option(help="Data set.")] = "pipal",
    split: Annotated[str, typer.Option(help="The unlabelled pairs.")] = "ntire2022_test",
    crops: Crops = "ten",
    description: Annotated[str, typer.Option(help="For readme.txt.")] = "",
    extra_data: Annotated[bool, typer.Option(help="Was other data seen? ImageNet counts.")] = True,
    step: Step = "best",
    ema: Ema = False,
    data_dir: DataDir = "",
    as_json: Json = False,
) -> None:
    """Score the challenge's test pairs and write what it accepts; goes on after an interruption.

    Example: python -m iqa_jax submit --weights runs/conformer --data-dir /data --output submission
    """
    import jax

    from iqa_jax import submission

    source = _source(dataset, split, data_dir)
    predictor = _predictor(weights, step=step, ema=ema, crops=crops)
    directory = writable_directory(output)
    identity = {
        "weights": predictor.sha256,
        "crops": crops,
        "dataset": dataset,
        "split": split,
    }
    with _bar(len(source), "scoring", "image") as bar:
        predictions = submission.predict_resumably(
            source, predictor, directory, identity=identity, progress=bar.update
        )
    archive = submission.write(
        directory,
        predictions,
        full_reference=predictor.full_reference,
        cpu=jax.default_backend() == "cpu",
        extra_data=extra_data,
        description=description or f"iqa_jax, {predictor.name}, {crops} crops",
    )
    result = {
        "output": str(archive),
        "images": len(source),
        "seconds_per_image": predictions.seconds_per_image,
    }
    _print(result, as_json, _rate(source, predictions.seconds, predictor), f"wrote {archive}")


@app.command()
def show(
    dataset: Annotated[str, typer.Option(help="Data set.")],
    split: Annotated[str, typer.Option(help="Which pairs.")] = "train",
    output: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("samples.png"),
    count: Annotated[int, typer.Option(min=1, max=64, help="How many pairs.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the choice and the augmentation.")] = 0,
    crop_size: Annotated[int, typer.Option(min=32, help="Side of the crops, pixels.")] = 192,
    rotation: Annotated[float, typer.Option(help="Largest rotation, degrees.")] = 180.0,
    data_dir: DataDir = "",
    as_json: Json = False,
) -> None:
    """Draw samples of a data set as the model sees them in training.

    Example: python -m iqa_jax show --dataset iqa_demo --output samples.png
    """
    from iqa_jax.report import save_samples

    source = _source(dataset, split, data_dir)
    if source.size.min() < crop_size:
        raise DataError(f"{dataset}: an image of {source.size.min()} pixels, --crop-size is {crop_size}")
    output = output_file(output)
    save_samples(output, source, count=count, seed=seed, crop_size=crop_size, rotation=rotation)
    _print({"output": str(output)}, as_json, f"wrote {output}")


@app.command()
def score(
    target: Annotated[list[str], typer.Option("-t", "--target", help="File, directory or pattern.")],
    weights: Weights,
    reference: Annotated[
        str | None, typer.Option("-r", "--reference", help="File or directory, or a CSV file of pairs.")
    ] = None,
    crops: Annotated[str, typer.Option(help="grid, ten or center.")] = "grid",
    batch_size: Annotated[int, typer.Option(min=1, help="Crops that go through the model together.")] = 16,
    csv: Annotated[Path | None, typer.Option(help="Also write a CSV file.")] = None,
    sort: Annotated[bool, typer.Option("--sort", help="Best first.")] = False,
    map_dir: Annotated[Path | None, typer.Option("--map", help="Directory for quality maps.")] = None,
    together: Together = None,
    step: Step = "best",
    ema: Ema = False,
    as_json: Json = False,
) -> None:
    """Score images, against their references (folders are paired by name) or without.

    Example: python -m iqa_jax score --weights runs/conformer -t restored/ -r originals/ --csv scores.csv
    """
    import iqa_jax
    from iqa_jax.compilation import keep_programs
    from iqa_jax.score import score_command

    keep_programs()
    metric = iqa_jax.load(weights, crops=crops, batch_size=batch_size, step=_step(step), ema=ema)
    code = score_command(
        metric,
        target,
        reference,
        csv=csv,
        as_json=as_json,
        sort=sort,
        map_dir=map_dir,
        together=together,
    )
    raise typer.Exit(code)


@app.command()
def distort(
    images: Annotated[list[str], typer.Option(help="Photographs: file, directory or pattern.")],
    output: Annotated[Path, typer.Option(help="Directory for the pairs and pairs.csv.")],
    types: Annotated[str, typer.Option(help="Distortion types, jpeg,gaussian_blur; all if not given.")] = "",
    levels: Annotated[str, typer.Option(help="Levels, 1-5 or 2,4.")] = "1-5",
    per_image: Annotated[
        int, typer.Option(min=0, help="So many of the combinations, drawn by chance; 0: all.")
    ] = 0,
    short_side: Annotated[
        int, typer.Option(min=0, help="Scale larger photographs down to it, pixels; 0: leave them.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice and the random distortions.")] = 0,
    label: Annotated[
        bool, typer.Option("--label", help="Add KADID-10k's mean opinion of type and level as mos.")
    ] = False,
    processes: Annotated[int, typer.Option(min=0, help="At a time; 0: one a core.")] = 0,
    as_json: Json = False,
) -> None:
    """Make reference-distorted pairs of photographs with KADID-10k's distortions; goes on where it stopped.

    Example: python -m iqa_jax distort --images photos/ --output made --per-image 15 --short-side 384
    """
    from iqa_jax import distorting
    from iqa_jax.pairing import expand

    chosen = tuple(filter(None, types.split(","))) or distorting.Plan.types
    plan = distorting.Plan(
        types=chosen,
        levels=tuple(_numbers("--levels", levels)),
        per_image=per_image,
        seed=seed,
        short_side=short_side,
        label=label,
    )
    photographs = expand(images)
    directory = writable_directory(output)
    total = sum(len(plan.versions(number)) for number in range(len(photographs)))
    with _bar(total, "distorting", "pair") as bar:
        problems = distorting.make_pairs(
            photographs, directory, plan, processes=processes or None, progress=bar.update
        )
    manifest = directory / distorting.MANIFEST
    result = {"output": str(manifest), "photographs": len(photographs) - len(problems), "errors": problems}
    _print(result, as_json, f"wrote {manifest}: pairs of {result['photographs']} photographs")
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    raise typer.Exit(1 if problems else 0)


@app.command()
def export(
    weights: Weights,
    output: Annotated[Path, typer.Option(help="The file to write; metadata go beside it.")],
    step: Step = "best",
    ema: Ema = False,
    as_json: Json = False,
) -> None:
    """Write a metric as one file that runs with JAX alone, on CPUs, CUDA and TPUs.

    Example: python -m iqa_jax export --weights runs/conformer --output conformer.jaxexport
    """
    import iqa_jax
    from iqa_jax.export import export as write

    output = output_file(output)
    metric = iqa_jax.load(weights, step=_step(step), ema=ema)
    files = [str(path) for path in write(metric, output)]
    _print({"output": files}, as_json, f"wrote {files[0]} and {files[1]}")
