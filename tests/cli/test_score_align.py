"""`score --align`: the shift of each pair, in every kind of output."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from iqa_jax.errors import UserError
from iqa_jax.scoring.files import score_files
from tests.cli.test_score import Fidelity, Stopped, score_pairs
from tests.miniature import noisy, save
from tests.reporting.test_page import Mapped, data_of
from tests.scoring.test_alignment import moved, scene

pytestmark = pytest.mark.quick

SHIFTS = [(0, 0), (2, -1), (-3, 0), (20, 0)]  # the last one is not believed


@pytest.fixture
def pairs(tmp_path):
    """Targets of one reference, noisy and moved; the first one is aligned."""
    made = []
    for number, shift in enumerate(SHIFTS):
        reference, target = moved(scene(), *shift, margin=24)
        save(tmp_path / "ref.png", reference)
        save(tmp_path / "dis" / f"{number}.png", noisy(target, 4.0, number))
        made.append((tmp_path / "dis" / f"{number}.png", tmp_path / "ref.png"))
    return made


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_holds_the_shifts_also_after_a_second_start(pairs, tmp_path, capsys):
    table, metric = tmp_path / "s.csv", Stopped()
    metric.after = 2
    with pytest.raises(KeyboardInterrupt):
        score_pairs(metric, pairs, table=table, align=True)
    assert score_pairs(Fidelity(), pairs, table=table, align=True) == 1
    rows = rows_of(table)
    assert list(rows[0]) == ["target", "reference", "score", "shift_x", "shift_y", "error"]
    assert [(float(r["shift_x"]), float(r["shift_y"])) for r in rows[:3]] == SHIFTS[:3]
    assert all(96 < float(row["score"]) < 97.5 for row in rows[:3])
    assert "20 pixels right of" in rows[3]["error"] and not rows[3]["score"] and not rows[3]["shift_x"]
    with pytest.raises(UserError, match="other settings"):  # nothing is mixed
        (tmp_path / "other.csv").write_text("")
        metric = Stopped()
        metric.after = 2
        with pytest.raises(KeyboardInterrupt):
            score_pairs(metric, pairs, table=tmp_path / "other.csv")
        score_pairs(Fidelity(), pairs, table=tmp_path / "other.csv", align=True)


def test_an_aligned_pair_keeps_its_score_and_others_gain(pairs):
    before = [result.score for _, result in sorted(score_files(Fidelity(), pairs), key=lambda r: r[0])]
    after = [r.score for _, r in sorted(score_files(Fidelity(), pairs, align=True), key=lambda r: r[0])]
    assert after[0] == before[0] and after[1] > before[1] + 5 and after[2] > before[2] + 5


def test_json_and_lines_on_the_terminal(pairs, capsys, monkeypatch):
    assert score_pairs(Fidelity(), pairs[:2], align=True, as_json=True) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["shift_x"], first["shift_y"]) == (0, 0)
    assert (second["shift_x"], second["shift_y"]) == (2, -1)
    assert score_pairs(Fidelity(), pairs[1:2], align=True) == 0
    assert "the target lay 2 pixels right of and 1 pixel above its reference" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert score_pairs(Fidelity(), pairs[:2], align=True) == 0
    assert "2, -1" in capsys.readouterr().out


def test_maps_and_page_show_what_was_compared(pairs, tmp_path):
    named = [str(tmp_path / "dis")]
    options = {"maps": tmp_path / "maps", "page": tmp_path / "page", "named": named}
    assert score_pairs(Mapped(), pairs[:3], align=True, **options) == 0
    sizes = [Image.open(tmp_path / "maps" / f"{k}-map.png").size for k in range(3)]
    shown = data_of(tmp_path / "page" / "index.html")["pairs"]
    width, height = shown[0]["width"], shown[0]["height"]
    assert [(p["width"], p["height"]) for p in shown] == [
        (width, height),
        (width - 2, height - 1),
        (width - 3, height),
    ]
    assert sizes[0][0] - sizes[1][0] == 2
    assert len({pair["referenceImage"] for pair in shown}) == 3  # another part of it each time


def test_masks_are_of_the_target(pairs, tmp_path):
    target = np.array(Image.open(pairs[1][0]))
    target[:, 190:] = 0
    save(pairs[1][0], target)
    mask = np.full_like(target, 255)
    mask[:, 190:] = 0
    save(tmp_path / "mask.png", mask)
    masks = {pairs[1][0]: tmp_path / "mask.png"}
    ((_, result),) = score_files(Fidelity(), pairs[1:2], align=True, masks=masks)
    assert result.shift == (2, -1) and 96 < result.score < 97.5


def test_without_a_reference_there_is_nothing_to_align(pairs):
    with pytest.raises(UserError, match="--align with a metric without reference has no effect"):
        score_pairs(Fidelity(full_reference=False), pairs, align=True)
