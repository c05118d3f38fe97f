"""Scores of files from the command line."""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iqa_jax.cli.options import Ema, Json, Step, Together, Weights, step_of
from iqa_jax.errors import UserError
from iqa_jax.files import output_file, writable_directory

if TYPE_CHECKING:
    from iqa_jax.scoring.files import Pair, Result

_PART = 32  # images that a process takes at a time, when several do the work


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
    from iqa_jax.ops.programs import keep_programs

    if map_dir:
        import matplotlib  # noqa: F401  before the work, not after it

    keep_programs()
    metric = iqa_jax.load(weights, crops=crops, batch_size=batch_size, step=step_of(step), ema=ema)
    code = score_paths(
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


def score_paths(
    metric,
    target_patterns: Sequence[str],
    reference: str | None = None,
    *,
    csv: Path | None = None,
    as_json: bool = False,
    sort: bool = False,
    map_dir: Path | None = None,
    together: Path | None = None,
) -> int:
    """Scores files and prints a number for one pair, a table for several, or JSON.

    Progress, remarks and failures go to standard error.

    Args:
      metric: as `iqa_jax.load` gives.
      target_patterns: files, directories or patterns.
      reference: a file, directory or pattern, or a CSV file of pairs; None for a no-reference metric.
      csv: a file to write, too.
      as_json: standard output is a list of objects, see `iqa_jax.scoring.files.to_json`.
      sort: the best first, failures last.
      map_dir: directory for heat maps.
      together: directory of a job that other processes, given the same, do too; see `do_together`.
    Returns:
      Exit code: 0, or 1 if something failed.
    Raises:
      UserError: nothing to score, or it cannot be paired.
    """
    from tqdm import tqdm

    from iqa_jax.scoring.files import Result, map_files, score_files, to_json, write_csv

    pairs = _pairs(metric, target_patterns, reference)
    if csv:
        csv = output_file(csv)
        _check_not_read(csv, pairs, reference)
    maps = None
    if map_dir:
        maps = map_files(writable_directory(map_dir), [target for target, _ in pairs])
    said = set()
    with tqdm(total=len(pairs), desc="scoring", unit="image", leave=False, disable=len(pairs) == 1) as bar:

        def say(text):
            if text not in said:
                said.add(text)
                bar.write(text, file=sys.stderr)

        def scored(some) -> Iterator[tuple[int, Result]]:
            return score_files(metric, some, maps=maps, say=say)

        results: list[Result] = [Result(*pair) for pair in pairs]
        found = _score_together(scored, metric, pairs, together) if together else scored(pairs)
        for position, result in found:
            results[position] = result
            bar.update()
    if sort:
        results.sort(key=lambda r: math.inf if r.score is None else -r.score)
    if csv:
        write_csv(csv, results)
    if as_json:
        print(json.dumps(to_json(results), indent=2))
    else:
        _print_scores(results)
    failed = [result for result in results if result.error]
    for result in failed:
        print(f"error: {_failure(result)}", file=sys.stderr)
    return 1 if failed else 0


def _pairs(metric, target_patterns, reference) -> "Sequence[Pair]":
    from iqa_jax.data.pairing import expand, find_pairs

    if not metric.full_reference:
        if reference is not None:
            raise UserError("this metric needs no reference; leave --reference out")
        return [(target, None) for target in expand(target_patterns)]
    if reference is None:
        raise UserError("this metric compares with a reference; give --reference FILE, DIRECTORY or CSV")
    return find_pairs(target_patterns, reference)


def _check_not_read(output: Path, pairs, reference: str | None) -> None:
    """Raises UserError if a file to write is one of those that are read."""
    read = {path for pair in pairs for path in pair if path} | ({Path(reference)} if reference else set())
    if output.exists() and any(path.exists() and output.samefile(path) for path in read):
        raise UserError(f"{output}: is read here; choose another file to write")


def _score_together(
    scored, metric, pairs: "Sequence[Pair]", directory: Path
) -> "Iterator[tuple[int, Result]]":
    """The results of all pairs, of which other processes work out a part."""
    from iqa_jax.parallel.jobs import do_together, grouped
    from iqa_jax.scoring.files import Result

    parts = grouped([reference or target for target, reference in pairs], _PART)
    identity = {"metric": metric.describe(), "pairs": [[str(path) for path in pair] for pair in pairs]}

    def work(number: int) -> list:
        values: list = [None] * len(parts[number])
        for position, result in scored([pairs[position] for position in parts[number]]):
            if result.passing:  # not to be kept as what came of it
                raise UserError(f"{_failure(result)}; what is done is kept, start again to go on")
            values[position] = [result.score, result.error]
        return values

    done = do_together(directory, len(parts), work, identity=identity)
    for part, values in zip(parts, done, strict=True):
        for position, (score, error) in zip(part, values, strict=True):
            target, reference = pairs[position]
            yield position, Result(target, reference, score, error)


def _failure(result) -> str:
    """The reason, with the target's name where it does not have it already."""
    name = str(result.target)
    return result.error if result.error.startswith(name) else f"{name}: {result.error}"


def _print_scores(results: Sequence) -> None:
    from rich.console import Console
    from rich.table import Table

    scores = [result.score for result in results if result.score is not None]
    if len(results) == 1:
        print(*(f"{score:.4f}" for score in scores), end="\n" if scores else "")
        return
    mean = f", mean {sum(scores) / len(scores):.4f}" if scores else ""
    table = Table(caption=f"{len(scores)} of {len(results)} scored{mean}")
    table.add_column("target", overflow="fold")
    table.add_column("reference", overflow="fold")
    table.add_column("score", justify="right", no_wrap=True)
    for result in results:
        shown = "–" if result.score is None else f"{result.score:.4f}"
        table.add_row(str(result.target), str(result.reference or "–"), shown)
    Console(markup=False, highlight=False, emoji=False).print(table)
