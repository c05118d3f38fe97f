"""The page that scores pictures in the browser: its folder, its server, its scores in Chromium, offline."""

import base64
import http.server
import json
import re
import threading
import urllib.request
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import iqa_jax
from iqa_jax.errors import UserError
from iqa_jax.ops import windows
from iqa_jax.reporting import demo as demo_module
from iqa_jax.reporting.maps import levels, viridis
from iqa_jax.reporting.runtime import FILES, runtime_files
from iqa_jax.reporting.templates import WEB
from tests import miniature
from tests.reference import figures
from tests.weights.test_shipped import GOLDEN, pairs

pytest.importorskip("onnxruntime")


@pytest.fixture
def metrics():
    return [iqa_jax.load(name, engine="onnx") for name in ("full-reference", "blind")]


@pytest.fixture
def installed(tmp_path):
    """Something in the place of onnxruntime-web, as npm installs it."""
    folder = tmp_path / "node_modules" / "onnxruntime-web"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b'{"version": "0"}')
    return folder


@pytest.mark.quick
def test_a_folder_holds_all_that_the_page_needs(call, tmp_path, installed):
    code, out, _ = call("demo", "--output", tmp_path / "demo", "--runtime", installed, "--json")
    assert code == 0 and Path(json.loads(out)["output"]) == tmp_path / "demo" / "index.html"
    folder = tmp_path / "demo"
    about = json.loads((folder / "demo.json").read_text())
    assert [metric["compares"] for metric in about["metrics"]] == [True, False]
    named = [*(metric["file"] for metric in about["metrics"]), *list(about["example"].values())[:2]]
    text = "".join(path.read_text() for path in folder.glob("*.*s")) + (folder / "index.html").read_text()
    named += re.findall(r"""(?:from |href=|src=|Worker\()"(?!data:)(?:\./)?([\w./-]+)""", text)
    assert len(named) > 12 and all((folder / name).is_file() for name in named)
    assert not re.search(r"https?://(?!localhost|www\.w3\.org)", text)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert call("demo", "--output", folder, "--runtime", installed)[0] == 0
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.quick
def test_what_cannot_be_a_page_is_refused_in_one_line(metrics, tmp_path, installed, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(UserError, match="mine: no demo has made this folder"):
        demo_module.write_demo(metrics, tmp_path / "mine", runtime=installed)
    (tmp_path / "mine" / "demo.json").write_text("{}")
    with pytest.raises(UserError, match="mine: no demo has made this folder"):
        demo_module.write_demo(metrics, tmp_path / "mine", runtime=installed)
    with pytest.raises(UserError, match="one metric with reference, one without"):
        demo_module.write_demo(metrics[:1] * 2, tmp_path / "demo", runtime=installed)
    ten = iqa_jax.load("blind", engine="onnx", crops="ten")
    with pytest.raises(UserError, match="crops 'ten': a page scores the windows of the grid"):
        demo_module.write_demo([ten], tmp_path / "demo", runtime=installed)
    (tmp_path / "other.tgz").write_bytes(b"x")
    (installed / FILES[0]).unlink()
    for given, what in (
        (installed, "No such file"),
        (tmp_path / "other.tgz", "not onnxruntime-web .*, or damaged"),
        (tmp_path / "none.tgz", "No such file"),
    ):
        with pytest.raises(UserError, match=f"^runtime .*{what}.*npm pack onnxruntime-web@"):
            runtime_files(given)
    monkeypatch.setenv("IQA_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(
        UserError, match="cannot be fetched from http://127.0.0.1:9 .*give the file as runtime"
    ):
        runtime_files()
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not (tmp_path / "demo").exists()


@pytest.mark.quick
def test_a_run_of_ones_own_is_exported_once(tmp_path, installed, small_weights, monkeypatch):
    exported = []

    def export(metric, path):
        exported.append(path.name)
        path.write_bytes(b"onnx")
        return path

    monkeypatch.setattr("iqa_jax.scoring.to_onnx.export_onnx", export)
    own = iqa_jax.load(small_weights)
    for _ in range(2):
        demo_module.write_demo([own], tmp_path / "demo", runtime=installed)
    assert exported == ["full-reference.onnx"]
    (tmp_path / "demo" / "full-reference.onnx").write_bytes(b"damaged")
    demo_module.write_demo([own], tmp_path / "demo", runtime=installed)
    assert len(exported) == 2


@pytest.mark.quick
def test_a_start_that_was_stopped_can_be_repeated(metrics, tmp_path, installed, monkeypatch):
    def stopped(directory):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(demo_module, "_example", stopped)
        demo_module.write_demo(metrics, tmp_path / "demo", runtime=installed)
    assert demo_module.write_demo(metrics, tmp_path / "demo", runtime=installed).is_file()


@pytest.mark.quick
def test_the_server_isolates_the_page_and_knows_the_kinds_of_its_files(tmp_path):
    for name in ("a.mjs", "a.js", "a.wasm"):
        (tmp_path / name).touch()
    with demo_module.server_of(tmp_path, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UserError, match=f"port {server.server_port}: in use; choose another one"):
            demo_module.server_of(tmp_path, server.server_port)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for name, kind in (
            ("a.mjs", "text/javascript"),
            ("a.js", "text/javascript"),
            ("a.wasm", "application/wasm"),
        ):
            with opener.open(f"http://127.0.0.1:{server.server_port}/{name}") as answer:
                assert answer.headers["Content-Type"] == kind
                assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        server.shutdown()


def module(browser, name: str, expression: str, *arguments):
    """What an expression of a script's exports gives in the browser, `m` being the module."""
    address = "data:text/javascript;base64," + base64.b64encode((WEB / name).read_bytes()).decode()
    script = f"""const [address, given, done] = arguments;
        import(address).then((m) => done({expression})).catch((error) => done(String(error)));"""
    browser.set_script_timeout(60)
    return browser.execute_async_script(script, address, list(arguments))


def test_windows_and_maps_in_the_browser_are_those_of_the_package(browser):
    lengths = [32, 100, 192, 193, 287, 288, 300, 384, 385, 577, 1000, 1601, 2305, 4000]
    for name in ("covering", "overlapping"):
        found = module(
            browser, "windows.js", f"given[0].map((n) => m.{name}(Math.max(n, 192), 192))", lengths
        )
        assert found == [getattr(windows, name)(max(length, 192), 192) for length in lengths]
    image = miniature.picture(0, (21, 50))  # mirrored more than once
    rgba = np.concatenate([image, np.full((21, 50, 1), 255, np.uint8)], axis=-1)
    where = [(0, 0), (11, 3)]
    found = module(
        browser,
        "windows.js",
        "Array.from(m.cut({data: given[0], width: 50, height: 21}, given[1], 64))",
        rgba.ravel().tolist(),
        where,
    )
    large = windows.mirrored_up(image, 80)
    expected = np.stack([windows.cut(large, windows.Place(*place), 64) for place in where])
    np.testing.assert_allclose(
        np.reshape(found, expected.shape), expected.astype(np.float32) / 255, atol=1e-7
    )
    places = windows.places("overlapping", 70, 90, 64)
    scores = np.linspace(1, 5, len(places)).tolist()
    found = module(
        browser,
        "windows.js",
        "Array.from(m.mapOf(given[0], given[1], 70, 90, 64, 4).values)",
        scores,
        [place[:2] for place in places],
    )
    expected = windows.weighted_mean(scores, places, 70, 90, 64)[::4, ::4]
    np.testing.assert_allclose(np.reshape(found, expected.shape), expected, atol=1e-6)
    assert module(
        browser, "windows.js", "[m.meanOf([1, 4]), m.meanOf([1, 4], [3, 1]), m.meanOf([1, 4], [0, 0])]"
    ) == [
        2.5,
        1.75,
        2.5,
    ]
    values = np.linspace(0.9, 5.1, 50)
    found = module(browser, "colours.js", "given[0].map((x) => m.colourOf(x, 1, 5))", values.tolist())
    assert np.array_equal(found, viridis()[levels(values, 1, 5)])


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The demo's folder, served as any server of static files does."""
    folder = tmp_path_factory.mktemp("page") / "demo"
    shipped = [iqa_jax.load(name, engine="onnx") for name in ("full-reference", "blind")]
    try:
        demo_module.write_demo(shipped, folder)
    except UserError as error:
        if "cannot be fetched" not in str(error):
            raise
        pytest.skip(str(error))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Demo:
    """The page in a browser that reaches nothing but its server."""

    def __init__(self, browser, address):
        self.browser, self.address = browser, address
        browser.execute_cdp_cmd("Network.enable", {})
        browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["https://*"]})
        browser.get(address)
        self.until("!document.querySelector('main').hidden")

    def run(self, script, *arguments):
        return self.browser.execute_script(f"return {script}", *arguments)

    def find(self, name):
        return self.browser.find_element("css selector", name)

    def until(self, condition, seconds=120):
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.browser, seconds, 0.05).until(lambda _: self.run(condition))

    def put(self, slot, path):
        self.find(f"#{slot} input").send_keys(str(path))
        self.until(f"document.querySelector('#{slot} .hint').textContent === '{path.name}'")

    def score(self) -> float:
        self.until("document.body.dataset.score || !document.getElementById('error').hidden")
        assert not self.find("#error").text
        return float(self.run("document.body.dataset.score"))

    def error(self) -> str:
        self.until("!document.getElementById('error').hidden")
        return self.find("#error").text


