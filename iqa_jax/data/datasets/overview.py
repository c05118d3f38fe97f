"""What a prepared data set holds."""

from collections import Counter
from collections.abc import Callable

import numpy as np

from iqa_jax.data.datasets.base import REFERENCES, PairBuilder

_MEASURES: dict[str, Callable[[np.ndarray], float]] = {
    "min": np.min,
    "max": np.max,
    "mean": np.mean,
    "std": np.std,
}


def summary(builder: PairBuilder) -> dict:
    """Counts, score range and distortion types of every split, and how far the set is from whole.

    Returns:
      {"dataset", "score", "splits": {split: {"pairs", "references", "min", "max", "mean", "std",
      "distortions": {type: pairs}}}, "deviation": a sentence or ""}; labels in the set's own units,
      None without labels.
    """
    splits = {}
    for split, table in builder.metadata["tables"].items():
        if split == REFERENCES:
            continue
        labels = np.array([mos for mos in table["mos"] if mos is not None])
        splits[split] = {
            "pairs": len(table["name"]),
            "references": len(set(table["reference"])),
            **{name: float(of(labels)) if len(labels) else None for name, of in _MEASURES.items()},
            "distortions": dict(sorted(Counter(filter(None, table["distortion"])).items())),
        }
    deviation = ""
    if builder.WHOLE and "train" in splits:
        present = splits["train"]["pairs"], splits["train"]["references"]
        if present != builder.WHOLE:
            deviation = (
                f"the whole set has {builder.WHOLE[0]:,} labelled pairs of {builder.WHOLE[1]} references, "
                f"here are {present[0]:,} of {present[1]}"
            )
    score = dict(builder.metadata["score"])
    return {"dataset": builder.info.full_name, "score": score, "splits": splits, "deviation": deviation}
