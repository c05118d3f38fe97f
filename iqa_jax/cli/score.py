"""Scores of files from the command line."""

import contextlib
import functools
import gc
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iqa_jax.cli.options import (
    Ema,
    Json,
    Ray,
    Step,
    WeightsOrShipped,
    Workers,
    advice,
    arguments_as_options,
    as_options,
    check_workers,
    step_of,
)
from iqa_jax.cli.output import remark, say_of_device, say_of_revision
from iqa_jax.cli.score_output import ScorePrinter
from iqa_jax.errors import UserError
from iqa_jax.files import local_path

if TYPE_CHECKING:
    from iqa_jax.reporting.scores import Outputs, Scorer
    from iqa_jax.scoring.metric import Metric
    from iqa_jax.scoring.results import FilePair

Targets = Annotated[
    list[str] | None,
    typer.Option(
        "-t",
        "--target",
        help="Files, directories or patterns, or tables of files; several directories are compared.",
    ),
]
References = Annotated[
    list[str] | None,
    typer.Option(
        "-r",
        "--reference",
        help="The same for the references, or a table of pairs (then -t may be left out).",
    ),
]
Recursive = Annotated[
    bool, typer.Option("--recursive/--flat", help="Whether to search the folders in a directory too.")
]
Csv = Annotated[
    Path | None,
    typer.Option(help="A .csv or .parquet file for the scores; run the same command again to resume."),
]
Masks = Annotated[
    list[str] | None,
    typer.Option(help="Masks, paired by name; only the white part is scored."),
]
Resize = Annotated[
    str, typer.Option(help="target or reference: which one to scale to the other's size where they differ.")
]
Align = Annotated[
    bool,
    typer.Option("--align", help="Undo a shift of a target against its reference; zoom and turns stay."),
]
FullScale = Annotated[
    bool,
    typer.Option("--full-scale", help="The colours of maps span the whole scale, not each map's range."),
]
PageDir = Annotated[
    Path | None, typer.Option(help="Directory for an HTML page with all images, their maps and a viewer.")
]


