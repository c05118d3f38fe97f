"""What the recipe's modules share: pictures, parameters between levels, files of arrays."""

import os
from pathlib import Path
from typing import Any

import numpy as np


def as_image(x: np.ndarray) -> np.ndarray:
    """Values on the scale of 0 to 255 -> uint8."""
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def between(u, values, log=False) -> float:
    """The parameter at strength u; `values` are those of u = 0, 1, 2, …"""
    values = np.asarray(values, float)
    if log:
        return float(np.exp(np.interp(u, np.arange(len(values)), np.log(values))))
    return float(np.interp(u, np.arange(len(values)), values))


def write_whole(path: Path, **fields: Any) -> None:
    """An .npz that is there in one piece or not at all."""
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **fields)
    os.replace(partial, path)
