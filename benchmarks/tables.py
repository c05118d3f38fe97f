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


def put_out(text: str, output: Path | None, *, heading: str = "") -> None:
    """Prints a table and, if asked, writes it to a file, in the place of the first one and what follows it.

    What the file says above, and its later sections, stay.

    Args:
      heading: of the section whose table it is; the page's if not given.
    """
    print(text)
    if output:
        page = output.read_text() if output.exists() else ""
        if heading and heading not in page:
            page += f"\n{heading}\n\n"
        start = page.find(heading)
        end = f"{page}\n## ".find("\n## ", start + 1)
        table = f"\n{page[:end]}\n|".find("\n|", start)
        output.write_text(page[:table] + text + page[end:])
