"""What the benchmarks share: where this project is found, their options, how they put out their tables."""

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # they run from a clone that is not installed

Output = Annotated[Path | None, typer.Option(help="Also write the table to this file.")]
Small = Annotated[
    bool,
    typer.Option("--small", help="Run once and tiny, to see that it works; its figures mean nothing."),
]


def need(package: str, install: str = "-r requirements-dev.txt") -> Any:
    """The module of a package; ends the benchmark with one line where it is not installed."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        sys.exit(f"this benchmark needs {package}: pip install {install}")


def put_out(text: str, output: Path | None) -> None:
    """Prints a table and, if asked, writes it to a file; what the file says above its first table stays."""
    print(text)
    if output:
        page = output.read_text() if output.exists() else ""
        output.write_text(page[: f"\n{page}\n|".find("\n|")] + text)
