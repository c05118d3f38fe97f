"""Any table -> rows: CSV files of every kind, spreadsheets and lines of text.

What cannot be read is added to `problems`; the other rows are returned.
"""

import codecs
import csv
import io
import os
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from iqa_jax.files import open_regular

Rows = list[tuple[int, dict[str, str]]]
Names = Callable[[Sequence[str]], Sequence[str]]  # what to call the columns of a line
TABLES = (".csv", ".tsv", ".txt", ".xlsx")  # endings
# Other usual names of the columns of a table of pairs.
PAIR_ALIASES = {"target": "distorted", "image": "distorted", "ref": "reference"}
_DELIMITERS = (",", ";", "\t")
_SHEET_ROWS = 2**20  # of an .xlsx file
_UNPACKED_BYTES = 512 * 2**20
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def numbered_lines(path: Path, problems: list[str]) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, without the space around them; the first is 1."""
    lines = enumerate(_text(path, problems).splitlines(), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def table_rows(
    path: Path, columns: Sequence[str], problems: list[str], *, names: Names | None = None
) -> Rows:
    """Rows of a spreadsheet or of a CSV file, by its ending; see `csv_rows`."""
    if path.suffix.lower() == ".xlsx":
        return sheet_rows(path, "", columns, problems, names=names)
    return csv_rows(path, columns, problems, names=names)


def csv_rows(path: Path, columns: Sequence[str], problems: list[str], *, names: Names | None = None) -> Rows:
    """Rows by lower-case column name, below the line that holds `columns`, with their line numbers.

    Cells are divided by commas, semicolons or tabs, whichever make the columns; quotes, UTF-8 with or
    without a mark, UTF-16 and the line ends of any system are understood.

    Args:
      names: what to call the columns of a line, given in lower case; as they are, if not given.
    """
    text = _text(path, problems)
    table = _Table()
    for delimiter in sorted(_DELIMITERS, key=text.count, reverse=True):
        try:
            table = _by_column(_cells(text, delimiter), columns, names)
        except csv.Error as error:
            problems.append(f"{path.name}: {error}; expected a CSV file")
            return []
        if table.names is not None:
            break
    return _reported(path, table, columns, problems)


def sheet_rows(
    path: Path,
    sheet: str,
    columns: Sequence[str],
    problems: list[str],
    *,
    names: Names | None = None,
) -> Rows:
    """The same of a sheet of an .xlsx file, or of its active sheet if none has that name."""
    try:
        with open_regular(path) as file:
            cells = list(_sheet_cells(file, sheet))
    except ModuleNotFoundError:
        raise
    except Exception as error:  # openpyxl raises many kinds for broken files
        problems.append(f"{path.name}: cannot be read as a spreadsheet ({reason(error)})")
        return []
    return _reported(path, _by_column(cells, columns, names), columns, problems)


def _sheet_cells(file: BinaryIO, sheet: str) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each row that is not blank; the extent of the sheet costs no memory."""
    import openpyxl

    with zipfile.ZipFile(file) as archive:
        size = sum(part.file_size for part in archive.infolist())
    if size > _UNPACKED_BYTES:
        raise ValueError(f"{size / 2**20:,.0f} MiB unpacked, expected at most {_UNPACKED_BYTES / 2**20:,.0f}")

    def rows(data_only: bool) -> Iterator[tuple]:
        book = openpyxl.load_workbook(file, data_only=data_only, read_only=True)
        chosen: Any = book[sheet] if sheet in book.sheetnames else book.active
        chosen.reset_dimensions()  # rows end with their own last cell, not with the sheet's
        return chosen.iter_rows(values_only=True)

    blank = False
    for number, row in enumerate(rows(data_only=True), start=1):
        if number > _SHEET_ROWS:
            raise ValueError(f"a row beyond {_SHEET_ROWS:,}")
        if not row:
            continue
        blank = blank or None in row
        cells = ["" if cell is None else _cell_text(cell) for cell in row]
        if any(cells):
            yield number, cells
    if blank:
        _check_formulas(rows(data_only=True), rows(data_only=False))


def _check_formulas(values: Iterable[tuple], formulas: Iterable[tuple]) -> None:
    """Raises ValueError for a formula without its value, which would be taken for a blank cell."""
    for number, (row, written) in enumerate(zip(values, formulas, strict=True), start=1):
        for value, formula in zip(row, written, strict=False):
            if value is None and isinstance(formula, str) and formula.startswith("="):
                raise ValueError(
                    f"row {number} holds the formula {formula} without its value; open the file in a "
                    "spreadsheet program, save it, and try again"
                )


