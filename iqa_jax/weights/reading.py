"""Reading whatever holds weights: shipped ones, the model hub, a folder of weights, a training run."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from flax import nnx

from iqa_jax.errors import WeightsError
from iqa_jax.models import IQA_MODELS, ModelConfig
from iqa_jax.ops import Array
from iqa_jax.weights.checkpoints import Saved
from iqa_jax.weights.directory import FILE, holds_weights, read_weights
from iqa_jax.weights.flat import Weights, check_finite, content_hash, in_file, model_with, weight_shapes
from iqa_jax.weights.hub import on_hub, taken_from
from iqa_jax.weights.places import SHIPPED, check_choice, place_of
from iqa_jax.weights.record import config_in, name_of, read_config


def read_any(
    path: str | os.PathLike, *, step: int | str = "best", ema: bool = False
) -> tuple[ModelConfig, Weights, dict]:
    """(configuration, weights, `config.json` with the weights' "sha256") of whatever holds weights.

    Args:
      path: a name of `SHIPPED`, else an address `hf://OWNER/NAME` of the model hub, else a folder: of weights
        if it holds their file, else of a training run.
      step: of a run: "best" (by validation SRCC), "latest" or a step number.
      ema: of a run: its exponential moving average instead of the raw weights.
    Raises:
      WeightsError: `path` holds no weights, or they are damaged.
    """
    directory = place_of(path)
    record = read_config(directory)
    if holds_weights(directory):
        check_choice(path, step=step, ema=ema)
        config, weights, record = read_weights(directory)
    elif (directory / "checkpoints").is_dir():
        step = _chosen_step(directory, step)
        config, weights = config_in(record), read_run_weights(directory, step=step, ema=ema)
        record |= {"sha256": content_hash(weights), "step": step, "ema": ema}
        record |= {"run": directory.resolve().name, "backbone": read_config(directory / "backbone")["source"]}
    else:
        raise WeightsError(
            f"{directory}: has neither {FILE} nor checkpoints/; expected weights, or a run with a checkpoint"
        )
    return config, weights, record | _named(path, directory, record)


def _named(path: str | os.PathLike, directory: Path, record: Mapping) -> dict:
    """The name of the weights, for their record; on the model hub with the revision that was fetched."""
    given = os.fspath(path)
    if given in SHIPPED:
        return {"name": given}
    if on_hub(given):
        repository, revision = taken_from(given, directory)
        return {"name": f"{repository}@{revision[:12]}", "revision": revision}
    if "step" in record:
        return {"name": f"{record['run']}, step {record['step']}{', EMA' if record['ema'] else ''}"}
    return {"name": name_of(directory, record)}


def load_backbone(path: str | os.PathLike) -> nnx.Module:
    """The backbone of a folder of converted weights, in evaluation mode.

    Raises:
      WeightsError: `path` holds no weights, they are damaged, or they are an IQA model's.
    """
    config, weights, _ = read_any(path)
    if config.name in IQA_MODELS:
        raise WeightsError(f"{path}: weights of {config.name}, expected a backbone's; use iqa_jax.load")
    return model_with(config, weights)


def backbone_weights(config: ModelConfig, weights: Weights) -> dict[str, Array]:
    """The backbone's weights that an IQA model needs, from a backbone's or an IQA model's.

    Layers after the last tap are left out.

    Args:
      config: the model that `weights` belong to.
    """
    if config.name in IQA_MODELS:
        prefix = "backbone."
        return {n[len(prefix) :]: w for n, w in weights.items() if n.startswith(prefix)}
    needed = weight_shapes(dataclasses.replace(config, num_classes=0))
    return {name: weights[name] for name in needed}


def read_run_weights(workdir: Path, *, step: int | str = "best", ema: bool = False) -> dict[str, Array]:
    """The trained weights of a run together with its backbone's.

    Args:
      step: "best" (by validation SRCC), "latest" or a step number.
    Raises:
      WeightsError: no such checkpoint, or it is damaged.
    """
    step = _chosen_step(workdir, step)
    saved = Saved(workdir)
    arrays = saved.read(step)
    wanted = "ema." if ema else "weights."
    trained = {name.removeprefix(wanted): a for name, a in arrays.items() if name.startswith(wanted)}
    if not trained:
        raise WeightsError(f"{workdir}: the run kept no EMA weights (config.ema_decay was 0)")
    _, backbone, _ = read_weights(Path(workdir) / "backbone")
    weights = {**{f"backbone.{name}": array for name, array in backbone.items()}, **trained}
    with in_file(saved.folder / str(step)):
        check_finite(weights)
    return weights


def _chosen_step(workdir: Path, step: int | str) -> int:
    saved = Saved(workdir)
    if not saved.steps:
        raise WeightsError(f"{saved.folder}: no checkpoint yet")
    named = {"best": saved.best_step, "latest": lambda: saved.steps[-1]}
    chosen = named[step]() if isinstance(step, str) and step in named else step
    if not isinstance(chosen, int) or isinstance(chosen, bool):
        raise WeightsError(f"step {step!r}: expected 'best', 'latest' or a number")
    return chosen
