"""Label tables: lines of text, CSV files and spreadsheets.

What cannot be read is added to `problems`, and the rows that were read are given.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

Rows = list[tuple[int, dict[str, str]]]


def numbered_lines(path: Path, problems: list[str]) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, without the space around them; the first is 1."""
    lines = enumerate(_text(path, problems).splitlines(), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def csv_rows(path: Path, columns: Sequence[str], problems: list[str]) -> Rows:
    """Rows by lower-case column name, below the line that holds `columns`, with their line numbers.

    Cells are divided by commas, tabs or semicolons, whichever are the most.
    """
    text = _text(path, problems)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",\t;", key=text.count))
    try:
        cells = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        problems.append(f"{path.name}, line {reader.line_num}: {error}; expected a CSV file")
        return []
    return _by_column(path, cells, columns, problems)


def sheet_rows(path: Path, sheet: str, columns: Sequence[str], problems: list[str]) -> Rows:
    """The same of a sheet of an .xlsx file; of the one it opens with if there is none of that name."""
    import openpyxl

    try:
        book = openpyxl.load_workbook(path, data_only=True)
        found = book[sheet] if sheet in book.sheetnames else book.active
        cells = [
            (number, ["" if cell is None else str(cell).strip() for cell in row])
            for number, row in enumerate(found.iter_rows(values_only=True), start=1)
        ]
    except Exception as error:  # openpyxl raises many kinds for broken files
        problems.append(f"{path.name}: cannot be read as a spreadsheet ({reason(error)})")
        return []
    return _by_column(path, cells, columns, problems)


def reason(error: Exception) -> str:
    """What went wrong, without the path that a failure of the file system names too."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _text(path: Path, problems: list[str]) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path.parent.name}/{path.name}: cannot be read as text ({reason(error)})")
        return ""
    if not text.strip():
        problems.append(f"{path.name}: empty")
    return text


def _by_column(
    path: Path, cells: Iterable[tuple[int, list[str]]], columns: Sequence[str], problems: list[str]
) -> Rows:
    rows, names, first = [], None, None
    for number, row in cells:
        if not any(row):
            continue
        first = first or row
        if names is None:
            lower = [cell.lower() for cell in row]
            names = lower if set(columns) <= set(lower) else None
        elif any(row[len(names) :]):
            problems.append(f"{path.name}, line {number}: {len(row)} cells, expected {len(names)}")
        else:
            row += [""] * (len(names) - len(row))
            rows.append((number, {name: row[names.index(name)] for name in names if name}))
    if names is None and first:
        problems.append(
            f"{path.name}: no line with the columns {', '.join(columns)}; it begins with {', '.join(first)}"
        )
    return rows
