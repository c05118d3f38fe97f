"""Finding files and their references."""

import os
import socket
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from iqa_jax.data.images import read_image
from iqa_jax.data.marks import PAGE, QUALITY_MAP
from iqa_jax.data.pairing import find_pairs, masks_of, pair_files, pairs_from_table
from iqa_jax.data.png import png_bytes
from iqa_jax.data.preparation import prepare_dataset
from iqa_jax.data.selection import ImageFile, expand, find_images
from iqa_jax.data.tables import listed_path
from iqa_jax.errors import DataError

pytestmark = pytest.mark.quick


def paired(targets: str, references: str) -> dict[str, str]:
    """Of names with the folders below the two roots."""

    def files(root, names):
        return [ImageFile(Path(root, name), Path(name).parts[:-1]) for name in names.split()]

    pairs = pair_files(files("t", targets), files("r", references))
    return {str(target.relative_to("t")): str(reference.relative_to("r")) for target, reference in pairs}


@pytest.mark.parametrize(
    ("target", "references", "expected"),
    [
        ("a.png", "b.jpg a.jpg", "a.jpg"),
        ("A0001_00_03.bmp", "A0001.bmp A0002.bmp", "A0001.bmp"),
        ("A0001_00_03.bmp", "A0001.bmp A0001_00.bmp", "A0001_00.bmp"),
        ("A0001_00_03.bmp", "A0001_99.bmp A0001.bmp", "A0001.bmp"),
        ("A0001.bmp", "A0001_00.bmp A0001.bmp", "A0001.bmp"),
        ("img10-blur.png", "img1.png img10.png", "img10.png"),
        ("photo.v2.png", "photo.png", "photo.png"),
        ("_a_b.png", "_a.png _b.png", "_a.png"),
        ("park/1.png", "park/1.png street/1.png", "park/1.png"),
        ("blurred/park/1.png", "park/1.png street/1.png", "park/1.png"),
        ("park/blurred/1.png", "park/1.png street/1.png", "park/1.png"),
        ("park/1_x.png", "set/park/1.png set/street/1.png", "set/park/1.png"),
        ("deep/er/1.png", "1.png", "1.png"),
    ],
)
def test_names_that_fit(target, references, expected):
    assert paired(target, references) == {target: expected}


@pytest.mark.parametrize(
    ("target", "references", "problem"),
    [
        ("a.png", "a.png a.jpg", "a.png: a.png, a.jpg fit equally"),
        ("a_1.png", "a.png a.jpg", "a_1.png: a.png, a.jpg fit equally"),
        ("DSC_0003.png", "DSC_0001.png", "DSC_0003.png: no reference fits"),
        ("DSC_0005_x.png", "DSC_0001.png DSC_0002.png", "no reference fits"),
        ("bird_x4_SR.png", "bird_x4_HR.png", "no reference fits"),
        ("A0001.bmp", "A0001_00.bmp", "no reference fits"),
        ("img10_x.png", "img1.png img2.png", "img10_x.png: no reference fits"),
        ("_a.png", "_b.png", "no reference fits"),
    ],
)
def test_names_that_do_not_fit(target, references, problem):
    with pytest.raises(DataError, match="1 target cannot be paired") as error:
        paired(target, references)
    assert problem in str(error.value)


def test_no_file_is_its_own_reference_unless_named_so(tmp_path):
    folder = tmp_path / "one"
    reference, version = touch(folder, "I01.png", "I01_blur_1.png")
    with pytest.raises(DataError, match=r"1 target cannot be paired(?s:.*)I01.png: no reference fits"):
        find_pairs([str(folder)], [str(folder)])
    assert find_pairs([str(version)], [str(folder)]) == [(version, reference)]
    assert find_pairs([str(reference)], [str(reference)]) == [(reference, reference)]
    link = tmp_path / "links" / "I01.png"
    link.parent.mkdir()
    link.symlink_to(reference)
    with pytest.raises(DataError, match="no reference fits"):
        find_pairs([str(reference)], [str(link.parent)])


def test_all_problems_are_in_one_error():
    with pytest.raises(DataError) as error:
        paired("a.png x.png ok.png y.png", "a.png a.bmp ok.png")
    lines = str(error.value).splitlines()
    assert lines[0].startswith("3 targets cannot be paired by name")
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["t/a.png", "t/x.png", "t/y.png"]
    with pytest.raises(DataError, match="… and 80 more"):
        paired(" ".join(f"x{k}.png" for k in range(100)), "a.png")


