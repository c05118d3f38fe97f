"""KADID-10k (Lin, Hosu and Saupe, QoMEX 2019)."""

import re
from pathlib import Path

from iqa_jax.data.datasets.base import Contents, PairBuilder, Score, files_in, match
from iqa_jax.data.tables import csv_rows

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
    MARKS = ("dmos.csv",)

    def find(self, source: Path) -> Contents:
        images = {path.name: path for path in files_in(source, "images/*.png")}
        distorted = {name: path for name, path in images.items() if _NAME.fullmatch(name)}
        contents = Contents(references={name: p for name, p in images.items() if name not in distorted})
        columns = ("dist_img", "ref_img", "dmos")  # the last is a MOS in spite of its name
        for number, row in csv_rows(source / "dmos.csv", columns, contents.problems):
            name, reference, mos = (row[column] for column in columns)
            where = f"dmos.csv, line {number}"
            contents.label(where, ",".join(row.values()), name, mos)
            described = _describe(name)
            if described and described[0] != reference:
                contents.problems.append(f"{where}: the reference of {name} is not {reference!r}")
        match(contents, "train", distorted, contents.labels(), _describe)
        return contents


def _describe(name: str) -> tuple[str, str, int] | None:
    from iqa_jax.data.distortions import KADID_TYPES

    parts = _NAME.fullmatch(name)
    if not parts or not 1 <= int(parts[2]) <= len(KADID_TYPES):
        return None
    return f"{parts[1]}.png", KADID_TYPES[int(parts[2]) - 1], int(parts[3])
