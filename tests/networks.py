"""Networks with random weights.

The weights come from NumPy: to initialise a network as for training, JAX compiles sixty programs.
"""

import math
import zlib
from typing import Any

import numpy as np
from flax import nnx

from iqa_jax.models import ModelConfig
from iqa_jax.weights.flat import model_with, weight_shapes

# The smallest backbone that has a convolution of each kind: the others stand in the tests of the models.
SMALL: dict[str, Any] = {
    "backbone": "efficientnet_lite0",
    "taps": ("conv_stem", "stage0"),
    "stride": 16,
    "dim": 32,
}
# The same as fields of a recipe.
SMALL_RUN = {**SMALL, "taps": ",".join(SMALL["taps"]), "crop_size": 96, "stride": 32}
SCALE = {"mos_mean": 3.0, "mos_std": 1.0, "mos_low": 1.0, "mos_high": 5.0}


def small_config(name: str = "iqa_conformer", **fields) -> ModelConfig:
    """Quick to trace and to compile: crops of 64 pixels, 16 positions."""
    return ModelConfig(name, **{"crop_size": 64, **SMALL, **SCALE, **fields})


def random_weights(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights for every entry as training draws its first ones, from the seed and the names alone."""
    return {name: _random(name, shape, seed) for name, shape in weight_shapes(config).items()}


def random_model(config: ModelConfig, seed: int = 0) -> nnx.Module:
    """The model with those weights, in evaluation mode."""
    return model_with(config, random_weights(config, seed))


def _random(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    last = name.rpartition(".")[2]
    if last in ("scale", "var"):
        return np.ones(shape, np.float32)
    if last.endswith(("bias", "mean")):
        return np.zeros(shape, np.float32)
    values = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape)
    if last.endswith("kernel"):
        variance = 2 if name.startswith("backbone.") else 1 / 3
        values *= math.sqrt(variance / math.prod(shape[:-1]))
    return values.astype(np.float32)