def touch(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [folder / name for name in names]


def test_expand(tmp_path):
    b, a, deep, odd, *_ = touch(tmp_path, "b.PNG", "a.jpeg", "in/c.webp", "odd.dat", "notes.txt", "._a.png")
    told: list[str] = []
    assert expand([str(tmp_path)], recursive=False, say=told.append) == [a, b]
    assert expand([str(tmp_path)]) == [a, b, deep]
    (line,) = told
    assert "passed over 3 files" in line and "odd.dat, notes.txt" in line.replace(
        "notes.txt, odd.dat", "odd.dat, notes.txt"
    )
    assert expand([str(odd)]) == [odd]
    assert expand([f"{tmp_path}/**/*", str(a)]) == [a, b, deep]
    assert expand([f"{tmp_path}/[ab].*"]) == [a, b]
    (tmp_path / "in" / "round").symlink_to(tmp_path)
    assert expand([f"{tmp_path}/**/*.webp"]) == [deep]
    (literal,) = touch(tmp_path, "x[1].png")
    assert expand([str(literal)]) == [literal]


def test_expand_names_what_is_not_there(tmp_path):
    touch(tmp_path, "in/notes.txt")
    for pattern, problem in (
        ("none.png", "none.png: no such file or directory"),
        ("in", "in: no image in this directory; expected .png, .apng, .jpg"),
        ("*.png", r"\*.png: matches no image"),
    ):
        with pytest.raises(DataError, match=problem):
            expand([str(tmp_path / pattern)])


def test_csv(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("\ufeffReference, Distorted, mos\nr/a.png, d/a1.png, 3\n\nr/a.png, /abs/a2.png, 4\n")
    first, second = (tmp_path / "d/a1.png", tmp_path / "r/a.png"), (Path("/abs/a2.png"), tmp_path / "r/a.png")
    assert pairs_from_table(path) == [first, second]
    path.write_text("target,reference\nd/a1.png,r/a.png\n")
    assert pairs_from_table(path) == [first]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        (
            "target,original\na,b\n",
            "no line with the columns distorted, reference; it begins",
        ),
        ("target,reference\n", "lists no pair"),
        (
            "target,reference\nhttps://example.org/a.png,b.png\n",
            "https://.* is an address, nothing is fetched",
        ),
        ("target,reference\na,b\na\n", "line 3: expected a target and a reference"),
        (None, "cannot be read as text"),
    ],
)
def test_csv_that_does_not_fit(tmp_path, monkeypatch, text, problem):
    path = tmp_path / "pairs.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=f"^{path}.*{problem}"):
        pairs_from_table(path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="^pairs.csv"):
        pairs_from_table(Path("pairs.csv"))


