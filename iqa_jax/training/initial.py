"""What a run begins from: the weights of another model, on the scale of its own labels."""

import dataclasses
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
    """Weights to begin from.

    Attributes:
      config: of the model that they belong to.
      weights: None where the run has begun already, so that they are not needed.
      origin: what `config.json` keeps of them.
    """

    config: ModelConfig
    weights: Weights | None
    origin: dict


def start_of(config: TrainConfig, workdir: Path) -> Start | None:
    """What `config.init_from` names; None if nothing.

    Raises:
      ConfigError: a backbone's weights.
      WeightsError: nothing there to read.
    """
    if not config.init_from:
        return None
    if Saved(workdir).steps:
        record = read_config(workdir)
        return Start(config_in(record), None, record["source"].get("init_from", {}))
    found, weights, record = read_any(config.init_from)
    if found.name not in IQA_MODELS:
        raise ConfigError(
            f"config.init_from={config.init_from}: weights of a backbone alone; give them as "
            "config.backbone_weights, or an IQA model's here"
        )
    origin = {
        "file": str(config.init_from),
        "sha256": record["sha256"],
        "trained_on": sorted(digests_trained_on(record)),
    }
    return Start(found, weights, origin)


def with_architecture(config: TrainConfig, start: Start | None) -> TrainConfig:
    """The configuration with the architecture that the weights have."""
    if start is None:
        return config
    chosen = {field: getattr(start.config, field) for field in _ARCHITECTURE}
    chosen["taps"] = ",".join(start.config.taps)
    if config.full_reference:
        chosen["magnitudes"] = ",".join(start.config.magnitudes)
    return dataclasses.replace(config, **chosen)


def taken_over(weights: dict[str, Array], start: Start, config: ModelConfig) -> tuple[dict[str, Array], str]:
    """`weights` with what fits of those to begin from, and what was done, as a sentence.

    The head's output is put on the scale of `config`: the ends of the old scale become those of the new one.
    """
    given = start.weights or {}
    taken = {
        name: given[name] for name in weights if name in given and given[name].shape == weights[name].shape
    }
    found = {**weights, **taken}
    parts = sorted({name.partition(".")[0] for name in weights.keys() - taken.keys()})
    scale = "same scale"
    if {"head.output.kernel", "head.output.bias"} <= taken.keys():
        factor, offset = _rescaling(start.config, config)
        found["head.output.kernel"] = taken["head.output.kernel"] * factor
        found["head.output.bias"] = taken["head.output.bias"] * factor + offset
        if (start.config.mos_low, start.config.mos_high) != (config.mos_low, config.mos_high):
            scale = (
                f"from the scale {start.config.mos_low:zg} to {start.config.mos_high:zg} to "
                f"{config.mos_low:zg} to {config.mos_high:zg}"
            )
    new = f"made new: {', '.join(parts)}" if parts else "nothing made new"
    return found, f"{len(taken)} of {len(weights)} arrays taken ({scale}), {new}"


def _rescaling(old: ModelConfig, new: ModelConfig) -> tuple[float, float]:
    """What a normalised prediction is multiplied by, and what is added, to be normalised on the new scale."""
    stretch = (new.mos_high - new.mos_low) / (old.mos_high - old.mos_low)
    factor = old.mos_std * stretch / new.mos_std
    offset = ((old.mos_mean - old.mos_low) * stretch + new.mos_low - new.mos_mean) / new.mos_std
    return factor, offset
