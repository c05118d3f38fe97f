"""The journal of a CSV file of scores: what it gives back, and what it never does."""

import contextlib
import math
import os
import random
from pathlib import Path

import pytest

from iqa_jax.errors import UserError
from iqa_jax.files import locked
from iqa_jax.journal import Journal
from iqa_jax.scoring.results import Result, ScoreTable, journal_of, state_of

pytestmark = pytest.mark.quick

MINE = {"metric": {"sha256": "a", "range": [1.0, 5.0]}, "resize": ""}


def images(folder: Path, count: int) -> list[tuple[Path, None]]:
    """Files whose content does not matter, as what scores depend on."""
    for number in range(count):
        (folder / f"{number}.png").write_bytes(b"x" * number)
    return [(folder / f"{number}.png", None) for number in range(count)]


def add(opened: ScoreTable, files: tuple, score: float) -> None:
    opened.add(Result(*files, score), files, [state_of(path) for path in files])


def interrupted(table: Path, files: list, identity: dict = MINE) -> dict[int, float]:
    """A table whose journal holds scores of all files; these scores."""
    scores = {number: number / 7 for number in range(len(files))}
    with ScoreTable(table, identity) as opened:
        for number, score in scores.items():
            add(opened, files[number], score)
    return scores


def kept(table: Path, files: list, identity: dict = MINE) -> dict[int, float]:
    with ScoreTable(table, identity) as opened:
        return opened.scored(files)


def test_what_was_scored_is_given_back(tmp_path):
    files = images(tmp_path, 5)
    table = tmp_path / "s.csv"
    assert kept(table, files) == {}
    scores = interrupted(table, files)
    assert kept(table, files) == scores
    os.utime(files[2][0], ns=(0, 0))
    files[3][0].unlink()
    assert kept(table, files) == {number: scores[number] for number in (0, 1, 4)}


def test_a_file_that_was_written_again_with_its_date_kept_is_scored_again(tmp_path):
    files = images(tmp_path, 2)
    table = tmp_path / "s.csv"
    scores = interrupted(table, files)
    before = files[1][0].stat()
    files[1][0].write_bytes(b"y")
    os.utime(files[1][0], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert kept(table, files) == {0: scores[0]}


@pytest.mark.parametrize(
    "change", [{"range": [0.0, 1.0]}, {"heads": 2}, {"sha256": "b"}, {"sha256": "a", "extra": None}]
)
def test_another_metric_is_refused_and_nothing_is_lost(tmp_path, change):
    files = images(tmp_path, 3)
    table = tmp_path / "s.csv"
    interrupted(table, files)
    before = journal_of(table).read_bytes(), table.read_bytes()
    other = {**MINE, "metric": {**MINE["metric"], **change}}
    with pytest.raises(UserError, match="scores of another metric"):
        kept(table, files, other)
    # Also where its first line does not tell any more whose it is.
    journal_of(table).write_bytes(b"\0" + before[0][1:])
    with pytest.raises(UserError, match="damaged, so that the metric of its scores is not known"):
        kept(table, files, other)
    assert journal_of(table).read_bytes()[1:] == before[0][1:] and table.read_bytes() == before[1]
    with ScoreTable(table, other, recompute=True) as opened:
        assert opened.scored(files) == {}


def test_a_finished_table_stays_until_the_next_one_is_whole(tmp_path):
    files, table = images(tmp_path, 3), tmp_path / "s.csv"
    other = {**MINE, "resize": "target"}
    with ScoreTable(table, MINE) as opened:
        add(opened, files[0], 1.5)
        opened.finish([Result(*files[0], 1.5)])
    finished = table.read_bytes()
    scores = interrupted(table, files, other)
    assert table.read_bytes() == finished
    for recomputed in (other, MINE, other):  # stopped again, whoever's journal it was
        with ScoreTable(table, recomputed, recompute=True) as opened:
            add(opened, files[0], scores[0])
        assert table.read_bytes() == finished
    interrupted(table, files, other)
    with ScoreTable(table, other) as opened:
        assert opened.scored(files) == scores
        results = [Result(*files[number], score) for number, score in scores.items()]
        for result, its in zip(results, files, strict=True):
            opened.add(result, its, None)
        assert table.read_bytes() == finished
        opened.finish(results)
    assert table.read_text().count("\n") == 4 and not journal_of(table).exists()


@pytest.mark.parametrize("name", ["s.csv", "s.parquet"])
def test_a_table_of_something_else_is_never_replaced(tmp_path, name):
    pytest.importorskip("pyarrow")
    table = tmp_path / name
    for content in (b"image,mos\na.png,3.5\n", b"target,reference,mos\n", b"\xff\xfe\0", b"PAR1"):
        table.write_bytes(content)
        for again in (False, True):
            with pytest.raises(UserError, match=f"{name}: is there already and is no table of scores"):
                ScoreTable(table, MINE, recompute=again)
        assert table.read_bytes() == content
    # What a full disk or a killed process leaves, and what a spreadsheet saves.
    for beginning in (b"", b"target,refer", b"\xef\xbb\xbftarget,reference,score,error\r\na.png,,1,\r\n"):
        if table.suffix == ".csv" or not beginning:
            table.write_bytes(beginning)
            assert kept(table, []) == {}


def test_no_damage_makes_another_score(tmp_path):
    files = images(tmp_path, 12)
    table = tmp_path / "s.csv"
    scores = interrupted(table, files)
    whole = journal_of(table).read_bytes()
    other = {**MINE, "resize": "target"}
    draw = random.Random(0)
    refused = given_back = 0
    for number in range(400):
        damaged = bytearray(whole)
        kind = draw.randrange(4)
        where, length = draw.randrange(len(whole)), draw.randrange(1, 200)
        if kind == 0:
            damaged[where] ^= 1 << draw.randrange(8)
        elif kind == 1:
            damaged[where : where + length] = draw.randbytes(len(damaged[where : where + length]))
        elif kind == 2:
            del damaged[where : where + length]
        else:
            del damaged[where:]
        journal_of(table).write_bytes(damaged)
        try:
            back = kept(table, files)
        except UserError:
            refused += 1
        else:
            given_back += len(back)
            assert back.items() <= scores.items()
        if number % 5 == 0:
            journal_of(table).write_bytes(damaged)
            with contextlib.suppress(UserError):
                assert kept(table, files, other) == {}
    assert refused < 60 and given_back > 2000


def test_the_line_after_one_that_was_cut_off_is_kept(tmp_path):
    files = images(tmp_path, 4)
    table = tmp_path / "s.csv"
    scores = interrupted(table, files[:3])
    journal = journal_of(table)
    journal.write_bytes(journal.read_bytes()[:-9])
    with ScoreTable(table, MINE) as opened:
        assert opened.damaged == 0 and opened.scored(files) == {0: scores[0], 1: scores[1]}
        add(opened, files[2], 2.5)
        add(opened, files[3], 3.5)
    assert kept(table, files) == {0: scores[0], 1: scores[1], 2: 2.5, 3: 3.5}


def test_damaged_lines_are_counted_and_written_out_of_the_journal(tmp_path):
    files = images(tmp_path, 4)
    table = tmp_path / "s.csv"
    scores = interrupted(table, files)
    lines = journal_of(table).read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"0.142857", b"9.142857")
    journal_of(table).write_bytes(b"".join(lines))
    with ScoreTable(table, MINE) as opened:
        assert opened.damaged == 1 and opened.scored(files).keys() == {0, 2, 3}
        add(opened, files[1], scores[1])
    with ScoreTable(table, MINE) as opened:
        assert opened.damaged == 0 and opened.scored(files) == scores


