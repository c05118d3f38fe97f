"""Prepared data: damage is seen, what has changed is prepared anew, and nothing takes another's place."""

import os
import threading

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from iqa_jax.data.datasets.overview import summary
from iqa_jax.data.datasets.pairs import TableOptions
from iqa_jax.data.preparation import prepare_dataset
from iqa_jax.data.source import PairSource
from iqa_jax.errors import DataError
from tests import miniature
from tests.data.test_numerals import edited

pytestmark = pytest.mark.quick


@pytest.fixture
def table(tmp_path):
    return miniature.pairs(tmp_path / "own")


def prepared(table, **options):
    return prepare_dataset("pairs", data_dir=table.parent.parent, manual_dir=table, **options)


def everything(builder):
    """All that is read from a data set."""
    sources = [PairSource(builder, split) for split in ("train", "unlabelled")]
    told = [str((list(s.name), list(s.mos), list(s.level), s.score, s.digests())) for s in sources]
    pairs = [pair for source in sources for pair in source]
    return told, [image.tobytes() for pair in pairs for image in (pair.reference, pair.distorted)]


def digit_of_a_label(place):
    text = (place / "metadata.json").read_text()
    assert "70.0" in text
    (place / "metadata.json").write_text(text.replace("70.0", "71.0", 1))


def bit_of_an_image(place):
    file = place / "pairs-train.array_record-00000"
    content = bytearray(file.read_bytes())
    content[content.index(b"IDAT") + 40] ^= 1
    file.write_bytes(content)


def shard_of_other_pairs(place):
    other = place / "pairs-unlabelled.array_record-00000"
    (place / "pairs-train.array_record-00000").write_bytes(other.read_bytes())


def cut_off(place):
    file = place / "pairs-references.array_record-00000"
    file.write_bytes(file.read_bytes()[:-100])