def score(
    target: Targets = None,
    reference: References = None,
    weights: WeightsOrShipped = "",
    crops: Annotated[str, typer.Option(help="grid, ten or center.")] = "grid",
    batch_size: Annotated[int, typer.Option(min=1, help="Crops that go through the model together.")] = 16,
    recursive: Recursive = True,
    csv: Csv = None,
    recompute: Annotated[bool, typer.Option("--recompute", help="Score all again.")] = False,
    sort: Annotated[bool, typer.Option("--sort", help="Best first.")] = False,
    mask: Masks = None,
    resize: Resize = "",
    align: Align = False,
    map_dir: Annotated[
        Path | None,
        typer.Option("--map", help="Directory for quality maps; its folders mirror those of the targets."),
    ] = None,
    full_scale: FullScale = False,
    page: PageDir = None,
    ray: Ray = "",
    workers: Workers = 0,
    step: Step = "best",
    ema: Ema = False,
    engine: Annotated[
        str,
        typer.Option(
            help="jax, or onnx for onnxruntime, which starts sooner; default: jax if it is installed."
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Score images against their references (folders are paired by path and name) or without references.

    The exit code is 0 if all images were scored, 1 if one failed, 2 for a wrong option, and 128 plus the
    signal's number after a signal.

    Example: python -m iqa_jax score -t restored/ -r originals/ --csv scores.csv
    """
    check_workers(ray, workers)
    targets, references = target or [], reference or []
    folders = [directory for directory in (map_dir, page) if directory]
    for directory in folders:
        if directory.resolve() in [Path(name).resolve() for name in targets]:
            raise UserError(f"{directory}: images are read from there; choose another directory to write to")
    pairs, masks = chosen_files(
        targets, references, mask or [], recursive=recursive, leave_out=folders, say=remark
    )
    _check_optional_packages(ray, map_dir, page, align)
    from iqa_jax.data.pairing import is_table
    from iqa_jax.reporting.scores import Outputs, check_not_read

    tables = [name for name in (*references, *targets) if is_table(name)]
    check_not_read([local_path(csv)] if csv else [], map(local_path, tables))
    options: dict = dict(crops=crops, batch_size=batch_size, step=step_of(step), ema=ema, engine=engine)
    with _without_collections(), arguments_as_options("crops", "engine"):
        from iqa_jax.scoring.load import BLIND, FULL_REFERENCE, load
        from iqa_jax.scoring.onnx_model import OnnxModel

        name = weights or (FULL_REFERENCE if any(its for _, its in pairs) else BLIND)
        metric = load(name, **options)
        if not isinstance(metric.model, OnnxModel):
            say_of_device()
    say_of_revision(metric.record)
    scorer = None
    if ray:
        from iqa_jax.scoring.distributed import score_files_on_cluster

        scorer = functools.partial(score_files_on_cluster, name, options, address=ray, workers=workers)
    outputs = Outputs(
        table=csv,
        recompute=recompute,
        best_first=sort,
        maps=map_dir,
        page=page,
        full_scale=full_scale,
        named=targets or tables,
    )
    how: dict = {"masks": masks, "resize": resize, "align": align, "as_json": as_json}
    raise typer.Exit(score_pairs(metric, pairs, outputs, **how, scorer=scorer))


@contextlib.contextmanager
def _without_collections():
    """Imports and loads without collecting garbage: they make many objects, and hardly any is garbage."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _check_optional_packages(ray: str, map_dir: Path | None, page: Path | None, align: bool) -> None:
    """Imports what is not installed with the core before the work, not after it."""
    if ray and (map_dir or page):
        raise UserError("--ray computes scores only; leave out --map and --page")
    for module, needed in (
        ("ray", ray),
        ("matplotlib", map_dir or page),
        ("jinja2", page),
        ("skimage", align),
    ):
        if needed:
            importlib.import_module(module)


def score_pairs(
    metric: "Metric",
    pairs: "Sequence[FilePair]",
    outputs: "Outputs",
    *,
    masks: "Mapping[Path, Path] | None" = None,
    resize: str = "",
    align: bool = False,
    as_json: bool = False,
    scorer: "Scorer | None" = None,
) -> int:
    """Scores pairs of files, writes the outputs and prints the scores, and how methods compare.

    Args:
      metric: as `iqa_jax.load` gives.
      pairs, masks: as `chosen_files` gives.
      resize, align, scorer: see `iqa_jax.reporting.scores.score_and_write`.
      as_json: print a list of objects; of several methods, an object with the scores and the comparison.
    Returns:
      Exit code: 0, or 1 if something failed.
    Raises:
      UserError: the metric and the pairs do not fit, or a file cannot be written.
    """
    from iqa_jax.reporting.comparison import compare_results, methods_of
    from iqa_jax.reporting.scores import score_and_write
    from iqa_jax.scoring.files import RESIZED, pairs_for

    if not pairs:
        raise UserError("nothing to score: no target was given")
    if resize and resize not in RESIZED:
        raise UserError(f"--resize {resize}: expected {' or '.join(RESIZED)}")
    without_effect = {
        "--resize with a metric without reference": resize and not metric.full_reference,
        "--align with a metric without reference": align and not metric.full_reference,
        "--recompute without --csv": outputs.recompute and not outputs.table,
        "--full-scale without --map or --page": outputs.full_scale and not (outputs.maps or outputs.page),
    }
    for what, given in without_effect.items():
        if given:
            raise UserError(f"{what} has no effect; leave it out")
    with advice("give --reference FILES or a table of pairs"):
        pairs = pairs_for(metric, pairs, remark)
    methods_of([target for target, _ in pairs], outputs.named)  # what is wrong with it is said at once
    printer = ScorePrinter(len(pairs), as_json=as_json, best_first=outputs.best_first)
    with printer.progress(), arguments_as_options("recompute"), _how_to_resume(outputs, printer, len(pairs)):
        results = score_and_write(
            metric,
            pairs,
            outputs,
            scorer=scorer,
            masks=masks,
            resize=resize or None,
            align=align,
            on_result=printer.result,
            say=lambda text: printer.remark(as_options(text, "recompute")),
        )
    methods = methods_of([result.target for result in results], outputs.named)
    comparison = compare_results(results, methods, metric.range, remark)
    return printer.finish(metric, results, methods.whose if methods.names else None, comparison)


@contextlib.contextmanager
def _how_to_resume(outputs: "Outputs", printer: ScorePrinter, count: int):
    """Lets an interruption say how many of so many images are done, and how to go on."""
    try:
        yield
    except KeyboardInterrupt as interruption:
        if outputs.table and not outputs.page:  # which needs all pictures again
            again = "without --recompute" if outputs.recompute else "the same command"
            interruption.args = (f"{printer.done} of {count} images are done; run {again} again to resume",)
        raise


def chosen_files(
    targets: Sequence[str],
    references: Sequence[str],
    masks: Sequence[str] = (),
    *,
    recursive: bool = True,
    leave_out: Sequence[Path] = (),
    say=remark,
) -> "tuple[list[FilePair], dict[Path, Path]]":
    """The pairs that the options name, and the mask of each target, if masks are given.

    Raises:
      UserError: there is nothing to score, or the files cannot be paired.
    """
    from iqa_jax.data.pairing import find_pairs, masks_of

    _check_names(targets, references, masks, recursive=recursive)
    pairs = find_pairs(targets, references, recursive=recursive, leave_out=leave_out, say=say)
    if not masks:
        return pairs, {}
    return pairs, masks_of([target for target, _ in pairs], targets, masks, recursive=recursive, say=say)


def _check_names(
    targets: Sequence[str], references: Sequence[str], masks: Sequence[str], *, recursive: bool
) -> None:
    """Raises UserError unless the options name something to score, before any file is opened."""
    from iqa_jax.data.pairing import is_table

    given = {"-t": targets, "-r": references, "--mask": masks}
    for option, names in given.items():
        if any(not name.strip() for name in names):
            raise UserError(f"{option}: an empty name; expected files, directories or patterns")
        alone = option == "-t" and all(map(is_table, names))  # one of each method
        if len(names) > 1 and not alone and (table := next(filter(is_table, names), None)):
            other = "tables alone" if option == "-t" else "a single table; put all rows into one"
            raise UserError(f"{option} {table}: expected images, or {other}")
    tables = [next(filter(is_table, names), None) for names in (targets, references)]
    if all(tables):
        raise UserError(f"-t {tables[0]} and -r {tables[1]}: two tables; give the one of the pairs, after -r")
    if not targets and not references:
        raise UserError("nothing to score: give -t FILES, or -r and a table of pairs")
    if not targets and not any(tables):
        raise UserError(
            f"nothing to score: -r {references[0]} names only references; give -t FILES to compare with "
            "them, or a table of pairs"
        )
    if any(map(is_table, masks)):
        raise UserError(f"--mask {masks[0]}: a table; expected images, directories or patterns")
    if not recursive and not any(local_path(name).is_dir() for names in given.values() for name in names):
        raise UserError("--flat without a directory has no effect; leave it out")
