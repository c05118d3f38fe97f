"""Scores of a whole split, kept on disk as they come."""

import csv
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from iqa_jax.data import PairSource
from iqa_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Scores by file name, and the seconds that they took."""

    scores: dict[str, float]
    seconds: float

    @property
    def seconds_per_image(self) -> float:
        return self.seconds / len(self.scores)


def predict_resumably(
    source: PairSource,
    predict: Callable[[PairSource], np.ndarray],
    path: Path,
    *,
    identity: dict,
    progress: Callable[[int], object] = lambda pairs: None,
) -> Predictions:
    """Predicts one reference after the other; what is done stays done after an interruption.

    Args:
      predict: scores of some of the pairs of `source`.
      path: the file that keeps what is done.
      identity: what the scores depend on (weights, crops, split); a file of another identity is an
        error.
      progress: is told how many more pairs are done, those of an earlier start included.
    Raises:
      UserError: the file is of another identity.
    """
    done, seconds = _read_partial(path, identity)
    progress(len(done))
    with open(path, "a", newline="") as file:
        for reference in dict.fromkeys(source.reference):
            positions = np.flatnonzero(source.reference == reference)
            positions = np.array([p for p in positions if source.name[p] not in done], int)
            if not len(positions):
                continue
            start = time.perf_counter()
            scores = predict(source.select(positions))
            taken = time.perf_counter() - start
            for name, score in zip(source.name[positions], scores, strict=True):
                done[name] = float(score)
                file.write(f"{name},{float(score)!r},{taken / len(positions)!r}\n")
            file.flush()
            seconds += taken
            progress(len(positions))
    return Predictions(done, seconds)


def _read_partial(path: Path, identity: dict) -> tuple[dict[str, float], float]:
    """Scores and seconds of an earlier start; begins the file if there is none."""
    first = json.dumps(identity, sort_keys=True)
    if not path.exists():
        path.write_text(first + "\n")
        return {}, 0.0
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]  # a line cut short by the interruption does not count
    if whole != text:
        path.write_text(whole)
    header, _, lines = whole.partition("\n")
    if header != first:
        raise UserError(f"{path}: other predictions ({header}); choose another place or delete the file")
    rows = list(csv.reader(lines.splitlines()))
    return {name: float(score) for name, score, _ in rows}, sum(float(seconds) for *_, seconds in rows)
