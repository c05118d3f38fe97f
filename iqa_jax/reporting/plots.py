"""Figures as PNG files.  Equal input gives equal bytes."""

import dataclasses
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from iqa_jax.data.marks import FIGURE
from iqa_jax.data.png import png_bytes
from iqa_jax.evaluation.agreement import correlations
from iqa_jax.files import write_whole

_DPI = 120
_GAP = 6  # pixels between the images of a panel
_MARGIN = 16  # pixels around a panel
_LINE = 17  # height of a line of a caption, in pixels
_CHARACTER = 8  # pixels, at least the mean width of a character


def polynomial_fit(x: np.ndarray, y: np.ndarray, degree: int) -> np.polynomial.Polynomial:
    """Least-squares polynomial from (N,) to (N,), of lower degree where `x` has too few distinct values."""
    return np.polynomial.Polynomial.fit(x, y, min(degree, len(np.unique(x)) - 1))


def save_scatter(path: Path, predicted: np.ndarray, mos: np.ndarray, *, label: str = "MOS") -> None:
    """Draws predicted over true MOS, (N,) each, with a linear and a third-order fit and the correlations.

    A dotted line marks equality, where the scales overlap.  `label` is the name of the axes.
    """
    figure, axes = _figure(5.0, 5.0)
    axes.scatter(mos, predicted, s=12, alpha=0.6, edgecolors="none")
    x = np.linspace(mos.min(), mos.max(), 200)
    for name, degree, color in (("linear fit", 1, "tab:red"), ("third-order fit", 3, "tab:green")):
        axes.plot(x, polynomial_fit(mos, predicted, degree)(x), color=color, label=name)
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())  # not widened by what follows
    axes.axline((0, 0), slope=1, color="0.5", linewidth=1, linestyle=":", zorder=0)
    axes.set_xlabel(label)
    axes.set_ylabel(f"predicted {label}")
    axes.set_title(
        "PLCC {plcc:.3f}   SRCC {srcc:.3f}   KRCC {krcc:.3f}".format(**correlations(predicted, mos)),
        fontsize=10,
    )
    axes.legend(loc="upper left", frameon=False)
    _save(figure, path)


def save_bars(path: Path, values: dict[str, float], *, label: str) -> None:
    """Draws a horizontal bar for each correlation, the first on top; NaN is labelled undefined."""
    figure, axes = _figure(6.0, 1.0 + 0.3 * len(values))
    bars = axes.barh(range(len(values)), list(values.values()), height=0.7)
    texts = ["undefined" if np.isnan(value) else f"{value:.3f}" for value in values.values()]
    axes.bar_label(bars, texts, padding=3)
    axes.set_yticks(range(len(values)), list(map(_drawable, values)), parse_math=False)
    axes.invert_yaxis()
    low = -1 if min(values.values()) < 0 else 0
    axes.set_xlim(1.2 * low, 1.2)
    axes.set_xticks(np.linspace(low, 1, 5))
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


@dataclasses.dataclass(frozen=True)
class Panel:
    """Images side by side and the lines under them.

    Attributes:
      images: the title and the pixels of each, (H, W, 3) uint8 with the same H.
      caption: lines of text.
    """

    images: Sequence[tuple[str, np.ndarray]]
    caption: Sequence[str]


def save_panels(path: Path, panels: Sequence[Panel], *, columns: int) -> None:
    """Draws panels in a grid, row by row, every image pixel for pixel, with wrapped captions."""
    width = max(240, *(_width(panel) for panel in panels))
    captions = [
        [part for line in panel.caption for part in textwrap.wrap(_drawable(line), width // _CHARACTER)]
        for panel in panels
    ]
    height = max(image.shape[0] for panel in panels for _, image in panel.images)
    step_x = width + _MARGIN
    step_y = height + _LINE * max(map(len, captions)) + 2 * _MARGIN
    columns = min(columns, len(panels))
    total_x, total_y = columns * step_x + _MARGIN, -(-len(panels) // columns) * step_y + _MARGIN
    figure = _canvas(total_x / _DPI, total_y / _DPI)
    for number, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
        row, column = divmod(number, columns)
        left, top = _MARGIN + column * step_x, total_y - _MARGIN - row * step_y
        x = left
        for _, image in panel.images:
            figure.figimage(image, x, top - image.shape[0], origin="upper")
            x += image.shape[1] + _GAP
        for line, text in enumerate(caption):
            y = top - height - (line + 1) * _LINE
            figure.text(left / total_x, y / total_y, text, va="baseline", fontsize=7.5, parse_math=False)
    _save(figure, path)


def _drawable(name: str) -> str:
    """A file name with bytes that are not UTF-8 escaped, for which fonts have no glyph."""
    return name.encode("utf-8", "backslashreplace").decode()


def _width(panel):
    return sum(image.shape[1] for _, image in panel.images) + _GAP * (len(panel.images) - 1)


def _canvas(width, height, **options):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, **options)
    FigureCanvasAgg(figure)
    return figure


def _figure(width, height):
    figure = _canvas(width, height, layout="constrained")
    return figure, figure.add_subplot()


def _save(figure, path):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a box is drawn for it
        figure.canvas.draw()
    write_whole(path, png_bytes(np.asarray(figure.canvas.buffer_rgba())[..., :3], mark=FIGURE))
