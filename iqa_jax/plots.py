"""Figures, as PNG."""

from pathlib import Path

import numpy as np

from iqa_jax.metrics import correlations


def save_scatter(path: Path, predicted: np.ndarray, mos: np.ndarray) -> None:
    """Predicted against true MOS, (N,) each, with the correlations in the title."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.scatter(mos, predicted, s=12, alpha=0.6, edgecolors="none")
    ends = [min(mos.min(), predicted.min()), max(mos.max(), predicted.max())]
    axes.plot(ends, ends, color="0.6", linewidth=1, zorder=0)
    axes.set_xlabel("MOS")
    axes.set_ylabel("predicted MOS")
    axes.set_title(
        "PLCC {plcc:.3f}   SRCC {srcc:.3f}   KRCC {krcc:.3f}".format(**correlations(predicted, mos)),
        fontsize=10,
    )
    axes.set_aspect("equal")
    figure.savefig(path)
