"""The files that the NTIRE 2022 perceptual IQA challenge accepts."""

import csv
import dataclasses
import io
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from iqa_jax.data.source import PairSource
from iqa_jax.errors import UserError
from iqa_jax.files import Busy, locked, write_whole
from iqa_jax.journal import Journal, OtherWork

_JOURNAL = "predictions.partial"
_LOCK = ".submission.lock"


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
      identity: what the scores depend on beside the pairs (weights, crops, split); a file of another identity
        is an error.
      progress: is told how many more pairs are done, those of an earlier start included.
    Raises:
      UserError: two pictures have one name, the directory holds part of another submission, another process
        writes there, or a score is not finite.
    """
    if len(set(source.name)) < len(source):
        raise UserError(f"{source.dataset}: has pictures of one name, which a submission cannot tell apart")
    path = directory / _JOURNAL
    try:
        with (
            locked(directory / _LOCK, wait=False),
            Journal(path, {**identity, "pairs": source.fingerprint()}) as journal,
        ):
            predictions = _predicted(source, predict, journal, progress)
            (directory / _LOCK).unlink(missing_ok=True)
            return predictions
    except Busy:
        raise UserError(f"{directory}: another process writes a submission there") from None
    except OtherWork as other:
        raise UserError(
            f"{path}: part of another submission ({other}); choose another directory or delete the file"
        ) from None


def _predicted(source: PairSource, predict, journal: Journal, progress) -> Predictions:
    """The scores in the journal, then those of all other pairs, which it gets."""
    entries = {name: (score, seconds) for name, score, seconds in journal.entries}
    progress(len(entries))
    for reference in dict.fromkeys(source.reference):
        positions = np.flatnonzero(source.reference == reference)
        positions = np.array([p for p in positions if source.name[p] not in entries], int)
        if not len(positions):
            continue
        start = time.perf_counter()
        scores = predict(source.select(positions))
        seconds = (time.perf_counter() - start) / len(positions)
        names = [str(name) for name in source.name[positions]]
        for name, score in zip(names, scores, strict=True):
            if not np.isfinite(score):
                raise UserError(f"{name}: its score is {score}; the weights may be damaged")
        rows = [(name, float(score), seconds) for name, score in zip(names, scores, strict=True)]
        journal.add(*rows)
        entries |= {name: (score, seconds) for name, score, seconds in rows}
        progress(len(positions))
    scores = {str(name): entries[name][0] for name in source.name}
    return Predictions(scores, sum(seconds for _, seconds in entries.values()))


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
    table = io.StringIO()  # a name with a comma is quoted, as in every CSV file
    rows = [(name, f"{score:.6f}") for name, score in sorted(predictions.scores.items())]
    csv.writer(table, lineterminator="\n").writerows(rows)
    output = table.getvalue().removesuffix("\n")
    readme = "\n".join(
        (
            f"runtime per image [s] : {predictions.seconds_per_image:.2f}",
            f"CPU[1] / GPU[0] : {int(cpu)}",
            f"Extra Data [1] / No Extra Data [0] : {int(extra_data)}",
            f"Other description : {description}",
            f"Full-Reference [1] / Non-Reference [0] : {int(full_reference)}",
        )
    )
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in (("output.txt", output), ("readme.txt", readme)):
            write_whole(directory / name, text)
            content = text.encode("utf-8", "surrogateescape")
            file.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)  # dated 1980: same bytes
    write_whole(directory / "submission.zip", archive.getvalue())
    (directory / _JOURNAL).unlink(missing_ok=True)
    return directory / "submission.zip"
