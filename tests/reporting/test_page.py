"""The page of scored images, made and, where Chromium is installed, looked at."""

import base64
import io
import json
import os
import re
import shutil
import urllib.parse

import numpy as np
import pytest
from PIL import Image

from iqa_jax.cli.score import chosen_files
from iqa_jax.errors import UserError
from iqa_jax.reporting import page as page_module
from iqa_jax.scoring.results import journal_of
from tests import miniature
from tests.cli.test_score import Fidelity, score_pairs


class Mapped(Fidelity):
    """With the windows that a real map has."""

    config = type("Config", (), {"name": "fidelity"})
    crops = "grid"

    def map(self, *images):
        quality = super().map(*images)
        quality.windows = np.array([[0, 0, 32, 32], [0, 4, 32, 32]])
        quality.scores = np.array([90.0, 80.0])
        return quality


def made(folder):
    sets = [str(folder / name) for name in ("good", "bad")]
    pairs, _ = chosen_files(sets, [str(folder / "ref")])
    assert score_pairs(Mapped(), pairs, page=folder / "page", named=sets) == 1
    return folder / "page" / "index.html"


def data_of(page) -> dict:
    text = re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1]
    return json.loads(text)


@pytest.mark.quick
def test_small_pictures_stand_in_the_page_and_large_ones_beside_it(methods, monkeypatch):
    data = data_of(made(methods))
    assert data["methods"] == ["good", "bad"] and len(data["pairs"]) == 6
    pictures = [data["sources"][pair["target"]] for pair in data["pairs"] if pair["score"]]
    assert len(pictures) == 5 and all(picture.startswith("data:image/png;base64,") for picture in pictures)
    # Each picture once, the references' too: nine pictures, five thumbnails, five maps.
    assert len(data["sources"]) == 5 + 3 + 5 + 5 and [*(methods / "page").iterdir()] == [
        methods / "page" / "index.html"
    ]
    monkeypatch.setattr(page_module, "_INLINE", 0)
    data = data_of(made(methods))
    scored = [p for p in data["pairs"] if p["score"] is not None]
    assert len(scored) == 5 and scored[0]["windows"][0] == [0, 4, 32, 32, 80.0]
    for pair in scored:
        for name in ("target", "referenceImage", "map", "thumbnail"):
            assert (methods / "page" / data["sources"][pair[name]]).is_file()
    made(methods)  # takes the place of what the one before has made


def test_a_folder_that_no_page_has_made_stays_as_it_is(methods):
    pictures = methods / "page" / page_module.PICTURES
    pictures.mkdir(parents=True)
    (pictures / "mine.png").write_bytes(b"mine")
    with pytest.raises(UserError, match="index-files: no page has made this folder"):
        made(methods)
    assert [path.name for path in (methods / "page").rglob("*")] == ["index-files", "mine.png"]
    shutil.rmtree(pictures)
    page = methods / "page" / page_module.PAGE
    page.write_text("<title>My project</title>")
    with pytest.raises(UserError, match=r"index.html: is there already and is no page of scores"):
        made(methods)
    assert page.read_text() == "<title>My project</title>"


def test_methods_and_references_are_told_apart_by_their_folders(tmp_path):
    for number, scene in enumerate(("park", "street")):
        image = miniature.picture(number, (40, 48))
        miniature.save(tmp_path / "ref" / scene / "1.png", image)
        for method, strength in (("a", 5.0), ("b", 40.0)):
            noisy = miniature.noisy(image, strength, number)
            miniature.save(tmp_path / method / "results" / scene / "1.png", noisy)
    sets = [str(tmp_path / method / "results") for method in "ab"]
    pairs, _ = chosen_files(sets, [str(tmp_path / "ref")])
    assert score_pairs(Mapped(), pairs, page=tmp_path / "page", named=sets) == 0
    data = data_of(tmp_path / "page" / "index.html")
    assert data["methods"] == ["a/results", "b/results"]
    assert {(pair["method"], pair["name"], pair["content"]) for pair in data["pairs"]} == {
        (f"{method}/results", f"{scene}/1.png", f"{scene}/1.png")
        for method in "ab"
        for scene in ("park", "street")
    }


def test_a_picture_that_moves_is_shown_as_it_was_scored(tmp_path):
    pictures = [miniature.picture(number, (40, 48)) for number in range(2)]
    frames = [Image.fromarray(picture) for picture in pictures]
    for ending in ("png", "webp"):
        frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:])
        entry = page_module.Entry("a", None, "a", "", 1.0, None)
        with page_module.Page(tmp_path / ending) as page:
            page.add(0, [tmp_path / f"a.{ending}"], pictures[:1], Mapped().map(pictures[0]))
            data = data_of(page.write("Scores", "", "MOS", [entry]))
        shown = base64.b64decode(data["sources"][data["pairs"][0]["target"]].partition(",")[2])
        with Image.open(io.BytesIO(shown)) as image:
            assert image.format == "PNG" and not getattr(image, "is_animated", False)


