"""Scores of files from the command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iqa_jax.cli.options import Ema, Json, Ray, Step, WeightsOrShipped, Workers, check_workers, step_of
from iqa_jax.cli.output import remark, say_of_device, say_of_revision
from iqa_jax.errors import UserError
from iqa_jax.files import local_path

if TYPE_CHECKING:
    from iqa_jax.scoring.results import Pair

Targets = Annotated[
    list[str] | None,
    typer.Option("-t", "--target", help="Files, directories or patterns, or a table of files."),
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
    bool, typer.Option("--recursive/--flat", help="Whether folders in a directory are searched too.")
]
Csv = Annotated[
    Path | None,
    typer.Option(help="A CSV file that grows as scores come, or a .parquet file; a second start continues."),
]
Masks = Annotated[
    list[str] | None,
    typer.Option(help="Masks, paired by name: white is the part that is scored."),
]
Resize = Annotated[
    str, typer.Option(help="target or reference: scale it to the other's size where they differ.")
]
FullScale = Annotated[
    bool, typer.Option("--full-scale", help="Maps show the whole scale, not the range that is there.")
]
PageDir = Annotated[
    Path | None, typer.Option(help="Directory for a page with all images, maps and a viewer.")
]


def score(
    target: Targets = None,
    reference: References = None,
    weights: WeightsOrShipped = "",
    crops: Annotated[str, typer.Option(help="grid, ten or center.")] = "grid",
    batch_size: Annotated[int, typer.Option(min=1, help="Crops that go through the model together.")] = 16,
    recursive: Recursive = True,
    csv: Csv = None,
    recompute: Annotated[bool, typer.Option("--recompute", help="Begin the CSV file anew.")] = False,
    sort: Annotated[bool, typer.Option("--sort", help="Best first.")] = False,
    mask: Masks = None,
    resize: Resize = "",
    map_dir: Annotated[
        Path | None,
        typer.Option("--map", help="Directory for quality maps, in the folders of their targets."),
    ] = None,
    full_scale: FullScale = False,
    page: PageDir = None,
    ray: Ray = "",
    workers: Workers = 0,
    step: Step = "best",
    ema: Ema = False,
    as_json: Json = False,
) -> None:
    """Score images, against their references (folders are paired by path and name) or without.

    The exit code is 0, or 1 if something could not be scored, 2 for a wrong option, and 128 with the
    signal's number after a signal.

    Example: python -m iqa_jax score -t restored/ -r originals/ --csv scores.csv
    """
    check_workers(ray, workers)
    if map_dir or page:
        import matplotlib  # noqa: F401  before the work, not after it
    if page:
        import jinja2  # noqa: F401

    outputs = [directory for directory in (map_dir, page) if directory]
    for directory in outputs:
        if directory.resolve() in [Path(name).resolve() for name in target or []]:
            raise UserError(f"{directory}: images are read from there; choose another directory to write to")
    pairs, masks = chosen_files(
        target or [], reference or [], mask or [], recursive=recursive, leave_out=outputs, say=remark
    )
    from iqa_jax.cli.score_output import Cluster, score_pairs
    from iqa_jax.ops.programs import keep_programs
    from iqa_jax.scoring.load import BLIND, FULL_REFERENCE, load

    name = weights or (FULL_REFERENCE if any(its for _, its in pairs) else BLIND)
    keep_programs()
    say_of_device()
    options: dict = {"crops": crops, "batch_size": batch_size, "step": step_of(step), "ema": ema}
    metric = load(name, **options)
    say_of_revision(metric.record)
    code = score_pairs(
        metric,
        pairs,
        masks=masks,
        resize=resize,
        csv=csv,
        recompute=recompute,
        as_json=as_json,
        sort=sort,
        map_dir=map_dir,
        full_scale=full_scale,
        page=page,
        sets=target or [],
        cluster=Cluster(ray, workers, name, options) if ray else None,
        read=[*(reference or []), *(target or [])],
    )
    raise typer.Exit(code)


def chosen_files(
    targets: Sequence[str],
    references: Sequence[str],
    masks: Sequence[str] = (),
    *,
    recursive: bool = True,
    leave_out: Sequence[Path] = (),
    say=remark,
) -> "tuple[list[Pair], dict[Path, Path]]":
    """The pairs that options name, and the mask of each target, if there are masks.

    Raises:
      UserError: nothing to score, or it cannot be paired.
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
    """Raises UserError unless the options name something to score, before any file is looked at."""
    from iqa_jax.data.pairing import is_table

    given = {"-t": targets, "-r": references, "--mask": masks}
    for option, names in given.items():
        if any(not name.strip() for name in names):
            raise UserError(f"{option}: an empty name; expected files, directories or patterns")
        if len(names) > 1 and (table := next(filter(is_table, names), None)):
            raise UserError(f"{option} {table}: expected images, or one table alone; put all rows into one")
    tables = [name for name in (*targets, *references) if is_table(name)]
    if len(tables) > 1:
        raise UserError(f"-t {tables[0]} and -r {tables[1]}: two tables; give the one of the pairs, after -r")
    if not targets and not references:
        raise UserError("nothing to score: give -t FILES, or -r and a table of pairs")
    if not targets and not tables:
        raise UserError(
            f"nothing to score: -r {references[0]} names references alone; give -t FILES to compare with "
            "them, or a table of pairs"
        )
    if any(map(is_table, masks)):
        raise UserError(f"--mask {masks[0]}: a table; expected images, directories or patterns")
    if not recursive and not any(local_path(name).is_dir() for names in given.values() for name in names):
        raise UserError("--flat without a directory has no effect; leave it out")
