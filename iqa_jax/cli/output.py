"""What commands print: tables or JSON on standard output, progress on standard error."""

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence


@contextlib.contextmanager
def progress_bar(total: int, what: str, unit: str) -> Iterator:
    """A bar on standard error, which goes when it is done."""
    from tqdm import tqdm

    with tqdm(total=total, desc=what, unit=unit, leave=False, dynamic_ncols=True) as bar:
        yield bar


def remark(text: str) -> None:
    """A line on standard error."""
    print(text, file=sys.stderr)


def say_of_device() -> None:
    """A line on standard error where a GPU is there and not used."""
    from iqa_jax.ops.programs import device_remark

    if text := device_remark():
        remark(text)


def put_out(result: dict | list, as_json: bool, *tables) -> None:
    """Prints the result as JSON, or tables (rich's, or texts)."""
    if as_json:
        print(json.dumps(result, indent=2))
        return
    from rich.console import Console

    console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 160)
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
    return f"{value:.4f}" if isinstance(value, float) else str(value)
