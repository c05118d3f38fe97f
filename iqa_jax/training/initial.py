"""Initialising a run with another model's weights, on the scale of the run's labels."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from iqa_jax.data.splits import digests_trained_on
from iqa_jax.errors import ConfigError
from iqa_jax.models import IQA_MODELS, ModelConfig
from iqa_jax.ops import Array
from iqa_jax.training.config import TrainConfig
from iqa_jax.weights.checkpoints import Saved
from iqa_jax.weights.flat import Weights
from iqa_jax.weights.reading import read_any
from iqa_jax.weights.record import config_in, read_config

_ARCHITECTURE = ("backbone", "dim", "heads", "stride", "crop_size")


@dataclasses.dataclass(frozen=True)
class Start:
    """The weights that `config.init_from` names.

    Attributes:
      config: of the model that they belong to.
      weights: None if the run has a checkpoint, which replaces them.
      origin: what the run's `config.json` records of them.
    """

    config: ModelConfig
    weights: Weights | None
    origin: dict


def start_of(config: TrainConfig, workdir: Path) -> Start | None:
    """The weights that `config.init_from` names; None if it is empty.

    Raises:
      ConfigError: they are a backbone's.
      WeightsError: there are none, or they are damaged.
    """
    if not config.init_from:
        return None
    if Saved(workdir).steps:
        record = read_config(workdir)
        return Start(config_in(record), None, record["source"].get("init_from", {}))
    model_config, weights, record = read_any(config.init_from)
    if model_config.name not in IQA_MODELS:
        raise ConfigError(
            f"config.init_from={config.init_from}: weights of a backbone alone, expected an IQA model's; "
            "give a backbone's as config.backbone_weights"
        )
    origin = {
        "file": str(config.init_from),
        "sha256": record["sha256"],
        "trained_on": sorted(digests_trained_on(record)),
    }
    return Start(model_config, weights, origin)


def with_architecture(config: TrainConfig, start: Start | None) -> TrainConfig:
    """The configuration with the architecture of the weights to start from."""
    if start is None:
        return config
    chosen = {field: getattr(start.config, field) for field in _ARCHITECTURE}
    chosen["taps"] = ",".join(start.config.taps)
    if config.full_reference:
        chosen["magnitudes"] = ",".join(start.config.magnitudes)
        chosen["similarities"] = start.config.similarities
    return dataclasses.replace(config, **chosen)


def reuse(weights: dict[str, Array], start: Start, config: ModelConfig) -> tuple[dict[str, Array], str]:
    """`weights` with those of `start` that fit, and which were reused and which initialised, for the log.

    The head's output is put on the scale of `config`: the ends of the old scale become those of the new one.
    """
    given = start.weights or {}
    reused = {
        name: given[name] for name in weights if name in given and given[name].shape == weights[name].shape
    }
    merged = {**weights, **reused}
    scale = "same scale"
    if {"head.output.kernel", "head.output.bias"} <= reused.keys():
        # With `similarities` the output is on the scale of any labels already.
        factor, offset = (1.0, 0.0) if config.similarities else _rescaling(start.config, config)
        merged["head.output.kernel"] = reused["head.output.kernel"] * factor
        merged["head.output.bias"] = reused["head.output.bias"] * factor + offset
        if (start.config.mos_low, start.config.mos_high) != (config.mos_low, config.mos_high):
            scale = (
                f"from the scale {start.config.mos_low:zg} to {start.config.mos_high:zg} to "
                f"{config.mos_low:zg} to {config.mos_high:zg}"
            )
    count = f"{len(reused)} of {len(weights)} arrays, {scale}"
    return merged, f"reused {_parts(reused)} ({count}); initialised {_parts(weights.keys() - reused.keys())}"


def _parts(names: Iterable[str]) -> str:
    """The parts of a model that weights belong to, as a list in a sentence."""
    return ", ".join(sorted({name.partition(".")[0] for name in names})) or "nothing"


def _rescaling(old: ModelConfig, new: ModelConfig) -> tuple[float, float]:
    """The factor and the offset that bring a normalised prediction to the new scale."""
    stretch = (new.mos_high - new.mos_low) / (old.mos_high - old.mos_low)
    factor = old.mos_std * stretch / new.mos_std
    offset = ((old.mos_mean - old.mos_low) * stretch + new.mos_low - new.mos_mean) / new.mos_std
    return factor, offset
