"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Weights = Annotated[
    Path,
    typer.Option(help="A run, a converted directory, an averaged checkpoint or an exported file."),
]
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


def step_of(text: str) -> int | str:
    """A number, or the word that `iqa_jax.load` knows."""
    return int(text) if text.isdigit() else text


def numbers_of(option: str, text: str) -> list[int]:
    """ "21-30" or "5,9,12" or both mixed, as numbers."""
    from iqa_jax.errors import UserError

    numbers: list[int] = []
    try:
        for part in filter(None, text.split(",")):
            first, _, last = part.partition("-")
            numbers += range(int(first), int(last or first) + 1)
    except ValueError:
        numbers = []
    if text and not numbers:
        raise UserError(f"{option} {text}: expected numbers such as 2-4 or 1,3,5")
    return numbers
