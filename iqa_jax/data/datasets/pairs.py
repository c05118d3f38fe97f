"""Pairs or single pictures that a table lists."""

import dataclasses
import functools
import math
import os
import statistics
import sys
import unicodedata
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from iqa_jax.data.datasets.base import Contents, DistortedImage, Encoded, PairBuilder, Score, as_bytes
from iqa_jax.data.images import read_image
from iqa_jax.data.layouts import PairTable, read_pair_table
from iqa_jax.data.numerals import AmbiguousNumber, numbers
from iqa_jax.data.pairing import find_pairs
from iqa_jax.data.png import png_bytes
from iqa_jax.data.tables import Rows
from iqa_jax.errors import DataError

UNLABELLED = "unlabelled"
_PAIRED_FOLDERS = ("references", "distorted")
_HIGHEST_LEVEL = 2**31 - 1
_THUMBNAIL = 64  # pixels, of the thumbnail that replaces a reference


@dataclasses.dataclass(frozen=True)
class TableOptions:
    """How to read a table.

    Attributes:
      scale: the ends of the label's scale; None for the lowest and highest label.
      average_opinions: whether several rows of one image are opinions, to be averaged.
    """

    scale: tuple[float, float] | None = None
    average_opinions: bool = False

    def __post_init__(self) -> None:
        if self.scale and not self.scale[0] < self.scale[1]:
            raise DataError(f"scale {self.scale[0]:g} to {self.scale[1]:g}: expected a low and a high end")


