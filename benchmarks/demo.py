"""Seconds to a score in the demo's page, in headless Chromium, and how far it is from the package's score.

    python benchmarks/demo.py

Needs chromium, chromedriver and selenium.  The first score counts from the address to the number: the page,
the WebAssembly and the metric are loaded with it.  The files are JPEG, which browsers decode by themselves.
"""

import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated

import psutil
import typer
from tables import Output, Small, need, put_out

SIZES = "288x288,1024x768,4000x3000"
_LONGEST = 1800.0  # seconds for a score


class Browser:
    """A headless Chromium that counts its processor seconds."""

    def __init__(self):
        webdriver = need("selenium.webdriver", "selenium")
        binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
        if not binary or not driver:
            sys.exit("this benchmark needs chromium and chromedriver")
        options = webdriver.ChromeOptions()
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu"):
            options.add_argument(argument)
        options.binary_location = binary
        service = webdriver.ChromeService(driver)
        self.driver = webdriver.Chrome(options=options, service=service)
        self._process = psutil.Process(service.process.pid)

    def cpu_seconds(self) -> float:
        """Of the browser's processes that run now."""
        times = [child.cpu_times() for child in self._process.children(recursive=True)]
        return sum(of.user + of.system for of in times)

    def score(self, files: dict[str, Path]) -> float:
        """Puts files into the page; the score that it shows."""
        for slot, file in files.items():
            self.driver.find_element("css selector", f"#{slot} input").send_keys(str(file))
        end = time.monotonic() + _LONGEST
        while time.monotonic() < end:
            found = self.driver.execute_script(
                "return [document.body.dataset.score, document.getElementById('error').textContent,"
                " document.getElementById('how').textContent.startsWith('compared')]"
            )
            if found[1]:
                sys.exit(found[1])
            if found[0] and found[2]:
                return float(found[0])
            time.sleep(0.01)
        sys.exit(f"no score after {_LONGEST:.0f} s")


def pictures(folder: Path, width: int, height: int) -> dict[str, Path]:
    """A photograph of a size, and the same at a quality of 30."""
    from PIL import Image

    from iqa_jax.reporting.demo import PHOTOGRAPH

    files = {}
    with Image.open(PHOTOGRAPH) as image:
        scaled = image.resize((width, height), Image.Resampling.LANCZOS)
    for slot, quality in (("reference", 95), ("result", 30)):
        files[slot] = folder / f"{slot}-{width}x{height}.jpg"
        scaled.save(files[slot], quality=quality)
    return files


def measured(address: str, files: dict[str, Path]) -> tuple[float, float, float, float]:
    """Seconds and CPU seconds of the first score, seconds of the second one, and the score."""
    browser = Browser()
    try:
        began, before = time.perf_counter(), browser.cpu_seconds()
        browser.driver.get(address)
        while browser.driver.execute_script("return document.querySelector('main').hidden"):
            time.sleep(0.01)
        score = browser.score(files)
        first, used = time.perf_counter() - began, browser.cpu_seconds() - before
        browser.driver.execute_script("document.querySelector('#result .remove').click()")
        began = time.perf_counter()
        browser.score({"result": files["result"]})
        return first, used, time.perf_counter() - began, score
    finally:
        browser.driver.quit()


def main(
    sizes: Annotated[str, typer.Option(help="Of the pairs, pixels.")] = SIZES,
    small: Small = False,
    output: Output = None,
) -> None:
    """Measure the demo's page."""
    import iqa_jax
    from iqa_jax.reporting.demo import server_of, write_demo

    metric = iqa_jax.load("full-reference", engine="onnx")
    lines = ["| pair | first score | CPU seconds | second score | score | difference from the package's |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_demo([metric], folder / "demo")
        with server_of(folder / "demo", 0) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            for size in ("200x192" if small else sizes).split(","):
                width, height = map(int, size.split("x"))
                files = pictures(folder, width, height)
                address = f"http://127.0.0.1:{server.server_port}/"
                first, used, second, score = measured(address, files)
                apart = abs(score - float(metric(files["reference"], files["result"])))
                times = f"{first:.1f} s | {used:.1f} | {second:.1f} s"
                lines.append(f"| {width} × {height} | {times} | {score:.3f} | {apart:.4f} |")
            server.shutdown()
    put_out("\n".join(lines) + "\n", output)


if __name__ == "__main__":
    typer.run(main)
