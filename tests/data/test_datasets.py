"""The data sets from their archives' layouts, in miniature."""

import re
import shutil
import threading

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from iqa_jax.cli.options import arguments_as_options
from iqa_jax.data.datasets import DATASETS
from iqa_jax.data.datasets.overview import summary
from iqa_jax.data.datasets.pairs import TableOptions
from iqa_jax.data.preparation import find_folder, prepare_dataset
from iqa_jax.data.source import PairSource
from iqa_jax.data.splits import reference_splits
from iqa_jax.errors import DataError, UserError
from tests import miniature

pytestmark = pytest.mark.quick

ARCHIVES = ("kadid10k", "tid2013", "csiq", "live")


def prepared(name, folder):
    return prepare_dataset(name, data_dir=folder.parent / "prepared", manual_dir=folder)


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
    kind = DATASETS[name]
    folder = getattr(miniature, name)(tmp_path / kind.FOLDERS[-1])
    assert find_folder(name, tmp_path) == find_folder(name, folder) == folder
    found = summary(prepare_dataset(name, data_dir=tmp_path))
    assert f"{kind.WHOLE[0]:,} labelled pairs of {kind.WHOLE[1]} references" in found["deviation"]
    assert found["splits"]["train"]["references"] == 2
    again = prepare_dataset(name, data_dir=tmp_path, manual_dir=tmp_path / "gone")
    assert summary(again) == found


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_missing_archive_says_what_is_expected(tmp_path, name):
    with pytest.raises(DataError, match=f"(?s){name}: not found.*is distributed by its authors"):
        prepare_dataset(name, data_dir=tmp_path)


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


def broken(file):
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:99])


def added(file):
    return lambda folder: miniature.save(folder / file, miniature.picture(0, (48, 64)))


def emptied(folder):
    shutil.rmtree(folder)
    folder.mkdir()


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
        ("kadid10k", replaced("dmos.csv", "3.49", "good"), "2 problems.*dmos.csv, line 2: .*,good,"),
        ("kadid10k", replaced("dmos.csv", "3.49", "nan"), "2 problems.*dmos.csv, line 2"),
        (
            "kadid10k",
            replaced("dmos.csv", "I01.png", "I02.png"),
            "line 2: the reference of I01_01_01.png is not",
        ),
        (
            "kadid10k",
            replaced("dmos.csv", "dmos", "mos"),
            "no line with the columns dist_img, ref_img, dmos; it",
        ),
        ("kadid10k", removed("dmos.csv"), "dmos.csv: cannot be read as text .No such file"),
        ("kadid10k", emptied, "2 problems.*dmos.csv: cannot be read.*split train: 0 images and 0 labels"),
        ("kadid10k", broken("images/I02.png"), "1 problem.*I02.png: cannot be read as an image"),
        ("kadid10k", resized("images/I01_01_02.png"), "I01_01_02.png: 32 x 32, its reference is 64 x 48"),
        ("tid2013", removed("distorted_images/I25_24_2.BMP"), "i25_24_2.bmp: a label without an image"),
        ("tid2013", removed("reference_images/i25.bmp"), "4 problems.*its reference i25.bmp is missing"),
        ("tid2013", replaced("mos_with_names.txt", "5.49000", "?"), "2 problems.*line 1: '. I01_01_1.bmp'"),
        (
            "tid2013",
            added("distorted_images/i01_25_1.bmp"),
            "1 problem.*i01_25_1.bmp: an image without a label",
        ),
        (
            "tid2013",
            added("distorted_images/I01_24_1.bmp"),
            "1 problem.*i01_24_1.bmp: there too in other case",
        ),
        (
            "tid2013",
            removed("mos_with_names.txt"),
            "2 problems.*mos_with_names.txt: cannot be read.*8 images and 0 labels",
        ),
        ("csiq", removed("csiq.DMOS.xlsx"), "2 problems.*csiq.DMOS.xlsx: cannot be read as a spreadsheet"),
        ("csiq", broken("csiq.DMOS.xlsx"), "2 problems.*csiq.DMOS.xlsx: cannot be read as a spreadsheet"),
        ("csiq", removed("dst_imgs/awgn/1600.AWGN.2.png"), "1 problem.*awgn/1600, level 2: a label without"),
        ("csiq", removed("src_imgs/snow_leaves.png"), "4 problems.*its reference snow_leaves.png is missing"),
        ("live", removed("dmos_realigned.mat"), "dmos_realigned.mat: cannot be read"),
        ("live", broken("refnames_all.mat"), "refnames_all.mat: cannot be read"),
        ("live", removed("jpeg/img4.bmp"), "1 problem.*jpeg/img4.bmp: a label without an image"),
        ("live", added("jpeg/img5.bmp"), "1 problem.*21 images, 20 scores"),
        ("live", removed("jpeg/info.txt"), "1 problem.*info.txt: cannot be read as text"),
        ("live", replaced("wn/info.txt", "sailing1.bmp", "bikes.bmp"), "wn/info.txt: bikes.bmp for img2.bmp"),
    ],
)
def test_problems_are_counted_and_named_and_nothing_stays(tmp_path, name, damage, message):
    folder = getattr(miniature, name)(tmp_path / name)
    damage(folder)
    with pytest.raises(DataError, match=f"(?s){message}"):
        prepared(name, folder)
    assert not [path for path in (tmp_path / "prepared").rglob("*") if path.is_file() and path.stat().st_size]


