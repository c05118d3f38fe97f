"""The files that the NTIRE 2022 perceptual IQA challenge accepts."""

import csv
import dataclasses
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from iqa_jax.data.source import PairSource
from iqa_jax.errors import UserError

_PARTIAL = "predictions.partial"


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
    directory: Path,
    *,
    identity: dict,
    progress: Callable[[int], object] = lambda pairs: None,
) -> Predictions:
    """Predicts one reference after the other; what is done stays done after an interruption.

    Args:
      predict: scores of some of the pairs of `source`.
      directory: keeps what is done in a file until `write` is called.
      identity: what the scores depend on (weights, crops, split); a file of another identity is an
        error.
      progress: is told how many more pairs are done, those of an earlier start included.
    Raises:
      UserError: the directory holds part of another submission.
    """
    path = directory / _PARTIAL
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
        raise UserError(
            f"{path}: part of another submission ({header}); choose another --output or delete the file"
        )
    rows = list(csv.reader(lines.splitlines()))
    return {name: float(score) for name, score, _ in rows}, sum(float(seconds) for *_, seconds in rows)


def write(
    directory: Path,
    predictions: Predictions,
    *,
    full_reference: bool,
    cpu: bool,
    extra_data: bool,
    description: str,
) -> Path:
    """Writes output.txt, readme.txt and submission.zip, in the form of the original's.

    Args:
      full_reference: whether the references were used; the challenge has a track for each.
      cpu: whether the scores were computed on a CPU.
      extra_data: whether the model has seen data beside the challenge's; ImageNet counts.
    Returns:
      The path of the zip.
    """
    output = "\n".join(f"{name},{score:.6f}" for name, score in sorted(predictions.scores.items()))
    readme = "\n".join(
        (
            f"runtime per image [s] : {predictions.seconds_per_image:.2f}",
            f"CPU[1] / GPU[0] : {int(cpu)}",
            f"Extra Data [1] / No Extra Data [0] : {int(extra_data)}",
            f"Other description : {description}",
            f"Full-Reference [1] / Non-Reference [0] : {int(full_reference)}",
        )
    )
    (directory / "output.txt").write_text(output)
    (directory / "readme.txt").write_text(readme)
    with zipfile.ZipFile(directory / "submission.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in (("output.txt", output), ("readme.txt", readme)):
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)  # dated 1980: same bytes
    (directory / _PARTIAL).unlink(missing_ok=True)
    return directory / "submission.zip"
