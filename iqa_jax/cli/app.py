"""The command line: `iqa-jax COMMAND`, or `python -m iqa_jax COMMAND`.

A command is a function in one of the modules here, and a line below.
"""

from typing import Annotated

import typer
from typer.core import TyperGroup

from iqa_jax import __version__
from iqa_jax.cli import convert, data, demo, evaluate, score, train, weights
from iqa_jax.cli.ending import shown_plainly
from iqa_jax.cli.options import TakesSeveral


class _Commands(TyperGroup):
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


def _version(asked: bool) -> None:
    if asked:
        print(f"iqa_jax {__version__}")
        raise typer.Exit


@app.callback()
def _about(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Learned, perceptual image quality assessment."""


for _command in (
    score.score,
    evaluate.evaluate,
    evaluate.submit,
    data.prepare,
    data.splits,
    data.show,
    data.distort,
    weights.average,
    weights.export,
    weights.pack,
    convert.convert,
    demo.demo,
):
    app.command(cls=TakesSeveral)(_command)
app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False
)(train.train)


def main() -> None:
    """Runs a command."""
    with shown_plainly():
        app()