def test_broken_and_unequal_images_are_told_together(tmp_path):
    folder = miniature.tid2013(tmp_path / "tid2013")
    broken("reference_images/I01.BMP")(folder)
    resized("distorted_images/I25_01_2.BMP")(folder)
    with pytest.raises(DataError, match=r"(?s)2 problems.*i01.bmp: cannot.*i25_01_2.bmp: 32 x 32, its ref"):
        prepared("tid2013", folder)


@pytest.mark.parametrize("name", ["kadid10k/half", "kadid", "kadid10k/"])
def test_other_names_are_refused_or_the_same(tmp_path, name):
    folder = miniature.kadid10k(tmp_path / "kadid10k")
    if name == "kadid10k/":
        assert prepared(name, folder).name == "kadid10k"
    else:
        with pytest.raises(DataError, match="one form only|unknown data set"):
            prepared(name, folder)


def test_an_interrupted_preparation_leaves_nothing_prepared(tmp_path, monkeypatch):
    from iqa_jax.data.datasets import base

    folder = miniature.kadid10k(tmp_path / "kadid10k")
    calls = iter([None] * 4)

    def interrupted(encoded, **options):
        if next(calls, "end") == "end":
            raise KeyboardInterrupt
        return real(encoded, **options)

    real = base.decode_image
    monkeypatch.setattr(base, "decode_image", interrupted)
    with pytest.raises(KeyboardInterrupt, match="kadid10k was not prepared"):
        prepared("kadid10k", folder)
    monkeypatch.undo()
    assert not [path for path in (tmp_path / "prepared").rglob("*") if path.is_file() and path.stat().st_size]
    left_over = tmp_path / "prepared" / "kadid10k" / "incomplete.ABC_1.0.0"
    left_over.mkdir(parents=True)
    assert len(PairSource(prepared("kadid10k", folder), "train")) == 8
    assert not left_over.exists()


def test_a_second_preparation_waits_for_the_first(tmp_path):
    folder = miniature.kadid10k(tmp_path / "kadid10k")
    first = tmp_path / "prepared" / "kadid10k" / "incomplete.ABC_1.0.0"
    first.mkdir(parents=True)
    second = threading.Thread(target=prepared, args=("kadid10k", folder))
    with FileLock(first.parent / ".lock"):
        second.start()
        second.join(0.3)
        assert second.is_alive() and first.exists()
    second.join(20)
    assert len(PairSource(prepared("kadid10k", folder), "train")) == 8


