"""Pairs from photographs, as the command makes them."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from iqa_jax.cli import app as commands
from iqa_jax.data import distortions, opinions
from iqa_jax.data.preparation import prepare_dataset
from iqa_jax.data.source import PairSource
from tests import miniature


@pytest.fixture
def photographs(tmp_path):
    for number in range(3):
        miniature.save(tmp_path / "photos" / f"p{number}.png", miniature.picture(number, (60, 80)))
    return tmp_path / "photos"


@pytest.fixture
def distort(monkeypatch, capsys, photographs, tmp_path):
    def run(*arguments, output="made"):
        command = [
            "iqa_jax",
            "distort",
            "--images",
            photographs,
            "--output",
            tmp_path / output,
            "--processes",
            1,
        ]
        monkeypatch.setattr("sys.argv", [str(a) for a in (*command, *arguments)])
        with pytest.raises(SystemExit) as exit_:
            commands.main()
        return exit_.value.code, *capsys.readouterr()

    return run


def manifest(folder):
    with open(folder / f"{folder.name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_pairs_are_made_and_can_be_prepared(distort, tmp_path):
    code, out, _ = distort("--types", "jpeg,white_noise,contrast dist.", "--levels", "2,4", "--label")
    rows = manifest(tmp_path / "made")
    assert code == 0 and "pairs of 3 photographs" in out and len(rows) == 3 * 3 * 2
    row = next(r for r in rows if r["distorted"] == "distorted/p1_jpeg_4.png")
    assert row["reference"] == "references/p1.png" and float(row["parameter"]) == 7
    assert float(row["mos"]) == opinions.mean_opinion("jpeg", 4)
    reference, distorted = (
        np.asarray(Image.open(tmp_path / "made" / row[k])) for k in ("reference", "distorted")
    )
    assert (distortions.distort(reference, "jpeg", 4) == distorted).all()
    builder = prepare_dataset("pairs", data_dir=tmp_path / "data", manual_dir=tmp_path / "made" / "made.csv")
    source = PairSource(builder, "train")
    assert len(source) == 18 and set(source.distortion) == {"jpeg", "white_noise", "contrast dist."}


def test_a_draw_without_labels_is_the_same_each_time(distort, tmp_path):
    arguments = ("--per-image", 2, "--short-side", 40, "--types", "jpeg,pixelate", "--seed", 3)
    for output in ("one", "two"):
        assert distort(*arguments, output=output)[0] == 0
    assert (tmp_path / "one" / "one.csv").read_bytes() == (tmp_path / "two" / "two.csv").read_bytes()
    rows = manifest(tmp_path / "one")
    assert len(rows) == 6 and "mos" not in rows[0]
    for row in rows:
        one, two = (tmp_path / folder / row["distorted"] for folder in ("one", "two"))
        assert one.read_bytes() == two.read_bytes() and min(Image.open(one).size) == 40


def test_it_goes_on_and_names_what_is_broken(distort, photographs, tmp_path):
    (photographs / "p1.png").write_bytes(b"no image")
    code, out, err = distort("--types", "jpeg", "--json")
    assert code == 1 and "p1.png: not an image" in err
    assert json.loads(out)["photographs"] == 2 and len(manifest(tmp_path / "made")) == 10
    kept = tmp_path / "made" / "distorted" / "p0_jpeg_1.png"
    lost = tmp_path / "made" / "distorted" / "p0_jpeg_2.png"
    before, content = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    miniature.save(photographs / "p1.png", miniature.picture(1, (60, 80)))
    assert distort("--types", "jpeg")[0] == 0
    assert kept.stat().st_mtime_ns == before and lost.read_bytes() == content
    assert len(manifest(tmp_path / "made")) == 15


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--types", "blur"), "distortion type 'blur': expected one of gaussian_blur"),
        (("--levels", "6"), "distortion level 6: expected one of 1, 2, 3, 4, 5"),
        (("--levels", "x"), "--levels x: expected numbers"),
        (("--images", "nowhere"), "nowhere"),
    ],
)
def test_what_does_not_fit_is_named(distort, tmp_path, arguments, message):
    code, _, err = distort(*arguments)
    assert code == 1 and message in err and not (tmp_path / "made" / "made.csv").exists()


def test_other_settings_need_another_directory(distort, photographs, tmp_path):
    assert distort("--types", "jpeg")[0] == 0
    code, _, err = distort("--types", "jpeg", "--seed", 1)
    assert code == 1 and "other settings (seed)" in err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert "not empty" in distort(output="full")[2]
    (tmp_path / "made" / "distort.json").write_text("{")
    assert "distort.json: damaged" in distort("--types", "jpeg")[2]
    assert "--name a/b: expected a name" in distort("--name", "a/b", output="new")[2]


def test_another_photograph_of_a_name_needs_another_directory(distort, photographs, tmp_path):
    assert distort("--types", "jpeg")[0] == 0
    made = {path: path.read_bytes() for path in (tmp_path / "made").rglob("*.png")}
    miniature.save(photographs / "p1.png", miniature.picture(8, (60, 80)))
    next(path for path in made if path.name == "p1_jpeg_2.png").unlink()
    code, _, err = distort("--types", "jpeg")
    assert code == 1 and "p1.png: has changed, or is another photograph" in err
    assert all(path.read_bytes() == content for path, content in made.items() if path.exists())


def test_equal_names_keep_their_folders(distort, photographs, tmp_path):
    miniature.save(photographs / "winter" / "night" / "p1.png", miniature.picture(7, (60, 80)))
    assert distort("--types", "jpeg", "--levels", "1")[0] == 0
    rows = manifest(tmp_path / "made")
    assert [row["reference"] for row in rows] == [
        f"references/{name}.png" for name in ("p0", "p1", "p2", "winter/night/p1")
    ]
    assert all((tmp_path / "made" / row["distorted"]).is_file() for row in rows)