def test_scores_in_the_browser_are_the_golden_ones(served, browser, tmp_path):
    page = Demo(browser, served)
    files = {}
    for number, pair in enumerate(pairs()):
        for slot, image in zip(("reference", "result"), pair, strict=True):
            files[slot, number] = tmp_path / f"{slot}{number}.png"
            miniature.save(files[slot, number], image)
    page.put("result", files["result", 0])
    assert page.score() == pytest.approx(figures(GOLDEN)["blind"][0], abs=1e-3)
    for number, expected in enumerate(figures(GOLDEN)["full-reference"]):
        page.put("reference", files["reference", number])
        page.put("result", files["result", number])
        assert page.score() == pytest.approx(expected, abs=1e-3), number
        assert page.find("#how").text.startswith("compared with the reference, 300 × 224 pixels, 4 windows")
    # Nothing came from elsewhere, and nothing failed.
    loaded = page.run("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert all(address.startswith((served, "blob:", "data:")) for address in loaded)
    assert not browser.get_log("browser")


def test_a_small_picture_its_map_and_refusals(served, browser, tmp_path):
    screen = {"width": 400, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path / "got")}
    )
    page = Demo(browser, served)
    reference = miniature.picture(3, (40, 240))
    result = miniature.noisy(reference, 15.0, 1)
    for name, image in (("r", reference), ("d", result), ("other", result[:, :200]), ("tiny", result[:20])):
        miniature.save(tmp_path / f"{name}.png", image)
    (tmp_path / "text.png").write_text("no picture")
    page.put("reference", tmp_path / "r.png")
    assert "Now the result" in page.find("#doing").text
    page.put("result", tmp_path / "tiny.png")
    assert page.error() == "tiny.png: 240 × 20 pixels; expected 32 or more on each side"
    page.put("result", tmp_path / "other.png")
    assert "the reference has 240 × 40 pixels and the result 200 × 40; expected two" in page.error()
    page.put("result", tmp_path / "text.png")
    assert page.error().startswith("text.png: this browser cannot read it as a picture; expected PNG")
    page.put("result", tmp_path / "d.png")
    metric = iqa_jax.load(engine="onnx")
    assert page.score() == pytest.approx(float(metric(reference, result)), abs=1e-3)
    if page.find("#draw").is_displayed():  # on a slow machine the map is drawn on request
        page.find("#draw").click()
    page.until("!document.getElementById('download').disabled")
    quality = metric.map(reference, result)
    assert float(page.find("#low").text) == pytest.approx(quality.values.min(), abs=0.01)
    assert page.run("document.querySelectorAll('#stage canvas').length") == 1
    assert page.run("document.documentElement.scrollWidth") <= 400
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(23, 24, 26)"
    # By keyboard: without the map, blinking, a pixel of the picture on one of the screen.
    page.find("#stage").send_keys("m3 o")
    assert page.run("document.querySelectorAll('#stage canvas').length") == 0
    assert page.find("#stage .tag").text == "reference" and page.find(".zoom").text == "100 %"
    page.find("#download").click()
    saved = tmp_path / "got" / "d-map.png"
    for _ in range(100):
        if saved.exists():
            break
        page.browser.execute_async_script("setTimeout(arguments[0], 50)")
    with Image.open(saved) as image:
        assert image.size == (240 + 84, 40)
    assert not browser.get_log("browser")
