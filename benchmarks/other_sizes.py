"""Agreement with three measures on pictures of LIVE's size, distorted alike: figures of docs/agreement.md.

    pip install piq torchvision
    python benchmarks/other_sizes.py photographs/

On LIVE's pictures, HaarPSI, MDSI and FSIMc agree with people at 0.96 to 0.97, so large disagreement with
all three is a warning: a metric may know only the size that it was trained on.  Each photograph of the folder
is scaled and cut to 768 x 512 pixels and distorted by Gaussian blur, JPEG, JPEG 2000 and white noise.  The
table has the SRCC with the mean of the three measures' ranks, over all pairs and within the types.
"""

import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from agreement import Judged, classical_scores, own_scores
from anchors import blurred, coded
from PIL import Image, ImageOps
from tables import Output, Small, need, put_out

from iqa_jax.data.selection import find_images
from iqa_jax.errors import UserError
from iqa_jax.evaluation.agreement import srcc
from iqa_jax.ops.programs import keep_programs
from iqa_jax.scoring.load import FULL_REFERENCE

SIZE = 768, 512
BLURS = (0.45, 0.8, 1.3, 2.1, 3.5, 7)  # standard deviations in pixels
QUALITIES = (90, 60, 35, 20, 10, 6)
RATIOS = (6, 15, 30, 60, 120)  # of JPEG 2000
VARIANCES = (0.0005, 0.003, 0.01, 0.04, 0.12)  # of white noise, where white is 1
JUDGES = ("haarpsi", "mdsi", "fsimc")


def jpeg2000(ratio: float, image: np.ndarray) -> np.ndarray:
    """An image, (H, W, 3) uint8, after JPEG 2000 to 1/ratio of its bytes."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG2000", quality_mode="rates", quality_layers=[ratio])
    return np.asarray(Image.open(file).convert("RGB"))


def versions(image: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """The distorted versions of an image, with the names of their types."""
    for sigma in BLURS:
        yield "blur", blurred(sigma, image)
    for quality in QUALITIES:
        yield "JPEG", coded("JPEG", quality, image)
    for ratio in RATIOS:
        yield "JPEG 2000", jpeg2000(ratio, image)
    for variance in VARIANCES:
        noise = 255 * np.sqrt(variance) * rng.standard_normal(image.shape)
        yield "white noise", (image + noise).round().clip(0, 255).astype(np.uint8)


def write_pairs(paths: list[Path], folder: Path, *, every: int) -> Judged:
    """Writes pairs as PNG files; there are no opinions."""
    references, distorted, types = [], [], []
    for number, path in enumerate(paths):
        with Image.open(path) as opened:
            cut = ImageOps.fit(ImageOps.exif_transpose(opened).convert("RGB"), SIZE, Image.Resampling.LANCZOS)
        cut.save(folder / f"{number}.png", compress_level=1)
        for version, (kind, image) in enumerate(versions(np.asarray(cut), np.random.default_rng(number))):
            if version % every == 0:
                references.append(folder / f"{number}.png")
                distorted.append(folder / f"{number}-{version}.png")
                types.append(kind)
                Image.fromarray(image).save(distorted[-1], compress_level=1)
    return Judged(references, distorted, np.array(references), np.zeros(len(types)), np.array(types))


def main(
    folder: Annotated[Path, typer.Argument(help="A folder of photographs in landscape format.")],
    weights: Annotated[str, typer.Option(help="The metric.")] = FULL_REFERENCE,
    processes: Annotated[int, typer.Option(min=1, help="For the other measures.")] = 2,
    small: Small = False,
    output: Output = None,
) -> None:
    """Compare a metric with HaarPSI, MDSI and FSIMc on pictures of LIVE's size."""
    rankdata = need("scipy.stats", "scipy").rankdata
    keep_programs()
    judges = ["psnr"] if small else [*JUDGES]
    try:
        paths = [image.path for image in find_images([str(folder)])]
        with tempfile.TemporaryDirectory() as scratch:
            pairs = write_pairs(paths[: 1 if small else None], Path(scratch), every=7 if small else 1)
            theirs = classical_scores(pairs, list(dict.fromkeys([*judges, "psnr"])), processes)
            scores = {weights: own_scores(pairs, weights), "PSNR": theirs["PSNR"]}
    except UserError as error:
        sys.exit(f"error: {error}")
    ranks = [rankdata(values) for title, values in theirs.items() if small or title != "PSNR"]
    if len(ranks) < len(judges):
        sys.exit("error: HaarPSI, MDSI and FSIMc are needed: pip install piq torchvision")
    kinds = {"all": slice(None)} | {kind: pairs.types == kind for kind in dict.fromkeys(pairs.types)}
    lines = [f"| {len(pairs.types)} pairs | {' | '.join(kinds)} |", f"|---|{'---:|' * len(kinds)}"]
    for title, values in scores.items():
        if values is None:
            sys.exit(f"error: {title} compares with no reference; give a full-reference metric")
        cells = [f"{srcc(values[at], np.mean(ranks, axis=0)[at]):.3f}" for at in kinds.values()]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    put_out("\n".join(lines) + "\n", output)


if __name__ == "__main__":
    typer.run(main)
