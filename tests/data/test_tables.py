"""Files that people give: spreadsheets of any extent, and text in any locale."""

import json
import tracemalloc
import unicodedata
import zipfile
from pathlib import Path

import openpyxl
import pytest

from iqa_jax.data import tables
from iqa_jax.data.preparation import prepare_dataset
from iqa_jax.data.source import PairSource
from iqa_jax.data.splits import part_of_splits
from iqa_jax.errors import DataError
from tests import miniature

pytestmark = pytest.mark.quick
COLUMNS = ("image", "mos")


def sheet(path, rows, **cells):
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for place, value in cells.items():
        book.active[place] = value
    book.save(path)
    return path


def rows(path):
    problems: list[str] = []
    return tables.table_rows(path, COLUMNS, problems), problems


def test_a_cell_in_the_last_row_and_column_takes_little_memory(tmp_path):
    path = sheet(tmp_path / "far.xlsx", [COLUMNS, ["a.png", 3.5]], XFD20000=" ")
    tracemalloc.start()
    found, problems = rows(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [(2, {"image": "a.png", "mos": "3.5"})] and not problems and peak < 20e6
    found, problems = rows(sheet(path, [COLUMNS, ["a.png", 3.5]], XFD1048576="x"))
    assert len(found) == 1 and problems == ["far.xlsx, line 1048576: 16384 cells, expected 2"]


def test_merged_cells_of_a_whole_sheet_take_little_memory(tmp_path):
    path = sheet(tmp_path / "merged.xlsx", [COLUMNS, ["a.png", 3.5]])
    whole = tmp_path / "whole.xlsx"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(whole, "w") as new:
        for name in old.namelist():
            merged = b'</sheetData><mergeCells count="1"><mergeCell ref="D1:XFD1048576"/></mergeCells>'
            new.writestr(name, old.read(name).replace(b"</sheetData>", merged))
    assert rows(whole) == rows(path) and len(rows(path)[0]) == 1


def test_a_spreadsheet_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    path = sheet(tmp_path / "large.xlsx", [COLUMNS, ["a.png", 3.5]])
    monkeypatch.setattr(tables, "_UNPACKED_BYTES", 1000)
    assert "large.xlsx: cannot be read as a spreadsheet (0 MiB unpacked, expected" in rows(path)[1][0]


def test_blank_rows_keep_the_numbers_of_the_lines(tmp_path):
    path = sheet(tmp_path / "gaps.xlsx", [[], COLUMNS, [], [None, " "], ["a.png", 3]])
    assert rows(path) == ([(5, {"image": "a.png", "mos": "3"})], [])


@pytest.fixture
def accented(tmp_path):
    """A data set whose references have accents, and the form in which their names are."""
    for name in ("é", "ö"):
        for version in ("", "_1"):
            miniature.save(tmp_path / f"{name}{version}.png", miniature.picture(len(version), (40, 40)))
    (tmp_path / "own.csv").write_text(
        "reference,distorted,mos\né.png,é_1.png,1\nö.png,ö_1.png,2\n", encoding="utf-8"
    )
    return prepare_dataset("pairs", data_dir=tmp_path, manual_dir=tmp_path / "own.csv")


def test_names_of_a_table_are_kept_as_utf_8_in_any_locale(tmp_path, monkeypatch, accented):
    names = PairSource(accented, "train").name.tolist()
    monkeypatch.setattr("os.fsencode", lambda path: str(path).encode("latin-1", "surrogateescape"))
    monkeypatch.setattr("os.fsdecode", lambda path: path.decode("latin-1"))
    is_file, in_utf_8 = Path.is_file, lambda path: str(path).encode("latin-1").decode(errors="replace")
    monkeypatch.setattr(Path, "is_file", lambda path: is_file(Path(in_utf_8(path))))
    images = accented.find(tmp_path / "own.csv").splits["train"]
    assert [image.name for image in images] == names
    assert [in_utf_8(image.encoded) for image in images] == [str(tmp_path / name) for name in names]


def test_a_formula_that_was_saved_without_its_value_is_no_blank_cell(tmp_path):
    import openpyxl

    for formula, wrong in ((None, False), ("=1+1", True)):
        book = openpyxl.Workbook()
        for row in (["distorted", "mos", "note"], ["a.png", 3, None], ["b.png", formula, "x"]):
            book.active.append(row)
        book.save(tmp_path / "own.xlsx")
        problems = []
        rows = tables.table_rows(tmp_path / "own.xlsx", ("distorted",), problems)
        assert bool(rows) != wrong and ("row 3 holds the formula =1+1" in "".join(problems)) == wrong


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_file_of_splits_is_utf_8_in_any_locale(tmp_path, accented, form, mark):
    names = [unicodedata.normalize(form, "é.png")]
    content = {"dataset": "pairs/own", "train": names, "validation": ["ö.png"]}
    file = tmp_path / "split.json"
    file.write_text(mark + json.dumps(content, ensure_ascii=False), encoding="utf-8")
    assert part_of_splits(accented, file, "train").name.tolist() == ["é_1.png"]
    file.write_text("{", encoding="utf-16")
    with pytest.raises(DataError, match="split.json: expected JSON"):
        part_of_splits(accented, file, "train")