def shown(folder, file, pixels) -> tuple[str, bytes]:
    """What a page shows of a file: its media type and content."""
    entry = page_module.Entry("a", None, "a", "", 1.0, None)
    with page_module.Page(folder) as page:
        page.add(0, [file], [pixels], Mapped().map(pixels))
        data = data_of(page.write("Scores", "", "MOS", [entry]))
    address = data["sources"][data["pairs"][0]["target"]]
    return address.partition(";")[0].removeprefix("data:image/"), base64.b64decode(address.partition(",")[2])


def saved(file, image, **options):
    with open(file, "wb") as opened:
        image.save(opened, **options)
    return file.read_bytes()


XMP_TURNED = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    b"</rdf:RDF></x:xmpmeta>"
)


@pytest.mark.quick
def test_a_page_shows_what_was_scored_whatever_a_file_is_called(tmp_path):
    pixels = miniature.picture(3, (40, 48))
    image = Image.fromarray(pixels)
    turned = Image.Exif()
    turned[274] = 6
    as_it_is = {
        "jpeg.png": {"format": "JPEG"},
        "plain.heic": {"format": "PNG"},
        "webp.tif": {"format": "WEBP", "lossless": True},
        "turned.jpg": {"format": "JPEG", "exif": turned},
    }
    written_anew = {
        "tiff.png": {"format": "TIFF"},
        "tiff.jpg": {"format": "TIFF"},
        "turned.png": {"format": "PNG", "exif": turned},
        "turned.webp": {"format": "WEBP", "exif": turned},
        "xmp.jpg": {"format": "JPEG", "xmp": XMP_TURNED},
    }
    for name, options in (as_it_is | written_anew).items():
        content = saved(tmp_path / name, image, **options)
        kind, found = shown(tmp_path / "page", tmp_path / name, pixels)
        if name in as_it_is:
            assert kind == options["format"].lower() and found == content, name
            continue
        with Image.open(io.BytesIO(found)) as opened:
            assert kind == "png" and np.array_equal(np.asarray(opened), pixels), name
            assert opened.getexif().get(274, 1) == 1


