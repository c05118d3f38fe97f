"""Options that several commands share."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from iqa_jax.errors import UserError

Weights = Annotated[
    str,
    typer.Option(
        help="A run, a converted directory, an averaged checkpoint, an exported file or hf://OWNER/NAME."
    ),
]
WeightsOrShipped = Annotated[
    str,
    typer.Option(
        help="A run, a converted directory, an averaged checkpoint, an exported file, hf://OWNER/NAME, or "
        "what ships with the package: full-reference (the default with references) or blind (without).",
        show_default=False,
    ),
]
DataDir = Annotated[str, typer.Option(help="Where the prepared data lie; by default in the cache directory.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Splits = Annotated[
    Path | None, typer.Option(help="A file that `splits` wrote; take its validation part instead of --split.")
]
Step = Annotated[str, typer.Option(help="Which checkpoint of a run: best, latest or a step.")]
Ema = Annotated[bool, typer.Option("--ema", help="Use the moving average of a run's weights.")]
Ray = Annotated[
    str,
    typer.Option(help="Work on a Ray cluster: its address, or local for workers on this machine."),
]
Workers = Annotated[
    int,
    typer.Option(min=0, help="With --ray: how many; 0: one a GPU or, without GPUs, one a machine."),
]
Crops = Annotated[str, typer.Option(help="center, ten or grid.")]


class TakesSeveral(TyperCommand):
    """A command whose repeatable options take all values that follow, as a shell expands a pattern."""

    def parse_args(self, ctx, args):
        repeatable = {
            name for option in self.params if getattr(option, "multiple", False) for name in option.opts
        }
        written: list[str] = []
        current, has_value = "", False
        for position, argument in enumerate(args):
            if argument == "--":
                written += args[position:]
                break
            if argument.startswith("-") and len(argument) > 1:
                current = argument.partition("=")[0] if argument.partition("=")[0] in repeatable else ""
                has_value = "=" in argument
            elif current and has_value:
                written.append(current)
            else:
                has_value = True
            written.append(argument)
        return super().parse_args(ctx, written)


def step_of(text: str) -> int | str:
    """The step as `iqa_jax.load` takes it: a number or a word."""
    return int(text) if text.isdecimal() and len(text) < 19 else text


_MOST_NUMBERS = 100_000  # more epochs than any run has


def numbers_of(option: str, text: str) -> list[int]:
    """The numbers of a list of numbers and ranges, such as "21-30,35".

    Raises:
      UserError: it is anything else, has a range that goes down, or more than `_MOST_NUMBERS` numbers.
    """
    numbers: list[int] = []
    for part in filter(None, map(str.strip, text.split(","))):
        ends = re.fullmatch(r"([0-9]{1,18})(?:\s*-\s*([0-9]{1,18}))?", part)
        if not ends:
            raise UserError(f"{option} {text}: expected numbers such as 2-4 or 1,3,5")
        first, last = int(ends[1]), int(ends[2] or ends[1])
        if last < first:
            raise UserError(f"{option} {text}: {part} goes down; expected the smaller number first")
        if last - first + len(numbers) >= _MOST_NUMBERS:
            raise UserError(f"{option} {text}: more than {_MOST_NUMBERS:,} numbers; expected fewer")
        numbers += range(first, last + 1)
    if text and not numbers:
        raise UserError(f"{option} {text}: expected numbers such as 2-4 or 1,3,5")
    return numbers


def as_options(text: str, *arguments: str, fields: bool = False) -> str:
    """A text with options where it names these arguments of the library; see `arguments_as_options`."""
    named = rf"(?<![\w./-])({'|'.join(arguments)})\b(?![/-]|\.\w)"
    prefix = "--config." if fields else "--"
    return re.sub(named, lambda name: prefix + (name[1] if fields else name[1].replace("_", "-")), text)


@contextlib.contextmanager
def arguments_as_options(*arguments: str, fields: bool = False) -> Iterator[None]:
    """Lets the library's errors name options where they name its arguments: `--data-dir`, not `data_dir`.

    Args:
      fields: the options are those of a configuration: `--config.data_dir`.
    """
    try:
        yield
    except UserError as error:
        error.args = (as_options(str(error), *arguments, fields=fields),)
        raise


@contextlib.contextmanager
def advice(text: str) -> Iterator[None]:
    """Adds to an error of the library which option helps."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}; {text}") from None


def check_workers(ray: str, workers: int) -> None:
    """Raises UserError for workers without a cluster."""
    if workers and not ray:
        raise UserError("--workers without --ray has no effect; leave it out")
