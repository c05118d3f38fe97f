from pathlib import Path

import numpy as np
import pytest

from iqa_jax.data import source as data
from iqa_jax.data.preparation import prepare_dataset
from iqa_jax.errors import DataError
from iqa_jax.ops.augment import Cropping
from iqa_jax.training import batches
from tests import miniature

pytestmark = pytest.mark.quick


@pytest.fixture
def folder(tmp_path):
    return miniature.pipal(
        tmp_path / "PIPAL", references=3, per_reference=4, test_references=1, test_per_reference=3
    )


def prepared(folder):
    return prepare_dataset("pipal", data_dir=folder.parent)


@pytest.mark.parametrize("spelling", ["Distortion_{}", "Distortion{}"])
def test_pipal_in_name_order_with_labels_and_references(tmp_path, spelling):
    folder = miniature.pipal(tmp_path / "PIPAL", references=5, per_reference=4, spelling=spelling)
    source = data.PairSource(prepared(folder), "train")
    assert len(source) == 20 and list(source.name) == sorted(source.name)
    assert source.name[5] == "A0002_00_01.bmp" and source.reference[5] == "A0002.bmp"
    assert source.mos[5] == pytest.approx(1700 - 2 * 90 + 3)
    assert source.distortion[5] == "group 00" and source.level[5] == 1
    pair = source[5]
    np.testing.assert_array_equal(pair.reference, miniature.picture(1, (112, 112)))
    np.testing.assert_array_equal(pair.distorted, miniature.noisy(pair.reference, 16.0, 102))


def test_percent_slices_cut_between_references(tmp_path):
    builder = prepared(miniature.pipal(tmp_path / "PIPAL", references=5, per_reference=4))
    first, last = data.PairSource(builder, "train[:80%]"), data.PairSource(builder, "train[80%:]")
    assert len(first) == 16 and len(last) == 4
    assert not set(first.reference) & set(last.reference)
    assert list(last.index) == [16, 17, 18, 19] and last[0].index == 16


def test_test_pairs_have_no_label(folder):
    source = data.PairSource(prepared(folder), "ntire2022_test")
    assert list(source.name) == [f"A0300_10_{i:02d}.bmp" for i in range(3)]
    assert np.isnan(source.mos).all() and source.reference[0] == "A0300.bmp"


def test_an_unknown_split_is_named(folder):
    with pytest.raises(DataError, match=r"no split 'valid'.*train, ntire2022_test"):
        data.PairSource(prepared(folder), "valid")


def remove(path):
    path.unlink()


def truncate(path):
    path.write_bytes(path.read_bytes()[:500])


@pytest.mark.parametrize(
    ("damage", "file", "message"),
    [
        (remove, "Distortion_1/A0001_00_01.bmp", r"1 problem.*\n.*A0001_00_01.bmp: a label without an image"),
        (remove, "Train_Label/A0002.txt", r"4 problems.*\n.*A0002_00_00.bmp: an image without a label"),
        (
            remove,
            "Train_Ref/A0003.bmp",
            r"4 problems.*A0003_00_00.bmp: its reference A0003.bmp is missing",
        ),
        (
            truncate,
            "Distortion_2/A0002_01_00.bmp",
            r"1 problem.*A0002_01_00.bmp: cannot be read as an image",
        ),
        (truncate, "Train_Ref/A0001.bmp", r"1 problem.*\n.*A0001.bmp: cannot be read as an image"),
        (
            lambda path: path.write_text(path.read_text().replace("1700.0000", "high")),
            "Train_Label/A0001.txt",
            r"2 problems.*Train_Label/A0001.txt, line 1: 'A0001_00_00.bmp,high', expected a name",
        ),
        (
            lambda path: path.write_text(path.read_text() * 2),
            "Train_Label/A0001.txt",
            r"4 problems.*\n.*line 5: a second label for A0001_00_00.bmp",
        ),
        (
            lambda path: miniature.save(path, miniature.picture(0, (112, 96))),
            "Distortion_1/A0001_00_00.bmp",
            r"1 problem.*\n.*A0001_00_00.bmp: 96 x 112, its reference is 112 x 112",
        ),
    ],
)
def test_pipal_problems_are_counted_and_named_and_nothing_stays(folder, damage, file, message):
    damage(folder / file)
    with pytest.raises(DataError, match=f"(?s){message}"):
        prepared(folder)
    assert not list(folder.parent.rglob("*.array_record*"))
    assert not list(folder.parent.rglob("*incomplete*"))


def test_missing_pipal_says_how_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r"(?s)pipal: not found.*Train_Label"):
        prepare_dataset("pipal", data_dir=tmp_path)


def test_batches_depend_on_the_seed_alone_and_resume_anywhere(folder):
    source = data.PairSource(prepared(folder), "train")

    def some(count, **kw):
        seed, start = kw["seed"], kw.get("start", 0)
        examples = batches.Examples([source])
        order, cropping = batches.Order([len(source)], [5], seed=seed), Cropping(seed, 96)
        return [examples.batch(order(n), cropping, examples) for n in range(start, start + count)]

    whole = some(6, seed=3)
    for resumed, expected in zip(some(3, seed=3, start=3), whole[3:], strict=True):
        for field in ("index", "epoch", "reference", "distorted", "mos"):
            np.testing.assert_array_equal(getattr(resumed, field), getattr(expected, field))
    assert [b.epoch.tolist() for b in whole] == [[k] * 5 for k in (0, 0, 1, 1, 2, 2)]
    for epoch in range(3):
        seen = np.concatenate([b.index for b in whole[2 * epoch : 2 * epoch + 2]])
        assert len(set(seen)) == 10  # 12 pairs make two whole batches
    assert [b.index.tolist() for b in whole] != [b.index.tolist() for b in some(6, seed=4)]


def test_the_built_in_set_is_labelled_with_mean_opinions(monkeypatch):
    from iqa_jax.data import opinions
    from iqa_jax.data.datasets import iqa_demo

    contents = iqa_demo.IqaDemo.find(None, None)
    held_out = {image.reference for image in contents.splits["validation"]}
    assert len(contents.references) >= 8 and len(held_out) == 3
    assert not held_out & {image.reference for image in contents.splits["train"]}
    kinds = {image.distortion for image in contents.splits["train"]}
    assert len(kinds) >= 12
    for images in contents.splits.values():
        for image in images:
            assert image.mos == opinions.mean_opinion(image.distortion, image.level)
    image = contents.splits["train"][7]
    assert image.encoded() == image.encoded()  # the same bytes each time


def test_each_photograph_in_the_package_has_its_author_and_licence():
    folder = Path(data.__file__).parent / "photographs"
    rows = [
        line for line in (folder / "README.md").read_text(encoding="utf-8").splitlines() if "CC BY" in line
    ]
    assert sorted(row.split()[1] for row in rows) == sorted(path.name for path in folder.glob("*.jpg"))
