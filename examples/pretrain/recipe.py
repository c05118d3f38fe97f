"""The shipped metrics: their architecture and how long they are trained."""

from typing import NamedTuple

import jax
from fit import Settings
from flax import nnx

from iqa_jax.models import IQA_MODELS, ModelConfig
from iqa_jax.models.base import IQAModel
from iqa_jax.weights.flat import STORED, flat_weights, iqa_model_with
from iqa_jax.weights.pytorch.convert import pretrained_backbone


class Recipe(NamedTuple):
    config: ModelConfig
    settings: Settings


_COMMON = {"backbone": "efficientnet_lite0", "dim": 64, "stride": 32}
# Scores are 5 less what the network adds, so that 5 is exact.
_COMMON |= {"mos_mean": 5.0, "mos_std": 1.0, "mos_low": 1.0, "mos_high": 5.0}

RECIPES = {
    # 6 x 6 positions: what the finer maps show is averaged over cells of 32 x 32 pixels.  How much the finest
    # differ pixel by pixel, and what classical measures compare, stands beside the averages.
    "full-reference": Recipe(
        ModelConfig(
            "iqa_conformer",
            taps=("stage1", "stage2", "stage3"),
            magnitudes=("stage1", "stage2"),
            similarities=True,
            dropout=0.0,
            **_COMMON,
        ),
        Settings(steps=3000),
    ),
    "blind": Recipe(
        ModelConfig(
            "blind_student",
            taps=("stage1", "stage2", "stage3", "stage4"),
            dropout=0.1,
            stochastic_depth=0.1,
            **_COMMON,
        ),
        Settings(steps=2000, twins=4, twin_weight=2.0),
    ),
}


def new_model(config: ModelConfig, seed: int) -> IQAModel:
    """A model with ImageNet's backbone and random weights behind it, in evaluation mode."""
    model = IQA_MODELS[config.name](config, rngs=nnx.Rngs(jax.random.key(seed)))
    weights = flat_weights(nnx.state(model, STORED))
    whole, _ = pretrained_backbone(config.backbone, "auto")
    backbone = {f"backbone.{name}": array for name, array in whole.items()}
    weights |= {name: array for name, array in backbone.items() if name in weights}
    return iqa_model_with(config, weights)
