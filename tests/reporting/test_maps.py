"""Names of quality maps: they mirror the targets' folders and depend on no other file."""

import itertools
from pathlib import Path

import pytest
from PIL import Image

from iqa_jax.cli.score import chosen_files
from iqa_jax.errors import UserError
from iqa_jax.reporting.maps import map_files
from tests.cli.test_score import Fidelity, Stopped, score_pairs
from tests.miniature import noisy, picture, save

pytestmark = pytest.mark.quick

MAPS = Path("maps")


def names(targets, *references, **options) -> list[str]:
    files = map_files(MAPS, map(Path, targets), *references, **options)
    return [file.relative_to(MAPS).as_posix() for file in files]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def folders(*names: str) -> None:
    for name in names:
        Path(name).mkdir(parents=True)


@pytest.mark.parametrize(
    ("named", "targets", "expected"),
    [
        (["s"], ["s/a/frame.png", "s/b/frame.png", "s/top.png"], ["a/frame", "b/frame", "top"]),
        (["s/*/*.png"], ["s/a/frame.png", "s/b/frame.png"], ["a/frame", "b/frame"]),
        (["s/a"], ["s/a/frame.png"], ["frame"]),
        (["./s/../s/a/"], ["s/a/frame.png"], ["frame"]),
        (["s/a", "s/b"], ["s/a/frame.png", "s/b/frame.png"], ["a/frame", "b/frame"]),
        (["s", "s/a"], ["s/a/frame.png", "s/b/frame.png"], ["a/frame", "b/frame"]),
        (["s/a/frame.png", "s/b/frame.png"], ["s/a/frame.png", "s/b/frame.png"], ["a/frame", "b/frame"]),
        (["s/a/frame.png"], ["s/a/frame.png"], ["frame"]),
        (["s/table.csv"], ["s/a/frame.png", "s/b/frame.png"], ["a/frame", "b/frame"]),
        (["s/table.csv"], ["s/a/frame.png", "t/b/frame.png"], ["a/frame", "frame"]),
        ([], ["s/a/frame.png", "s/b/frame.png"], ["a/frame", "b/frame"]),
    ],
)
def test_maps_mirror_the_folders_of_their_targets(here, named, targets, expected):
    folders("s/a", "s/b", "t/b")
    for file in (*targets, "s/table.csv"):
        Path(file).touch()
    assert names(targets, named=named) == [f"{name}-map.png" for name in expected]


def test_two_directories_of_one_name_are_told_apart(here):
    folders("a/results", "b/results")
    targets = ["a/results/1.png", "b/results/1.png"]
    assert names(targets, named=["a/results", "b/results"]) == ["a/results/1-map.png", "b/results/1-map.png"]


def test_a_name_does_not_depend_on_the_other_files(here):
    folders("s")
    files = [
        f"s/{folder}frame{ending}"
        for folder in ("", "a/", "b/")
        for ending in (".png", ".jpg", ".PNG", ".bmp")
    ]
    whole = dict(zip(files, names(files, named=["s"]), strict=True))
    # Some file systems take frame.PNG-map.png and frame.png-map.png for one; nothing here is called so.
    assert len({name.lower() for name in whole.values()}) == len(files)
    for some in itertools.combinations(files, 3):
        assert names(some, named=["s"]) == [whole[file] for file in some]
    assert whole["s/a/frame.jpg"] == "a/frame.jpg-map.png"


@pytest.mark.parametrize(
    ("targets", "references"),
    [
        (["s/x.png", "s/X.png"], [None, None]),  # on a file system that does not tell the case
        (["s/\u00e9.png", "s/e\u0301.png"], [None, None]),  # or how an accent is written
        (["s/x.png", "s/x.png"], ["r/1.png", "r/2.png"]),
        (["s/x.jpg", "s/x.jpg.png"], [None, None]),
    ],
)
def test_names_that_would_be_one_get_a_digest_whatever_their_order(here, targets, references):
    folders("s")
    forward = names(targets, references, named=["s"])
    assert len({name.casefold() for name in forward}) == 2 and all("-map-" in name for name in forward)
    assert names(targets[::-1], references[::-1], named=["s"]) == forward[::-1]
    assert names([*targets, "s/other.png"], [*references, None], named=["s"])[:2] == forward


