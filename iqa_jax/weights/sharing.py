"""Weights to share: where they come from, without paths of this machine, and a model card."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iqa_jax.files import shortest_unique_names
from iqa_jax.models import IQA_MODELS, ModelConfig
from iqa_jax.weights.hub import on_hub

_ORIGIN = ("data", "training", "backbone", "run", "step", "ema", "revision")  # of a record beside its source
_PATHS = {"data_dir", "splits", "teacher", "init_from", "backbone_weights"}  # fields of a run's settings
_SOURCES = {"run": "run", "backbone": "backbone", "initialised from": "init_from", "data": "data"}
_SOURCES |= {"pseudo-labels": "pseudo_labels", "file": "file"}


def source_of(record: Mapping) -> dict[str, Any]:
    """Where weights come from, for a shared folder: complete, but without paths of this machine."""
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
    """The weights' own card; a short one where they have none."""
    return _card_of(record) or short_card(config, source, name)


def _card_of(record: Mapping) -> str:
    return Path(record["card"]).read_text(encoding="utf-8") if "card" in record else ""


def _licence(card: str) -> str:
    """The licence in the head of a card."""
    head = card.split("\n---", 1)[0] if card.startswith("---") else ""
    licence = re.search(r"^licen[cs]e:\s*(\S.*)$", head, re.MULTILINE)
    return licence[1].strip() if licence else ""


def short_card(config: ModelConfig, source: Mapping, name: str) -> str:
    """A card to complete: what the weights are, where they come from and how to use them.

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
    plain = {name: value for name, value in part.items() if isinstance(value, str | int) and value != ""}
    return ", ".join(f"{name} {value}" for name, value in plain.items())


# How an absolute path starts, on Unix or Windows; in a sentence it ends at punctuation.
_ROOT = r"(?:file:/*)?(?:~[\w.-]*/|/|[A-Za-z]:[\\/]|\\\\)(?=[^\s/\\])"
_WHOLE_PATH = re.compile(f"{_ROOT}.*", re.DOTALL)
_PATH_IN_TEXT = re.compile(rf"(?<![\w/\\.:]){_ROOT}[^;,()\"'\n]*")


def without_paths(value: Any) -> Any:
    """`value` with every path of this machine cut to its last part, in texts and names at any depth.

    Readers of shared weights need not know where the files were.
    """
    if isinstance(value, Mapping):
        names = {name: without_paths(name) for name in value}
        if len(set(names.values())) < len(names):  # files of one name in several folders
            names |= {str(path): end for path, end in shortest_unique_names(map(Path, value)).items()}
        return {names[name]: without_paths(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(inner) for inner in value]
    if not isinstance(value, str):
        return value
    if _WHOLE_PATH.fullmatch(value):
        return _last_part(value)
    return _PATH_IN_TEXT.sub(lambda path: _last_part(path[0]), value)


def _last_part(path: str) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/ "))[-1] + path[len(path.rstrip()) :]
