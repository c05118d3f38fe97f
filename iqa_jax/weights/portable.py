"""Weights as a folder that anyone can read: `model.safetensors`, `config.json` and a model card.

What comes with the package has this form, and what is exchanged through a model hub; reading it needs no more
than the core.
"""

import hashlib
import os
from pathlib import Path

import numpy as np

from iqa_jax.errors import WeightsError
from iqa_jax.files import local_path
from iqa_jax.models import IQA_MODELS, ModelConfig
from iqa_jax.ops import Array
from iqa_jax.weights.directory import whole_directory, write_record
from iqa_jax.weights.flat import Weights, check_content, check_weights, content_hash, in_file, weight_shapes
from iqa_jax.weights.record import config_in, read_config
from iqa_jax.weights.tensors import tensors_of

FILE, CARD = "model.safetensors", "README.md"
# The weights that come with the package, by name.
SHIPPED = {name: Path(__file__).parent / "shipped" / name for name in ("full-reference", "blind")}


def save_portable(
    directory: str | os.PathLike,
    config: ModelConfig,
    weights: Weights,
    source: dict,
    *,
    card: str,
    half: bool = False,
) -> None:
    """Writes the folder; it appears complete or not at all.

    Args:
      directory: must not exist or be empty.
      source: where the weights come from.
      card: Markdown.
      half: whether the numbers are kept as float16; they are float32 again when read.
    Raises:
      WeightsError: `directory` holds something.
      UserError: it cannot be written.
    """
    from safetensors.numpy import save

    directory = local_path(directory).absolute()
    if directory.exists() and (directory.is_file() or any(directory.iterdir())):
        raise WeightsError(f"{directory}: is there already; choose another output directory")
    with np.errstate(over="ignore"):  # is refused below
        arrays = {
            name: np.asarray(array, np.float16 if half else np.float32) for name, array in weights.items()
        }
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise WeightsError(f"weight {name}: has values that are not finite in {array.dtype}")
    content = save(arrays, metadata={"format": "np"})
    sha256 = content_hash({name: array.astype(np.float32) for name, array in arrays.items()})
    with whole_directory(directory) as partial:
        (partial / FILE).write_bytes(content)
        (partial / CARD).write_text(card, encoding="utf-8")
        write_record(partial, config, source, sha256, {FILE: hashlib.sha256(content).hexdigest()})


def read_portable(directory: str | os.PathLike) -> tuple[ModelConfig, dict[str, Array], dict]:
    """(configuration, weights as float32, whole `config.json`) of such a folder.

    Raises:
      WeightsError: something is missing, truncated or differs from what was written.
    """
    directory = local_path(directory)
    record = read_config(directory)
    config = config_in(record)
    path = directory / FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}") from None
    with in_file(path):
        if hashlib.sha256(content).hexdigest() != record.get("files", {}).get(FILE):
            raise WeightsError("damaged, its checksum is not the one in config.json; fetch it again")
        weights: dict[str, Array] = {
            name: array.astype(np.float32) for name, array in tensors_of(content).items()
        }
        check_weights({name: array.shape for name, array in weights.items()}, weight_shapes(config))
        check_content(weights, record.get("sha256"))
    card = directory / CARD
    return config, weights, record | ({"card": str(card)} if card.is_file() else {})


def short_card(config: ModelConfig, record: dict, name: str) -> str:
    """A card to be completed: what the weights are and how they are used."""
    data = record.get("data") or record.get("source", {}).get("data") or {}
    trained = f"Trained on {data['dataset']}.  " if "dataset" in data else ""
    images = "reference, distorted" if IQA_MODELS[config.name].full_reference else "image"
    return f"""---
library_name: iqa_jax
tags: [image-quality-assessment, jax]
---

# {name}

{config.name} on {config.backbone}.  {trained}Scores from {config.mos_low:.6g} to {config.mos_high:.6g}, \
higher is better.

```python
import iqa_jax

metric = iqa_jax.load("hf://OWNER/{name}")
score = metric({images})
```
"""
