"""LIVE, release 2 (Sheikh, Sabir and Bovik, IEEE Transactions on Image Processing, 2006)."""

import re
from pathlib import Path

import numpy as np

from iqa_jax.data.datasets.base import Contents, PairBuilder, Score, files_in, match
from iqa_jax.data.tables import numbered_lines, reason
from iqa_jax.files import open_regular

_NAME = re.compile(r"img(\d+)\.bmp")
# In the order of the label tables.
TYPES = ("jp2k", "jpeg", "wn", "gblur", "fastfading")


class Live(PairBuilder):
    """779 images of 29 references with realigned DMOS; the 203 undistorted copies are left out.

    Names are those of the folder and the file, `jp2k/img1.bmp`.  The tables list the images of one
    type after the other, each in the order of their numbers.
    """

    SCORE = Score(kind="DMOS", low=0.0, high=100.0, higher_is_better=False)
    DESCRIPTION = "LIVE IQA data set, release 2: five distortion types, realigned DMOS."
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
LIVE is distributed by its authors (https://live.ece.utexas.edu/research/quality/subjective.htm).  Unpack
it so that one folder, named LIVE, holds refimgs, jp2k, jpeg, wn, gblur, fastfading (each with img1.bmp ...
and info.txt), refnames_all.mat and dmos_realigned.mat; copy the last there if the archive lacks it."""
    WHOLE = (779, 29)
    FOLDERS = ("LIVE", "live", "databaserelease2", "LIVE/databaserelease2")
    MARKS = ("refimgs",)

    def find(self, source: Path) -> Contents:
        contents = Contents(references={p.name: p for p in files_in(source, "refimgs/*.bmp")})
        problems = contents.problems
        scores, undistorted = _columns(source / "dmos_realigned.mat", ("dmos_new", "orgs"), problems)
        (cells,) = _columns(source / "refnames_all.mat", ("refnames_all",), problems)
        references = ["".join(np.ravel(cell)) for cell in cells]
        images = {
            f"{path.parent.name}/{path.name}": path
            for path in files_in(source, "*/*.bmp")
            if path.parent.name in TYPES and _NAME.fullmatch(path.name)
        }
        listed = _listed_references(source, problems)
        names = [name for kind in TYPES for name in _numbered(kind, images.keys() | listed.keys())]
        if not len(names) == len(scores) == len(undistorted) == len(references):
            problems.append(
                f"{len(names)} images, {len(scores)} scores (dmos_new), {len(undistorted)} marks (orgs) and "
                f"{len(references)} reference names (refnames_all): expected equal numbers"
            )
            return contents
        described = {}
        for name, score, original, reference in zip(names, scores, undistorted, references, strict=True):
            kind, _, file = name.partition("/")
            if listed.get(name, reference) != reference:
                problems.append(
                    f"{kind}/info.txt: {listed[name]} for {file}, refnames_all.mat says {reference}"
                )
            if original:
                images.pop(name, None)
            else:
                described[name] = (reference, kind, 0)
                contents.label("dmos_realigned.mat", f"{score} for {name}", name, score)
        match(contents, "train", images, contents.labels(), described.get)
        return contents


def _columns(path: Path, variables: tuple[str, ...], problems: list[str]) -> list[np.ndarray]:
    """Variables of a MATLAB file, as vectors; empty ones if it cannot be read."""
    from scipy.io import loadmat

    try:
        with open_regular(path) as file:
            content = loadmat(file)
        return [np.ravel(content[variable]) for variable in variables]
    except Exception as error:  # scipy raises many kinds for broken files
        problems.append(f"{path.name}: cannot be read ({reason(error)}); expected {', '.join(variables)}")
        return [np.array([])] * len(variables)


def _listed_references(folder: Path, problems: list[str]) -> dict[str, str]:
    """The reference of each image that the types' info.txt list: lines of reference, image, parameter."""
    listed = {}
    for kind in TYPES:
        for number, line in numbered_lines(folder / kind / "info.txt", problems):
            reference, image, *_ = [*line.split(), ""]
            if not _NAME.fullmatch(image):
                problems.append(
                    f"{kind}/info.txt, line {number}: {line!r}, expected a reference and an image"
                )
            listed[f"{kind}/{image}"] = reference
    return listed


def _numbered(kind: str, known: set[str]) -> list[str]:
    """img1.bmp, img2.bmp, … of a type, up to the highest number that is known of."""
    matches = (re.fullmatch(f"{kind}/{_NAME.pattern}", name) for name in known)
    count = max((int(match[1]) for match in matches if match), default=0)
    return [f"{kind}/img{number}.bmp" for number in range(1, count + 1)]
