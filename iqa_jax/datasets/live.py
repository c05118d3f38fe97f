"""LIVE, release 2 (Sheikh, Sabir and Bovik, IEEE Transactions on Image Processing, 2006)."""

import re
from pathlib import Path

import numpy as np

from iqa_jax.datasets.base import Contents, PairBuilder, Score, finite, match

# In the order of the label tables.
TYPES = ("jp2k", "jpeg", "wn", "gblur", "fastfading")


class Live(PairBuilder):
    """779 images of 29 references with realigned DMOS; the 203 undistorted copies are left out."""

    SCORE = Score(kind="DMOS", low=0.0, high=100.0, higher_is_better=False)
    DESCRIPTION = "LIVE IQA data set, release 2: five distortion types, realigned DMOS."
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
LIVE is distributed by its authors (https://live.ece.utexas.edu/research/quality/subjective.htm).  Unpack
it so that one folder, named LIVE, holds refimgs, jp2k, jpeg, wn, gblur, fastfading (each with img1.bmp ...
and info.txt), dmos_realigned.mat and refnames_all.mat."""
    WHOLE = (779, 29)
    FOLDERS = ("LIVE", "live", "databaserelease2")
    MARK = "refimgs"

    def find(self, folder: Path) -> Contents:
        contents = Contents(references={p.name: p.read_bytes for p in folder.glob("refimgs/*.bmp")})
        problems = contents.problems
        tables = _tables(folder, problems)
        if tables is None:
            return contents
        scores, undistorted, references = tables
        paths = [path for kind in TYPES for path in _numbered(folder / kind, problems)]
        if not len(paths) == len(scores) == len(undistorted) == len(references):
            problems.append(
                f"{len(paths)} images, {len(scores)} scores (dmos_new), {len(undistorted)} marks (orgs) and "
                f"{len(references)} reference names: expected equal numbers"
            )
            return contents
        images, labels, described = {}, {}, {}
        for path, score, original, reference in zip(paths, scores, undistorted, references, strict=True):
            if original:
                continue
            name = f"{path.parent.name}/{path.name}"
            images[name], described[name] = path, (reference, path.parent.name, 0)
            if finite(score) is None:
                problems.append(f"dmos_realigned.mat: {score} for {name}, expected a number")
            labels[name] = float(score)
        _check_info(folder, described, problems)
        match(contents, "train", images, labels, described.get)
        return contents


def _tables(folder: Path, problems: list[str]):
    """Scores, marks of undistorted images and reference names, in the order of `TYPES`."""
    from scipy.io import loadmat

    found = []
    for file, variables in (
        ("dmos_realigned.mat", ("dmos_new", "orgs")),
        ("refnames_all.mat", ("refnames_all",)),
    ):
        try:
            content = loadmat(folder / file)
            found += [np.ravel(content[variable]) for variable in variables]
        except (OSError, ValueError, KeyError) as error:
            problems.append(f"{file}: cannot be read ({error}); expected {', '.join(variables)}")
    if len(found) != 3:
        return None
    return found[0], found[1].astype(bool), [str(np.ravel(name)[0]) for name in found[2]]


def _numbered(folder: Path, problems: list[str]) -> list[Path]:
    """img1.bmp, img2.bmp, … in the order of their numbers."""
    numbers = {int(n[1]): p for p in folder.glob("*.bmp") if (n := re.fullmatch(r"img(\d+)\.bmp", p.name))}
    missing = sorted(set(range(1, max(numbers, default=1) + 1)) - numbers.keys())
    problems += [f"{folder.name}/img{number}.bmp: missing" for number in missing]
    return [numbers[number] for number in sorted(numbers)]


def _check_info(folder: Path, described: dict[str, tuple], problems: list[str]) -> None:
    """The reference names in each type's info.txt must be those of refnames_all."""
    for kind in TYPES:
        path = folder / kind / "info.txt"
        for line in path.read_text(encoding="latin-1").splitlines() if path.is_file() else ():
            reference, image, *_ = [*line.split(), "", ""]
            told = described.get(f"{kind}/{image}")
            if told and told[0] != reference:
                problems.append(f"{kind}/info.txt: {reference} for {image}, refnames_all.mat says {told[0]}")
