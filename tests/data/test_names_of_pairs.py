"""Whose file is whose among the pairs that are made, and what is left of a start that was killed."""

import csv
import itertools
import json
import unicodedata
import warnings
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from iqa_jax.data import make_pairs as making
from iqa_jax.data.distortions import distort
from iqa_jax.data.make_pairs import Plan, make_pairs
from tests import miniature

pytestmark = pytest.mark.quick

E_COMPOSED, E_IN_PARTS = "\u00e9", "e\u0301"


def names_of(*files, **plan):
    """The name that each photograph gets, and all files that they own."""
    plan = Plan(**plan)
    paths = sorted(Path("/photos") / file for file in files)
    said = []
    names = making.output_names(paths, plan, said.append)
    owned = [
        file
        for number, path in enumerate(paths)
        for file in (
            making.reference_file(names[path]),
            *(name for _, _, name in making.version_files(names[path], plan, number)),
        )
    ]
    return {str(path.relative_to("/photos")): names[path] for path in paths}, owned, said


def on_any_system(name):
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["x.png", "x_color.png"], ["x", "x_color-2"]),
        (["x.png", "X_Color.png"], ["x-2", "X_Color"]),
        (["a.jpg", "a.png"], ["a", "a-2"]),
        (["A.png", "a.png"], ["A", "a-2"]),
        ([f"{E_COMPOSED}.png", f"{E_IN_PARTS}.png"], [f"{E_COMPOSED}-2", E_IN_PARTS]),
        (["a.jpg", "a.png", "a-2.png"], ["a", "a-3", "a-2"]),
        (["one/p.png", "two/p.png"], ["one/p", "two/p"]),
        (["one/p.png", "one/p.jpg", "two/p.png"], ["one/p-2", "one/p", "two/p"]),
        (["Stra\u00dfe.png", "STRASSE.png"], ["Stra\u00dfe-2", "STRASSE"]),
        (["x.png", "y_color.png", "x_colors.png"], ["x", "y_color", "x_colors"]),
    ],
)
def test_names_are_kept_apart(files, names):
    found, owned, said = names_of(*files)
    assert [found[file] for file in files] == names
    assert len({on_any_system(file) for file in owned}) == len(owned)
    assert len(said) == any("-" in name and f"{name}.png" not in files for name in names)


def test_names_that_meet_in_no_file_stay():
    assert names_of("x.png", "x_color.png", types=("quantization",))[0]["x_color.png"] == "x_color"
    drawn = [names_of("x.png", "x_color.png", per_image=2, seed=seed)[0]["x_color.png"] for seed in range(8)]
    assert "x_color" in drawn


PARTS = st.sampled_from(["x", "X", "x_color", "x_color_color", "x-2", E_COMPOSED, E_IN_PARTS])


@given(
    st.sets(
        st.tuples(st.sampled_from(["", "one/", "One/"]), PARTS, st.sampled_from([".png", ".jpg"])), min_size=1
    )
)
def test_no_file_has_two_owners(parts):
    found, owned, _ = names_of(*map("".join, parts), types=("color_quantization", "quantization", "jpeg"))
    assert len({on_any_system(file) for file in owned}) == len(owned)
    assert len(set(found.values())) == len(parts)


def test_long_names_fit():
    _, owned, _ = names_of("n" * 240 + "a.png", "n" * 240 + "b.png", E_COMPOSED * 120 + ".png")
    assert max(len(file.rpartition("/")[2].encode()) for file in owned) <= 255
    assert len(set(owned)) == len(owned)


class AtOnce:
    """A pool that does each task when it is given."""

    def __init__(self, *args, **kwargs):
        pass

    __enter__ = lambda self: self  # noqa: E731
    __exit__ = shutdown = lambda *args, **kwargs: None

    def submit(self, function, *args):
        future = Future()
        future.set_result(function(*args))
        return future


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.setattr(making, "ProcessPoolExecutor", AtOnce)
    (tmp_path / "made").mkdir()

    def make(*files, **plan):
        plan = {"levels": (1,), **plan}
        return make_pairs(files, tmp_path / "made" / "made.csv", Plan(**plan), say=make.said.append)

    make.said = []
    return make


