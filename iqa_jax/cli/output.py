"""What commands print: tables or JSON on standard output, remarks on standard error."""

import json
import sys
from collections.abc import Mapping, Sequence

from iqa_jax.progress import on_terminal

_WRITTEN_OUT = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160))}


def remark(text: str) -> None:
    """A line on standard error."""
    if sys.stderr is not None:  # else closed: print(file=None) would write to standard output
        print(text, file=sys.stderr)


def say_of_device() -> None:
    """Prints a line on standard error if the machine has a GPU that JAX does not use."""
    from iqa_jax.ops.programs import device_remark

    if text := device_remark():
        remark(text)


def in_one_line(text: object) -> str:
    """A text, such as a file's name, with its line ends, tabs and other control characters escaped."""
    return str(text).translate(_WRITTEN_OUT)


def say_of_revision(record: Mapping) -> None:
    """Prints on standard error which revision of weights from the model hub is used."""
    if "revision" in record:
        remark(f"weights: {record['name'].partition('@')[0]} at revision {record['revision']}")


def put_out(result: dict | list, as_json: bool, *tables) -> None:
    """Prints the result as JSON, or tables (rich's, or texts)."""
    if as_json:
        print(json.dumps(result, indent=2))
        return
    from rich.console import Console

    # In a file or a pipe tables are as wide as their content, so that no cell is cut.
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
