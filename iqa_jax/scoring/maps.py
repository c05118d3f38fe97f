"""Quality maps as pictures: colours over the image in grey, and a scale beside it."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from iqa_jax.files import write_whole

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
        draw.text((10 + _BAR, min(max(row, 6), height - 6)), f"{tick:.6g}", fill="black", anchor="lm")
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


def map_files(directory: Path, targets: Iterable[Path]) -> list[Path]:
    """`NAME-map.png` for each target; where several have one name, `NAME-map-2.png` and so on."""
    taken, files = set(), []
    for target in targets:
        name, number = f"{target.stem}-map.png", 2
        while name.lower() in taken:  # some file systems do not tell the case
            name, number = f"{target.stem}-map-{number}.png", number + 1
        files.append(directory / name)
        taken.add(name.lower())
    return files
