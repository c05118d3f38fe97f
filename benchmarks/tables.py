"""How the benchmarks put out their tables."""

from pathlib import Path
from typing import Annotated

import typer

Output = Annotated[Path | None, typer.Option(help="Also write the table to this file.")]


def put_out(text: str, output: Path | None) -> None:
    """Prints a table and, if asked, writes it to a file."""
    print(text)
    if output:
        output.write_text(text)
