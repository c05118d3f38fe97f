"""The page of scored images in a browser: the viewer, rows that open, narrow screens; the scales of maps."""

import io

import numpy as np
import pytest
from PIL import Image

from iqa_jax.reporting.maps import levels, viridis
from iqa_jax.reporting.page import PICTURES, Entry, Page
from tests.reporting.test_page import Mapped, data_of, made


@pytest.mark.quick
def test_maps_of_one_reference_have_one_scale(methods, monkeypatch):
    monkeypatch.setattr("iqa_jax.reporting.page._INLINE", 0)
    page = made(methods)
    data = data_of(page)
    of_first = [pair for pair in data["pairs"] if pair["content"] == "R0.png"]
    assert len(of_first) == 2 and len({(pair["mapLow"], pair["mapHigh"]) for pair in of_first}) == 1
    low, high = of_first[0]["mapLow"], of_first[0]["mapHigh"]
    with Image.open(methods / "ref" / "R0.png") as opened:
        reference = np.asarray(opened)
    for pair in of_first:
        with Image.open(methods / pair["method"] / "R0.png") as opened:
            values = Mapped().map(reference, np.asarray(opened)).values
        content = (page.parent / data["sources"][pair["map"]]).read_bytes()
        with Image.open(io.BytesIO(content)) as opened:
            colours = np.asarray(opened.convert("RGB"), int)
        expected = viridis()[levels(values[::4, ::4], low, high)]
        assert np.abs(colours - expected).max() <= 6  # a level more or less
    assert (page.parent / PICTURES).is_dir()


class Opened:
    """A page in a browser."""

    def __init__(self, browser, page):
        self.browser = browser
        browser.get(page.as_uri())

    def all(self, selector):
        from selenium.webdriver.common.by import By

        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def press(self, *keys):
        for key in keys:
            self.browser.switch_to.active_element.send_keys(key)

    def texts(self, selector):
        return [found.text for found in self.all(selector)]

    def run(self, script, *arguments):
        return self.browser.execute_script(f"return {script}", *arguments)

    def options(self, name):
        return [option.text for option in self.all(f"#{name} option")]

    def chosen(self, name):
        return self.run(f"document.getElementById('{name}').selectedOptions[0].textContent")


def test_two_methods_of_a_picture_are_compared(methods, browser):
    page = Opened(browser, made(methods))
    rows = page.all("#references .opens")
    assert [row.get_attribute("aria-expanded") for row in rows] == ["false"] * 3
    rows[0].click()
    assert rows[0].get_attribute("aria-expanded") == "true"
    # The best first, each with its score.
    good, bad = page.texts(".version")
    assert good.endswith("good") and bad.endswith("bad") and float(good.split()[0]) > float(bad.split()[0])
    page.all("#open-all")[0].click()
    assert not [row for row in page.all("tr.detail") if row.is_displayed()]
    rows[0].click()

    page.all(".version")[0].click()
    score = good.split()[0]
    assert page.texts("#score") == [score]
    assert page.chosen("a") == f"{score} good" and page.chosen("b") == "reference R0.png"
    assert page.options("a") == ["reference R0.png", f"{score} good", f"{bad.split()[0]} bad"]
    page.press("b")
    assert page.chosen("b").endswith(" bad")
    assert page.texts("#stage .tag") == [f"result good {score} · A", f"result bad {bad.split()[0]} · B"]
    page.press("m")
    assert len(page.all("#stage .map")) == 2 and page.all("#scale")[0].is_displayed()
    page.press("m", "x")
    assert page.chosen("a").endswith(" bad") and page.texts("#score") == [bad.split()[0]]
    page.press("3", " ")
    assert page.texts("#stage .tag")[0].startswith("result good")
    assert not browser.get_log("browser")


def test_pictures_are_shown_at_100_percent_and_without_smoothing(methods, browser):
    page = Opened(browser, made(methods))
    page.all("#pairs tbody tr")[0].click()
    rendering = "getComputedStyle(document.querySelector('.sheet img')).imageRendering"
    width = "document.querySelector('.sheet img').getBoundingClientRect().width * devicePixelRatio"
    assert page.texts("#sizes button[aria-pressed=true]") == ["Fit"]
    page.press("o")
    assert page.run(width) == pytest.approx(48) and page.texts(".zoom") == ["100 %"]
    assert page.run(rendering) == "auto" and "100 %" in page.texts("#sizes button[aria-pressed=true]")
    page.press("p")
    assert page.run(rendering) == "pixelated"
    page.press("f")
    assert page.run(width) > 400 and page.texts("#sizes button[aria-pressed=true]") == ["Fit", "Pixels"]
    page.press("?")
    assert page.all("dl.keys")[0].is_displayed() and "exchange A and B" in page.texts("dl.keys dd")
    assert not browser.get_log("browser")


def test_the_histogram_has_axes_with_numbers_and_a_unit(methods, browser):
    page = Opened(browser, made(methods))
    texts = page.texts("#histogram text")
    assert texts[:2] == ["images", "score, MOS"] and "0" in texts
    numbers = [float(text) for text in texts[2:]]
    scores = [float(text) for text in page.texts("#pairs tbody td.number")[:5]]
    assert min(scores) - 5 <= min(x for x in numbers if x > 5) <= max(numbers) <= max(scores) + 5
    assert "5 scores" in page.all("#histogram")[0].get_attribute("aria-label")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_shows_scores_without_scrolling_sideways(methods, browser, scheme):
    screen = {"width": 400, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    page = Opened(browser, made(methods))
    ground = page.run("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(23, 24, 26)"}[scheme]
    assert page.run("document.documentElement.scrollWidth") <= 400
    for cell in page.all("#pairs tbody td.number, #references td.number, #methods td.number"):
        assert page.run("arguments[0].getBoundingClientRect().right", cell) <= 400
    assert "reference R0.png, method good" in " ".join(page.texts("#pairs .narrow"))
    page.all("#pairs tbody tr")[0].click()
    assert page.all("#score")[0].is_displayed() and page.run("viewer.scrollWidth") <= 400
    stage = page.run("document.getElementById('stage').getBoundingClientRect().height")
    assert stage > 300


def test_a_large_table_is_drawn_in_portions(tmp_path, browser):
    entries = [Entry(f"{number}.png", "R.png", "R.png", "", 1.0 + number, None) for number in range(600)]
    with Page(tmp_path) as written:
        page = Opened(browser, written.write("Scores", "", "MOS", entries))
    assert len(page.all("#pairs tbody tr")) == 500 and page.texts("#more") == ["Show 100 more of 100"]
    assert page.texts("#references tbody td")[:2] == ["▸ R.png", "600"]
    page.all("#more")[0].click()
    assert len(page.all("#pairs tbody tr")) == 600 and not page.all("#more")[0].is_displayed()
    assert not browser.get_log("browser")
