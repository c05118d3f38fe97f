"""Other people's measures of image quality, which the benchmarks put beside the metrics of this project.

All are given as higher is better: distances are negated.  They see 8-bit RGB pixels, as `read_image` gives
them; the programs that take files get these pixels as PNG files.
"""

import contextlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tables import need

from iqa_jax.data.arrays import check_one_shape
from iqa_jax.data.images import read_image
from iqa_jax.errors import DataError
from iqa_jax.evaluation.baselines import psnr

_BUTTERAUGLI = "butteraugli_main"  # of libjxl


class Pair(contextlib.AbstractContextManager):
    """A picture and its reference, as each measure takes them; made once for all measures.

    Attributes:
      reference, distorted: (H, W, 3) uint8; no reference for measures that need none.
    """

    def __init__(self, reference: np.ndarray | None, distorted: np.ndarray):
        """Raises UserError if they differ in shape."""
        if reference is not None:
            check_one_shape(reference, distorted)
        self.reference, self.distorted = reference, distorted
        self._open = contextlib.ExitStack()

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def both(self) -> tuple[np.ndarray, np.ndarray]:
        """Reference and distorted picture, for measures that need both."""
        assert self.reference is not None, "a measure that needs a reference got none"
        return self.reference, self.distorted

    @cached_property
    def tensors(self) -> list:
        """For piq: reference and distorted picture, (1, 3, H, W) in [0, 1]."""
        import torch

        images = self.both
        return [torch.tensor(image).permute(2, 0, 1)[None] / 255 for image in images]

    @cached_property
    def files(self) -> list[str]:
        """For programs: reference and distorted picture as PNG files."""
        folder = Path(self._open.enter_context(tempfile.TemporaryDirectory()))
        paths = [folder / "reference.png", folder / "distorted.png"]
        for path, image in zip(paths, self.both, strict=True):
            Image.fromarray(image).save(path, compress_level=1)
        return list(map(str, paths))

    @cached_property
    def butteraugli(self) -> tuple[float, float]:
        """The largest distance of any place, and the 3-norm over all places."""
        done = subprocess.run([_BUTTERAUGLI, *self.files], capture_output=True, text=True)
        try:
            largest, norm = done.stdout.split("\n")[:2]
            return float(largest), float(norm.removeprefix("3-norm:"))
        except ValueError:
            raise RuntimeError(f"{_BUTTERAUGLI}: {done.stderr.strip().splitlines()[-1:]}") from None


def _of_piq(name: str, sign: int, pair: Pair) -> float:
    piq = need("piq", "piq torchvision")
    return sign * float(getattr(piq, name)(*pair.tensors))


def _ssimulacra2(pair: Pair) -> float:
    ssimulacra2 = need("ssimulacra2", "ssimulacra2")
    return float(ssimulacra2.compute_ssimulacra2(*pair.files))


@cache
def _brisque_model() -> Any:
    package = need("brisque", "'brisque[opencv-python-headless]'")

    class Brisque(package.BRISQUE):
        def scale_features(self, features):  # some are arrays of one number, which NumPy 2 will not convert
            return super().scale_features([np.squeeze(feature) for feature in features])

    return Brisque(url=False)


def brisque(image: np.ndarray) -> float:
    """BRISQUE of (H, W, 3) uint8, negated."""
    return -float(_brisque_model().score(image))


@dataclass(frozen=True)
class Measure:
    """A measure that is not this project's.

    Attributes:
      title: for tables.
      score: of a pair, higher is better.
      needs: the module or program; "" if it comes with this project.
      install: what installs it.
      blind: whether it sees the distorted picture alone.
    """

    title: str
    score: Callable[[Pair], float]
    needs: str = ""
    install: str = ""
    blind: bool = False

    @property
    def missing(self) -> bool:
        """Whether what it needs is not installed."""
        return bool(self.needs) and not (shutil.which(self.needs) or importlib.util.find_spec(self.needs))


def _piq(title: str, function: str, sign: int = 1) -> Measure:
    return Measure(title, partial(_of_piq, function, sign), "piq", "pip install piq torchvision")


_LIBJXL = _BUTTERAUGLI, "apt-get install libjxl-devtools"
MEASURES = {
    "haarpsi": _piq("HaarPSI", "haarpsi"),
    "mdsi": _piq("MDSI", "mdsi", -1),
    "gmsd": _piq("GMSD", "gmsd", -1),
    "vsi": _piq("VSI", "vsi"),
    "fsimc": _piq("FSIMc", "fsim"),  # piq's is the chromatic one unless told otherwise
    "iw-ssim": _piq("IW-SSIM", "information_weighted_ssim"),
    "ms-ssim": _piq("MS-SSIM", "multi_scale_ssim"),
    "vif": _piq("VIF (pixel domain)", "vif_p"),
    "ssim": _piq("SSIM", "ssim"),
    "psnr": Measure("PSNR", lambda pair: min(float(psnr(*pair.both)), 100.0)),
    "butteraugli": Measure("Butteraugli (3-norm)", lambda pair: -pair.butteraugli[1], *_LIBJXL),
    "butteraugli-max": Measure("Butteraugli (maximum)", lambda pair: -pair.butteraugli[0], *_LIBJXL),
    "ssimulacra2": Measure("SSIMULACRA 2", _ssimulacra2, "ssimulacra2", "pip install ssimulacra2"),
    "brisque": Measure(
        "BRISQUE (no reference)",
        lambda pair: brisque(pair.distorted),
        "brisque",
        "pip install 'brisque[opencv-python-headless]'",
        blind=True,
    ),
}


def installed(names: Iterable[str], *, paired: bool = True) -> tuple[list[str], list[str]]:
    """The measures of these that can be computed here, and a line for each of the others that says why not.

    Args:
      paired: whether there are references.
    """
    able, lines = [], []
    for name in names:
        measure = MEASURES[name]
        if measure.missing:
            lines.append(f"left out: {measure.title}; {measure.install}")
        elif not paired and not measure.blind:
            lines.append(f"left out: {measure.title}; there are no references")
        else:
            able.append(name)
    return able, lines


def measured(names: Sequence[str], pair: Pair) -> dict[str, float | str]:
    """The measures of a pair by their names, or in one line why there is none; in one thread."""
    if "torch" in sys.modules or any(MEASURES[name].needs == "piq" for name in names):
        import torch

        torch.set_num_threads(1)
    values: dict[str, float | str] = {}
    for name in names:
        try:
            values[name] = MEASURES[name].score(pair)
        except Exception as error:  # each package raises its own, for pictures that are too small for example
            values[name] = (str(error).strip() or type(error).__name__).splitlines()[0]
    return values


def measured_files(names: Sequence[str], files: tuple[Path | None, Path]) -> dict[str, float | str]:
    """The same of a reference's and a distorted picture's file.

    Raises:
      UserError: a file cannot be read, or they differ in size.
    """
    reference, distorted = files
    images = None if reference is None else read_image(reference), read_image(distorted)
    try:
        pair = Pair(*images)
    except ValueError as error:
        raise DataError(f"{distorted}: {error}") from None
    with pair:
        return measured(names, pair)