@pytest.mark.quick
def test_heic_under_another_ending_is_written_as_png(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    pixels = miniature.picture(3, (64, 80))
    heif.from_pillow(Image.fromarray(pixels)).save(tmp_path / "photo.heic")
    (tmp_path / "photo.heic").rename(tmp_path / "photo.jpg")
    heif.register_heif_opener()
    kind, found = shown(tmp_path / "page", tmp_path / "photo.jpg", pixels)
    with Image.open(io.BytesIO(found)) as opened:
        assert kind == "png" and np.array_equal(np.asarray(opened), pixels)


@pytest.mark.quick
@pytest.mark.parametrize("name", ["a#b.png", "50%41.png", "q?x=1&y.png", 'a"b<c>.png', "é" * 120 + ".png"])
def test_names_of_any_kind_are_found_by_their_addresses(tmp_path, monkeypatch, name):
    monkeypatch.setattr(page_module, "_INLINE", 0)
    miniature.save(tmp_path / "ref" / name, miniature.picture(0, (40, 48)))
    miniature.save(tmp_path / "dis#1" / name, miniature.picture(1, (40, 48)))
    pairs, _ = chosen_files([str(tmp_path / "dis#1")], [str(tmp_path / "ref")])
    assert score_pairs(Mapped(), pairs, page=tmp_path / "page", named=[str(tmp_path / "dis#1")]) == 0
    data = data_of(tmp_path / "page" / "index.html")
    assert data["pairs"][0]["name"] == name and len(data["sources"]) == 4
    for address in data["sources"].values():
        assert urllib.parse.unquote(urllib.parse.urlsplit(address).path) == address
        assert (tmp_path / "page" / address).is_file()


@pytest.mark.quick
def test_pictures_are_called_after_their_files_alone(methods, monkeypatch):
    monkeypatch.setattr(page_module, "_INLINE", 0)
    before = {pair["name"]: pair["target"] for pair in data_of(made(methods))["pairs"] if pair["score"]}
    miniature.save(methods / "good" / "A.png", miniature.picture(7, (40, 48)))
    miniature.save(methods / "ref" / "A.png", miniature.picture(8, (40, 48)))
    after = {pair["name"]: pair["target"] for pair in data_of(made(methods))["pairs"] if pair["score"]}
    assert before.items() <= after.items() and len(after) == len(before) + 1


@pytest.mark.quick
def test_what_a_killed_start_left_is_swept_by_the_next(methods, monkeypatch):
    monkeypatch.setattr(page_module, "_INLINE", 0)
    page = methods / "page"
    killed = page_module.Page(page)
    (leftover,) = page.iterdir()
    (leftover / "picture.png").write_bytes(b"x")
    other = page_module.Page(page)  # a second start beside the first, which is still alive, sweeps nothing
    assert leftover.exists()
    other.__exit__()
    os.mkdir(page / "mine")
    kept = leftover.with_name(leftover.name.replace(leftover.name[10:14], "0000"))
    shutil.copytree(leftover, kept)  # nobody holds it, as after a kill
    made(methods)
    assert not kept.exists() and (page / "mine").is_dir() and leftover.exists()
    killed.__exit__()
    assert sorted(path.name for path in page.iterdir()) == ["index-files", "index.html", "mine"]


@pytest.mark.quick
def test_a_page_that_fails_leaves_the_one_before(methods, monkeypatch):
    monkeypatch.setattr(page_module, "_INLINE", 0)
    made(methods)
    before = {path: path.is_file() and path.read_bytes() for path in (methods / "page").rglob("*")}
    with pytest.raises(KeyboardInterrupt), page_module.Page(methods / "page") as page:
        page.add(
            0, [methods / "ref/R0.png"], [miniature.picture(0, (40, 48))], Mapped().map(np.zeros((40, 48, 3)))
        )
        raise KeyboardInterrupt
    assert {path: path.is_file() and path.read_bytes() for path in (methods / "page").rglob("*")} == before


@pytest.mark.quick
def test_a_start_that_is_refused_leaves_nothing_of_a_page(methods):
    pairs, _ = chosen_files([str(methods / "good")], [str(methods / "ref")])
    table = methods / "s.csv"
    journal_of(table).write_text("damaged\n")
    with pytest.raises(UserError, match="damaged"):
        score_pairs(Mapped(), pairs, table=table, page=methods / "page")
    assert not (methods / "page").exists()


@pytest.mark.quick
def test_a_scale_of_negated_dmos_ends_at_0(methods, capsys):
    metric = Mapped(range=(-1.0, -0.0))
    sets = [str(methods / "good")]
    pairs, _ = chosen_files(sets, [str(methods / "ref")])
    capsys.readouterr()
    assert score_pairs(metric, pairs, page=methods / "page", named=sets) == 0
    assert score_pairs(metric, pairs[:1]) == 0
    text = capsys.readouterr().err + (methods / "page" / "index.html").read_text()
    assert text.count("from -1 (bad) to 0 (excellent)") == 3 and "-0 (" not in text


def test_the_page_sorts_filters_and_compares_in_a_browser(methods, browser):
    from selenium.webdriver.common.by import By

    def all_of(selector):
        return browser.find_elements(By.CSS_SELECTOR, selector)

    def press(key):
        browser.switch_to.active_element.send_keys(key)

    browser.get(made(methods).as_uri())
    assert len(all_of("#pairs tbody tr")) == 6 and len(all_of("#histogram rect")) > 1
    scores = [cell.text for cell in all_of("#pairs tbody td.number")]
    assert scores[:5] == sorted(scores[:5], key=float) and "not an image" in scores[5]
    all_of("#pairs th.number button")[0].click()
    assert [cell.text for cell in all_of("#pairs tbody td.number")][:5] == scores[:5][::-1]
    assert all_of("#methods tbody tr")[0].text.startswith("good 3")
    assert len(all_of("#references td.best")) == 3
    browser.find_element(By.ID, "name").send_keys("bad")
    assert browser.find_element(By.ID, "count").text == "3 of 6 shown"

    all_of("#pairs tbody tr")[0].click()
    title = browser.find_element(By.ID, "title")
    first = title.text
    press("\ue014")  # right
    assert title.text != first and title.text.startswith("2/3")
    press("\ue012")  # left
    assert title.text == first
    press(" ")
    assert all_of("#stage .tag")[0].text.startswith("result")
    press(" ")
    assert all_of("#stage .tag")[0].text.startswith("reference")
    press("1")
    handle = all_of(".edge")[0]
    before = handle.location["x"]
    browser.execute_script(
        """const send = (kind, x) => arguments[0].dispatchEvent(
             new PointerEvent(kind, {clientX: x, clientY: 300, pointerId: 1, bubbles: true}));
           arguments[0].setPointerCapture = () => {};
           send("pointerdown", 640); send("pointermove", 300); send("pointerup", 300);""",
        handle,
    )
    assert handle.location["x"] < before - 100
    browser.find_element(By.ID, "windows").click()
    assert all_of(".window")[0].text == "80.00"
    assert not browser.get_log("browser")
