"""Anyone's pairs, from a CSV file."""

import csv
import dataclasses
import hashlib
from pathlib import Path

from iqa_jax.datasets.base import Contents, DistortedImage, PairBuilder, Score, finite
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
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Give the CSV file as --manual-dir."

    def find(self, folder: Path) -> Contents:
        path = folder / f"{self.builder_config.name}.csv"
        contents = Contents()
        kind = "MOS"
        for number, row in _rows(path):
            label = next((name for name in ("mos", "dmos") if name in row), None)
            kind = (label or "mos").upper()
            text = (row.get(label) or "").strip() if label else ""
            mos = finite(text) if text else float("nan")
            if mos is None:
                contents.problems.append(f"line {number}: {label} {text!r}, expected a number")
                continue
            paths = {c: folder / (row[c] or "") for c in ("reference", "distorted")}
            missing = [str(row[c]) for c, path in paths.items() if not path.is_file()]
            if missing:
                contents.problems += [f"line {number}: no such file {name!r}" for name in missing]
                continue
            level = finite(row.get("level") or 0)
            if level is None:
                contents.problems.append(f"line {number}: level {row['level']!r}, expected a number")
                continue
            contents.references[row["reference"]] = paths["reference"].read_bytes
            split = "train" if text else UNLABELLED
            contents.splits.setdefault(split, []).append(
                DistortedImage(
                    name=row["distorted"],
                    reference=row["reference"],
                    read=paths["distorted"].read_bytes,
                    mos=mos,
                    distortion=row.get("distortion") or "",
                    level=int(level),
                )
            )
        if not contents.splits and not contents.problems:
            contents.problems.append("no pair at all")
        labels = [image.mos for image in contents.splits.get("train", ())]
        score = Score(kind, min(labels, default=0.0), max(labels, default=0.0), kind == "MOS")
        self.info.metadata["score"] = dataclasses.asdict(score)
        self.info.metadata["sha256"] = file_hash(path)
        return contents

    def check_unchanged(self, path: Path) -> None:
        """Raises DataError if the prepared data come from another file of this name."""
        if self.info.metadata["sha256"] != file_hash(path):
            raise DataError(
                f"{path}: {self.data_path} was prepared from other content; delete it to prepare again, "
                "or give the file another name"
            )


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Rows by column, with their line numbers.

    Raises:
      DataError: no CSV file with the columns that are needed.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error}); expected a CSV file") from None
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    found = [(name or "").strip().lower() for name in reader.fieldnames or ()]
    for column in ("reference", "distorted"):
        if column not in found:
            raise DataError(f"{path}: no column {column!r}, there are {', '.join(found) or 'none'}")
    reader.fieldnames = found
    return [(reader.line_num, row) for row in reader]