def test_pairs_from_a_csv_file(tmp_path):
    file = miniature.pairs(tmp_path / "own")
    builder = prepare_dataset("pairs", data_dir=tmp_path, manual_dir=file)
    source = PairSource(builder, "train")
    assert list(source.name) == [f"distorted/p{n}-{level}.png" for n in (0, 1) for level in (1, 2)]
    assert list(source.mos) == [70, 60, 69, 59] and source.distortion[0] == "noise" and source.level[1] == 2
    assert (source.score.kind, source.score.low, source.score.high) == ("MOS", 59, 70)
    without = PairSource(builder, "unlabelled")
    assert len(without) == 2 and np.isnan(without.mos).all()
    again = PairSource(prepare_dataset("pairs/mine", data_dir=tmp_path), "train")
    np.testing.assert_array_equal(again[2].distorted, source[2].distorted)


def test_a_dmos_column_means_lower_is_better(tmp_path):
    file = miniature.pairs(tmp_path / "own")
    file.write_text(file.read_text().replace("mos", "dmos", 1))
    source = PairSource(prepare_dataset("pairs", data_dir=tmp_path, manual_dir=file), "train")
    assert not source.score.higher_is_better and list(source.mos) == [-70, -60, -69, -59]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("distorted, mos", "picture, mos", "distorted; it begins with reference, picture, mos"),
        ("level", "dmos", "columns mos and dmos, expected one of them"),
        ("photos/p1.png", "photos/p7.png", "line 5: no such file 'photos/p7.png'"),
        (" 70,", " high,", "line 2: mos 'high', expected a number"),
        (" 70,", " inf,", "line 2: mos 'inf', expected a number"),
        (" 70,", " 70,5,", "line 2: 6 cells, expected 5"),
        ("noise, 2", "noise, 1.5", "line 3: level '1.5', expected a whole number"),
        ("noise, 2", "noise, weak", "line 3: level 'weak', expected a whole number"),
        ("photos/p0.png,", ",", "line 2: no such file '.'"),
        (
            "distorted/p0-2.png",
            "distorted/../distorted/p0-1.png",
            "line 3: distorted/p0-1.png is in line 2",
        ),
        ("distorted/p0-1.png", "photos/p1.png", "photos/p1.png: 51 x 40, its reference is 50 x 40"),
    ],
)
def test_what_is_wrong_in_a_csv_file_is_named(tmp_path, old, new, message):
    file = miniature.pairs(tmp_path / "own")
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(DataError, match=f"(?s){re.escape(message)}"):
        prepare_dataset("pairs", data_dir=tmp_path, manual_dir=file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"reference,distorted\n", "no pair at all"),
        (b"\x89PNG\xff", "cannot be read as text"),
        (b"Dear diary,\n", "no line with the columns distorted; it begins with Dear diary"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, content, message):
    file = tmp_path / "mine.csv"
    file.write_bytes(content)
    with pytest.raises(DataError, match=f"(?s)1 problem.*mine.csv: {message}"):
        prepare_dataset("pairs", data_dir=tmp_path, manual_dir=file)


def test_csv_files_lie_side_by_side_in_one_directory(tmp_path):
    file = miniature.pairs(tmp_path / "own")
    other = file.with_name("other set.CSV")
    lines = ["Reference;Distorted", "photos/p0.png;distorted/p0-1.png", "./photos/p0.png;distorted/p0-2.png"]
    other.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    for path in (file, other):
        prepare_dataset("pairs", data_dir=tmp_path, manual_dir=path)
    found = summary(prepare_dataset("pairs/other set", data_dir=tmp_path))
    assert list(found["splits"]) == ["unlabelled"] and found["deviation"] == ""
    assert found["splits"]["unlabelled"]["references"] == 1 and found["splits"]["unlabelled"]["mean"] is None
    found = summary(prepare_dataset("pairs/mine", data_dir=tmp_path))["splits"]
    assert found["train"] == {
        "pairs": 4,
        "references": 2,
        "min": 59,
        "max": 70,
        "mean": 64.5,
        "std": pytest.approx(5.0249, abs=1e-4),
        "distortions": {"noise": 4},
    }
    with pytest.raises(DataError, match="are called pairs/other set"):
        prepare_dataset("pairs/mine", data_dir=tmp_path, manual_dir=other)
    with pytest.raises(
        DataError, match="the pairs of .* are called pairs/test_csv"
    ):  # a folder, of another name
        prepare_dataset("pairs/mine", data_dir=tmp_path, manual_dir=tmp_path)
    with pytest.raises(DataError, match="none.csv is no file or folder"):
        prepare_dataset("pairs/mine", data_dir=tmp_path, manual_dir=tmp_path / "none.csv")