def photograph(folder, name, number):
    return (
        miniature.save(folder / "photos" / name, miniature.picture(number, (48, 64)))
        or folder / "photos" / name
    )


def test_each_row_of_the_table_has_a_file_of_its_own(tmp_path, made):
    photographs = [photograph(tmp_path, name, k) for k, name in enumerate(("x.png", "x_color.png"))]
    assert made(*photographs, types=("color_quantization", "quantization")) == []
    assert made.said == ["photographs renamed with a number: x_color.png is x_color-2"]
    rows = list(csv.DictReader((tmp_path / "made" / "made.csv").open()))
    assert len({row["distorted"] for row in rows}) == len(rows) == 4
    for row in rows:
        reference, distorted = (
            np.asarray(Image.open(tmp_path / "made" / row[column])) for column in ("reference", "distorted")
        )
        np.testing.assert_array_equal(distorted, distort(reference, row["distortion"], 1))


def test_a_type_given_twice_is_made_once(tmp_path, made):
    made(photograph(tmp_path, "x.png", 0), types=("jpeg", "jpeg"), levels=(1, 2, 2))
    assert len((tmp_path / "made" / "made.csv").read_text().splitlines()) == 3


def test_what_was_said_of_photographs_is_said_once(tmp_path, made):
    photographs = [photograph(tmp_path, f"{k}.png", k) for k in range(3)]
    for path in photographs[:2]:
        transparent = Image.open(path)
        transparent.putalpha(128)
        transparent.save(path)
    made(*photographs, types=("jpeg",))
    assert made.said == ["2 of 3 photographs: transparent images are composited over mid-grey (128)"]


def test_what_a_killed_start_left_is_removed(tmp_path, made):
    path = photograph(tmp_path, "x.png", 0)
    made(path, types=("jpeg",))
    folders = [tmp_path / "made" / name for name in ("references", "distorted")]
    before = sorted(file.name for folder in folders for file in folder.iterdir())
    for folder in folders:
        (folder / f".iqa_jax-{'0' * 16}.partial").write_bytes(b"half")
    made(path, types=("jpeg",))
    assert sorted(file.name for folder in folders for file in folder.iterdir()) == before


@pytest.mark.parametrize("left", [f".iqa_jax-{'0' * 16}.partial", ".write-test-123", ".DS_Store"])
def test_what_is_left_in_the_directory_does_not_block_it(tmp_path, made, left):
    (tmp_path / "made" / left).write_bytes(b"half")
    assert made(photograph(tmp_path, "x.png", 0), types=("jpeg",)) == []


def test_the_settings_are_written_whole(tmp_path, made, monkeypatch):
    path, real = photograph(tmp_path, "x.png", 0), making.write_whole

    def full(path, content):
        if path.name == "distort.json":
            raise OSError(28, "No space left on device", str(path))
        real(path, content)

    monkeypatch.setattr(making, "write_whole", full)
    with pytest.raises(OSError, match="distort.json"):
        made(path, types=("jpeg",))
    assert list((tmp_path / "made").iterdir()) == []
    monkeypatch.setattr(making, "write_whole", real)
    made(path, types=("jpeg",))
    assert json.loads((tmp_path / "made" / "distort.json").read_text())["photographs"] == ["x.png"]


def test_a_full_disk_is_named_and_the_rest_resumed(tmp_path, made, monkeypatch):
    path, real, left = photograph(tmp_path, "x.png", 0), making.write_whole, itertools.count(-5)

    def filling(path, content):
        if next(left) >= 0:
            raise OSError(28, "No space left on device", str(path))
        real(path, content)

    monkeypatch.setattr(making, "write_whole", filling)
    with pytest.raises(OSError, match="jpeg_3.png"):
        made(path, types=("jpeg",), levels=(1, 2, 3, 4))
    assert not (tmp_path / "made" / "made.csv").exists()
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "made" / "distorted").iterdir()}
    assert len(kept) == 2
    monkeypatch.setattr(making, "write_whole", real)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert made(path, types=("jpeg",), levels=(1, 2, 3, 4)) == []
    assert kept.items() <= {file: file.stat().st_mtime_ns for file in kept}.items()
