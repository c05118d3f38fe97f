"""What a prepared data set holds, and its division by reference content."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from iqa_jax.datasets.base import REFERENCES, PairBuilder
from iqa_jax.errors import DataError


def summary(builder: PairBuilder) -> dict:
    """Counts, score range and distortion types of every split, and how far the set is from whole.

    Returns:
      {"dataset", "score", "splits": {split: {"pairs", "references", "min", "max", "mean", "std",
      "distortions": {type: pairs}}}, "deviation": a sentence or ""}; labels in the set's own units,
      None without labels.
    """
    splits = {}
    for split, table in builder.info.metadata["tables"].items():
        if split == REFERENCES:
            continue
        labels = np.array([mos for mos in table["mos"] if mos is not None])
        measures = {"min": np.min, "max": np.max, "mean": np.mean, "std": np.std}
        splits[split] = {
            "pairs": len(table["name"]),
            "references": len(set(table["reference"])),
            **{name: float(of(labels)) if len(labels) else None for name, of in measures.items()},
            "distortions": dict(sorted(Counter(filter(None, table["distortion"])).items())),
        }
    deviation = ""
    if builder.WHOLE and "train" in splits:
        found = splits["train"]["pairs"], splits["train"]["references"]
        if found != builder.WHOLE:
            deviation = (
                f"the whole set has {builder.WHOLE[0]:,} labelled pairs of {builder.WHOLE[1]} references, "
                f"here are {found[0]:,} of {found[1]}"
            )
    score = dict(builder.info.metadata["score"])
    return {"dataset": builder.info.full_name, "score": score, "splits": splits, "deviation": deviation}


def reference_splits(references: Sequence[str], seeds: int, train: float) -> list[dict]:
    """`seeds` divisions of the references, with seeds 0, 1, …; at least one on either side.

    Args:
      train: share of the references to train on.
    Returns:
      [{"seed", "train": names, "validation": names}], as `iqa_jax.splits.part_of_splits` reads them.
    Raises:
      DataError: fewer than two references, or values that make no sense.
    """
    references = sorted(set(references))
    if len(references) < 2:
        raise DataError(f"{len(references)} reference: expected two or more to divide")
    if seeds < 1 or not 0 < train < 1:
        raise DataError(f"seeds {seeds}, train {train}: expected 1 or more and a share between 0 and 1")
    count = min(max(round(train * len(references)), 1), len(references) - 1)
    divided = []
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(references))
        names = [references[k] for k in order]
        divided.append({"seed": seed, "train": sorted(names[:count]), "validation": sorted(names[count:])})
    return divided
