"""`config.json`, the record beside weights and in runs: made in one place, each field checked when read.

A record is a dict: "format", "model" (the configuration), "source" (where the weights come from); "sha256"
and "files" of weights; "training", "steps_per_epoch" and "data" of a run; and "record_sha256", the checksum
of all the others, so that a changed scale is noticed as a changed weight is.
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from iqa_jax.errors import WeightsError
from iqa_jax.files import local_path

if TYPE_CHECKING:  # its room needs Flax, which the identity of an exported metric does not
    from iqa_jax.models import ModelConfig

FORMAT = 1
FILE = "config.json"
_SEAL = "record_sha256"
_SHA256 = re.compile("[0-9a-f]{64}")


def made_record(config: "ModelConfig", source: Mapping, **others: object) -> dict:
    """A record; `text_of` adds its checksum.

    Args:
      source: where the weights come from.
      others: what else it holds, by name.
    """
    return {"format": FORMAT, "model": dataclasses.asdict(config), "source": source, **others}


def text_of(record: Mapping) -> str:
    """A record as it is written, with the checksum of all that is in it."""
    return json.dumps({**record, _SEAL: _checksum(record)}, indent=2) + "\n"


def _checksum(record: Mapping) -> str:
    rest = {name: value for name, value in record.items() if name != _SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def parsed(text: str, *, always_sealed: bool = False) -> dict:
    """A record from its text, checked against its checksum if it has one.

    Args:
      always_sealed: whether a record without a checksum is an error.
    Raises:
      ValueError: it is damaged; the text is a phrase.
    """
    try:
        record = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError("holds no fields")
    if (always_sealed or _SEAL in record) and record.get(_SEAL) != _checksum(record):
        raise ValueError("not what was written, its checksum differs")
    return record


def read_config(directory: str | os.PathLike) -> dict:
    """`config.json` of a weights directory or of a run; every field of it is checked.

    Raises:
      WeightsError: it is missing, damaged or of another program; names the field.
    """
    directory = local_path(directory)
    path = directory / FILE
    if not directory.is_dir():
        what = "a file" if directory.exists() else "no such directory"
        raise WeightsError(f"{directory}: {what}; expected a training run or a folder of weights")
    if path.exists() and not path.is_file():
        raise WeightsError(f"{path}: not a file; expected a run or converted weights")
    try:
        record = parsed(path.read_text(encoding="utf-8"))
        if "format" not in record:
            raise ValueError("format: is missing")
        if record["format"] != FORMAT:
            raise WeightsError(f"{path}: format {record['format']!r}, this version reads {FORMAT}")
        _check_fields(record)
        return record
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}; expected a run or converted weights") from None
    except ValueError as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path}: not a configuration written by iqa_jax ({error})") from None


def _check_fields(record: Mapping) -> None:
    """Raises ValueError for a field that is missing or of another kind; names it."""
    from iqa_jax.models import config_from

    try:
        config_from(record.get("model"))
    except ValueError as error:
        raise ValueError(f"model: {error}") from None
    steps, files = record.get("steps_per_epoch", 1), record.get("files", {})
    for name, fits, expected in (
        ("source", isinstance(record.get("source"), dict), "where the weights come from"),
        ("sha256", _is_sha256(record.get("sha256", "0" * 64)), "a SHA-256"),
        ("files", isinstance(files, dict) and all(map(_is_sha256, files.values())), "a SHA-256 of each file"),
        ("training", isinstance(record.get("training", {}), dict), "a run's settings"),
        ("data", isinstance(record.get("data") or {}, dict), "what a run was trained on"),
        ("steps_per_epoch", type(steps) is int and steps > 0, "a whole number above 0"),
    ):
        if not fits:
            raise ValueError(f"{name}: expected {expected}")


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and bool(_SHA256.fullmatch(value))


def config_in(record: Mapping) -> "ModelConfig":
    """The configuration of a record that was checked."""
    from iqa_jax.models import ModelConfig

    return ModelConfig(**record["model"])


def identity_of(config: "ModelConfig", sha256: str) -> str:
    """SHA-256 of all that scores depend on beside the images: the weights' hash and the configuration."""
    return hashlib.sha256(f"{sha256} {json.dumps(dataclasses.asdict(config))}".encode()).hexdigest()


def title_of(record: Mapping) -> str:
    """The title of weights in a report: their name, where it is known, and the start of their hash."""
    return " ".join(filter(None, (str(record.get("name", "")), record["sha256"][:12])))


def name_of(directory: Path, record: Mapping) -> str:
    """The name of the weights in a directory: the directory's, and that of the run they come from."""
    name, run = directory.resolve().name, record["source"].get("run")
    return f"{name} (of {run})" if isinstance(run, str) and run not in ("", name) else name
