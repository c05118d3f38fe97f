"""KADID-10k (Lin, Hosu and Saupe, QoMEX 2019)."""

import csv
import re
from pathlib import Path

from iqa_jax.datasets.base import Contents, PairBuilder, Score, finite, match
from iqa_jax.distortions import TYPES

_NAME = re.compile(r"(I\d\d)_(\d\d)_(\d\d)\.png")


class Kadid10k(PairBuilder):
    """10,125 images: 81 references, 25 distortion types, five levels."""

    SCORE = Score(kind="MOS", low=1.0, high=5.0, higher_is_better=True)
    DESCRIPTION = "KADID-10k: 25 distortion types at five levels, 30 opinions an image."
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
KADID-10k is distributed by its authors (http://database.mmsp-kn.de/kadid-10k-database.html).  Unpack it
so that one folder, named kadid10k, holds images/I01.png, images/I01_01_01.png ... and dmos.csv."""
    WHOLE = (10_125, 81)
    FOLDERS = ("kadid10k", "KADID-10k")
    MARK = "dmos.csv"

    def find(self, folder: Path) -> Contents:
        images = {path.name: path for path in folder.glob("images/*.png")}
        distorted = {name: path for name, path in images.items() if _NAME.fullmatch(name)}
        references = {name: p.read_bytes for name, p in images.items() if name not in distorted}
        contents = Contents(references=references)
        labels = {}
        with open(folder / "dmos.csv", newline="", encoding="utf-8-sig") as file:
            for number, row in enumerate(csv.DictReader(file), start=2):
                name, mos = row.get("dist_img"), finite(row.get("dmos"))  # called dmos, but is a MOS
                if not name or mos is None or not name.startswith(Path(row.get("ref_img") or "?").stem):
                    contents.problems.append(
                        f"dmos.csv, line {number}: {list(row.values())}, expected dist_img, ref_img, dmos"
                    )
                elif name in labels:
                    contents.problems.append(f"dmos.csv, line {number}: a second label for {name}")
                else:
                    labels[name] = mos
        match(contents, "train", distorted, labels, _describe)
        return contents


def _describe(name: str) -> tuple[str, str, int] | None:
    found = _NAME.fullmatch(name)
    if not found or not 1 <= int(found[2]) <= len(TYPES):
        return None
    return f"{found[1]}.png", TYPES[int(found[2]) - 1], int(found[3])
