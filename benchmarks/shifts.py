"""Scores of pictures against themselves, shifted and zoomed by little: a table of docs/scores.md.

    pip install piq torchvision       # for HaarPSI and MS-SSIM
    python benchmarks/shifts.py       # the ten photographs of the built-in set
    python benchmarks/shifts.py photographs/

A picture is shifted to the right by cutting columns off, so that both have one size.  Shifts by parts of a
pixel and zoom interpolate both pictures by the same amount in opposite directions, so that neither is the
sharper one.  The table has the means over the pictures.  DISTS would need weights from the network.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import numpy as np
import typer
from anchors import Folder, pictures
from measures import MEASURES, Pair, installed, measured
from tables import Output, Small, need, put_out
from tqdm import tqdm

import iqa_jax
from iqa_jax.ops.programs import keep_programs

SHIFTS = (0, 0.5, 1, 2, 3, 4)
ZOOM = 1.005
BESIDE = ("haarpsi", "ms-ssim")


def shifted(image: np.ndarray, by: float) -> tuple[np.ndarray, np.ndarray]:
    """A picture as reference, and the same moved to the right by so many pixels."""
    from scipy import ndimage

    whole, part = divmod(by, 1)
    reference, distorted = image[:, int(whole) :], image[:, : image.shape[1] - int(whole)]
    if not part:
        return reference, distorted
    moves = ((reference, -part / 2), (distorted, part / 2))
    pair = [_rounded(ndimage.shift(x.astype(float), (0, move, 0))) for x, move in moves]
    return pair[0][:, 4:-4], pair[1][:, 4:-4]


def zoomed(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A picture as reference, and the same 0.5 % larger, about its middle."""
    from scipy import ndimage

    middle = (np.array(image.shape) - 1) / 2

    def scaled(by: float) -> np.ndarray:
        matrix = np.array([1 / by, 1 / by, 1])
        offset: Any = middle * (1 - matrix)  # the function's annotation lacks arrays
        return _rounded(ndimage.affine_transform(image.astype(float), matrix, offset))

    return scaled(ZOOM**-0.5)[4:-4, 4:-4], scaled(ZOOM**0.5)[4:-4, 4:-4]


def _rounded(image: np.ndarray) -> np.ndarray:
    return image.round().clip(0, 255).astype(np.uint8)


def main(
    folder: Folder = None,
    weights: Annotated[str, typer.Option(help="The full-reference metric.")] = "full-reference",
    small: Small = False,
    output: Output = None,
) -> None:
    """Score pictures against themselves, shifted by 0 to 4 pixels and zoomed by 0.5 %."""
    need("skimage")
    keep_programs()
    metric = iqa_jax.load(weights)
    beside, left_out = installed(BESIDE)
    print("\n".join(left_out), end="\n" * bool(left_out), file=sys.stderr)
    images = pictures(folder, small=small).values()
    versions: dict[str, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
        f"shifted by {by:g} pixel{'s' * (by != 1)}": partial(shifted, by=by) for by in SHIFTS
    }
    versions["0.5 % larger"] = zoomed
    titles = [weights, f"{weights}, aligned first", "PSNR", "SSIM", *(MEASURES[k].title for k in beside)]
    lines = [f"| | {' | '.join(titles)} |", f"|---|{'---:|' * len(titles)}"]
    for title, change in tqdm(versions.items(), unit="row"):
        rows = []
        for reference, distorted in map(change, images):
            aligned = iqa_jax.align(reference, distorted)
            scores = [metric(reference, distorted), metric(aligned.reference, aligned.distorted)]
            scores += [iqa_jax.psnr(reference, distorted), iqa_jax.ssim(reference, distorted)]
            with Pair(reference, distorted) as pair:
                values = measured(beside, pair)
            numbers = (value if isinstance(value, float) else np.nan for value in values.values())
            rows.append([*map(float, scores), *numbers])
        means = np.mean(rows, axis=0)
        cells = (f"{mean:.{1 if name == 'PSNR' else 3}f}" for name, mean in zip(titles, means, strict=True))
        lines.append(f"| {title} | {' | '.join(cells)} |".replace("inf", "∞").replace("nan", "–"))
    put_out("\n".join(lines) + "\n", output)


if __name__ == "__main__":
    typer.run(main)
