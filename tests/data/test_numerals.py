"""Numbers as people write them, in columns of tables and in label files."""

import pytest

from iqa_jax.cli.data import _ends_of
from iqa_jax.data.numerals import numbers
from iqa_jax.data.preparation import prepare_dataset
from iqa_jax.data.source import PairSource
from iqa_jax.errors import DataError
from tests import miniature

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1,448.96"], [1448.96]),
        (["1.448,96"], [1448.96]),
        (["1 448,96", "1\u202f448.5", "1\u00a0448"], [1448.96, 1448.5, 1448]),
        (["1'448.96", "1’448"], [1448.96, 1448]),
        (["12,34,567.5"], [1234567.5]),
        (["1.234.567"], [1234567]),
        (["1,420.5", "999", "1,420"], [1420.5, 999, 1420]),
        (["1.448,96", "1.420"], [1448.96, 1420]),
        (["1,420", "3,5"], [1.42, 3.5]),  # three decimals, with a comma
        (["0,125", "1,420"], [0.125, 1.42]),  # no thousands begin with a zero
        (["3,5", "4", "2,75"], [3.5, 4, 2.75]),
        (["3.5", "2,75"], [3.5, 2.75]),
        (["1.420", "2.250", "3"], [1.42, 2.25, 3]),  # as every program writes them
        (["+1e3", "−2", "-3.5E-1", ".5", "5."], [1000, -2, -0.35, 0.5, 5]),
        (["٣.٥", "４.５"], [3.5, 4.5]),
        (["3", "", None, 2.125], [3, None, None, 2.125]),
        (["1,2,3", "nan", "inf", "1e999", "1_000", "45%", "3.5 dB", "1 2", "0x10", ","], [None] * 10),
        (["good", "1,420.5"], [None, 1420.5]),
    ],
)
def test_the_cells_of_a_column_are_read_together(cells, expected):
    assert numbers(cells) == expected


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        (["999", "1,420"], "'1,420' is 1420 or 1.42: write one of these"),
        (["1,420", "good"], "'1,420' is 1420 or 1.42"),
        (["1.500", "3,5"], "'1.500' is 1.5 or 1500"),
        (["1.448,96", "1,448.96", "2,000"], "'2,000' is 2000 or 2"),
    ],
)
def test_a_cell_that_means_two_numbers_is_asked_about(cells, problem):
    with pytest.raises(DataError, match=problem):
        numbers(cells)


def test_the_scale_tells_which_of_two_numbers_is_meant():
    assert numbers(["1,420", "3"], within=(1, 5)) == [1.42, 3]
    assert numbers(["1,420", "999"], within=(900, 1900)) == [1420, 999]
    with pytest.raises(DataError, match="'1,420' is 1420 or 1.42"):
        numbers(["1,420", "3"], within=(0, 10_000))


def edited(path, *replacements):
    text = path.read_text()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return path


def prepared(name, source):
    return PairSource(prepare_dataset(name, data_dir=source.parent, manual_dir=source), "train")


def test_thousands_in_a_table_of_pairs(tmp_path):
    table = edited(miniature.pairs(tmp_path / "own"), (" 70,", ' "1,420",'), ("noise, 2", 'noise, "1,002"'))
    for old, new, problem in (
        ('"1,420"', '"1,420.5"', r"mine.csv, line 2: mos '1,420' is 1420 or 1.42: write one of these"),
        ('"1,002"', "99999999999", r"mine.csv, line 3: level '1,002' is 1002 or 1.002"),
        ("99999999999", '"1.002,0"', "level '99999999999', expected a whole number"),
    ):
        with pytest.raises(DataError, match=problem):
            prepared("pairs", table)
        edited(table, (old, new))
    source = prepared("pairs", table)
    assert source.mos.tolist() == [1420.5, 60, 69, 59] and source.level.tolist() == [1, 1002, 1, 1002]


def test_thousands_in_the_label_files_of_the_archives(tmp_path):
    folder = miniature.pipal(tmp_path / "PIPAL", references=2, per_reference=2)
    edited(folder / "Train_Label" / "A0001.txt", ("1700.0000", "1,700.0000"), ("1610.0000", "1610"))
    assert prepared("pipal", folder).mos.tolist() == [1700, 1610, 1703, 1613]
    folder = miniature.tid2013(tmp_path / "tid2013")
    edited(folder / "mos_with_names.txt", (".", ","), (",bmp", ".bmp"))
    assert prepared("tid2013", folder).mos.min() == pytest.approx(4.26)
    folder = miniature.kadid10k(tmp_path / "kadid10k")
    edited(folder / "dmos.csv", ("3.49", '"3,490"'), ("2.49", "2"), ("3.39", "3"), ("2.39", "2"))
    with pytest.raises(DataError, match=r"dmos.csv, line 2: '3,490' is 3490 or 3.49"):
        prepared("kadid10k", folder)


def test_a_number_of_a_spreadsheet_is_none_of_its_texts(tmp_path):
    import openpyxl

    folder = miniature.pairs(tmp_path / "own").parent
    book = openpyxl.Workbook()
    for row in (["image", "mos"], ["photos/p0.png", 3.125], ["photos/p1.png", "3,5"]):
        book.active.append(row)
    book.save(folder / "sheet.xlsx")
    assert prepared("pairs", folder / "sheet.xlsx").mos.tolist() == [3.125, 3.5]


def test_the_ends_of_a_scale():
    assert _ends_of("0,5-4,5") == (0.5, 4.5) and _ends_of("916.71-1,835.99") == (916.71, 1835.99)
    assert _ends_of("−1:1") == (-1, 1) and _ends_of("1–5") == _ends_of("1..5") == (1, 5)
    with pytest.raises(DataError, match="--scale 0-1,000: '1,000' is 1000 or 1"):
        _ends_of("0-1,000")
    with pytest.raises(DataError, match="--scale 1_0-50: expected two numbers"):
        _ends_of("1_0-50")
