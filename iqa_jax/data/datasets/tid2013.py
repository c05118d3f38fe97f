"""TID2013 (Ponomarenko et al., Signal Processing: Image Communication, 2015)."""

import re
from pathlib import Path

from iqa_jax.data.datasets.base import Contents, PairBuilder, Score, files_in, match
from iqa_jax.data.tables import numbered_lines

_NAME = re.compile(r"(i\d\d)_(\d\d)_(\d)\.bmp")
# In the order of their numbers.
TYPES = (
    "additive Gaussian noise", "additive noise stronger in colour", "spatially correlated noise",
    "masked noise", "high frequency noise", "impulse noise", "quantization noise", "Gaussian blur",
    "image denoising", "JPEG", "JPEG2000", "JPEG transmission errors", "JPEG2000 transmission errors",
    "non-eccentricity pattern noise", "local block-wise distortions", "mean shift", "contrast change",
    "change of colour saturation", "multiplicative Gaussian noise", "comfort noise",
    "lossy compression of noisy images", "colour quantization with dither", "chromatic aberrations",
    "sparse sampling and reconstruction",
)  # fmt: skip


class Tid2013(PairBuilder):
    """3,000 images: 25 references, 24 distortion types, five levels.

    The copies in circulation mix upper and lower case in file names (`I25.BMP`, `i25.bmp`); names
    are lower case here.
    """

    SCORE = Score(kind="MOS", low=0.0, high=9.0, higher_is_better=True)
    DESCRIPTION = "TID2013: 24 distortion types at five levels."
    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
TID2013 is distributed by its authors (https://www.ponomarenko.info/tid2013.htm).  Unpack it so that one
folder, named tid2013, holds reference_images, distorted_images and mos_with_names.txt."""
    WHOLE = (3_000, 25)
    FOLDERS = ("tid2013", "TID2013")
    MARKS = ("mos_with_names.txt",)

    def find(self, source: Path) -> Contents:
        contents = Contents()
        contents.references |= _by_lower_case(source / "reference_images", contents.problems)
        for number, line in numbered_lines(source / "mos_with_names.txt", contents.problems):
            score, *name = line.split()
            contents.label(f"mos_with_names.txt, line {number}", line, "".join(name).lower(), score)
        images = _by_lower_case(source / "distorted_images", contents.problems)
        match(contents, "train", images, contents.labels(), _describe)
        return contents


def _by_lower_case(folder: Path, problems: list[str]) -> dict[str, Path]:
    paths = [path for path in files_in(folder, "*") if path.suffix.lower() == ".bmp"]
    by_name = {}
    for path in paths:
        if path.name.lower() in by_name:
            problems.append(f"{folder.name}/{path.name}: there too in other case")
        by_name[path.name.lower()] = path
    return by_name


def _describe(name: str) -> tuple[str, str, int] | None:
    parts = _NAME.fullmatch(name)
    if not parts or not 1 <= int(parts[2]) <= len(TYPES):
        return None
    return f"{parts[1]}.bmp", TYPES[int(parts[2]) - 1], int(parts[3])