@pytest.mark.parametrize("stem", ["n" * 251, "ü" * 125, "日" * 83])
def test_maps_of_the_longest_names_there_are(here, stem):
    endings = (".png", ".jpg")
    for ending in endings:
        save(Path("s", stem + ending), picture(0, (32, 36)))
    pairs, _ = chosen_files(["s"], [])
    metric = Fidelity(full_reference=False)
    assert score_pairs(metric, pairs, maps=MAPS, table=Path("s.csv"), named=["s"]) == 0
    files = [*MAPS.iterdir()]
    assert len(files) == 2 and all(file.name.endswith("-map.png") for file in files)
    assert all(len(file.name.encode()) <= 255 for file in files)


def test_many_equal_names_take_no_longer_than_others(here):
    equal = map_files(MAPS, [Path(f"{number}/x.png") for number in range(2000)])
    one = map_files(MAPS, [Path("x.png")] * 2000, [Path(f"{number}.png") for number in range(2000)])
    assert len(set(equal)) == len(set(one)) == 2000
    folders(*(str(number) for number in range(500)))
    roots = map_files(
        MAPS, [Path(f"{k % 500}/{k}.png") for k in range(2000)], named=[str(k) for k in range(500)]
    )
    assert roots[501] == MAPS / "1" / "501-map.png"


def test_after_an_interruption_every_map_is_still_its_target_s(here):
    def clip(number):
        image = picture(number, (32, 36))
        save(Path(f"ref/clip_{number:02d}/frame.png"), image)
        save(Path(f"dis/clip_{number:02d}/frame.png"), noisy(image, 4.0 * number, number))

    def run(metric, csv, maps):
        pairs, _ = chosen_files(["dis"], ["ref"])
        return score_pairs(metric, pairs, table=Path(csv), maps=Path(maps), named=["dis"])

    for number in range(12):
        if number != 4:
            clip(number)
    stopped = Stopped()
    stopped.after = 5
    with pytest.raises(KeyboardInterrupt):
        run(stopped, "s.csv", "maps")
    drawn = [*Path("maps").rglob("*.png")]
    assert 3 <= len(drawn) <= 5
    clip(4)
    Path("dis/clip_00/frame.png").write_bytes(Path("dis/clip_11/frame.png").read_bytes())
    Path("maps/clip_01/frame-map.png").write_bytes(Path("maps/clip_02/frame-map.png").read_bytes())
    assert run(Fidelity(), "s.csv", "maps") == 0
    assert run(Fidelity(), "whole.csv", "whole") == 0
    assert Path("s.csv").read_text() == Path("whole.csv").read_text()
    whole = {path.relative_to("whole"): path.read_bytes() for path in Path("whole").rglob("*.png")}
    assert len(whole) == 12
    assert {path.relative_to("maps"): path.read_bytes() for path in Path("maps").rglob("*.png")} == whole


def test_a_map_never_takes_the_place_of_what_is_scored(here):
    for name in ("s/x.png", "s/x-map.png"):
        save(Path(name), picture(0, (32, 36)))
    pairs, _ = chosen_files(["s/*.png"], [])
    before = Path("s/x-map.png").read_bytes()
    with pytest.raises(UserError, match="x-map.png: is read here; choose another file"):
        score_pairs(Fidelity(full_reference=False), pairs, maps=Path("s"), named=["s/*.png"])
    assert Path("s/x-map.png").read_bytes() == before
    with Image.open("s/x.png") as image:
        assert image.size == (36, 32)


def test_a_picture_that_is_no_map_is_not_replaced(here):
    for folder in ("r", "t", "maps"):
        save(Path(folder, "a.png"), picture(0, (40, 48)))
    mine = Path("maps", "a-map.png")
    save(mine, picture(1, (40, 48)))
    before = mine.read_bytes()
    pairs, _ = chosen_files(["t"], ["r"])
    with pytest.raises(UserError, match="a-map.png: is there already and is no quality map"):
        score_pairs(Fidelity(), pairs, maps=Path("maps"))
    assert mine.read_bytes() == before
    mine.unlink()
    for _ in range(2):
        assert score_pairs(Fidelity(), pairs, maps=Path("maps")) == 0
