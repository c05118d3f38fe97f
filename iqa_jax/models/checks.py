"""What a configuration has to be, so that a model can be built from it; checked by name when it is read."""

import dataclasses
import math
import typing
from collections.abc import Mapping

from iqa_jax.models.backbones import BACKBONES
from iqa_jax.models.base import IQAModel, taps_problem
from iqa_jax.models.config import ModelConfig

_KINDS = typing.get_type_hints(ModelConfig)
_WORDS = {str: "a text", int: "a whole number", float: "a finite number"}
# Ends that fit every network here; what is beyond them is damage, and would take long to refuse later.
_SIZES = {"num_classes": (0, 2**20), "dim": (1, 2**14), "heads": (1, 2**14), "crop_size": (32, 2**14)}
_SIZES |= {"stride": (0, 2**14)}


def config_from(values: object, models: Mapping[str, type[IQAModel]]) -> ModelConfig:
    """The configuration that stands in a file, every field checked.

    Args:
      values: what JSON gave.
      models: the IQA models by name.
    Raises:
      ValueError: names the field, what it is and what was expected.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{_shown(values)}: expected the fields of a model")
    fields = [field.name for field in dataclasses.fields(ModelConfig)]
    for name in values.keys() - set(fields):
        raise ValueError(f"{_shown(name)}: no such field; expected {', '.join(fields)}")
    for name in fields:
        if name not in values:
            raise ValueError(f"{name}: is missing")
        if expected := _type_problem(_KINDS[name], values[name]):
            raise ValueError(f"{name} {_shown(values[name])}: expected {expected}")
    config = ModelConfig(**values)
    if problem := config_problem(config, models):
        raise ValueError(problem)
    return config


def _type_problem(kind: type, value: object) -> str | None:
    """What was expected of a field of this type; None if `value` is that."""
    if kind is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value)
    elif kind in (int, str):
        fits = type(value) is kind
    else:
        fits = isinstance(value, list | tuple) and all(type(name) is str for name in value)
        return None if fits else "a list of names"
    return None if fits else _WORDS[kind]


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the largest float
        return False


def config_problem(config: ModelConfig, models: Mapping[str, type[IQAModel]]) -> str | None:
    """What keeps a model from being built or its scores from meaning something; None if nothing does.

    The types of the fields are right already.
    """
    known = {"name": (*models, *BACKBONES), "backbone": (*BACKBONES,), "dtype": ("float32", "bfloat16")}
    for name, choices in known.items():
        if getattr(config, name) not in choices:
            return f"{name} {_shown(getattr(config, name))}: expected one of {', '.join(choices)}"
    for name, (low, high) in _SIZES.items():
        if not low <= getattr(config, name) <= high:
            return f"{name} {getattr(config, name)}: expected {low} to {high}"
    for name in ("dropout", "stochastic_depth"):
        if not 0 <= getattr(config, name) < 1:
            return f"{name} {getattr(config, name)}: expected a probability below 1"
    for name, fits, expected in (
        ("heads", config.dim % config.heads == 0, f"a divisor of dim, {config.dim}"),
        ("dim", config.dim % 2 == 0 or config.dropout == 0, "an even number, which dropout needs"),
        ("mos_std", config.mos_std > 0, "a number above 0"),
        ("mos_low", config.mos_low < config.mos_high, f"a number below mos_high, {config.mos_high:g}"),
    ):
        if not fits:
            return f"{name} {getattr(config, name)}: expected {expected}"
    return _backbone_problem(config) if config.name in BACKBONES else _network_problem(config, models)


def _backbone_problem(config: ModelConfig) -> str | None:
    """Of a backbone on its own."""
    if config.backbone != config.name:
        return f"backbone {config.backbone}: expected {config.name}, the name"
    maps = BACKBONES[config.name].maps
    unknown = next((tap for tap in config.taps if tap not in maps), None)
    if unknown is not None:
        return f"taps {_shown(unknown)}: {config.name} has {', '.join(maps) or 'no choice'}"
    if config.magnitudes or config.stride:
        return "magnitudes and stride: expected none of a backbone on its own"
    return None


def _network_problem(config: ModelConfig, models: Mapping[str, type[IQAModel]]) -> str | None:
    """Of an IQA model."""
    if config.num_classes:
        return f"num_classes {config.num_classes}: expected 0, {config.name} has no classifier"
    if config.magnitudes and not models[config.name].full_reference:
        return f"magnitudes: expected none, {config.name} sees no reference"
    return taps_problem(config)


def _shown(value: object) -> str:
    """A value as JSON shows it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
