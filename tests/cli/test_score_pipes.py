"""What `score` prints into pipes, files and terminals."""

import io
import json
import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from iqa_jax.cli.output import in_one_line, put_out, table_of
from iqa_jax.cli.score import chosen_files
from iqa_jax.progress import progress_bar
from tests.cli.test_score import Fidelity, folder, score_pairs
from tests.miniature import noisy, picture, save

pytestmark = pytest.mark.quick


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def deep(tmp_path):
    """Three targets whose paths are longer than a terminal is wide; the last is broken."""
    below = Path(*["a folder with a long name"] * 6)
    for number, strength in enumerate((60.0, 5.0, 0.0)):
        image = picture(number, (32, 36))
        save(tmp_path / "ref" / below / f"{number}.png", image)
        save(tmp_path / "dis" / below / f"{number}.png", noisy(image, strength, number))
    (tmp_path / "dis" / below / "2.png").write_bytes(b"")
    pairs, _ = chosen_files([str(tmp_path / "dis")], [str(tmp_path / "ref")])
    return pairs


@pytest.mark.parametrize("sort", [False, True])
def test_a_pipe_gets_a_line_a_target_unbroken(deep, capsys, sort):
    assert score_pairs(Fidelity(), deep, best_first=sort) == 1
    out, err = capsys.readouterr()
    rows = [line.split("\t") for line in out.splitlines()]
    assert [row[0] for row in rows] == [str(deep[k][0]) for k in ((1, 0) if sort else (0, 1))]
    scores = [float(row[1]) for row in rows]
    assert len(scores) == 2 and (not sort or scores == sorted(scores, reverse=True))
    assert "2 of 3 scored" in err and err.count("error: ") == 1


def test_sorted_lines_come_when_all_are_known(deep, monkeypatch):
    written = []
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    metric = Fidelity()
    score = metric.score
    monkeypatch.setattr(
        metric, "score", lambda *images: (written.append(sys.stdout.getvalue()), score(*images))[1]
    )
    score_pairs(metric, deep, best_first=True)
    assert written == ["", ""] and sys.stdout.getvalue().count("\n") == 2


def test_json_comes_in_the_order_given(tmp_path, capsys):
    folder(tmp_path, 3, 2)
    given = [str(tmp_path / "dis" / name) for name in ("R2_01.png", "R0_01.png", "R1_00.png")]
    pairs, _ = chosen_files([*given, str(tmp_path / "dis"), given[0]], [str(tmp_path / "ref")])
    assert score_pairs(Fidelity(), pairs, as_json=True, table=tmp_path / "s.csv") == 0
    targets = [entry["target"] for entry in json.loads(capsys.readouterr().out)]
    others = [str(path) for path in sorted((tmp_path / "dis").iterdir()) if str(path) not in given]
    assert targets == [*given, *others]
    assert [row.split(",")[0] for row in (tmp_path / "s.csv").read_text().splitlines()[1:]] == targets


def test_bars_are_for_terminals(monkeypatch):
    for stream, shown in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress_bar(3, "scoring", "image") as bar:
            bar.update(2)
            bar.refresh()
        assert ("scoring" in stream.getvalue()) is shown
    monkeypatch.setattr(sys, "stderr", None)  # closed
    with progress_bar(3, "scoring", "image") as bar:
        bar.update(2)


@pytest.mark.parametrize("to_pipe", [True, False])
def test_result_lines_in_a_pipe_stand_behind_no_bar(deep, monkeypatch, to_pipe, tmp_path):
    """The other end of a pipe may be the terminal that shows the bar."""
    terminal = Terminal()
    reading, writing = os.pipe()
    with open(writing, "w") as pipe, open(tmp_path / "out.txt", "w") as file:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(sys, "stdout", pipe if to_pipe else file)
        score_pairs(Fidelity(), deep)
    with open(reading) as pipe:
        lines = pipe.read() if to_pipe else (tmp_path / "out.txt").read_text()
    assert len(lines.splitlines()) == 2 and "scoring" not in lines
    assert ("scoring" in terminal.getvalue()) is not to_pipe


def test_a_closed_standard_output_ends_nothing(deep, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdout", None)
    assert score_pairs(Fidelity(), deep, table=tmp_path / "s.csv") == 1
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 4


def test_a_closed_standard_error_leaves_standard_output_as_it_is(deep, monkeypatch, capsys):
    for target, _ in deep:
        if target.stat().st_size:
            with Image.open(target) as image:
                image.putalpha(200)  # which is remarked
                image.save(target)
    monkeypatch.setattr(sys, "stderr", None)
    assert score_pairs(Fidelity(), deep, as_json=True) == 1
    assert len(json.loads(capsys.readouterr().out)) == 3


def test_a_reader_that_goes_ends_the_command_and_keeps_the_scores(deep, monkeypatch, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    pipe = open(writing, "w")
    monkeypatch.setattr(sys, "stdout", pipe)
    with pytest.raises(BrokenPipeError):
        score_pairs(Fidelity(), deep, table=tmp_path / "s.csv")
    monkeypatch.undo()
    with pytest.raises(BrokenPipeError):
        pipe.close()
    assert (tmp_path / "s.csv.journal").read_text().count("\n") == 2


def test_tables_of_other_commands_are_not_cut_in_a_pipe(capsys):
    name = "/".join(["a folder with a long name"] * 20)
    put_out({}, False, table_of("several", ["image", "score"], [[name, 1.0], ["b", -0.00001]]), "x" * 300)
    out = capsys.readouterr().out
    assert name in out and "x" * 300 in out and "-0.0000" not in out and "…" not in out
    assert max(map(len, out.splitlines())) < 600


def test_control_characters_of_names_are_written_out(tmp_path, capsys):
    assert in_one_line("a\tb\nc\x1b[31md\x7f\u0085é日") == r"a\tb\nc\x1b[31md\x7f\x85é日"
    folder(tmp_path, 1, 2)
    (tmp_path / "dis" / "R0_00.png").rename(tmp_path / "dis" / "R0_\x1b[2J\n.png")
    (tmp_path / "dis" / "R0_01.png").write_bytes(b"")
    (tmp_path / "dis" / "R0_01.png").rename(tmp_path / "dis" / "R0_\x1b[2J\n1.png")
    pairs, _ = chosen_files([str(tmp_path / "dis")], [str(tmp_path / "ref")])
    capsys.readouterr()
    score_pairs(Fidelity(), pairs)
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err and out.count("\n") == 1 and err.count("\n") == 2
