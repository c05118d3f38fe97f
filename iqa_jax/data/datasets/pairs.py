"""Anyone's pairs, from a CSV file."""

import dataclasses
import hashlib
import math
from pathlib import Path

from iqa_jax.data.datasets.base import Contents, DistortedImage, PairBuilder, Score
from iqa_jax.data.tables import PAIR_ALIASES, csv_rows, finite, listed_path
from iqa_jax.errors import DataError

UNLABELLED = "unlabelled"


class Pairs(PairBuilder):
    """The pairs that a CSV file lists; one builder configuration a file, named after it.

    Columns: reference, distorted (paths relative to the file), and, if there are any, mos (higher is
    better) or dmos (lower is better), distortion, level.  Rows with a score make up the split
    `train`, those without `unlabelled`.  The ends of the score's scale are those found.
    """

    SCORE = Score(kind="MOS", low=0.0, high=0.0, higher_is_better=True)  # until the file is read
    DESCRIPTION = "Pairs of images listed in a CSV file."
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Give a CSV file with the columns reference, distorted and, if there are scores, mos or dmos, "
        "as --manual-dir FILE.csv."
    )

    @classmethod
    def configuration(cls, asked: str, source: Path | None) -> str:
        if source is None and not asked:
            raise DataError(f"pairs: of which file?  {cls.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        if source and not source.is_file():
            raise DataError(f"pairs: {source} is not a file.  {cls.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        if source and asked not in ("", source.stem):
            raise DataError(f"pairs/{asked}: the pairs of {source} are called pairs/{source.stem}")
        return source.stem if source else asked

    def check_unchanged(self, source: Path) -> None:
        if self.info.metadata["sha256"] != _sha256(source):
            raise DataError(
                f"{source}: {self.data_path} was prepared from other content; delete it to prepare again, "
                "or give the file another name"
            )

    def find(self, file: Path) -> Contents:
        contents = Contents()
        rows = csv_rows(file, ("reference", "distorted"), contents.problems, aliases=PAIR_ALIASES)
        columns = rows[0][1] if rows else {}
        if "mos" in columns and "dmos" in columns:
            contents.problems.append(f"{file.name}: columns mos and dmos, expected one of them")
        label = "dmos" if "dmos" in columns else "mos"
        lines: dict[str, int] = {}
        for number, row in rows:
            try:
                image = _image(file.parent, row, label)
                first = lines.setdefault(image.name, number)
                if first != number:
                    raise DataError(f"{image.name} stands in line {first} too")
            except DataError as error:
                contents.problems.append(f"{file.name}, line {number}: {error}")
                continue
            contents.references[image.reference] = file.parent / image.reference
            split = UNLABELLED if math.isnan(image.mos) else "train"
            contents.splits.setdefault(split, []).append(image)
        if not rows and not contents.problems:
            contents.problems.append(f"{file.name}: no pair at all")
        labels = [image.mos for image in contents.splits.get("train", ())]
        score = Score(label.upper(), min(labels, default=0.0), max(labels, default=0.0), label == "mos")
        self.info.metadata["score"] = dataclasses.asdict(score)
        self.info.metadata["sha256"] = _sha256(file)
        return contents


def _image(folder: Path, row: dict[str, str], label: str) -> DistortedImage:
    """Raises DataError for a file that is missing or a number that is none."""
    # One spelling of each path, or a reference would count as two.
    reference, distorted = (listed_path(folder, row[column]) for column in ("reference", "distorted"))
    for name in (reference, distorted):
        if not (folder / name).is_file():
            raise DataError(f"no such file {name!r}")
    mos = finite(row[label]) if row.get(label) else math.nan
    if mos is None:
        raise DataError(f"{label} {row[label]!r}, expected a number")
    level = finite(row.get("level") or 0)
    if level is None or level != int(level):
        raise DataError(f"level {row['level']!r}, expected a whole number")
    return DistortedImage(
        distorted, reference, folder / distorted, mos, row.get("distortion", ""), int(level)
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
