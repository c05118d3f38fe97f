"""The files that the NTIRE 2022 perceptual IQA challenge accepts."""

import io
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

from iqa_jax.data.source import PairSource
from iqa_jax.errors import UserError
from iqa_jax.files import Busy, check_replaceable, locked, write_whole
from iqa_jax.scoring.dataset import Predictions, Predictor
from iqa_jax.scoring.results import csv_text

_UNFINISHED = "predictions.partial"  # a folder
_LOCK = ".submission.lock"


def make_submission(
    directory: Path,
    source: PairSource,
    predictor: Predictor,
    *,
    cpu: bool,
    extra_data: bool,
    description: str,
    progress: Callable[[int], object] = lambda pairs: None,
) -> Predictions:
    """Scores all pairs and writes output.txt, readme.txt and submission.zip, in the form of the original's.

    An interrupted start is resumed: `directory` keeps the scores until the files are written.

    Args:
      cpu: whether the scores are computed on a CPU.
      extra_data: whether the model was trained on data beside the challenge's; ImageNet counts.
      description: for readme.txt.
      progress: called with the number of pairs just scored, or found scored by an earlier start.
    Raises:
      UserError: two pictures have one name, the directory holds part of another submission or another
        readme.txt, or another process writes a submission there.
      WeightsError: a score is not finite.
    """
    if len(set(source.name)) < len(source):
        raise UserError(f"{source.dataset}: two pictures have one name; a submission lists pictures by name")
    try:
        check_replaceable(directory / "readme.txt", b"runtime per image [s] : ", "readme")
        with locked(directory / _LOCK, wait=False):
            predictions = predictor.predict_resumably(source, directory / _UNFINISHED, progress)
            rows = sorted(zip(map(str, source.name), predictions.scores.tolist(), strict=True))
            readme = (
                f"runtime per image [s] : {predictions.seconds / len(source):.2f}",
                f"CPU[1] / GPU[0] : {int(cpu)}",
                f"Extra Data [1] / No Extra Data [0] : {int(extra_data)}",
                f"Other description : {description}",
                f"Full-Reference [1] / Non-Reference [0] : {int(predictor.full_reference)}",
            )
            output = csv_text([(name, f"{score:.6f}") for name, score in rows]).removesuffix("\n")
            _write(directory, {"output.txt": output, "readme.txt": "\n".join(readme)})
            shutil.rmtree(directory / _UNFINISHED)
            (directory / _LOCK).unlink(missing_ok=True)
    except Busy:
        raise UserError(f"{directory}: another process writes a submission there") from None
    return predictions


def _write(directory: Path, texts: dict[str, str]) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in texts.items():
            write_whole(directory / name, text)
            content = text.encode("utf-8", "surrogateescape")
            file.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)  # dated 1980: same bytes
    write_whole(directory / "submission.zip", archive.getvalue())