def test_pairs_are_of_a_table(tmp_path):
    with pytest.raises(DataError, match="of which file.*as manual_dir"):
        prepare_dataset("pairs", data_dir=tmp_path)


def test_a_command_names_its_options_where_the_library_names_arguments(tmp_path):
    table = tmp_path / "manual_dir" / "t.csv"
    with pytest.raises(UserError) as error, arguments_as_options("manual_dir", "average_opinions"):
        raise UserError(f"{table}: give it as manual_dir; average_opinions averages")
    assert str(error.value) == f"{table}: give it as --manual-dir; --average-opinions averages"


def test_splits_are_by_reference_and_repeatable():
    references = {f"I{k:02d}.png": f"picture {k}" for k in range(10)}
    divided = reference_splits(references, 10, 0.8)
    assert divided == reference_splits(dict(reversed(references.items())), 10, 0.8)
    for part in divided:
        assert len(part["train"]) == 8 and sorted(part["train"] + part["validation"]) == sorted(
            set(references)
        )
    assert len({tuple(part["validation"]) for part in divided}) > 5
    two = {"a": "1", "b": "2"}
    assert len(reference_splits(two, 1, 0.99)[0]["validation"]) == 1
    for bad in (({"a": "1"}, 1, 0.5), ({"a": "1", "b": "1"}, 1, 0.5), (two, 0, 0.5), (two, 1, 1.0)):
        with pytest.raises(DataError, match="expected"):
            reference_splits(*bad)


def test_splits_keep_all_names_of_one_picture_on_one_side():
    digests = {f"I{k:02d}.png": f"picture {k % 5}" for k in range(10)}
    for part in reference_splits(digests, 10, 0.6):
        sides = [{digests[name] for name in part[side]} for side in ("train", "validation")]
        assert not sides[0] & sides[1] and [len(part[side]) for side in ("train", "validation")] == [6, 4]


def test_a_set_larger_than_a_shard_is_written_as_it_comes_and_read_by_tensorflow_datasets(
    tmp_path, monkeypatch
):
    import tensorflow_datasets as tfds

    from iqa_jax.data.datasets import writer

    monkeypatch.setattr(writer, "SHARD_BYTES", 100_000)
    folder = miniature.pipal(tmp_path / "PIPAL", references=5, per_reference=6)
    builder = prepare_dataset("pipal", data_dir=tmp_path)
    assert len(list(builder.data_path.glob("pipal-train.array_record-*"))) > 5
    source = PairSource(builder, "train")
    assert list(source.name) == sorted(path.name for path in folder.glob("Distortion_*/*"))
    np.testing.assert_array_equal(source[17].distorted, source.select(np.array([17]))[0].distorted)
    again = tfds.builder_from_directory(builder.data_path)
    records = again.as_data_source("train")
    assert len(records) == 30 and records[29]["name"].decode() == source.name[29]
    assert (records[29]["image"] == source[29].distorted).all()