DAMAGES = {
    digit_of_a_label: "metadata.json has changed",
    bit_of_an_image: "prepared data are damaged",
    shard_of_other_pairs: "distorted/p0-3.png is in the place of distorted/p0-1.png",
    cut_off: "pairs-references.array_record-00000 has .* bytes, not",
    lambda place: (place / "features.json").unlink(): "features.json is missing",
    lambda place: (place / "checksums.json").unlink(): "checksums.json is missing",
    lambda place: (place / "checksums.json").write_bytes(b'{"sha'): "checksums.json cannot be read",
    lambda place: (place / "dataset_info.json").write_bytes(b""): "dataset_info.json has changed",
    lambda place: (place / "pairs-train.array_record-00000").unlink(): "pairs-train.* is missing",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_line_and_preparing_again_mends_it(table, damage):
    builder = prepared(table)
    whole = everything(builder)
    damage(builder.data_path)
    with pytest.raises(DataError, match=DAMAGES[damage]) as error:
        everything(prepare_dataset("pairs/mine", data_dir=table.parent.parent))
    assert "\n" not in str(error.value) and "prepare" in str(error.value)
    assert everything(prepared(table)) == whole
    assert [path.name for path in builder.data_path.parent.iterdir() if path.is_dir()] == ["1.1.0"]


def test_images_of_another_preparation_are_not_taken(table):
    builder = prepared(table)
    builder.info.metadata["tables"]["references"]["crc32"][0] ^= 1
    with pytest.raises(DataError, match="p0.png has changed.; prepare them again"):
        PairSource(builder, "train")[0]


def a_pixel(folder):
    with Image.open(folder / "distorted" / "p1-2.png") as opened:
        pixels = np.array(opened)
    pixels[3, 4] ^= 1
    miniature.save(folder / "distorted" / "p1-2.png", pixels)


def test_what_has_changed_is_prepared_anew(table, capsys):
    prepared(table)
    edited(table, (" 70,", " 71,"))
    assert PairSource(prepared(table), "train").mos[0] == 71
    assert (
        "pairs/mine: the entry of distorted/p0-1.png has changed; preparing it again"
        in capsys.readouterr().err
    )
    before = PairSource(prepared(table), "train")[3].distorted
    assert "anew" not in capsys.readouterr().err
    a_pixel(table.parent)
    after = PairSource(prepared(table), "train")[3].distorted
    assert (before != after).any() and "distorted/p1-2.png has changed" in capsys.readouterr().err
    assert PairSource(prepared(table, options=TableOptions((1, 99))), "train").score.high == 99
    assert "score changed from" in capsys.readouterr().err
    text = table.read_text()
    table.write_text("\n".join(text.splitlines()[:-3]) + "\n")
    assert list(summary(prepared(table))["splits"]) == ["train", "unlabelled"]
    assert "p1" in capsys.readouterr().err


def test_an_archive_that_changed_is_prepared_anew_when_it_is_checked(tmp_path):
    folder = miniature.kadid10k(tmp_path / "kadid10k")
    first = PairSource(prepare_dataset("kadid10k", data_dir=tmp_path), "train")
    edited(folder / "dmos.csv", (",3.49,0.7\nI01_01_02", ",3.48,0.7\nI01_01_02"))
    unchecked = PairSource(prepare_dataset("kadid10k", data_dir=tmp_path), "train")
    assert unchecked.mos.tolist() == first.mos.tolist()
    checked = PairSource(prepare_dataset("kadid10k", data_dir=tmp_path, check=True), "train")
    assert (checked.mos != first.mos).tolist() == [True] + 7 * [False]


def test_what_was_prepared_stays_until_the_new_one_is_complete(table):
    whole = everything(prepared(table))
    broken = table.parent / "distorted" / "p0-1.png"
    broken.write_bytes(broken.read_bytes()[:99])
    with pytest.raises(DataError, match="p0-1.png: cannot be read as an image"):
        prepared(table)
    with pytest.raises(DataError, match="p0-1.png: cannot be read as an image"):
        prepared(table, force=True)
    builder = prepare_dataset("pairs/mine", data_dir=table.parent.parent)
    assert everything(builder) == whole
    # A kill between the two steps of an exchange.
    builder.data_path.rename(builder.data_path.with_name("1.1.0.replaced"))
    (builder.data_path.parent / "incomplete.abc").mkdir()
    assert everything(prepare_dataset("pairs/mine", data_dir=table.parent.parent, check=True)) == whole
    assert [path.name for path in builder.data_path.parent.iterdir() if path.is_dir()] == ["1.1.0"]


def another_table(table):
    other = miniature.pairs(table.parent.parent / "other")
    return edited(other, (" 70,", " 75,"))


def test_a_table_of_the_same_name_does_not_replace_another_unless_forced(table):
    other = another_table(table)
    prepared(table)
    with pytest.raises(
        DataError, match=f"pairs/mine was prepared from {table}; give this table another name"
    ):
        prepared(other)
    assert PairSource(prepared(table), "train").mos[0] == 70
    assert PairSource(prepared(other, force=True), "train").mos[0] == 75
    copy = miniature.pairs(table.parent.parent / "copy")
    edited(copy, (" 70,", " 75,"))
    assert PairSource(prepared(copy), "train").mos[0] == 75  # the same pairs, wherever they lie


def test_of_two_tables_of_one_name_at_once_one_is_refused(table):
    tables, results = [table, another_table(table)], {}

    def attempt(which):
        try:
            results[which] = PairSource(prepared(which), "train").mos[0]
        except DataError as error:
            results[which] = str(error)

    place = table.parent.parent / "pairs" / "mine"
    place.mkdir(parents=True)
    threads = [threading.Thread(target=attempt, args=(which,)) for which in tables]
    with FileLock(place / ".lock"):
        for thread in threads:
            thread.start()
            thread.join(0.2)
    for thread in threads:
        thread.join(30)
    scores = [result for result in results.values() if not isinstance(result, str)]
    (refused,) = (result for result in results.values() if isinstance(result, str))
    assert "was prepared from" in refused and "give this table another name" in refused
    assert scores == [PairSource(prepare_dataset("pairs/mine", data_dir=place.parent.parent), "train").mos[0]]


@pytest.mark.parametrize("name", ["pipal", "kadid10k", "tid2013", "csiq", "live"])
def test_hidden_files_and_pipes_of_a_folder_are_left_out(tmp_path, name):
    sizes = {"references": 2, "per_reference": 2, "test_references": 1, "test_per_reference": 2}
    folder = getattr(miniature, name)(tmp_path / name, **(sizes if name == "pipal" else {}))
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07")
    if name == "kadid10k":
        os.mkfifo(folder / "images" / "I09.png")
    assert len(PairSource(prepare_dataset(name, data_dir=tmp_path, manual_dir=folder), "train")) > 1
