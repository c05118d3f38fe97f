"""The data sets from their archives' layouts, in miniature."""

import re

import numpy as np
import pytest
from PIL import Image

from iqa_jax import datasets
from iqa_jax.data import PairSource
from iqa_jax.errors import DataError
from tests import miniature

ARCHIVES = ("kadid10k", "tid2013", "csiq", "live")


def prepared(name, folder):
    return datasets.prepare(name, data_dir=folder.parent / "prepared", manual_dir=folder)


@pytest.mark.parametrize(
    ("name", "pairs", "first", "reference", "distortion", "level", "mos", "size"),
    [
        ("kadid10k", 8, "I01_01_01.png", "I01.png", "gaussian_blur", 1, 3.49, (48, 64)),
        ("tid2013", 8, "i01_01_1.bmp", "i01.bmp", "additive Gaussian noise", 1, 5.49, (48, 64)),
        ("csiq", 8, "awgn/1600.AWGN.1.png", "1600.png", "awgn", 1, -0.3, (48, 48)),
        ("live", 15, "fastfading/img1.bmp", "bikes.bmp", "fastfading", 0, -16.0, (48, 64)),
    ],
)
def test_an_archive_is_read_in_its_own_layout(
    tmp_path, name, pairs, first, reference, distortion, level, mos, size
):
    folder = getattr(miniature, name)(tmp_path / name)
    source = PairSource(prepared(name, folder), "train")
    assert len(source) == pairs and source.name[0] == first and list(source.name) == sorted(source.name)
    assert (source.reference[0], source.distortion[0], source.level[0]) == (reference, distortion, level)
    assert source.mos[0] == pytest.approx(mos)  # a DMOS is negated
    assert source.score.higher_is_better == (name in ("kadid10k", "tid2013"))
    pair = source[0]
    assert pair.reference.shape == pair.distorted.shape == (*size, 3)
    difference = np.abs(pair.reference.astype(float) - pair.distorted).mean()
    assert 0 < difference < 20  # its own reference, mildly distorted
    assert len(set(source.reference)) == 2


@pytest.mark.parametrize("name", ARCHIVES)
def test_the_folder_is_found_and_the_set_opened_again(tmp_path, name):
    kind = datasets.DATASETS[name]
    getattr(miniature, name)(tmp_path / kind.FOLDERS[0])
    assert datasets.find_folder(name, tmp_path) == tmp_path / kind.FOLDERS[0]
    found = datasets.summary(datasets.prepare(name, data_dir=tmp_path))
    assert f"{kind.WHOLE[0]:,} labelled pairs of {kind.WHOLE[1]} references" in found["deviation"]
    assert found["splits"]["train"]["references"] == 2
    again = datasets.prepare(name, data_dir=tmp_path, manual_dir=tmp_path / "gone")
    assert datasets.summary(again) == found


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_missing_archive_says_what_is_expected(tmp_path, name):
    with pytest.raises(DataError, match=f"(?s){name}: not found.*is distributed by its authors"):
        datasets.prepare(name, data_dir=tmp_path)


@pytest.mark.parametrize("form", ["xlsx", "csv", "txt"])
def test_csiq_from_each_form_of_its_table(tmp_path, form):
    source = PairSource(prepared("csiq", miniature.csiq(tmp_path / "CSIQ", form)), "train")
    assert dict(zip(source.name, source.mos, strict=True)) == pytest.approx(
        {
            f"{kind}/{image}.{file}.{level}.png": -(0.3 * level + 0.01 * index)
            for image in ("1600", "snow_leaves")
            for index, (kind, file) in enumerate((("awgn", "AWGN"), ("jpeg2000", "jpeg2000")))
            for level in (1, 2)
        },
        abs=1e-6,
    )


def test_live_leaves_out_the_undistorted_copies(tmp_path):
    source = PairSource(prepared("live", miniature.live(tmp_path / "LIVE")), "train")
    assert not [name for name in source.name if name.endswith("img3.bmp")]
    found = dict(zip(source.name, zip(source.reference, source.mos, strict=True), strict=True))
    assert found["jp2k/img2.bmp"] == ("sailing1.bmp", pytest.approx(-30.4))
    assert found["gblur/img4.bmp"] == ("bikes.bmp", pytest.approx(-60.5))


def replaced(file, old, new):
    def damage(folder):
        path = folder / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return damage


def removed(file):
    return lambda folder: (folder / file).unlink()


