"""Pictures that pages are made of, and a browser that looks at pages."""

import shutil

import pytest

from tests import miniature


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
