"""CSIQ (Larson and Chandler, Journal of Electronic Imaging, 2010)."""

import csv
import re
from collections.abc import Iterable
from pathlib import Path

from iqa_jax.datasets.base import Contents, PairBuilder, Score, finite, match

_SHEET = "all_by_image"
_TABLES = ("csiq.DMOS.xlsx", "csiq.DMOS.csv", "csiq.DMOS.txt")
# What the table calls a type, where that is not the name of its folder.
_FOLDERS = {"noise": "awgn", "jpeg 2000": "jpeg2000"}


class Csiq(PairBuilder):
    """866 images: 30 references, six distortion types."""

    SCORE = Score(kind="DMOS", low=0.0, high=1.0, higher_is_better=False)
    DESCRIPTION = "CSIQ: six distortion types at four or five levels, realigned DMOS."
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
CSIQ is distributed by its authors (https://s2.smu.edu/~eclarson/csiq.html).  Unpack it so that one
folder, named CSIQ, holds src_imgs, dst_imgs (with awgn, blur, contrast, fnoise, jpeg, jpeg2000) and
csiq.DMOS.xlsx, or the sheet all_by_image of it as csiq.DMOS.csv or csiq.DMOS.txt."""
    WHOLE = (866, 30)
    FOLDERS = ("CSIQ", "csiq")
    MARK = "src_imgs"

    def find(self, folder: Path) -> Contents:
        contents = Contents(references={p.name: p.read_bytes for p in folder.glob("src_imgs/*.png")})
        table = next((folder / name for name in _TABLES if (folder / name).is_file()), None)
        if table is None:
            contents.problems.append(f"{_TABLES[0]}: missing")
            return contents
        images = {f"{p.parent.name}/{p.name}": p for p in folder.glob("dst_imgs/*/*.png")}
        by_content = {_key(name): name for name in images}
        labels = {}
        for number, row in _rows(table, contents.problems):
            kind = str(row["dst_type"]).strip().lower()
            level, dmos = finite(row["dst_lev"]), finite(row["dmos"])
            if level is None or dmos is None:
                found = ", ".join(f"{name} {value}" for name, value in row.items())
                contents.problems.append(f"{table.name}, row {number}: {found}; expected numbers")
                continue
            image = str(row["image"]).strip().removesuffix(".0")
            kind = _FOLDERS.get(kind, kind)
            name = by_content.get((image, kind, int(level)), f"{kind}/{image}, level {int(level)}")
            if name in labels:
                contents.problems.append(f"{table.name}, row {number}: a second label for {name}")
            labels[name] = dmos
        match(contents, "train", images, labels, _describe)
        return contents


def _key(name: str) -> tuple[str, str, int] | None:
    """Reference, folder and level of `awgn/1600.AWGN.1.png`."""
    found = re.fullmatch(r"([^/]+)/(.+)\.[^.]+\.(\d)\.png", name)
    return found and (found[2], found[1], int(found[3]))


def _describe(name: str) -> tuple[str, str, int] | None:
    key = _key(name)
    return key and (f"{key[0]}.png", key[1], key[2])


def _rows(table: Path, problems: list[str]) -> Iterable[tuple[int, dict]]:
    """Numbered rows below the one that holds the names of the columns, wherever that stands."""
    columns = ("image", "dst_type", "dst_lev", "dmos")
    places = None
    for number, cells in enumerate(_cells(table), start=1):
        names = [str(cell).strip().lower() for cell in cells]
        if places is None:
            if all(column in names for column in columns):
                places = {column: names.index(column) for column in columns}
        elif any(name not in ("", "none") for name in names):
            padded = [*cells, *[None] * len(names)]
            yield number, {column: padded[place] for column, place in places.items()}
    if places is None:
        problems.append(f"{table.name}: no row with the columns {', '.join(columns)}")


def _cells(table: Path) -> Iterable[list]:
    if table.suffix == ".xlsx":
        import openpyxl

        book = openpyxl.load_workbook(table, read_only=True, data_only=True)
        sheet = book[_SHEET] if _SHEET in book.sheetnames else book.active
        return [list(row) for row in sheet.iter_rows(values_only=True)]
    text = table.read_text(encoding="utf-8-sig")
    delimiter = next((d for d in (",", "\t", ";") if d in text), None)
    lines = text.splitlines()
    return (
        [line.split() for line in lines]
        if delimiter is None
        else list(csv.reader(lines, delimiter=delimiter))
    )
