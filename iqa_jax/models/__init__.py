"""The networks, and `build` to make one from its configuration."""

from typing import Any, cast

import jax.numpy as jnp
from flax import nnx

from iqa_jax.models.backbones import BACKBONES, build_backbone
from iqa_jax.models.base import FullReferenceModel, IQAModel, split_model
from iqa_jax.models.config import ModelConfig, checked_config, config_problem, taps_problem
from iqa_jax.models.conformer import IQAConformer
from iqa_jax.models.student import BlindStudent
from iqa_jax.models.transformer import IQATransformer

IQA_MODELS: dict[str, type[IQAModel]] = {
    "iqa_conformer": IQAConformer,
    "iqa_transformer": IQATransformer,
    "blind_student": BlindStudent,
}

__all__ = [
    "BACKBONES",
    "IQA_MODELS",
    "BlindStudent",
    "FullReferenceModel",
    "IQAConformer",
    "IQAModel",
    "IQATransformer",
    "ModelConfig",
    "build",
    "config_from",
    "split_model",
    "taps_problem",
]


def config_from(values: object) -> ModelConfig:
    """A configuration from the JSON of a file, every field checked.

    Raises:
      ValueError: names the field, its value and what was expected.
    """
    return checked_config(values, IQA_MODELS)


def build(config: ModelConfig, *, rngs: nnx.Rngs) -> nnx.Module:
    """A randomly initialised model.

    Raises:
      ValueError: no model can be built from this configuration; names the field.
    """
    if problem := config_problem(config, IQA_MODELS):
        raise ValueError(problem)
    if config.name in IQA_MODELS:
        return IQA_MODELS[config.name](config, rngs=rngs)
    options: dict[str, Any] = {"num_classes": config.num_classes, "used": config.taps}
    return cast(nnx.Module, build_backbone(config.name, dtype=jnp.dtype(config.dtype), rngs=rngs, **options))
