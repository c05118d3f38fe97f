"""The files that the NTIRE 2022 perceptual IQA challenge accepts."""

import zipfile
from pathlib import Path

from iqa_jax.predictions import Predictions

PARTIAL = "predictions.partial"  # what is done before an interruption


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
    (directory / PARTIAL).unlink(missing_ok=True)
    return directory / "submission.zip"