@pytest.mark.parametrize("part", ["training", "test"])
def test_parts_of_pipal_are_enough_for_parts_of_the_work(tmp_path, part):
    tests = 0 if part == "training" else 2
    folder = miniature.pipal(tmp_path / "PIPAL", references=2, per_reference=2, test_references=tests)
    aside = tmp_path / "aside"
    aside.mkdir()
    if part == "test":
        for name in ("Train_Ref", "Train_Label", *(f"Distortion_{n}" for n in (1, 2))):
            (folder / name).rename(aside / name)
    found = summary(prepare_dataset("pipal", data_dir=tmp_path))["splits"]
    assert list(found) == [{"training": "train", "test": "ntire2022_test"}[part]]
    if part == "test":
        with pytest.raises(DataError, match="no split 'train': expected one of ntire2022_test"):
            PairSource(prepare_dataset("pipal", data_dir=tmp_path), "train")
        (aside / "Train_Ref").rename(folder / "Train_Ref")
        for name in ("Train_Label", *(f"Distortion_{n}" for n in (1, 2))):
            (aside / name).rename(folder / name)
        assert len(PairSource(prepare_dataset("pipal", data_dir=tmp_path), "train")) == 4


def test_too_little_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    miniature.pipal(tmp_path / "PIPAL", references=2, per_reference=2)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10 * 2**20))
    with pytest.raises(UserError, match=r"pipal: preparing pipal needs 64 MiB there, 10 are free; free some"):
        prepare_dataset("pipal", data_dir=tmp_path)
    assert not list(tmp_path.rglob("*incomplete*"))


def test_a_full_disk_is_one_line_and_nothing_stays(tmp_path, monkeypatch):
    from array_record.python import array_record_module

    class Full(array_record_module.ArrayRecordWriter):
        def write(self, record):
            raise ValueError("write() failed: No space left on device; at byte 655360")

    monkeypatch.setattr(array_record_module, "ArrayRecordWriter", Full)
    miniature.pipal(tmp_path / "PIPAL", references=2, per_reference=2)
    with pytest.raises(
        UserError, match=r"could not be written \(No space left on device\); no partial data"
    ) as e:
        prepare_dataset("pipal", data_dir=tmp_path)
    assert "\n" not in str(e.value) and not list(tmp_path.rglob("*incomplete*"))


def single_pictures(folder, rows: str, header: str = "image,mos"):
    for number in range(4):
        miniature.save(folder / f"p{number}.png", miniature.picture(number, (40, 40 + number)))
    (folder / "own.csv").write_text(f"{header}\n{rows}\n")
    return folder / "own.csv"


def test_a_table_without_references_is_for_blind_models(tmp_path):
    table = single_pictures(
        tmp_path, "p0.png,2,a\np1.png,3,a\np2.png,4,\np3.png,5,", header="image,mos,content"
    )
    builder = prepare_dataset(
        "pairs", data_dir=tmp_path, manual_dir=table, options=TableOptions(scale=(1, 5))
    )
    source = PairSource(builder, "train")
    assert not source.paired and len(source) == 4
    assert source.reference.tolist() == ["a", "a", "p2.png", "p3.png"] and len(source.digests()) == 3
    assert (source.score.low, source.score.high) == (1, 5)


def test_opinions_of_several_observers_are_averaged_on_request(tmp_path):
    table = single_pictures(tmp_path, "p0.png,2\np1.png,3\np0.png,4\np2.png,5\np0.png,")
    with pytest.raises(DataError, match="p0.png is in line 2 too .*average_opinions"):
        prepare_dataset("pairs", data_dir=tmp_path, manual_dir=table)
    options = TableOptions(average_opinions=True)
    builder = prepare_dataset("pairs", data_dir=tmp_path, manual_dir=table, options=options)
    assert PairSource(builder, "train").mos.tolist() == [3, 3, 5]
    assert builder.info.metadata["opinions"]["p0.png"] == [2, pytest.approx(2**0.5)]


def test_a_label_outside_of_the_stated_scale_is_an_error(tmp_path):
    table = single_pictures(tmp_path, "p0.png,2\np1.png,7")
    with pytest.raises(DataError, match="p1.png: mos is outside of the scale, 1 to 5"):
        prepare_dataset("pairs", data_dir=tmp_path, manual_dir=table, options=TableOptions(scale=(1, 5)))
    with pytest.raises(DataError, match="expected a low and a high end"):
        TableOptions(scale=(5, 1))
