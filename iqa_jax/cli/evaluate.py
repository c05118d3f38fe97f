"""Evaluation and submission from the command line."""

import time
from pathlib import Path
from typing import Annotated

import typer

from iqa_jax.cli.data import opened
from iqa_jax.cli.options import (
    Crops,
    DataDir,
    Ema,
    Json,
    Ray,
    Splits,
    Step,
    Weights,
    WeightsOrShipped,
    Workers,
    arguments_as_options,
    check_workers,
    step_of,
)
from iqa_jax.cli.output import cell, progress_bar, put_out, say_of_device, say_of_revision, table_of
from iqa_jax.errors import UserError
from iqa_jax.files import new_directory, writable_directory


def evaluate(
    dataset: Annotated[list[str], typer.Option(help="Data set; several make one table.")],
    weights: WeightsOrShipped = "full-reference",
    split: Annotated[
        str, typer.Option(help="What to evaluate; what the weights were validated on by default.")
    ] = "",
    splits: Splits = None,
    crops: Crops = "ten",
    baselines: Annotated[bool, typer.Option("--baselines", help="PSNR and SSIM too.")] = False,
    report: Annotated[Path | None, typer.Option(help="Directory for pictures and an HTML page.")] = None,
    output: Annotated[Path, typer.Option(help="Directory for CSV and JSON.")] = Path("evaluation"),
    resamples: Annotated[int, typer.Option(min=1, help="How many resamples the bootstrap draws.")] = 1000,
    ray: Ray = "",
    workers: Workers = 0,
    step: Step = "best",
    ema: Ema = False,
    data_dir: DataDir = "",
    as_json: Json = False,
) -> None:
    """Predict a whole split and measure the predictions as the field does.

    Example: python -m iqa_jax evaluate --weights runs/conformer --dataset iqa_demo --baselines
    """
    from iqa_jax.data.splits import trained_on
    from iqa_jax.evaluation import evaluate as evaluation
    from iqa_jax.evaluation.baselines import baselines as measure_baselines

    check_workers(ray, workers)
    output, report = new_directory(output), report and new_directory(report)
    predictor = _predictor(weights, step=step, ema=ema, crops=crops)
    sources = _sources_to_evaluate(dataset, predictor.record, split, splits, data_dir)
    directory = writable_directory(output)
    pages = writable_directory(report) if report else None
    evaluations, results, tables = [], [], []
    for source, why in sources:
        start = time.perf_counter()
        with progress_bar(len(source), f"predicting {source.dataset}", "pair") as bar:
            if ray:
                from iqa_jax.scoring.spread import predicted_on_cluster

                predicted = predicted_on_cluster(
                    weights,
                    {"crops": crops, "step": step_of(step), "ema": ema},
                    source,
                    data_dir=data_dir,
                    address=ray,
                    workers=workers,
                    progress=bar.update,
                )
            else:
                predicted = predictor(source, bar.update)
        seconds = time.perf_counter() - start
        measured = None
        if baselines and source.paired:
            with progress_bar(len(source), "PSNR and SSIM", "pair") as bar:
                measured = measure_baselines(source, progress=bar.update)
        with progress_bar(resamples, "bootstrap", "resample") as bar:
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
        tables += [line for line in (evaluated.warning, *evaluated.remarks) if line]
        tables.append(_rate(source, seconds, predictor))
        if pages:
            tables.append(f"report: {_report(evaluated, predictor, pages)}")
    if len(evaluations) > 1:
        tables.append(evaluation.cross_table(evaluations, directory))
    tables.append(f"written to {directory}")
    put_out(results, as_json, *tables)


def _sources_to_evaluate(names: list[str], record: dict, split: str, splits: Path | None, data_dir: str):
    """The pairs of each data set, with why these; checked before anything is predicted."""
    from iqa_jax.data.preparation import prepare_dataset
    from iqa_jax.data.splits import part_to_evaluate
    from iqa_jax.evaluation import evaluate as evaluation

    if split and splits:
        raise UserError("--split and --splits: give one of them")
    found = {}
    for name in names:
        with arguments_as_options("manual_dir"):
            builder = prepare_dataset(name, data_dir=data_dir or None)
        source, why = part_to_evaluate(builder, record, split=split, splits=splits or "")
        evaluation.check_labels(source)
        file = evaluation.file_name(source)
        if file in found:
            raise UserError(
                f"--dataset {name}: its files would be called {file}, as another's; give it alone"
            )
        found[file] = source, why
    return list(found.values())


def _report(evaluated, predictor, pages: Path) -> Path:
    """Writes the report and the page that it links to."""
    from iqa_jax.evaluation.report import write_report
    from iqa_jax.evaluation.viewer import VIEWED, write_viewer

    with progress_bar(min(len(evaluated.source), VIEWED), "quality maps", "pair") as bar:
        viewer = write_viewer(
            evaluated, predictor.metric(), pages / f"viewer-{evaluated.name}", progress=bar.update
        )
    return write_report(evaluated, pages, viewer=viewer)


def _rate(source, seconds: float, predictor) -> str:
    note = f"{len(source):,} pairs in {seconds:.1f} s, {len(source) / seconds:.1f} pairs/s"
    if predictor.full_reference:
        note += f"; {len(set(source.reference))} references loaded once each"
    return note


def _metrics_table(evaluated, result: dict):
    rows = []
    for name, value in result["metrics"].items():
        low, high = result["intervals_95"][name]
        mapped = [result["mapped"][fit].get(name, "") for fit in ("logistic4", "logistic5")]
        failed = [not evaluated.fits[fit].succeeded for fit in ("logistic4", "logistic5")]
        mapped = [
            "failed" if bad and value != "" else value for bad, value in zip(failed, mapped, strict=True)
        ]
        baselines = [result["baselines"][b][name] for b in result["baselines"]]
        rows.append([name, value, f"{cell(low)} to {cell(high)}", *mapped, *baselines])
    header = ["metric", "value", "95 % interval", "logistic 4", "logistic 5", *result["baselines"]]
    title = f"{result['dataset']}, {result['split']}: {evaluated.weights}, {evaluated.crops} crops"
    return table_of(title, header, rows)


def submit(
    weights: Weights,
    output: Annotated[Path, typer.Option(help="Directory for output.txt, readme.txt and the zip.")],
    dataset: Annotated[str, typer.Option(help="Data set.")] = "pipal",
    split: Annotated[str, typer.Option(help="The unlabelled pairs; ntire2022_test by default.")] = "",
    splits: Splits = None,
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

    from iqa_jax.evaluation import submission

    output = new_directory(output)
    source = opened(dataset, split, data_dir, splits, default="ntire2022_test")
    predictor = _predictor(weights, step=step, ema=ema, crops=crops)
    directory = writable_directory(output)
    identity = {
        "weights": predictor.identity,
        "crops": crops,
        "dataset": dataset,
        "split": source.split,
    }
    with progress_bar(len(source), "scoring", "image") as bar:
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
    put_out(result, as_json, _rate(source, predictions.seconds, predictor), f"wrote {archive}")


def _predictor(weights: str | Path, *, step: str, ema: bool, crops: str):
    from iqa_jax.ops.programs import keep_programs
    from iqa_jax.scoring.dataset import Predictor

    keep_programs()
    say_of_device()
    predictor = Predictor(weights, step=step_of(step), ema=ema, crops=crops)
    say_of_revision(predictor.record)
    return predictor
