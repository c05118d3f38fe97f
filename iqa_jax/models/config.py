"""What a model is made of, and the checks of a configuration that was read from a file."""

import dataclasses
import math
import typing
from collections.abc import Mapping

from iqa_jax.models.backbones import BACKBONES
from iqa_jax.ops.similarity import SMALLEST_CELL


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything that is needed to build a model again; stands beside its weights as JSON.

    Attributes:
      name: a key of `IQA_MODELS`, or the name of a backbone.
      backbone: a key of `BACKBONES`.
      num_classes: of a backbone without an IQA model, the size of its classifier; 0 for none.
      dim, heads, dropout: width, attention heads and dropout probability after the backbone.
      stochastic_depth: of a student, the probability that a residual branch is left out.
      crop_size: side of the square crops in pixels; fixes the number of positions.
      taps, stride: feature maps of the backbone, averaged over cells of `stride` x `stride` pixels, one cell
        for each position; () and 0 for the backbone's own taps and grid, as in the paper.
      magnitudes: of a full-reference model with a `stride`, maps of which it also sees the mean of
        |f_ref - f_dis| over the pixels of each cell.
      similarities: of a full-reference model with a `stride`, whether it also sees the maps of
        `iqa_jax.ops.similarity`; then identical crops get `mos_high`.
      mos_mean, mos_std: MOS = prediction * mos_std + mos_mean (PIPAL's by default).
      mos_low, mos_high: ends of the MOS scale.
      dtype: compute type, "float32" or "bfloat16"; parameters are float32.
    """

    name: str
    backbone: str = "inception_resnet_v2"
    num_classes: int = 0
    dim: int = 128
    heads: int = 4
    dropout: float = 0.1
    stochastic_depth: float = 0.0
    crop_size: int = 192
    taps: tuple[str, ...] = ()
    stride: int = 0
    magnitudes: tuple[str, ...] = ()
    similarities: bool = False
    mos_mean: float = 1448.9595
    mos_std: float = 121.5351
    mos_low: float = 916.71
    mos_high: float = 1835.99
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for field in ("taps", "magnitudes"):  # JSON has lists
            object.__setattr__(self, field, tuple(getattr(self, field)))


_TYPES = typing.get_type_hints(ModelConfig)
_TYPE_NAMES = {str: "a text", int: "a whole number", float: "a finite number", bool: "true or false"}
# Every network here lies within these ends; a value beyond them is damage that would take long to show.
_SIZES = {"num_classes": (0, 2**20), "dim": (1, 2**14), "heads": (1, 2**14), "crop_size": (32, 2**14)}
_SIZES |= {"stride": (0, 2**14)}
_LATER = ("similarities",)  # fields that weights of earlier versions do without


def checked_config(values: object, models: Mapping[str, typing.Any]) -> ModelConfig:
    """A configuration from the JSON of a file, every field checked.

    Args:
      models: the classes of IQA models by name.
    Raises:
      ValueError: names the field, its value and what was expected.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{_shown(values)}: expected the fields of a model")
    fields = [field.name for field in dataclasses.fields(ModelConfig)]
    for name in values.keys() - set(fields):
        raise ValueError(f"{_shown(name)}: no such field; expected {', '.join(fields)}")
    for name in fields:
        if name not in values:
            if name in _LATER:
                continue
            raise ValueError(f"{name}: is missing")
        if expected := _type_problem(_TYPES[name], values[name]):
            raise ValueError(f"{name} {_shown(values[name])}: expected {expected}")
    config = ModelConfig(**values)
    if problem := config_problem(config, models):
        raise ValueError(problem)
    return config


def _type_problem(kind: type, value: object) -> str | None:
    """What was expected of a field of this type; None if `value` has it."""
    if kind is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value)
    elif kind in (int, str, bool):
        fits = type(value) is kind
    else:
        fits = isinstance(value, list | tuple) and all(type(name) is str for name in value)
        return None if fits else "a list of names"
    return None if fits else _TYPE_NAMES[kind]


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the largest float
        return False


def config_problem(config: ModelConfig, models: Mapping[str, typing.Any]) -> str | None:
    """Why a model cannot be built, or why its scores would mean nothing; None if all is well.

    Expects fields of the right types.
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
    return _backbone_problem(config) if config.name in BACKBONES else _iqa_model_problem(config, models)


def _backbone_problem(config: ModelConfig) -> str | None:
    """For a backbone without an IQA model."""
    if config.backbone != config.name:
        return f"backbone {config.backbone}: expected {config.name}, the name"
    maps = BACKBONES[config.name].maps
    unknown = next((tap for tap in config.taps if tap not in maps), None)
    if unknown is not None:
        return f"taps {_shown(unknown)}: {config.name} has {', '.join(maps) or 'no choice'}"
    if config.magnitudes or config.stride or config.similarities:
        return "magnitudes, stride and similarities: expected none for a backbone without an IQA model"
    return None


def _iqa_model_problem(config: ModelConfig, models: Mapping[str, typing.Any]) -> str | None:
    if config.num_classes:
        return f"num_classes {config.num_classes}: expected 0, {config.name} has no classifier"
    if not models[config.name].full_reference:
        for name in ("magnitudes", "similarities"):
            if getattr(config, name):
                return f"{name}: expected none, {config.name} sees no reference"
    return taps_problem(config)


def taps_problem(config: ModelConfig) -> str | None:
    """What is wrong with `taps`, `stride` and `magnitudes`, as a sentence; None if nothing is."""
    chosen, maps = config.taps + config.magnitudes, BACKBONES[config.backbone].maps
    if not config.stride:
        if config.similarities:
            return "similarities need a stride"
        return "taps and magnitudes need a stride" if chosen else None
    if not config.taps:
        return f"stride {config.stride} needs taps: {', '.join(maps) or f'{config.backbone} has none'}"
    if config.crop_size % config.stride:
        return f"stride {config.stride}: expected a divisor of the crop size, {config.crop_size}"
    if config.similarities and config.stride % SMALLEST_CELL:
        return f"stride {config.stride}: expected a multiple of {SMALLEST_CELL}, which similarities need"
    for name in chosen:
        if name not in maps:
            return f"tap {name}: {config.backbone} has {', '.join(maps) or 'no choice'}"
        if config.stride % maps[name][1]:
            return f"tap {name}: has stride {maps[name][1]}, expected a divisor of stride {config.stride}"
    return None


def _shown(value: object) -> str:
    """A value as JSON shows it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
