"""What `score` refuses before any file is touched, and options that would do nothing."""

import pytest

from iqa_jax.errors import UserError
from tests.cli.test_score import Fidelity, score_pairs
from tests.miniature import picture, save

pytestmark = pytest.mark.quick

OUTPUTS = [(), ("--csv", "scores.csv"), ("--csv", "scores.parquet"), ("--map", "maps"), ("--page", "page")]


@pytest.fixture
def started(tmp_path, call, monkeypatch):
    """Runs `score` in a folder with pictures, tables and results of before; nothing there may change."""
    for name in ("ref.png", "dis.png", "originals/a.png", "restored/a.png"):
        save(tmp_path / name, picture(0, (40, 40)))
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text("target,reference\ndis.png,ref.png\n")
    (tmp_path / "empty.csv").write_text("target,reference\n")
    (tmp_path / "nothing.csv").write_text("")
    for name in ("scores.csv", "scores.parquet", "maps/dis-map.png", "page/index.html"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("of before")
    monkeypatch.chdir(tmp_path)

    def refused(*arguments):
        before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
        code, out, err = call("score", *arguments)
        assert code == 1 and out == "" and err.startswith("error: ") and "Traceback" not in err
        assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before
        return err

    return refused


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize(
    "references", [("ref.png",), ("originals",), ("originals/*.png",), ("ref.png", "dis.png")]
)
def test_references_without_targets(started, references, output):
    assert "nothing to score: -r" in started("-r", *references, *output)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to score: give -t FILES"),
        (("-r", "one.csv", "two.csv"), "-r one.csv: expected images, or a single table"),
        (("-t", "dis.png", "-r", "ref.png", "two.csv"), "-r two.csv: expected images, or a single table"),
        (("-t", "one.csv", "dis.png"), "-t one.csv: expected images, or tables alone"),
        (("-t", "one.csv", "-r", "two.csv"), "two tables; give the one of the pairs, after -r"),
        (("-r", "empty.csv"), "empty.csv: lists no pair"),
        (("-t", "empty.csv"), "empty.csv: lists no pair"),
        (("-r", "nothing.csv"), "nothing.csv: "),
        (("-t", "", "-r", "ref.png"), "-t: an empty name"),
        (("-t", "dis.png", "-r", ""), "-r: an empty name"),
        (("-t", "dis.png", "-r", "ref.png", "--mask", "one.csv"), "--mask one.csv: a table"),
    ],
)
def test_nothing_to_score(started, arguments, message):
    for output in ((), ("--csv", "scores.csv")):
        assert message in started(*arguments, *output)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--weights", "blind", "--ema"),
        ("--weights", "blind", "--step", "5"),
        ("--step", "latest", "-r", "ref.png"),
        ("--weights", "full-reference", "--ema", "-r", "ref.png"),
    ],
)
def test_checkpoints_of_a_metric_that_comes_with_the_package(started, arguments):
    for output in OUTPUTS:
        assert "no training run" in started("-t", "dis.png", *arguments, *output)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-t", "dis.png", "-r", "ref.png", "--flat"), "--flat without a directory has no effect"),
        (("-r", "one.csv", "--flat"), "--flat without a directory has no effect"),
        (("-t", "dis.png", "--workers", "2"), "--workers without --ray has no effect"),
    ],
)
def test_options_without_effect(started, arguments, message):
    assert message in started(*arguments)


def test_no_pairs_are_an_error_also_where_they_come_from_elsewhere(tmp_path):
    table = tmp_path / "scores.csv"
    table.write_text("of before")
    with pytest.raises(UserError, match="nothing to score"):
        score_pairs(Fidelity(), [], table=table)
    assert table.read_text() == "of before" and [*tmp_path.iterdir()] == [table]
