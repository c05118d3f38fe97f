"""Quality maps as pictures: colours over the image in grey, and a scale beside it."""

import glob
import hashlib
import io
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

import numpy as np
from PIL import Image, ImageDraw

from iqa_jax.data.pairing import is_table
from iqa_jax.data.selection import fixed_part
from iqa_jax.files import fitting_name, local_path, shortest_names, write_whole

_LEGEND = 84  # pixels of width
_BAR = 16
_UNIT = "MOS"


def heat_map(image: np.ndarray, values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Colours for the quality, half transparent over the image in grey, and a scale with ticks on the right.

    Args:
      image: (H, W, 3) uint8.
      values: (H, W), in the metric's units.
      low, high: the values of the first and last colour, purple and yellow.
    Returns:
      (H, W + 84, 3) uint8.
    """
    from matplotlib import colormaps

    colors = colormaps["viridis"](np.arange(256), bytes=True)[:, :3]
    level = np.clip((values - low) / max(high - low, 1e-12), 0, 1) * 255
    grey = np.asarray(Image.fromarray(image).convert("L"))
    over = colors[level.astype(np.uint8)] // 2 + grey[..., None] // 2
    return np.concatenate([over, _legend(len(image), colors, low, high)], axis=1)


def _legend(height: int, colors: np.ndarray, low: float, high: float) -> np.ndarray:
    """The scale, (height, 84, 3): colours, ticks at round values, the unit above."""
    from matplotlib.ticker import MaxNLocator

    top, bottom = (16, height - 8) if height >= 64 else (0, height)
    legend = np.full((height, _LEGEND, 3), 255, np.uint8)
    rows = colors[np.linspace(255, 0, bottom - top).astype(np.uint8)]
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
    """The range that a map's values have, at least a hundredth of the scale wide."""
    low, high = float(values.min()), float(values.max())
    missing = (scale[1] - scale[0]) / 100 - (high - low)
    return (low, high) if missing <= 0 else (low - missing / 2, high + missing / 2)


def save_map(path: Path, image: np.ndarray, quality, scale: tuple[float, float], *, full: bool = False):
    """Writes a heat map as PNG.

    Args:
      image: (H, W, 3) uint8.
      quality: what `metric.map` gave for it.
      scale: the ends of the metric's.
      full: the colours show the whole scale, so that maps can be compared; else the range that is there.
    """
    low, high = scale if full else range_of(quality.values, scale)
    buffer = io.BytesIO()
    Image.fromarray(heat_map(image, quality.values, low, high)).save(buffer, format="PNG")
    write_whole(path, buffer.getvalue())


def below_roots(
    targets: Iterable[Path], named: Sequence[str] = ()
) -> tuple[list[tuple[Path | None, Path]], dict[Path, str]]:
    """Where targets lie, seen from what they were found by.

    The roots are the directories that `named` has, those above the first part of a pattern with magic in it,
    and those of tables; of several around a target it is the outermost.  The files below none of them have no
    root; their paths are below the folder that they share.

    Args:
      named: files, directories, patterns or a table.
    Returns:
      The root of each target and its path below it; and the roots, in their order, with names that tell them
      apart, where there are several.
    """
    roots = dict.fromkeys(map(_root, named))
    absolute = [Path(os.path.abspath(target)) for target in targets]
    whose = [
        next((parent for parent in reversed(path.parents) if parent in roots), None) for path in absolute
    ]
    single = [path.parent for path, root in zip(absolute, whose, strict=True) if not root]
    shared = os.path.commonpath(single) if single else ""
    placed = [(root, path.relative_to(root or shared)) for path, root in zip(absolute, whose, strict=True)]
    around = set(whose)
    used = [root for root in roots if root and root in around]
    names = shortest_names(used) if len(used) > 1 else {}
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
    """Where the map of each target belongs: in the folder that mirrors the target's, under its name.

    `a/frame.png` has `a/frame-map.png`, `a/frame.jpg` has `a/frame.jpg-map.png`: a target's name does not
    depend on the others.  Where a target is compared with several references, or names differ in
    what some file systems do not tell apart, each of them has a digest in its name.

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
    """A name as the file systems see it that tell neither the case nor how an accent is written."""
    return unicodedata.normalize("NFC", str(file)).casefold()