def test_columns_are_what_they_are_called_before_what_they_may_mean(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "in" / "pairs.csv"
    path.parent.mkdir()
    path.write_text("image,distorted,ref,target\n17,~/d.png,r.png,18\n")
    assert pairs_from_table(path) == [(tmp_path / "d.png", path.parent / "r.png")]
    path.write_text("image,ref,target\n17,r.png,d.png\n")
    assert pairs_from_table(path) == [(path.parent / "d.png", path.parent / "r.png")]


def test_find_pairs(tmp_path):
    a1, a2, a, z = touch(tmp_path, "d/a_1.png", "d/a_2.png", "r/a.png", "z.png")
    folder = str(tmp_path / "d")
    assert find_pairs([folder], [str(tmp_path / "r")]) == [(a1, a), (a2, a)]
    assert find_pairs([folder], [str(z)]) == [(a1, z), (a2, z)]
    table = tmp_path / "pairs.csv"
    table.write_text("target,reference\nd/a_2.png,z.png\nd/gone.png,z.png\n")
    assert find_pairs([], [str(table)]) == [(a2, z), (tmp_path / "d/gone.png", z)]
    assert find_pairs([str(a2)], [str(table)]) == [(a2, z)]
    told: list[str] = []
    assert find_pairs([folder], [str(table)], say=told.append) == [(a2, z)]
    first, second = told
    assert "a_1.png (not listed there)" in first and "gone.png (listed, but no target)" in second
    with pytest.raises(DataError, match="lists none of the 1 targets"):
        find_pairs([str(a1)], [str(table)])
    names = tmp_path / "names.txt"
    names.write_text("image\nd/a_1.png\nd/a_2.png\n")
    assert find_pairs([str(names)]) == [(a1, None), (a2, None)]
    assert find_pairs([str(names)], [str(tmp_path / "r")]) == [(a1, a), (a2, a)]


def test_what_is_passed_over_is_named(tmp_path):
    (image,) = touch(tmp_path, "a.png")
    touch(tmp_path, "notes.txt", "b.cr2", "deep/c.dat", ".hidden.txt", "._a.png")
    (tmp_path / "broken.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "round").symlink_to(tmp_path)
    told: list[str] = []
    assert find_images([str(tmp_path)], say=told.append) == [ImageFile(image)]
    (line,) = told
    assert "passed over 5 files" in line and "broken.png (a broken link)" in line and "deep/c.dat" in line


def test_what_scoring_wrote_is_not_scored(tmp_path):
    image, near = touch(tmp_path, "a.png", "b-map.png")
    pixels = np.zeros((40, 40, 3), np.uint8)
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "a-map.png").write_bytes(png_bytes(pixels, mark=QUALITY_MAP))
    touch(tmp_path, "page/index-files/0.png", f"page/index-files/{PAGE}")
    told: list[str] = []
    assert find_images([str(tmp_path)], say=told.append) == [ImageFile(image), ImageFile(near)]
    assert "maps/a-map.png (a quality map)" in told[0] and len(told) == 1
    assert expand([str(tmp_path / "**" / "*.png")]) == [image, near]
    assert [one.path.name for one in find_images([str(tmp_path / "maps" / "a-map.png")])] == ["a-map.png"]


def test_a_link_in_a_circle_and_a_broken_one_that_is_named(tmp_path):
    (image,) = touch(tmp_path, "a.png")
    (tmp_path / "circle.png").symlink_to("circle.png")
    (tmp_path / "circle").symlink_to("circle")
    told: list[str] = []
    for where in (tmp_path, tmp_path / "*.png"):
        assert [one.path for one in find_images([str(where)], say=told.append)] == [image]
    assert "circle.png (a broken link)" in told[0] and "circle.png (a broken link)" in told[1]
    # One that is given by its name fails by itself, where it is read.
    for name in ("gone.png", "circle.png"):
        link = tmp_path / name
        if name == "gone.png":
            link.symlink_to(tmp_path / "nowhere.png")
        assert [one.path for one in find_images([str(image), str(link)])] == [image, link]


def test_files_of_a_table_keep_their_folders(tmp_path):
    targets = touch(tmp_path, "d/park/1.png", "d/street/1.png")
    references = touch(tmp_path, "r/park/1.png", "r/street/1.png")
    (tmp_path / "d.csv").write_text("image\nd/park/1.png\nd/street/1.png\n")
    found = find_pairs([str(tmp_path / "d.csv")], [str(tmp_path / "r")])
    assert found == list(zip(targets, references, strict=True))


def test_each_target_has_its_mask(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    targets = touch(Path(), "d/park/1.png", "d/street/1.png")
    masks = touch(Path(), "m/park/1.png", "m/street/1.png")
    Path("in").mkdir()
    Path("in/pairs.csv").write_text("target,reference\n../d/park/1.png,r.png\n../d/street/1.png,r.png\n")
    through = [Path("in", "..", target) for target in targets]  # as a table spells them
    for named, patterns in ((targets, ["d"]), (through, ["d"]), (through, ["in/pairs.csv"]), (through, [])):
        assert masks_of(named, patterns, ["m"]) == dict(zip(named, masks, strict=True))
    assert masks_of(targets, ["d"], ["m/park/1.png"]) == dict.fromkeys(targets, masks[0])
    masks[1].unlink()
    with pytest.raises(DataError, match="1 target cannot be paired(?s:.*)no mask fits"):
        masks_of(targets, ["d"], ["m"])


def nfd(text):
    return unicodedata.normalize("NFD", text)


def test_accents_may_be_composed_or_not(tmp_path):
    nfc = "é/Zoë_blur.png"
    assert nfd(nfc) != nfc
    assert paired(nfc, nfd("é/Zoë.png")) == {nfc: nfd("é/Zoë.png")}
    assert paired(nfd(nfc), "é/Zoë.png é/Zo.png") == {nfd(nfc): "é/Zoë.png"}
    target, reference = touch(tmp_path, "é/" + nfd("Zoë_1.png"), nfd("ä") + "/ö.png")
    table = tmp_path / "pairs.csv"
    table.write_text(f"target,reference\n{nfd('é')}/Zoë_1.png,ä/{nfd('ö')}.png\n", encoding="utf-8")
    assert find_pairs([], [str(table)]) == [(target, reference)]
    assert find_pairs([str(tmp_path / "é")], [str(table)]) == [(target, reference)]


def test_names_of_a_table_are_found_in_any_locale(tmp_path, monkeypatch):
    (image,) = touch(tmp_path, "é.png")
    in_latin_1 = os.fsencode(image).decode("latin-1")
    monkeypatch.setattr(os, "fsdecode", lambda name: name.decode("latin-1"))
    monkeypatch.setattr(Path, "is_file", lambda path: str(path) == in_latin_1)
    assert listed_path(tmp_path, "é.png") == Path(in_latin_1).name


def test_brackets_of_a_folder_are_part_of_its_name_if_nothing_else_matches(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, two = touch(Path(), "set [1]/a.png", "set [1]/in/b.png")
    assert expand(["set [1]/*.png"]) == [one]
    assert expand([f"{tmp_path}/set [1]/*.png"]) == [tmp_path / one]
    assert find_images(["set [1]/**/*.png"]) == [ImageFile(one), ImageFile(two, ("in",))]
    with pytest.raises(DataError, match=r"matches no image.*write \[\[\] for one in a name"):
        expand(["set [2]/*.png"])
    (chosen,) = touch(Path(), "set 1/c.png")
    assert expand(["set [1]/*.png"]) == [chosen]


def test_targets_that_are_the_references_are_named_so(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    with pytest.raises(
        DataError, match=r"2 targets cannot(.*)the targets are the references themselves"
    ) as error:
        find_pairs([str(tmp_path)], [str(tmp_path)])
    assert "a.png: no reference fits but itself" in str(error.value)
    c, d = touch(tmp_path, "t/c.png", "r/d.png")
    with pytest.raises(DataError) as error:
        find_pairs([str(c)], [str(d.parent), str(tmp_path / "a.png")])
    assert "themselves" not in str(error.value)


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_only_regular_files_are_opened(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    (image,) = touch(Path(), "in/a.png")
    odd = Path("/dev/zero") if kind == "device" else Path("in/odd.png")
    if kind == "pipe":
        os.mkfifo(odd)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(odd))
    for call in (lambda: find_pairs([str(odd)]), lambda: find_pairs([str(image)], [str(odd)])):
        with pytest.raises(DataError, match=f"{odd}: not a regular file"):
            call()
    with pytest.raises(DataError, match=f"{odd}: not a regular file"):
        masks_of([image], ["in"], [str(odd)])
    with pytest.raises(DataError, match="not a regular file"):
        read_image(odd)
    with pytest.raises(DataError, match="cannot be read as text .not a regular file"):
        pairs_from_table(odd)
    told: list[str] = []
    for pattern in ("in", "in/*.png"):
        assert expand([pattern], say=told.append) == [image]
    assert kind == "device" or all("odd.png (not a regular file)" in line for line in told)
    Path("pairs.csv").write_text(f"distorted,mos\n{odd},3\n")
    with pytest.raises(DataError, match="line 2: not a regular file: .*(odd.png|zero)"):
        prepare_dataset("pairs", data_dir=tmp_path, manual_dir="pairs.csv")


def test_pairing_takes_time_in_proportion_to_the_files():
    """Each file's place is looked up once, however many names fit or lie in other folders."""
    count = 2000
    targets = " ".join(f"clip{k}/frame.png" for k in range(count))
    found = paired(targets, " ".join(f"set/clip{k}/frame.png" for k in range(count)))
    assert len(found) == count
    looked_up = 0

    def islink(path):
        nonlocal looked_up
        looked_up += 1
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.path.islink", islink)
        with pytest.raises(DataError, match="2000 targets"):
            paired(" ".join(f"a_{k}.png" for k in range(count)), " ".join(f"a.{k}" for k in range(count)))
    assert looked_up < 10 * count