class Pairs(PairBuilder):
    """The pairs that a table lists, or a folder holds; one builder configuration each, named after it.

    Columns: reference, distorted (paths relative to the file), and, if there are any, mos (higher is
    better) or dmos (lower is better), distortion, level.  Rows with a score make up the split
    `train`, those without `unlabelled`.  The scale ends at the lowest and highest score unless given.

    A table without the column reference is for models that need none.  Each picture then counts as its own
    content, unless a column content groups them; splits keep a content together.

    A folder holds such pictures without labels, or, in `references` and `distorted`, pairs without labels.
    """

    options = TableOptions()

    SCORE = Score(kind="MOS", low=0.0, high=0.0, higher_is_better=True)  # until the file is read
    DESCRIPTION = "Pairs of images, or single images, listed in a table."
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Give a table with the columns reference, distorted and, if there are scores, mos or dmos, "
        "as manual_dir; without references: image, mos; without labels, a folder of images."
    )

    @classmethod
    def configuration(cls, asked: str, source: Path | None) -> str:
        if source is None and not asked:
            raise DataError(f"pairs: of which file?  {cls.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        if not source:
            return asked
        if not (source.is_file() or source.is_dir()):
            raise DataError(f"pairs: {source} is no file or folder.  {cls.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        name = source.resolve().name if source.is_dir() else source.stem
        if asked not in ("", name):
            raise DataError(f"pairs/{asked}: the pairs of {source} are called pairs/{name}")
        return name

    def find(self, source: Path) -> Contents:
        contents = Contents()
        if source.is_dir():
            folder, table = source, _table_of_folder(source)
        else:
            folder, table = source.parent, read_pair_table(source, ("distorted",), contents.problems, _say)
        rows = table.rows
        columns = rows[0][1] if rows else {}
        if "mos" in columns and "dmos" in columns:
            contents.problems.append(f"{source.name}: columns mos and dmos, expected one of them")
        label = "dmos" if "dmos" in columns else "mos"
        paired = "reference" in columns
        images = self._images(source, folder, table, label, paired, contents.problems)
        for image in images:
            reference: Encoded = folder / _path(image.reference)
            if not paired:
                reference = functools.partial(_thumbnail, folder / _path(image.name))
            contents.references.setdefault(image.reference, reference)
            split = UNLABELLED if math.isnan(image.mos) else "train"
            contents.splits.setdefault(split, []).append(image)
        if not rows and not contents.problems:
            contents.problems.append(f"{source.name}: no pair at all")
        labels = [image.mos for image in contents.splits.get("train", ())]
        low, high = self.options.scale or (min(labels, default=0.0), max(labels, default=0.0))
        outside = [image.name for image in images if image.mos < low or image.mos > high]
        if outside:
            contents.problems.append(f"{outside[0]}: {label} is outside of the scale, {low:g} to {high:g}")
        score = Score(label.upper(), low, high, label == "mos")
        self.metadata["score"] = dataclasses.asdict(score)
        self.metadata["table"] = str(source.absolute())
        self.metadata["paired"] = paired
        self.metadata["options"] = {
            "scale": list(self.options.scale) if self.options.scale else None,
            "average_opinions": self.options.average_opinions,
        }
        return contents

    def _images(
        self, file: Path, folder: Path, table: PairTable, label: str, paired: bool, problems: list[str]
    ) -> list[DistortedImage]:
        """The image of each row; of several rows of one image, the mean of their scores on request."""
        by_name: dict[str, list[DistortedImage]] = {}
        lines: dict[str, int] = {}
        rows = table.rows
        scores = _numbers(file, rows, label, self.options.scale)
        levels = _numbers(file, rows, "level")
        for (number, row), score, level in zip(rows, scores, levels, strict=True):
            try:
                image = _image(folder, table, row, label, score, level, paired)
                first = lines.setdefault(image.name, number)
                before = by_name.setdefault(image.name, [])
                if before and not self.options.average_opinions:
                    raise DataError(
                        f"{image.name} is in line {first} too (average_opinions averages rows of "
                        "one observer each)"
                    )
                if before and dataclasses.replace(image, mos=0.0) != dataclasses.replace(before[0], mos=0.0):
                    raise DataError(f"{image.name} is in line {first} with another reference or type")
                before.append(image)
            except DataError as error:
                problems.append(f"{file.name}, line {number}: {error}")
        # An observer who gave none has an empty cell.
        given = {
            name: [image.mos for image in images if not math.isnan(image.mos)]
            for name, images in by_name.items()
        }
        if self.options.average_opinions:
            self.metadata["opinions"] = {
                name: [len(scores), statistics.stdev(scores) if len(scores) > 1 else 0.0]
                for name, scores in given.items()
            }
        return [
            dataclasses.replace(images[0], mos=statistics.fmean(given[name]) if given[name] else math.nan)
            for name, images in by_name.items()
            if images
        ]


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stderr)


def _table_of_folder(folder: Path) -> PairTable:
    """The pictures in a folder, as a table without labels.

    Where it holds the folders `references` and `distorted`, these are paired by path and name.

    Raises:
      DataError: no image, or one without a reference.
    """
    both = [folder / name for name in _PAIRED_FOLDERS]
    paired = all(place.is_dir() for place in both)
    targets, references = ([str(both[1])], [str(both[0])]) if paired else ([str(folder)], [])
    rows: Rows = []
    for number, (target, reference) in enumerate(find_pairs(targets, references, say=_say), start=1):
        row = {"distorted": str(target.relative_to(folder))}
        if reference:
            row["reference"] = str(reference.relative_to(folder))
        rows.append((number, row))
    return PairTable(rows)


def _numbers(
    file: Path, rows: Rows, column: str, within: tuple[float, float] | None = None
) -> list[float | None]:
    """Raises DataError for a cell that means two numbers."""
    try:
        return numbers([row.get(column) for _, row in rows], within=within)
    except AmbiguousNumber as error:
        line = rows[error.position][0]
        raise DataError(f"{file}, line {line}: {column} {error}; nothing was prepared") from None


def _image(
    folder: Path,
    table: PairTable,
    row: dict[str, str],
    label: str,
    mos: float | None,
    level: float | None,
    paired: bool,
) -> DistortedImage:
    """Raises DataError for a file that is missing or text that is not a number."""
    # One spelling of each path, or a reference would count as two.
    columns = ("reference", "distorted") if paired else ("distorted",)
    paths = {column: table.path(folder, row[column]) for column in columns}
    for name in paths.values():
        if not (folder / name).is_file():
            other = "not a regular file:" if (folder / name).exists() and name != "." else "no such file"
            raise DataError(f"{other} {name!r}")
    distorted = _name(paths["distorted"])
    reference = (
        _name(paths["reference"])
        if paired
        else unicodedata.normalize("NFC", row.get("content", "")) or distorted
    )
    if mos is None and row.get(label):
        raise DataError(f"{label} {row[label]!r}, expected a number")
    if level is None and not row.get("level"):
        level = 0
    if level is None or level != int(level) or abs(level) > _HIGHEST_LEVEL:
        raise DataError(f"level {row['level']!r}, expected a whole number")
    return DistortedImage(
        distorted,
        reference,
        folder / paths["distorted"],
        math.nan if mos is None else mos,
        row.get("distortion", ""),
        int(level),
    )


def _name(path: str) -> str:
    """A path as UTF-8, whatever the locale takes the system's names for."""
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def _path(name: str) -> str:
    return os.fsdecode(as_bytes(name))


def _thumbnail(path: Path) -> bytes:
    """A small PNG of a picture, which replaces the reference of a content that has none."""
    image = Image.fromarray(read_image(path, say=lambda text: None))
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return png_bytes(image)
