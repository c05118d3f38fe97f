"""Reading whatever holds weights: a training run, a converted directory, an averaged checkpoint."""

import dataclasses
import os
from pathlib import Path

from flax import nnx

from iqa_jax.errors import WeightsError
from iqa_jax.files import local_path
from iqa_jax.models import IQA_MODELS, ModelConfig
from iqa_jax.ops import Array
from iqa_jax.weights.checkpoints import Saved
from iqa_jax.weights.directory import read_config, read_weights
from iqa_jax.weights.flat import Weights, content_hash, model_with, weight_shapes
from iqa_jax.weights.hub import fetched_folder, on_hub
from iqa_jax.weights.portable import FILE, SHIPPED, read_portable


def read_any(
    path: str | os.PathLike, *, step: int | str = "best", ema: bool = False
) -> tuple[ModelConfig, Weights, dict]:
    """(configuration, weights, `config.json` with the weights' "sha256") of whatever holds weights.

    Args:
      path: the name of weights that come with the package, see `SHIPPED`; `hf://OWNER/NAME` of the model
        hub; a directory written by `python -m iqa_jax convert`, `average` or `pack`; or the `--workdir` of
        a training run.
      step: of a run: "best" (by validation SRCC), "latest" or a step number.
      ema: of a run: its exponential moving average instead of the raw weights.
    Raises:
      WeightsError: nothing there to read, or it is damaged.
    """
    directory = place_of(path)
    record = read_config(directory)
    if (directory / FILE).is_file():
        return read_portable(directory)
    if (directory / "weights").is_dir():
        return read_weights(directory)
    if (directory / "checkpoints").is_dir():
        weights = read_run_weights(directory, step=step, ema=ema)
        return ModelConfig(**record["model"]), weights, record | {"sha256": content_hash(weights)}
    raise WeightsError(
        f"{directory}: neither {FILE} nor weights/ nor checkpoints/ is there; is the run just begun?"
    )


def place_of(path: str | os.PathLike) -> Path:
    """Where the weights of a name, an address or a path lie.

    Raises:
      WeightsError: an address of which nothing can be fetched.
    """
    if (name := os.fspath(path)) in SHIPPED:
        return SHIPPED[name]
    return fetched_folder(name) if on_hub(name) else local_path(path)


def load_backbone(path: str | os.PathLike) -> nnx.Module:
    """The backbone of a directory that `python -m iqa_jax convert` wrote, in evaluation mode.

    Raises:
      WeightsError: nothing there to load, it is damaged, or it is an IQA model's.
    """
    config, weights, _ = read_any(path)
    if config.name in IQA_MODELS:
        raise WeightsError(f"{path}: weights of {config.name}, expected a backbone's; use iqa_jax.load")
    return model_with(config, weights)


def backbone_weights(config: ModelConfig, weights: Weights) -> dict[str, Array]:
    """What an IQA model needs of its backbone, from a backbone's or an IQA model's weights.

    Layers after the last tap are left out.

    Args:
      config: of the model that `weights` belong to.
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
    saved = Saved(workdir)
    if not saved.steps:
        raise WeightsError(f"{saved.folder}: no checkpoint yet")
    named = {"best": saved.best_step, "latest": lambda: saved.steps[-1]}
    chosen = named[step]() if step in named else step
    if not isinstance(chosen, int):
        raise WeightsError(f"step {step!r}: expected 'best', 'latest' or a number")
    arrays = saved.read(chosen)
    wanted = "ema." if ema else "weights."
    trained = {name.removeprefix(wanted): a for name, a in arrays.items() if name.startswith(wanted)}
    if not trained:
        raise WeightsError(f"{workdir}: the run kept no EMA weights (config.ema_decay was 0)")
    _, backbone, _ = read_weights(Path(workdir) / "backbone")
    return {**{f"backbone.{name}": array for name, array in backbone.items()}, **trained}
