"""CSIQ (Larson and Chandler, Journal of Electronic Imaging, 2010)."""

import re
from pathlib import Path

from iqa_jax.data.datasets.base import Contents, PairBuilder, Score, files_in, match
from iqa_jax.data.tables import csv_rows, sheet_rows

_NAME = re.compile(r"(?P<folder>[^/]+)/(?P<image>.+)\.[^.]+\.(?P<level>\d)\.png")
_SHEET = "all_by_image"
_TABLES = ("csiq.DMOS.xlsx", "csiq.DMOS.csv", "csiq.DMOS.txt")
_COLUMNS = ("image", "dst_type", "dst_lev", "dmos")
# What the table calls a type, where that is not the name of its folder.
_FOLDERS = {"noise": "awgn", "jpeg 2000": "jpeg2000"}


class Csiq(PairBuilder):
    """866 images: 30 references, six distortion types at four or five levels.

    Names are those of the folder and the file, `awgn/1600.AWGN.1.png`.
    """

    SCORE = Score(kind="DMOS", low=0.0, high=1.0, higher_is_better=False)
    DESCRIPTION = "CSIQ: six distortion types at four or five levels, realigned DMOS."
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
CSIQ is distributed by its authors (https://s2.smu.edu/~eclarson/csiq.html).  Unpack it so that one
folder, named CSIQ, holds src_imgs, dst_imgs (with awgn, blur, contrast, fnoise, jpeg, jpeg2000) and
csiq.DMOS.xlsx, or the sheet all_by_image of it as csiq.DMOS.csv or csiq.DMOS.txt."""
    WHOLE = (866, 30)
    FOLDERS = ("CSIQ", "csiq")
    MARKS = ("src_imgs",)

    def find(self, source: Path) -> Contents:
        contents = Contents(references={p.name: p for p in files_in(source, "src_imgs/*.png")})
        images = {f"{p.parent.name}/{p.name}": p for p in files_in(source, "dst_imgs/*/*.png")}
        names = {parts.groups(): name for name in images if (parts := _NAME.fullmatch(name))}
        table = next((source / name for name in _TABLES if (source / name).is_file()), source / _TABLES[0])
        if table.suffix == ".xlsx":
            rows = sheet_rows(table, _SHEET, _COLUMNS, contents.problems)
        else:
            rows = csv_rows(table, _COLUMNS, contents.problems)
        for number, row in rows:
            kind = row["dst_type"].lower()
            kind = _FOLDERS.get(kind, kind)
            image, level = (row[column].removesuffix(".0") for column in ("image", "dst_lev"))
            name = names.get((kind, image, level), f"{kind}/{image}, level {level}")
            contents.label(f"{table.name}, line {number}", ", ".join(row.values()), name, row["dmos"])
        match(contents, "train", images, contents.labels(), _describe)
        return contents


def _describe(name: str) -> tuple[str, str, int] | None:
    parts = _NAME.fullmatch(name)
    return parts and (f"{parts['image']}.png", parts["folder"], int(parts["level"]))
