"""Quality maps as pictures: colours over the image in grey, and a scale beside it."""

import functools
import glob
import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

import numpy as np
from PIL import Image, ImageDraw

from iqa_jax.data.marks import QUALITY_MAP
from iqa_jax.data.pairing import is_table
from iqa_jax.data.png import png_bytes
from iqa_jax.data.selection import fixed_part
from iqa_jax.files import fitting_name, local_path, shortest_unique_names, write_whole
from iqa_jax.scoring.metric import QualityMap

_LEGEND = 84  # pixels of width
_BAR = 16
_UNIT = "MOS"


@functools.cache
def viridis() -> np.ndarray:
    """The colours of all quality maps, (256, 3) uint8, from purple (bad) to yellow (good)."""
    from matplotlib import colormaps

    return colormaps["viridis"](np.arange(256), bytes=True)[:, :3]


def levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """The number of the colour of each value, uint8."""
    return (np.clip((values - low) / max(high - low, 1e-12), 0, 1) * 255).astype(np.uint8)


def heat_map(image: np.ndarray, values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Colours for the quality, half transparent over the image in grey, and a scale with ticks on the right.

    Args:
      image: (H, W, 3) uint8.
      values: (H, W), in the metric's units.
      low, high: the values of the first and last colour, purple and yellow.
    Returns:
      (H, W + 84, 3) uint8.
    """
    grey = np.asarray(Image.fromarray(image).convert("L"))
    blended = viridis()[levels(values, low, high)] // 2 + grey[..., None] // 2
    return np.concatenate([blended, _legend(len(image), low, high)], axis=1)


def _legend(height: int, low: float, high: float) -> np.ndarray:
    """The scale, (height, 84, 3): colours, ticks at round values, the unit above."""
    from matplotlib.ticker import MaxNLocator

    top, bottom = (16, height - 8) if height >= 64 else (0, height)
    legend = np.full((height, _LEGEND, 3), 255, np.uint8)
    rows = viridis()[np.linspace(255, 0, bottom - top).astype(np.uint8)]
    legend[top:bottom, 4 : 4 + _BAR] = rows[:, None]
    lettered = Image.fromarray(legend)
    draw = ImageDraw.Draw(lettered)
    if top:
        draw.text((4, 1), _UNIT, fill="black", anchor="lt")
    count = int(np.clip((bottom - top) // 24, 1, 6))
    ticks = [tick for tick in MaxNLocator(count).tick_values(low, high) if low <= tick <= high] or [low]
    for tick in ticks:
        row = bottom - 1 - (tick - low) / max(high - low, 1e-12) * (bottom - top - 1)
        draw.line([(4 + _BAR, row), (7 + _BAR, row)], fill="black")
        draw.text((10 + _BAR, min(max(row, 6), height - 6)), f"{tick:z.6g}", fill="black", anchor="lm")
    return np.asarray(lettered)


def range_of(values: np.ndarray, scale: tuple[float, float]) -> tuple[float, float]:
    """The smallest and largest value of a map, at least a hundredth of the scale apart."""
    low, high = float(values.min()), float(values.max())
    missing = (scale[1] - scale[0]) / 100 - (high - low)
    return (low, high) if missing <= 0 else (low - missing / 2, high + missing / 2)


def save_map(
    path: Path, image: np.ndarray, quality: QualityMap, scale: tuple[float, float], *, full: bool = False
) -> None:
    """Writes a heat map as PNG.

    Args:
      image: (H, W, 3) uint8.
      quality: the map of the image.
      scale: the range of the metric.
      full: the colours span the whole scale, so that maps can be compared; else the range of this map.
    """
    low, high = scale if full else range_of(quality.values, scale)
    write_whole(path, png_bytes(heat_map(image, quality.values, low, high), mark=QUALITY_MAP))


def below_roots(
    targets: Iterable[Path], named: Sequence[str] = ()
) -> tuple[list[tuple[Path | None, Path]], dict[Path, str]]:
    """The path of each target below the directory that the user named.

    These directories, the roots, are those in `named`, those above the first wildcard of a pattern, and those
    of tables.  Of several roots above a target the outermost counts.  Files below none of them have no root;
    their paths are below the folder that they share.

    Args:
      named: files, directories, patterns or a table.
    Returns:
      The root of each target and its path below it; and, if there are several roots, a distinct name for
      each, in their order.
    """
    roots = dict.fromkeys(map(_root, named))
    absolute = [Path(os.path.abspath(target)) for target in targets]
    whose = [
        next((parent for parent in reversed(path.parents) if parent in roots), None) for path in absolute
    ]
    single = [path.parent for path, root in zip(absolute, whose, strict=True) if not root]
    shared = os.path.commonpath(single) if single else ""
    placed = [(root, path.relative_to(root or shared)) for path, root in zip(absolute, whose, strict=True)]
    with_targets = set(whose)
    used = [root for root in roots if root and root in with_targets]
    names = shortest_unique_names(used) if len(used) > 1 else {}
    return placed, {root: name.lstrip("/") for root, name in names.items()}


def _root(name: str) -> Path | None:
    path = local_path(name)
    if path.is_file():
        return Path(os.path.abspath(path.parent)) if is_table(name) else None
    has_magic = not path.is_dir() and glob.has_magic(str(path))
    return Path(os.path.abspath(fixed_part(path) if has_magic else path))


def map_files(
    directory: Path,
    targets: Iterable[Path],
    references: Iterable[Path | None] | None = None,
    *,
    named: Sequence[str] = (),
) -> list[Path]:
    """The file of each target's map, in a folder that mirrors the target's.

    The map of `a/frame.png` is `a/frame-map.png`, that of `a/frame.jpg` is `a/frame.jpg-map.png`, whatever
    the other targets are called.  A digest is added where a target has several references, or where some file
    systems would take two names for one.

    Args:
      references: of the targets.
      named: see `below_roots`; where there are several roots, each has a folder.
    """
    targets = list(targets)
    pairs = list(zip(targets, references or [None] * len(targets), strict=True))
    placed, folders = below_roots(targets, named)
    files = [PurePath(folders.get(root, "") if root else "", below) for root, below in placed]
    names = [file.stem if file.suffix == ".png" else file.name for file in files]
    plain = [file.with_name(fitting_name(name, "-map.png")) for file, name in zip(files, names, strict=True)]
    count = Counter(map(_as_any_file_system, plain))

    def own(position: int) -> str:
        _, reference = pairs[position]
        digest = hashlib.sha256(os.fsencode(f"{files[position]}\0{reference}")).hexdigest()[:8]
        return fitting_name(names[position], f"-map-{digest}.png")

    return [
        directory / (file if count[_as_any_file_system(file)] == 1 else file.with_name(own(position)))
        for position, file in enumerate(plain)
    ]


def _as_any_file_system(file: PurePath) -> str:
    """A name as file systems see it that ignore case and how an accent is encoded."""
    return unicodedata.normalize("NFC", str(file)).casefold()
