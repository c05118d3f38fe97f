"""What codecs, blurs and noises mean in points of the shipped metrics: the table of docs/scores.md.

    python benchmarks/anchors.py                 # the ten photographs of the built-in set
    python benchmarks/anchors.py photographs/    # all pictures in a folder

Codecs are Pillow's, with their settings but for the quality.  Blur and noise are Gaussian, on the 8-bit
values of each channel; grain is noise that is the same in all three.  Pictures are scaled by Lanczos, for
metrics without reference.  The table has the mean over the pictures, and the lowest and the highest score; of
a metric without reference also how much the scores change.
"""

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image, features
from tables import Output, Small, need, put_out
from tqdm import tqdm

import iqa_jax
from iqa_jax.data.selection import find_images
from iqa_jax.errors import UserError
from iqa_jax.ops.programs import keep_programs

QUALITIES = (95, 90, 80, 70, 50, 30, 10)
BLURS = (0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5)
NOISES = (1, 2, 3, 5, 10, 20, 30)
GRAINS = (3, 6, 12)
SCALES = (0.5, 2, 4)

Folder = Annotated[
    Path | None,
    typer.Argument(help="A folder of pictures; the photographs of the built-in set if not given."),
]


def pictures(folder: Path | None, *, small: bool) -> dict[str, np.ndarray]:
    """The pictures of a folder, or of the built-in set, by name; one of them if `small`."""
    if folder is None:
        need("tensorflow_datasets")
        from iqa_jax.data.datasets.iqa_demo import PHOTOGRAPHS, photograph

        return {name: photograph(name) for name in list(PHOTOGRAPHS)[: 1 if small else None]}
    try:
        paths = [image.path for image in find_images([str(folder)])]
        return {path.name: iqa_jax.read_image(path) for path in paths[: 1 if small else None]}
    except UserError as error:
        sys.exit(f"error: {error}")


def coded(kind: str, quality: int, image: np.ndarray) -> np.ndarray:
    """An image, (H, W, 3) uint8, after a codec of Pillow's."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def blurred(sigma: float, image: np.ndarray) -> np.ndarray:
    """An image after a Gaussian blur of so many pixels."""
    from scipy import ndimage

    return ndimage.gaussian_filter(image.astype(float), (sigma, sigma, 0)).round().astype(np.uint8)


def noisy(sigma: float, image: np.ndarray, *, channels: int = 3) -> np.ndarray:
    """An image with Gaussian noise of so many levels of 255; with one channel it is grain."""
    noise = sigma * np.random.default_rng(0).standard_normal((*image.shape[:2], channels))
    return (image + noise).round().clip(0, 255).astype(np.uint8)


def grey(image: np.ndarray) -> np.ndarray:
    """A black-and-white copy, (H, W, 3)."""
    return np.asarray(Image.fromarray(image).convert("L").convert("RGB"))


def scaled(by: float, image: np.ndarray) -> np.ndarray:
    """An image at another size."""
    picture = Image.fromarray(image)
    size = round(picture.width * by), round(picture.height * by)
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))


def versions() -> Iterator[tuple[str, Callable[[np.ndarray], np.ndarray]]]:
    """What is done to a picture, by its name in the table."""
    yield "identical", lambda image: image
    for title, kind in {"JPEG": "JPEG", "WebP": "WEBP", "AVIF": "AVIF"}.items():
        if kind != "JPEG" and not features.check(kind.lower()):
            print(f"left out: {title}; this Pillow lacks it: pip install -U pillow", file=sys.stderr)
            continue
        for quality in QUALITIES:
            yield f"{title}, quality {quality}", lambda x, kind=kind, quality=quality: coded(kind, quality, x)
    for sigma in BLURS:
        yield f"blur, σ = {sigma:g} pixels", lambda image, sigma=sigma: blurred(sigma, image)
    for sigma in NOISES:
        yield f"noise, σ = {sigma:g} of 255", lambda image, sigma=sigma: noisy(sigma, image)
    for sigma in GRAINS:
        yield f"grain, σ = {sigma:g} of 255", lambda image, sigma=sigma: noisy(sigma, image, channels=1)
    yield "a grey copy", grey
    for factor in SCALES:
        yield f"scaled by {factor:g}", lambda image, factor=factor: scaled(factor, image)


def over(values: np.ndarray, form: str = ".2f") -> str:
    """The mean of values, the lowest and the highest."""
    return f"{values.mean():{form}} ({values.min():{form}} to {values.max():{form}})"


def main(
    folder: Folder = None,
    weights: Annotated[
        list[str] | None, typer.Option(help="Other weights than the shipped ones; repeatable.")
    ] = None,
    small: Small = False,
    output: Output = None,
) -> None:
    """Score pictures after codecs, blurs and noises of known strength."""
    keep_programs()
    metrics = {name: iqa_jax.load(name) for name in weights or ("full-reference", "blind")}
    images = pictures(folder, small=small)
    done = list(versions())
    blind = [name for name, metric in metrics.items() if not metric.full_reference]
    columns = [*metrics, *(f"{name}, change" for name in blind)]
    lines = [
        f"| {len(images)} picture{'s' * (len(images) > 1)} | {' | '.join(columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    unchanged = {name: np.array([float(metrics[name](image)) for image in images.values()]) for name in blind}
    for title, change in tqdm(done[:: 8 if small else 1], unit="distortion"):
        changed = [(image, change(image)) for image in images.values()]
        comparable = all(before.shape == after.shape for before, after in changed)
        scores = {
            name: np.array(
                [float(metric(*(pair if metric.full_reference else pair[1:]))) for pair in changed]
            )
            for name, metric in metrics.items()
            if comparable or not metric.full_reference
        }
        cells = [over(scores[name]) if name in scores else "–" for name in metrics]
        cells += [over(scores[name] - unchanged[name], "+.2f") for name in blind]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    put_out("\n".join(lines) + "\n", output)


if __name__ == "__main__":
    typer.run(main)
