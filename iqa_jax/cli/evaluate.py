"""Evaluation and submission from the command line."""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from iqa_jax.cli.output import cell, put_out, say_of_device, say_of_revision, table_of
from iqa_jax.errors import UserError
from iqa_jax.files import new_directory, writable_directory
from iqa_jax.progress import progress_bar

if TYPE_CHECKING:
    import numpy as np

    from iqa_jax.data.source import PairSource
    from iqa_jax.evaluation.evaluation import Evaluation
    from iqa_jax.scoring.dataset import Predictor


def evaluate(
    dataset: Annotated[list[str], typer.Option(help="Data set; several make one table.")],
    weights: WeightsOrShipped = "full-reference",
    split: Annotated[
        str, typer.Option(help="What to evaluate; by default what the weights were validated on.")
    ] = "",
    splits: Splits = None,
    crops: Crops = "ten",
    baselines: Annotated[bool, typer.Option("--baselines", help="Measure PSNR and SSIM, too.")] = False,
    report: Annotated[Path | None, typer.Option(help="Directory for an HTML report and its figures.")] = None,
    output: Annotated[Path, typer.Option(help="Directory for the CSV and JSON files.")] = Path("evaluation"),
    resamples: Annotated[int, typer.Option(min=1, help="How many resamples the bootstrap draws.")] = 1000,
    ray: Ray = "",
    workers: Workers = 0,
    step: Step = "best",
    ema: Ema = False,
    data_dir: DataDir = "",
    as_json: Json = False,
) -> None:
    """Score a whole split and measure agreement with people as the field does.

    Example: python -m iqa_jax evaluate --weights runs/conformer --dataset iqa_demo --baselines
    """
    from iqa_jax.reporting.tables import cross_table, replaced_by, save_evaluation

    check_workers(ray, workers)
    output, report = new_directory(output), report and new_directory(report)
    predictor = _predictor(weights, step=step, ema=ema, crops=crops)
    sources = _sources_to_evaluate(dataset, predictor.record, split, splits, data_dir)
    directory = writable_directory(output)
    pages = writable_directory(report) if report else None
    predict: Callable[..., np.ndarray] = predictor
    if ray:
        from iqa_jax.scoring.distributed import predict_on_cluster

        options = {"crops": crops, "step": step_of(step), "ema": ema}
        predict = functools.partial(
            predict_on_cluster, weights, options, data_dir=data_dir, address=ray, workers=workers
        )
    evaluations, results, tables = [], [], []
    for source, why in sources:
        start = time.perf_counter()
        with progress_bar(len(source), f"predicting {source.dataset}", "pair") as bar:
            predicted = predict(source, progress=bar.update)
        seconds = time.perf_counter() - start
        evaluation = _evaluation(source, predicted, predictor, baselines=baselines, resamples=resamples)
        evaluations.append(evaluation)
        if others := replaced_by(evaluation, directory):
            tables.append(f"in {directory}, these results replace those of {others}")
        results.append(save_evaluation(evaluation, directory))
        tables += [_metrics_table(evaluation, results[-1]), _thirds_table(source, results[-1])]
        tables.append(f"split: {source.split}, {why}")
        tables += [line for line in (evaluation.warning, *evaluation.remarks) if line]
        tables.append(_rate(source, seconds, predictor))
        if pages:
            tables.append(f"report: {_report(evaluation, predictor, pages)}")
    if len(evaluations) > 1:
        tables.append(cross_table(evaluations, directory))
    tables.append(f"written to {directory}")
    put_out(results, as_json, *tables)


def _evaluation(
    source: "PairSource", predicted: "np.ndarray", predictor: "Predictor", *, baselines: bool, resamples: int
) -> "Evaluation":
    from iqa_jax.data.splits import trained_on
    from iqa_jax.evaluation.baselines import baselines as measure_baselines
    from iqa_jax.evaluation.evaluation import measure_agreement

    measured = None
    if baselines and source.paired:
        with progress_bar(len(source), "PSNR and SSIM", "pair") as bar:
            measured = measure_baselines(source, progress=bar.update)
    with progress_bar(resamples, "bootstrap", "resample") as bar:
        return measure_agreement(
            source,
            predicted,
            weights=predictor.name,
            crops=predictor.crops,
            trained_on=trained_on(predictor.record, source),
            same_scale=predictor.on_scale_of(source),
            baselines=measured,
            resamples=resamples,
            progress=bar.update,
        )


