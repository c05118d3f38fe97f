"""Splits by reference content: which pairs train a model, and which are held out to evaluate it."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from iqa_jax.data.datasets.base import REFERENCES, PairBuilder
from iqa_jax.data.source import PairSource
from iqa_jax.errors import DataError
from iqa_jax.files import local_path, open_regular

# What the default recipes hold out.
_HELD_OUT = {"pipal": "train[80%:]", "iqa_demo": "validation"}


def part_of_splits(builder: PairBuilder, path: str | Path, part: str) -> PairSource:
    """The pairs of one part, "train" or "validation", of a file written by `splits`.

    Raises:
      DataError: not such a file, or one of another data set.
    """
    try:
        with open_regular(local_path(path)) as file:
            content = json.loads(file.read().decode("utf-8-sig"))
        references, divided = list(content[part]), content.get("dataset")
        split = content.get("split", "train")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; expected a file of splits") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f'{path}: expected JSON with lists of references, "train" and "validation"') from None
    if divided not in (None, builder.asked_name):
        raise DataError(f"{path}: divides {divided}, not {builder.asked_name}")
    source = PairSource(builder, split, references, part=f"{part} of {Path(path).name}")
    if not len(source):
        raise DataError(f"{path}: its part {part} has no pair in split {split} of {builder.asked_name}")
    return source


def data_of(record: Mapping) -> dict | None:
    """The data that the weights of a `config.json` were trained and validated on, if recorded."""
    return record.get("data") or record.get("source", {}).get("data")


def part_to_evaluate(
    builder: PairBuilder, record: Mapping, *, split: str = "", splits: str | Path = ""
) -> tuple[PairSource, str]:
    """The pairs to evaluate weights on, and why these.

    Args:
      record: the weights' `config.json`.
      split: the requested split, if any.
      splits: a file of splits, of which the validation part is taken.
    """
    if split:
        return PairSource(builder, split), "as asked for"
    if splits:
        return part_of_splits(builder, splits, "validation"), f"the validation part of {Path(splits).name}"
    name = builder.asked_name
    data = data_of(record)
    if data and data["dataset"] == name:
        validation = data["validation"]
        if validation.get("by_reference"):
            base = validation["split"].partition(" ")[0]
            source = PairSource(builder, base, list(validation["references"]), part="validation of the run")
        else:
            source = PairSource(builder, validation["split"])
        return source, "what the run was validated on"
    if name in _HELD_OUT:
        return PairSource(builder, _HELD_OUT[name]), "what the default recipes hold out"
    present = [name for name in builder.info.splits if name != REFERENCES]
    whole = "train" if "train" in present else present[0]
    return PairSource(builder, whole), "the whole set: the weights were trained on another"


def digests_trained_on(record: Mapping) -> set[str]:
    """Digests of the references that the weights, their initial weights and their teacher were trained on."""
    data, source = data_of(record), record.get("source") or {}
    before = [source.get(name) or {} for name in ("init_from", "pseudo_labels")]
    earlier = {digest for origin in before for digest in origin.get("trained_on", ())}
    return {*(data["training"]["references"].values() if data else ()), *earlier}


def trained_on(record: Mapping, source: PairSource) -> np.ndarray:
    """Which pairs (N,) are of references that the weights were trained on.

    References are compared by their pictures, whatever the data set calls them; nothing is known of
    weights that were converted.
    """
    seen = digests_trained_on(record)
    if not seen:
        return np.zeros(len(source), bool)
    known = {name for name, digest in source.digests().items() if digest in seen}
    return np.isin(source.reference.astype(str), list(known)) if known else np.zeros(len(source), bool)


def reference_splits(digests: Mapping[str, str], seeds: int, train: float) -> list[dict]:
    """`seeds` splits of the references, with seeds 0, 1, …; at least one reference on either side.

    All names of one picture stay on one side.

    Args:
      digests: of each reference's pixels, by its name, see `PairSource.digests`.
      train: share of the pictures to train on.
    Returns:
      [{"seed", "train": names, "validation": names}], as `part_of_splits` reads them.
    Raises:
      DataError: fewer than two pictures, or values out of range.
    """
    pictures: dict[str, list[str]] = {}
    for name in sorted(digests):
        pictures.setdefault(digests[name], []).append(name)
    groups = list(pictures.values())
    if len(groups) < 2:
        raise DataError(f"{len(groups)} reference picture: expected two or more to divide")
    if seeds < 1 or not 0 < train < 1:
        raise DataError(f"seeds {seeds}, train {train}: expected 1 or more and a share between 0 and 1")
    count = min(max(round(train * len(groups)), 1), len(groups) - 1)
    divided = []
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(groups))
        sides = {"train": order[:count], "validation": order[count:]}
        names = {side: sorted(name for k in chosen for name in groups[k]) for side, chosen in sides.items()}
        divided.append({"seed": seed, **names})
    return divided
