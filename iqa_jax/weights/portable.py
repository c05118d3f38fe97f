"""Weights as a folder that anyone can read: `model.safetensors`, `config.json` and a model card.

What comes with the package has this form, and what is exchanged through a model hub; reading it needs no more
than the core.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from iqa_jax.errors import WeightsError
from iqa_jax.files import local_path
from iqa_jax.models import IQA_MODELS, ModelConfig
from iqa_jax.ops import Array
from iqa_jax.weights.directory import whole_directory
from iqa_jax.weights.flat import Weights, check_content, check_weights, content_hash, in_file, weight_shapes
from iqa_jax.weights.hub import on_hub
from iqa_jax.weights.record import FILE as RECORD
from iqa_jax.weights.record import config_in, made_record, read_config, text_of, without_paths
from iqa_jax.weights.tensors import tensors_of

FILE, CARD = "model.safetensors", "README.md"
_ORIGIN = ("data", "training", "backbone", "run", "step", "ema", "revision")  # of a record beside its source
_PATHS = {"data_dir", "splits", "teacher", "init_from", "backbone_weights"}  # fields of a run's settings
_SOURCES = {"run": "run", "backbone": "backbone", "begun from": "init_from", "data": "data"}
_SOURCES |= {"pseudo-labels": "pseudo_labels", "file": "file"}
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
      directory: must not exist, be empty or hold just what is written.
      source: where the weights come from.
      card: Markdown.
      half: whether the numbers are kept as float16; they are float32 again when read.
    Raises:
      WeightsError: `directory` holds something else, or a weight is not finite.
      UserError: it cannot be written.
    """
    from safetensors.numpy import save

    directory = local_path(directory).absolute()
    with np.errstate(over="ignore"):  # is refused below
        arrays = {
            name: np.asarray(array, np.float16 if half else np.float32) for name, array in weights.items()
        }
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise WeightsError(f"weight {name}: has values that are not finite in {array.dtype}")
    content = save(arrays, metadata={"format": "np"})
    record = made_record(
        config,
        source,
        sha256=content_hash({name: array.astype(np.float32) for name, array in arrays.items()}),
        files={FILE: hashlib.sha256(content).hexdigest()},
    )
    files = {FILE: content, CARD: card.encode(), RECORD: text_of(record).encode()}
    if directory.exists() and (directory.is_file() or any(directory.iterdir())):
        if _holds(directory, files):  # an earlier start wrote it
            return
        raise WeightsError(f"{directory}: is there already; choose another output directory")
    with whole_directory(directory) as partial:
        for name, written in files.items():
            (partial / name).write_bytes(written)


def _holds(directory: Path, files: Mapping[str, bytes]) -> bool:
    """Whether a directory holds these files and nothing else."""
    if not directory.is_dir() or {path.name for path in directory.iterdir()} != files.keys():
        return False
    return all(
        (directory / name).is_file() and (directory / name).read_bytes() == content
        for name, content in files.items()
    )


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


def source_of(record: Mapping) -> dict:
    """Where weights come from, as a shared folder says it: whole, but without paths of this machine."""
    source = {**record.get("source", {})}
    source |= {name: record[name] for name in _ORIGIN if name in record}
    if licence := _licence(_card_of(record)):
        source.setdefault("licence", licence)
    if isinstance(source.get("training"), dict):
        training = {**source["training"]}
        for field in _PATHS & training.keys():  # relative ones too
            if isinstance(training[field], str) and not on_hub(training[field]):
                training[field] = Path(training[field]).name
        source["training"] = training
    return without_paths(source)


def card_of(config: ModelConfig, record: Mapping, source: Mapping, name: str) -> str:
    """The card of the weights where they have one; else a short one."""
    return _card_of(record) or short_card(config, source, name)


def _card_of(record: Mapping) -> str:
    return Path(record["card"]).read_text(encoding="utf-8") if "card" in record else ""


def _licence(card: str) -> str:
    """What the head of a card names."""
    head = card.split("\n---", 1)[0] if card.startswith("---") else ""
    found = re.search(r"^licen[cs]e:\s*(\S.*)$", head, re.MULTILINE)
    return found[1].strip() if found else ""


def short_card(config: ModelConfig, source: Mapping, name: str) -> str:
    """A card to be completed: what the weights are, what they come from and how they are used.

    Args:
      source: what `source_of` gives.
    """
    data = source.get("data") or {}
    trained = f"Trained on {data['dataset']}.  " if "dataset" in data else ""
    images = "reference, distorted" if IQA_MODELS[config.name].full_reference else "image"
    licence = source.get("licence")
    sources = [f"- {part}: {_phrase(source[key])}" for part, key in _SOURCES.items() if source.get(key)]
    return f"""---
library_name: iqa_jax
{f"license: {licence}{chr(10)}" if licence else ""}tags: [image-quality-assessment, jax]
---

# {name}

{config.name} on {config.backbone}.  {trained}Scores from {config.mos_low:.6g} to {config.mos_high:.6g}, \
higher is better.

```python
import iqa_jax

metric = iqa_jax.load("hf://OWNER/{name}")
score = metric({images})
```

## Sources

{chr(10).join(sources) or "Not recorded."}

## Licence

{f"{licence}, that of the weights they come from." if licence else "Say under which licence they are."} \
The sources have licences of their own.
"""


def _phrase(part: object) -> str:
    """What a source is, in a line: the texts and numbers of its record."""
    if not isinstance(part, Mapping):
        return str(part)
    said = {name: value for name, value in part.items() if isinstance(value, str | int) and value != ""}
    return ", ".join(f"{name} {value}" for name, value in said.items())