def _sources_to_evaluate(names: list[str], record: dict, split: str, splits: Path | None, data_dir: str):
    """The pairs of each data set, and why these; checked before anything is predicted."""
    from iqa_jax.data.preparation import prepare_dataset
    from iqa_jax.data.splits import part_to_evaluate
    from iqa_jax.evaluation.evaluation import check_labels, file_name

    if split and splits:
        raise UserError("--split and --splits: give one of them")
    sources = {}
    for name in names:
        with arguments_as_options("manual_dir", "data_dir"):
            builder = prepare_dataset(name, data_dir=data_dir or None)
        source, why = part_to_evaluate(builder, record, split=split, splits=splits or "")
        check_labels(source)
        file = file_name(source)
        if file in sources:
            raise UserError(
                f"--dataset {name}: its files would overwrite those of another, {file}; evaluate it alone"
            )
        sources[file] = source, why
    return list(sources.values())


def _report(evaluation: "Evaluation", predictor, pages: Path) -> Path:
    """Writes the report and the page it links to."""
    from iqa_jax.reporting.report import write_report
    from iqa_jax.reporting.viewer import VIEWED, write_viewer

    with progress_bar(min(len(evaluation.source), VIEWED), "quality maps", "pair") as bar:
        viewer = write_viewer(
            evaluation, predictor.metric(), pages / f"viewer-{evaluation.name}", progress=bar.update
        )
    return write_report(evaluation, pages, viewer=viewer)


def _rate(source, seconds: float, predictor) -> str:
    note = f"{len(source):,} pairs in {seconds:.1f} s, {len(source) / seconds:.1f} pairs/s"
    if predictor.full_reference:
        note += f"; {len(set(source.reference))} references loaded once each"
    return note


def _metrics_table(evaluation, result: dict):
    rows = []
    for name, value in result["metrics"].items():
        low, high = result["intervals_95"][name]
        mapped = [
            values.get(name, "") if evaluation.fits[kind].succeeded else "failed" * (name in values)
            for kind, values in result["mapped"].items()
        ]
        baselines = [metrics[name] for metrics in result["baselines"].values()]
        rows.append([name, value, f"{cell(low)} to {cell(high)}", *mapped, *baselines])
    header = ["metric", "value", "95 % interval", "logistic 4", "logistic 5", *result["baselines"]]
    title = f"{result['dataset']}, {result['split']}: {evaluation.weights}, {evaluation.crops} crops"
    return table_of(title, header, rows)


def _thirds_table(source: "PairSource", result: dict):
    from iqa_jax.reporting.report import label_of

    thirds = result["by_opinion"].items()
    rows = [
        [name, f["pairs"], f"{cell(f['lowest_mos'])} to {cell(f['highest_mos'])}", f["srcc"], f["plcc"]]
        for name, f in thirds
    ]
    header = ["pairs by opinion", "pairs", label_of(source), "srcc", "plcc"]
    return table_of("agreement within the best, the middle and the worst third", header, rows)


def submit(
    weights: Weights,
    output: Annotated[Path, typer.Option(help="Directory for output.txt, readme.txt and the zip.")],
    dataset: Annotated[str, typer.Option(help="Data set.")] = "pipal",
    split: Annotated[str, typer.Option(help="The unlabelled pairs; ntire2022_test by default.")] = "",
    splits: Splits = None,
    crops: Crops = "ten",
    description: Annotated[str, typer.Option(help="For readme.txt.")] = "",
    extra_data: Annotated[bool, typer.Option(help="Did the model see other data? ImageNet counts.")] = True,
    step: Step = "best",
    ema: Ema = False,
    data_dir: DataDir = "",
    as_json: Json = False,
) -> None:
    """Score the challenge's test pairs and write the files it accepts; resumes after an interruption.

    Example: python -m iqa_jax submit --weights runs/conformer --data-dir /data --output submission
    """
    import jax

    from iqa_jax.reporting.submission import make_submission

    output = new_directory(output)
    predictor = _predictor(weights, step=step, ema=ema, crops=crops)
    source = opened(dataset, split, data_dir, splits, default="ntire2022_test")
    directory = writable_directory(output)
    with progress_bar(len(source), "scoring", "image") as bar:
        predictions = make_submission(
            directory,
            source,
            predictor,
            cpu=jax.default_backend() == "cpu",
            extra_data=extra_data,
            description=description or f"iqa_jax, {predictor.name}, {crops} crops",
            progress=bar.update,
        )
    archive = directory / "submission.zip"
    result = {
        "output": str(archive),
        "images": len(source),
        "seconds_per_image": predictions.seconds / len(source),
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
