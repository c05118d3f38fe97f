"""The README's picture and the table of docs/scores.md: scores of photographs that no metric was trained on.

python examples/first_look.py                                  # prints the table
python examples/first_look.py --picture docs/first_look.jpg    # draws the picture too
"""

import io
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]  # it runs from a clone that is not installed

import iqa_jax
from iqa_jax.data.datasets.iqa_demo import VALIDATION, photograph

QUALITIES = (95, 75, 50, 30, 10)


def compressed(image: np.ndarray, quality: int) -> np.ndarray:
    """An image, (H, W, 3) uint8, after JPEG."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def versions(reference: np.ndarray) -> dict[str, np.ndarray]:
    """Distorted versions of an image, (H, W, 3) uint8, by what was done."""
    contrast = (reference - reference.mean()) * 1.2 + reference.mean()
    return {
        "none: the reference itself": reference,
        **{f"JPEG, quality {quality}": compressed(reference, quality) for quality in QUALITIES},
        "shifted by one pixel": np.roll(reference, 1, axis=1),
        "shifted by four pixels": np.roll(reference, 4, axis=1),
        "contrast raised by a fifth": contrast.clip(0, 255).astype(np.uint8),
        "replaced by uniform grey": np.full_like(reference, 128),
    }


def table() -> str:
    """Lowest and highest score of each version over the photographs that no shipped metric was trained on."""
    metric, blind = iqa_jax.load("full-reference"), iqa_jax.load("blind")
    measures = {
        "full-reference": metric,
        "with the arguments swapped": lambda reference, distorted: metric(distorted, reference),
        "blind": lambda reference, distorted: blind(distorted),
        "SSIM": iqa_jax.ssim,
    }
    scores: dict[str, list] = {}
    for reference in map(photograph, VALIDATION):
        for title, distorted in versions(reference).items():
            row = [float(measure(reference, distorted)) for measure in measures.values()]
            scores.setdefault(title, []).append(row)
    lines = [f"| distortion | {' | '.join(measures)} |", f"|---|{'---:|' * len(measures)}"]
    for title, rows in scores.items():
        ends = zip(np.min(rows, 0), np.max(rows, 0), strict=True)
        lines.append(f"| {title} | {' | '.join(f'{low:.2f} to {high:.2f}' for low, high in ends)} |")
    return "\n".join(lines)


def half_compressed() -> tuple[np.ndarray, np.ndarray]:
    """A photograph, (400, 600, 3) uint8, and the same with its right half after JPEG at quality 10."""
    from skimage import data

    reference = data.coffee()
    middle = reference.shape[1] // 2
    distorted = reference.copy()
    distorted[:, middle:] = compressed(reference[:, middle:], 10)
    return reference, distorted


def draw(path: Path) -> float:
    """Draws reference, distorted image and quality map side by side; returns the score."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    metric = iqa_jax.load("full-reference")
    reference, distorted = half_compressed()
    score, quality = float(metric(reference, distorted)), metric.map(reference, distorted)
    figure, axes = plt.subplots(1, 3, figsize=(12, 2.9), layout="constrained")
    axes[0].imshow(reference)
    axes[0].set_title("reference")
    axes[1].imshow(distorted)
    axes[1].set_title(f"distorted (JPEG on the right): score {score:.2f}")
    shown = axes[2].imshow(quality.values, cmap="viridis", vmin=metric.range[0], vmax=metric.range[1])
    axes[2].set_title("quality map")
    figure.colorbar(shown, ax=axes[2], label="1 bad, 5 excellent")
    for axis in axes:
        axis.set_axis_off()
    figure.savefig(path, dpi=110, pil_kwargs={"quality": 88})
    plt.close(figure)
    return score


def main(
    picture: Annotated[Path | None, typer.Option(help="Draw the README's picture to this JPEG.")] = None,
) -> None:
    """Print the scores of docs/scores.md; draw the README's picture."""
    print(table())
    if picture:
        print(f"{picture}: score {draw(picture):.2f}")


if __name__ == "__main__":
    typer.run(main)
