"""The networks, and `build` to make one from its configuration."""

from typing import Any, cast

import jax.numpy as jnp
from flax import nnx

from iqa_jax.models import checks
from iqa_jax.models.backbones import BACKBONES, build_backbone
from iqa_jax.models.base import FullReferenceModel, IQAModel, split_model
from iqa_jax.models.config import ModelConfig
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
    "config_problem",
    "split_model",
]


def config_from(values: object) -> ModelConfig:
    """The configuration that stands in a file: `values` is what JSON gave.

    Raises:
      ValueError: names the field, what it is and what was expected.
    """
    return checks.config_from(values, IQA_MODELS)


def config_problem(config: ModelConfig) -> str | None:
    """What keeps a model from being built or its scores from meaning something; None if nothing does."""
    return checks.config_problem(config, IQA_MODELS)


def build(config: ModelConfig, *, rngs: nnx.Rngs) -> nnx.Module:
    """A randomly initialised model.

    Raises:
      ValueError: a name of model or backbone, or a dtype, that does not exist.
    """
    if config.dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype {config.dtype!r}: expected 'float32' or 'bfloat16'")
    if config.name in BACKBONES:
        dtype = jnp.dtype(config.dtype)
        options: dict[str, Any] = {
            "num_classes": config.num_classes,
            "used": config.taps,
            "dtype": dtype,
            "rngs": rngs,
        }
        return cast(nnx.Module, build_backbone(config.name, **options))
    for kind, known, value in (
        ("model", [*IQA_MODELS, *BACKBONES], config.name),
        ("backbone", BACKBONES, config.backbone),
    ):
        if value not in known:
            raise ValueError(f"unknown {kind} {value!r}: expected one of {', '.join(known)}")
    return IQA_MODELS[config.name](config, rngs=rngs)