@pytest.mark.parametrize("content", [b"", b"0123456789abcdef {", b"\xff\xfe"])
def test_a_journal_that_was_cut_off_in_its_first_line_is_begun_again(tmp_path, content):
    files = images(tmp_path, 2)
    table = tmp_path / "s.csv"
    journal_of(table).write_bytes(content)
    assert kept(table, files) == {}
    assert kept(table, files) == {} and interrupted(table, files) == kept(table, files)


def test_rows_of_other_types_are_no_scores(tmp_path):
    files = images(tmp_path, 3)
    table = tmp_path / "s.csv"
    scores = interrupted(table, files)
    for odd in ("1.0", None, True, [1.0], {"a": 1}, 3):
        with Journal(journal_of(table), MINE) as journal:
            journal.add("[]", odd)
        assert kept(table, files) == scores
    with ScoreTable(table, MINE) as opened, pytest.raises(ValueError, match="not JSON compliant"):
        add(opened, files[0], math.nan)


def test_two_writers_are_never_let_in(tmp_path):
    table = tmp_path / "s.csv"
    files = images(tmp_path, 1)
    with ScoreTable(table, MINE) as opened:
        with pytest.raises(UserError, match="another process writes its results there"):
            kept(table, files)
        add(opened, files[0], 1.0)
    # Whoever had opened the lock file before it was released holds the same file as those to come.
    lock = tmp_path / ".s.csv.journal.lock"
    assert lock.exists()
    with locked(lock), pytest.raises(UserError, match="another process"):
        kept(table, files)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
@pytest.mark.parametrize("name", ["n" * 250, "ü" * 124, "日" * 82], ids=["one byte", "two", "three"])
def test_a_table_may_have_the_longest_name_there_is(tmp_path, name, ending):
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    table = tmp_path / (os.fsencode(name)[: 255 - len(ending)].decode(errors="ignore") + ending)
    files = images(tmp_path, 2)
    scores = interrupted(table, files)
    assert kept(table, files) == scores and journal_of(table).exists()
    with ScoreTable(table, MINE) as opened:
        opened.finish([Result(*files[0], 1.0)])
    assert table.is_file() and not journal_of(table).exists()
