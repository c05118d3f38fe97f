"""Several methods in one call of `score`: which picture belongs to which, and what is said."""

import json

import numpy as np
import pytest
from PIL import Image

from iqa_jax.cli.score import chosen_files
from iqa_jax.errors import DataError
from iqa_jax.reporting.comparison import compare_results, methods_of
from iqa_jax.scoring.results import Result
from tests import miniature
from tests.cli.test_score import Fidelity, score_pairs
from tests.reporting.test_page import Mapped, data_of

pytestmark = pytest.mark.quick
STRENGTHS = {"good": 5.0, "bad": 40.0}


@pytest.fixture
def two(tmp_path):
    """Two methods on four references; one picture of each is missing or broken."""
    for number in range(4):
        image = miniature.picture(number, (40, 48))
        miniature.save(tmp_path / "ref" / f"R{number}.png", image)
        for name, strength in STRENGTHS.items():
            noisy = miniature.noisy(image, strength, number)
            miniature.save(tmp_path / name / f"R{number}_{name}.png", noisy)
    (tmp_path / "bad" / "R2_bad.png").write_bytes(b"broken")
    (tmp_path / "good" / "R3_good.png").unlink()
    return tmp_path


def scored(folder, targets, references=("ref",), metric=None, **options):
    named = [str(folder / name) for name in targets]
    pairs, _ = chosen_files(named, [str(folder / name) for name in references])
    return score_pairs(metric or Fidelity(), pairs, named=named, **options)


def test_two_folders_end_with_a_comparison(two, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    scored(two, STRENGTHS)
    out = capsys.readouterr().out
    assert "good is better than bad on 2 of 2 pictures, mean difference" in out
    assert "methods on the 2 pictures that all have" in out
    assert "left out: 3 pictures without a score or a counterpart" in out and "with so few references" in out


def test_in_a_pipe_the_scores_stay_alone_on_standard_output(two, capsys):
    scored(two, STRENGTHS)
    out, err = capsys.readouterr()
    assert all(len(line.split("\t")) == 2 for line in out.splitlines()) and len(out.splitlines()) == 6
    assert "good is better than bad on 2 of 2 pictures" in err


def test_json_and_the_page_hold_the_comparison(two, capsys):
    scored(two, STRENGTHS, metric=Mapped(), as_json=True, page=two / "page")
    content = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in content["scores"]] == ["good"] * 3 + ["bad"] * 4
    comparison = content["comparison"]
    assert [row["wins"] for row in comparison["methods"]] == [2, 0] and comparison["left_out"] == 3
    (difference,) = comparison["differences"]
    assert difference["shown"] and len(difference["interval_95"]) == 2
    assert data_of(two / "page" / "index.html")["comparison"] == comparison


def test_one_folder_stays_as_it_was(two, capsys):
    scored(two, ["good"], as_json=True)
    out, err = capsys.readouterr()
    assert isinstance(json.loads(out), list) and "better" not in err


def test_without_references_names_tell_which_pictures_belong_together(two, capsys):
    for name in STRENGTHS:
        for number in range(2):
            (two / name / f"R{number}_{name}.png").rename(two / name / f"R{number}.png")
    blind = Fidelity(full_reference=False)
    scored(two, STRENGTHS, references=(), metric=blind, as_json=True)
    comparison = json.loads(capsys.readouterr().out)["comparison"]
    assert (comparison["pictures"], comparison["references"], comparison["left_out"]) == (2, 2, 3)


def test_methods_with_nothing_in_common_are_told_so(two, capsys):
    scored(two, STRENGTHS, references=(), metric=Fidelity(full_reference=False), as_json=True)
    out, err = capsys.readouterr()
    assert json.loads(out)["comparison"] is None and "good, bad: not compared" in err


def test_tables_are_methods_too(two, capsys):
    for name in STRENGTHS:
        rows = "\n".join(f"{name}/R{k}_{name}.png" for k in range(2))
        (two / f"{name}.csv").write_text(f"image\n{rows}\n")
    scored(two, ["good.csv", "bad.csv"], as_json=True)
    comparison = json.loads(capsys.readouterr().out)["comparison"]
    assert [row["method"] for row in comparison["methods"]] == ["good", "bad"]
    assert comparison["pictures"] == 2
    rows = [f"{name}/R{k}_{name}.png,ref/R{k}.png,{name} way" for name in STRENGTHS for k in range(2)]
    (two / "one.csv").write_text("target,reference,method\n" + "\n".join(rows) + "\n")
    pairs, _ = chosen_files([], [str(two / "one.csv")])
    assert score_pairs(Fidelity(), pairs, named=[str(two / "one.csv")], as_json=True) == 0
    comparison = json.loads(capsys.readouterr().out)["comparison"]
    assert [row["method"] for row in comparison["methods"]] == ["good way", "bad way"]


def test_tables_in_two_folders_name_one_reference(two, capsys):
    for name in STRENGTHS:
        rows = "\n".join(f"R{k}_{name}.png,../ref/R{k}.png" for k in range(2))
        (two / name / "list.csv").write_text(f"image,reference\n{rows}\n")
    named = [str(two / name / "list.csv") for name in STRENGTHS]
    pairs, _ = chosen_files(named, [])
    assert score_pairs(Fidelity(), pairs, named=named, as_json=True) == 0
    comparison = json.loads(capsys.readouterr().out)["comparison"]
    assert [row["method"] for row in comparison["methods"]] == ["good/list", "bad/list"]
    assert comparison["references"] == 2


def test_a_picture_of_two_tables_is_refused_before_the_scoring(two):
    for name in STRENGTHS:
        (two / f"{name}.csv").write_text("image\ngood/R0_good.png\n")
    metric = Fidelity()
    with pytest.raises(DataError, match="bad.csv: .*R0_good.png is listed for good and for bad"):
        scored(two, ["good.csv", "bad.csv"], metric=metric)
    assert not metric.prepared


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a/R0_10.png", "a/R0_50.png", "b/R0_10.png", "b/R0_50.png"], 2),  # by name
        (["a/R0_10.png", "b/R0_50.png"], 1),  # one each, by reference
        (["a/R0_10.png", "b/R0_50.png", "b/R0_90.png"], 0),
        (["a/R0.png", "a/R0.jpg", "b/R0.png", "b/R0.jpg"], 2),  # the ending tells them apart
        (["a/q/R0.png", "a/p/R0.png", "b/q/R0.webp", "b/p/R0.webp"], 2),
    ],
)
def test_pictures_of_one_reference_are_told_apart_by_their_names(tmp_path, monkeypatch, names, expected):
    monkeypatch.chdir(tmp_path)
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((1, 1), np.uint8)).save(path)
    targets = [tmp_path / name for name in names]
    results = [Result(target, tmp_path / "ref/R0.png", float(k)) for k, target in enumerate(targets)]
    said: list[str] = []
    found = compare_results(results, methods_of(targets, ["a", "b"]), (1.0, 5.0), said.append)
    assert (found.pictures if found else 0) == expected and bool(said) == (not expected)
