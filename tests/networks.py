"""Networks with random weights.

The weights come from NumPy: to initialise a network as for training, JAX compiles sixty programs.
"""

import math
import zlib

import numpy as np
from flax import nnx

from iqa_jax.models import ModelConfig
from iqa_jax.weights.flat import model_with, weight_shapes

# The smallest backbone that has a convolution of each kind: the others stand in the tests of the models.
SMALL = {"backbone": "efficientnet_lite0", "taps": ("conv_stem", "stage0"), "stride": 16, "dim": 32}
SCALE = {"mos_mean": 3.0, "mos_std": 1.0, "mos_low": 1.0, "mos_high": 5.0}


def small_config(name: str = "iqa_conformer", **fields) -> ModelConfig:
    """Quick to trace and to compile: crops of 64 pixels, 16 positions."""
    return ModelConfig(name, **{"crop_size": 64, **SMALL, **SCALE, **fields})


def random_weights(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights for every entry, from the seed and the names alone; statistics and scales vary too."""
    return {name: _random(name, shape, seed) for name, shape in weight_shapes(config).items()}


def random_model(config: ModelConfig, seed: int = 0) -> nnx.Module:
    """The model with those weights, in evaluation mode."""
    return model_with(config, random_weights(config, seed))


def _random(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = rng.standard_normal(shape)
    last = name.rpartition(".")[2]
    if last == "var":
        values = rng.uniform(0.5, 1.5, shape)
    elif last == "scale":
        values = 1 + 0.1 * values
    elif last.endswith(("bias", "mean")):
        values = 0.1 * values
    elif last.endswith("kernel"):
        values *= math.sqrt(2 / math.prod(shape[:-1]))
    else:
        values *= 0.5
    return values.astype(np.float32)
