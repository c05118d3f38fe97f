"""The page of scored images, made and, where Chromium is installed, looked at."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from iqa_jax.cli.score import chosen_files
from iqa_jax.cli.score_output import score_pairs
from iqa_jax.evaluation import page as page_module
from tests import miniature
from tests.cli.test_score import Fidelity


class Mapped(Fidelity):
    """With the windows that a real map has."""

    config = type("Config", (), {"name": "fidelity"})
    crops = "grid"

    def map(self, *images):
        quality = super().map(*images)
        quality.windows = np.array([[0, 0, 32, 32], [0, 4, 32, 32]])
        quality.scores = np.array([90.0, 80.0])
        return quality


@pytest.fixture
def methods(tmp_path):
    """Two methods on three references; one file is broken."""
    for number in range(3):
        image = miniature.picture(number, (40, 48))
        miniature.save(tmp_path / "ref" / f"R{number}.png", image)
        for name, strength in (("good", 5.0), ("bad", 40.0)):
            miniature.save(tmp_path / name / f"R{number}.png", miniature.noisy(image, strength, number))
    (tmp_path / "bad" / "R2.png").write_bytes(b"</script>")
    return tmp_path


def made(folder):
    sets = [str(folder / name) for name in ("good", "bad")]
    pairs, _ = chosen_files(sets, [str(folder / "ref")])
    assert score_pairs(Mapped(), pairs, page=folder / "page", sets=sets) == 1
    return folder / "page" / "index.html"


def data_of(page) -> dict:
    text = re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1]
    return json.loads(text)


@pytest.mark.quick
def test_small_pictures_stand_in_the_page_and_large_ones_beside_it(methods, monkeypatch):
    data = data_of(made(methods))
    assert data["methods"] == ["good", "bad"] and len(data["pairs"]) == 6
    assert all(p["target"].startswith("data:image/png;base64,") for p in data["pairs"] if p["score"])
    assert not (methods / "page" / "images").exists()
    monkeypatch.setattr(page_module, "_INLINE", 0)
    data = data_of(made(methods))
    scored = [p for p in data["pairs"] if p["score"] is not None]
    assert len(scored) == 5 and scored[0]["windows"][0] == [0, 4, 32, 32, 80.0]
    for pair in scored:
        for name in ("target", "referenceImage", "map", "thumbnail"):
            assert (methods / "page" / pair[name]).is_file()


def test_a_picture_that_moves_is_shown_as_it_was_scored(tmp_path):
    pictures = [miniature.picture(number, (40, 48)) for number in range(2)]
    frames = [Image.fromarray(picture) for picture in pictures]
    for ending in ("png", "webp"):
        frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:])
        page = page_module.Page(tmp_path / ending)
        page.add(0, [tmp_path / f"a.{ending}"], pictures[:1], Mapped().map(pictures[0]))
        (shown,) = (tmp_path / ending / "images").glob("00000.*")
        with Image.open(shown) as image:
            assert image.format == "PNG" and not getattr(image, "is_animated", False)


@pytest.fixture
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(argument)
    options.binary_location = binary
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


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
