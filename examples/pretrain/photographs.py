"""Which photographs the models learn from, and their parts.

`photographs.csv` lists them: name, where it is (a folder's name and a path in it), source, author, licence
and use ("train" or "held out").  The folders are the user's:

  commons     the photographs from Wikimedia Commons, NNN.webp
  debian      where the Debian packages were unpacked (`dpkg -x PACKAGE.deb FOLDER`), all into one folder
  python      none: photographs that are installed with scikit-image, matplotlib and this package
"""

import csv
import importlib.resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 512, 384  # KADID-10k's
LISTED = Path(__file__).with_name("photographs.csv")


class Photograph(NamedTuple):
    number: int
    name: str
    path: Path
    held_out: bool


def photographs(folders: dict[str, Path]) -> list[Photograph]:
    """Those of the list whose folder is given; raises FileNotFoundError for one that is not there."""
    chosen = []
    for number, row in enumerate(csv.DictReader(LISTED.open(newline="", encoding="utf-8"))):
        place, path = row["folder"], row["path"]
        if place == "python":
            package, _, rest = path.partition("/")
            full = Path(str(importlib.resources.files(package))) / rest
        elif place in folders:
            full = folders[place] / path
        else:
            continue
        if not full.is_file():
            raise FileNotFoundError(f"{full}: listed in {LISTED.name}, not there")
        chosen.append(Photograph(number, row["name"], full, row["use"] == "held out"))
    return chosen


def part(photograph: Photograph, which: int) -> np.ndarray:
    """(384, 512, 3) or (512, 384, 3) uint8: 0 is as much of it as fits, others are smaller parts of it."""
    image = Image.open(photograph.path).convert("RGB")
    rng = np.random.default_rng((photograph.number, which))
    width, height = (WIDTH, HEIGHT) if image.width >= image.height else (HEIGHT, WIDTH)
    smallest = max(width / image.width, height / image.height)
    largest = max(smallest, min(1.0, 1100 / min(image.size)))
    scale = smallest if which == 0 else smallest * (largest / smallest) ** rng.uniform(0.3, 1)
    size = [max(round(side * scale), least) for side, least in zip(image.size, (width, height), strict=True)]
    if size != list(image.size):
        image = image.resize(size, Image.Resampling.LANCZOS)
    left, top = (int(rng.integers(0, s - n + 1)) for s, n in zip(size, (width, height), strict=True))
    return np.asarray(image.crop((left, top, left + width, top + height)))
