"""The reference figures and the rules that made their weights and images.

The figures were measured on the original PyTorch implementations in float64.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np

FIGURES = Path(__file__).parent / "figures"


def figures(name: str) -> dict:
    """The content of `figures/NAME.json`."""
    return json.loads((FIGURES / f"{name}.json").read_text())


def fill_rule(name: str, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights for every entry of `figures/NAME_state_dict.json`, from the seed and the keys alone."""
    entries = figures(f"{name}_state_dict")
    return {key: _filled(key, shape, dtype, seed) for key, (shape, dtype) in entries.items()}


def _filled(key: str, shape: list[int], dtype: str, seed: int) -> np.ndarray:
    if dtype == "int64":
        return np.zeros(shape, np.int64)
    rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
    last = key.rpartition(".")[2]
    if last == "running_var":
        value = rng.uniform(0.5, 1.5, shape)
    elif last in ("running_mean", "bias"):
        value = 0.1 * rng.standard_normal(shape)
    elif len(shape) == 1:
        value = 1.0 + 0.1 * rng.standard_normal(shape)
    elif key.startswith("emb_"):
        value = 0.5 * rng.standard_normal(shape)
    else:
        value = rng.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))
    return value.astype(np.float32)


def pair(seed: int, size: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Reference and distorted images, each (n, size, size, 3) uint8."""
    rng = np.random.default_rng(seed)
    cells = math.ceil(size / 8)
    reference = rng.integers(0, 256, (n, cells, cells, 3))
    reference = reference.repeat(8, axis=1).repeat(8, axis=2)[:, :size, :size]
    distorted = np.clip(np.rint(reference + 20 * rng.standard_normal(reference.shape)), 0, 255)
    return reference.astype(np.uint8), distorted.astype(np.uint8)


def error(found: np.ndarray, figure: dict) -> float:
    """Largest relative error of an array against its figure, on the scale of the figure's rms.

    Covers the sampled values and the array's mean, standard deviation and rms.  `found` must be laid
    out as PyTorch does.
    """
    found = np.asarray(found, np.float64)
    assert list(found.shape) == figure["shape"]
    pairs = [
        (found.ravel()[figure["index"]], figure["value"]),
        (found.mean(), figure["mean"]),
        (found.std(), figure["std"]),
        (np.sqrt(np.mean(found**2)), figure["rms"]),
    ]
    return max(float(np.abs(a - np.asarray(b)).max()) for a, b in pairs) / figure["rms"]
