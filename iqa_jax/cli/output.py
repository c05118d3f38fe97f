"""What commands print: tables or JSON on standard output, progress on standard error."""

import json
import sys
from collections.abc import Mapping, Sequence

from iqa_jax.progress import on_terminal

_WRITTEN_OUT = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160))}


def remark(text: str) -> None:
    """A line on standard error."""
    if sys.stderr is not None:  # closed; what is printed to None goes to standard output
        print(text, file=sys.stderr)


def say_of_device() -> None:
    """A line on standard error where a GPU is there and not used."""
    from iqa_jax.ops.programs import device_remark

    if text := device_remark():
        remark(text)


def in_one_line(text: object) -> str:
    """A text, such as a file's name, whose line ends, tabs and other control characters are written out."""
    return str(text).translate(_WRITTEN_OUT)


def say_of_revision(record: Mapping) -> None:
    """A line on standard error for weights of the model hub: which revision was taken."""
    if "revision" in record:
        remark(f"weights: {record['name'].partition('@')[0]} at revision {record['revision']}")


def put_out(result: dict | list, as_json: bool, *tables) -> None:
    """Prints the result as JSON, or tables (rich's, or texts)."""
    if as_json:
        print(json.dumps(result, indent=2))
        return
    from rich.console import Console

    # In a file or a pipe no cell is cut; tables are as wide as what they hold.
    console = Console(soft_wrap=True, width=None if on_terminal(sys.stdout) else 100_000)
    for table in tables:
        console.print(table, highlight=False, markup=False)


def table_of(title: str, header: Sequence[str], rows: Sequence[Sequence]):
    """A table for `put_out`; numbers have four decimals, None is a dash."""
    from rich.table import Table

    made = Table(title=title)
    for number, name in enumerate(header):
        made.add_column(name, justify="left" if number == 0 else "right")
    for row in rows:
        made.add_row(*(cell(value) for value in row))
    return made


def cell(value) -> str:
    """One value of a table as text."""
    if value is None:
        return "–"
    return f"{value:z.4f}" if isinstance(value, float) else str(value)