def resized(file):
    def damage(folder):
        with Image.open(folder / file) as image:
            smaller = image.resize((32, 32))
        smaller.save(folder / file)

    return damage


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("kadid10k", removed("images/I01_01_02.png"), "1 problem.*I01_01_02.png: a label without an image"),
        (
            "kadid10k",
            removed("images/I02.png"),
            "4 problems.*I02_01_01.png: its reference I02.png is missing",
        ),
        ("kadid10k", replaced("dmos.csv", "3.49", "good"), "2 problems.*dmos.csv, line 2: .*'good'"),
        ("kadid10k", replaced("dmos.csv", "3.49", "nan"), "2 problems.*dmos.csv, line 2"),
        ("kadid10k", resized("images/I01_01_02.png"), "I01_01_02.png: 32 x 32, its reference is 64 x 48"),
        ("tid2013", removed("distorted_images/I25_24_2.BMP"), "i25_24_2.bmp: a label without an image"),
        ("tid2013", removed("reference_images/i25.bmp"), "4 problems.*its reference i25.bmp is missing"),
        ("tid2013", replaced("mos_with_names.txt", "5.49000", "?"), "2 problems.*line 1: '. I01_01_1.bmp'"),
        ("csiq", removed("csiq.DMOS.xlsx"), "csiq.DMOS.xlsx: missing"),
        ("csiq", removed("dst_imgs/awgn/1600.AWGN.2.png"), "1 problem.*awgn/1600, level 2: a label without"),
        ("csiq", removed("src_imgs/snow_leaves.png"), "4 problems.*its reference snow_leaves.png is missing"),
        ("live", removed("dmos_realigned.mat"), "dmos_realigned.mat: cannot be read"),
        ("live", removed("jpeg/img4.bmp"), "19 images, 20 scores"),
        ("live", removed("jpeg/img2.bmp"), "jpeg/img2.bmp: missing"),
        ("live", replaced("wn/info.txt", "sailing1.bmp", "bikes.bmp"), "wn/info.txt: bikes.bmp for img2.bmp"),
    ],
)
def test_problems_are_counted_and_named_and_nothing_stays(tmp_path, name, damage, message):
    folder = getattr(miniature, name)(tmp_path / name)
    damage(folder)
    with pytest.raises(DataError, match=f"(?s){message}"):
        prepared(name, folder)
    assert not list((tmp_path / "prepared").rglob("*.array_record*"))


def test_an_interrupted_preparation_leaves_nothing_prepared(tmp_path, monkeypatch):
    from iqa_jax.datasets import base

    folder = miniature.kadid10k(tmp_path / "kadid10k")
    calls = iter([None] * 4)

    def interrupted(encoded):
        if next(calls, "end") == "end":
            raise KeyboardInterrupt
        return real(encoded)

    real = base.checked_size
    monkeypatch.setattr(base, "checked_size", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepared("kadid10k", folder)
    monkeypatch.undo()
    assert not list((tmp_path / "prepared").rglob("dataset_info.json"))
    left_over = tmp_path / "prepared" / "kadid10k" / "incomplete.ABC_1.0.0"
    left_over.mkdir(parents=True)
    assert len(PairSource(prepared("kadid10k", folder), "train")) == 8
    assert not left_over.exists()


def test_pairs_from_a_csv_file(tmp_path):
    file = miniature.pairs(tmp_path / "own")
    builder = datasets.prepare("pairs", data_dir=tmp_path, manual_dir=file)
    source = PairSource(builder, "train")
    assert list(source.name) == [f"distorted/p{n}-{level}.png" for n in (0, 1) for level in (1, 2)]
    assert list(source.mos) == [70, 60, 69, 59] and source.distortion[0] == "noise" and source.level[1] == 2
    assert (source.score.kind, source.score.low, source.score.high) == ("MOS", 59, 70)
    without = PairSource(builder, "unlabelled")
    assert len(without) == 2 and np.isnan(without.mos).all()
    again = PairSource(datasets.prepare("pairs/mine", data_dir=tmp_path), "train")
    np.testing.assert_array_equal(again[2].distorted, source[2].distorted)


def test_a_dmos_column_means_lower_is_better(tmp_path):
    file = miniature.pairs(tmp_path / "own")
    file.write_text(file.read_text().replace("mos", "dmos", 1))
    source = PairSource(datasets.prepare("pairs", data_dir=tmp_path, manual_dir=file), "train")
    assert not source.score.higher_is_better and list(source.mos) == [-70, -60, -69, -59]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("distorted, mos", "picture, mos", "no column 'distorted', there are reference, picture, mos"),
        ("photos/p1.png", "photos/p7.png", "line 5: no such file 'photos/p7.png'"),
        (" 70,", " high,", "line 2: mos 'high', expected a number"),
        ("distorted/p0-2.png", "distorted/p0-1.png", "distorted/p0-1.png: stands twice"),
        ("distorted/p0-1.png", "photos/p1.png", "photos/p1.png: 51 x 40, its reference is 50 x 40"),
    ],
)
def test_what_is_wrong_in_a_csv_file_is_named(tmp_path, old, new, message):
    file = miniature.pairs(tmp_path / "own")
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=f"(?s){re.escape(message)}"):
        datasets.prepare("pairs", data_dir=tmp_path, manual_dir=file)


def test_a_csv_file_that_changed_is_not_taken_for_the_old_one(tmp_path):
    file = miniature.pairs(tmp_path / "own")
    datasets.prepare("pairs", data_dir=tmp_path, manual_dir=file)
    file.write_text(file.read_text().replace(" 70,", " 71,"))
    with pytest.raises(DataError, match="was prepared from other content"):
        datasets.prepare("pairs", data_dir=tmp_path, manual_dir=file)
    with pytest.raises(DataError, match="expected a CSV file"):
        datasets.prepare("pairs", data_dir=tmp_path)


def test_splits_are_by_reference_and_repeatable():
    references = [f"I{k:02d}.png" for k in range(10)] * 5
    divided = datasets.reference_splits(references, 10, 0.8)
    assert divided == datasets.reference_splits(references[::-1], 10, 0.8)
    for part in divided:
        assert len(part["train"]) == 8 and sorted(part["train"] + part["validation"]) == sorted(
            set(references)
        )
    assert len({tuple(part["validation"]) for part in divided}) > 5
    assert len(datasets.reference_splits(["a", "b"], 1, 0.99)[0]["validation"]) == 1
    for bad in ((["a"], 1, 0.5), (["a", "b"], 0, 0.5), (["a", "b"], 1, 1.0)):
        with pytest.raises(DataError, match="expected"):
            datasets.reference_splits(*bad)