def _cell_text(cell: object) -> str:
    """The text of a cell; a number is written so that it cannot be read as another."""
    text = str(cell).strip()
    return text + "0" if isinstance(cell, float) and len(text.partition(".")[2]) == 3 else text


def listed_path(folder: Path, name: str) -> str:
    """The path of a file that a table names, in the spelling that the disk has, normalised.

    Backslashes divide folders too; a name that is not UTF-8 may be written as Windows does; letters with
    accents may be one character or two (Unicode's NFC and NFD), in the table and on the disk.
    """
    spellings = [name, name.replace("\\", "/")]
    spellings += [_as_windows(spelling) for spelling in spellings]
    if not name.isascii():
        # As bytes, where the system's names are not taken for UTF-8.
        spellings += [os.fsdecode(s.encode("utf-8", "surrogateescape")) for s in spellings[:2]]
        spellings.append(_accents_as_on_disk(folder, spellings[1]))
    existing = next((s for s in spellings if s and (folder / s).is_file()), spellings[1])
    return os.path.normpath(existing)


def _accents_as_on_disk(folder: Path, name: str) -> str:
    """The name with each of its parts composed or decomposed as there is one."""
    spelt = Path()
    for part in Path(name).parts:
        forms = (part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part))
        spelt /= next((form for form in forms if (folder / spelt / form).exists()), part)
    return str(spelt)


def _as_windows(name: str) -> str:
    """A name whose bytes are not UTF-8, read as Western Windows writes it; "" if it is not one."""
    try:
        return name.encode("utf-8", "surrogateescape").decode("cp1252")
    except UnicodeDecodeError:
        return ""


def reason(error: Exception) -> str:
    """The reason of an error, without the path that errors of the file system contain."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _text(path: Path, problems: list[str]) -> str:
    """The content of a text file; the bytes of a name that is not UTF-8 stay as they are."""
    try:
        with open_regular(path) as file:
            content = file.read()
        encoding = next((name for mark, name in _BOMS.items() if content.startswith(mark)), "utf-8")
        if encoding == "utf-8" and b"\0" in content[:4]:
            encoding = "utf-16-le" if content[1:2] == b"\0" else "utf-16-be"
        text = content.decode(encoding, "surrogateescape" if encoding.startswith("utf-8") else "strict")
        if "\0" in text or text.startswith("\udc89PNG"):
            raise ValueError("it is no text")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        problems.append(f"{path.parent.name}/{path.name}: cannot be read as text ({reason(error)})")
        return ""
    if not text.strip():
        problems.append(f"{path.name}: empty")
    return text


def _cells(text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    return [(reader.line_num, [cell.strip() for cell in row]) for row in reader]


class _Table:
    """What a table holds: its columns, rows, surplus cells, and its first line."""

    def __init__(self) -> None:
        self.names: Sequence[str] | None = None
        self.rows: Rows = []
        self.surplus: list[tuple[int, int]] = []
        self.first: list[str] | None = None


def _by_column(
    cells: Iterable[tuple[int, list[str]]], columns: Sequence[str], names_of: Names | None
) -> _Table:
    table = _Table()
    for number, row in cells:
        if not any(row):
            continue
        table.first = table.first or row
        if table.names is None:
            lower = [cell.lower() for cell in row]
            names = names_of(lower) if names_of else lower
            table.names = names if set(columns) <= set(names) else None
        elif any(row[len(table.names) :]):
            table.surplus.append((number, len(row)))
        else:
            row += [""] * (len(table.names) - len(row))
            by_name = {name: row[table.names.index(name)] for name in table.names if name}
            table.rows.append((number, by_name))
    return table


def renamed(header: Sequence[str], columns: Sequence[str], aliases: Mapping[str, str]) -> list[str]:
    """The names of columns, with other usual names (`aliases`) replaced by those in `columns`."""
    return [_meant(name, header, columns, aliases) for name in header]


def _meant(name: str, names: Sequence[str], columns: Sequence[str], aliases: Mapping[str, str]) -> str:
    """The name of a column: what an alias stands for, unless a column has that name itself.

    Of several aliases that stand for one, the first in `aliases` counts.
    """
    if name in columns or name not in aliases or aliases[name] in names:
        return name
    first = next(alias for alias in aliases if aliases[alias] == aliases[name] and alias in names)
    return aliases[name] if name == first else name


def _reported(path: Path, table: _Table, columns: Sequence[str], problems: list[str]) -> Rows:
    if table.names is None and table.first:
        problems.append(
            f"{path.name}: no line with the columns {', '.join(columns)}; it begins with "
            f"{', '.join(table.first)}"
        )
    for number, count in table.surplus:
        problems.append(f"{path.name}, line {number}: {count} cells, expected {len(table.names or ())}")
    return table.rows
