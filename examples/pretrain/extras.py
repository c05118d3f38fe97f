"""Pictures that only the blind metric learns from: grey ones, grain, mild noise, clean ones of all sizes.

A black-and-white photograph is as good as its colour original, grain is a little worse than none, and a clean
photograph is clean at any size.  Each is judged against a clean picture that we have, as the pairs are.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from arrays import as_image
from photographs import HEIGHT, WIDTH, Photograph
from PIL import Image
from scipy import ndimage

SIZES = 4  # clean parts of each photograph
PER_SIZE = 6  # extras of each
# Of the extras of a size, those whose difference the metric learns; faint grain and tone stand twice.
TWINS = ((0, 1), (0, 1), (3, 4), (3, 4), (0, 3), (0, 3), (0, 2), (3, 5))
_TINTS = ((1, 1, 1), (1.06, 1, 0.86), (0.94, 1, 1.06))  # grey, sepia, blue tone


class Extra(NamedTuple):
    """A picture and the clean one that it is judged against."""

    clean: np.ndarray
    picture: np.ndarray


def toned(image: np.ndarray, tint: tuple[float, ...] = (1, 1, 1)) -> np.ndarray:
    """A black-and-white version, (H, W, 3) uint8; or one of a single tone."""
    luma = image @ np.array([0.299, 0.587, 0.114])
    return as_image(luma[..., None] * np.array(tint))


def grained(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Grain of standard deviation `sigma`: of all colours alike or each its own, fine or coarse."""
    noise = rng.standard_normal((*image.shape[:2], 3 if rng.random() < 0.4 else 1))
    if rng.random() < 0.5:
        noise = ndimage.gaussian_filter(noise, (s := rng.uniform(0.5, 1.2), s, 0))
    return as_image(image + sigma * noise / noise.std())


def clean_part(photograph: Photograph, which: int) -> np.ndarray:
    """(384, 512, 3) or (512, 384, 3) uint8 of a photograph, reduced a little or as far as it goes."""
    image = Image.open(photograph.path).convert("RGB")
    rng = np.random.default_rng((photograph.number, which, 3))
    width, height = (WIDTH, HEIGHT) if image.width >= image.height else (HEIGHT, WIDTH)
    smallest = max(width / image.width, height / image.height)
    largest = max(smallest, min(1.0, 1600 / min(image.size)))
    scale = smallest * (largest / smallest) ** ((which + rng.random()) / SIZES)
    size = [max(round(side * scale), least) for side, least in zip(image.size, (width, height), strict=True)]
    image = image.resize(size, Image.Resampling.LANCZOS)
    left, top = (int(rng.integers(0, s - n + 1)) for s, n in zip(size, (width, height), strict=True))
    return np.asarray(image.crop((left, top, left + width, top + height)))


def extras(photograph: Photograph) -> Iterator[Extra]:
    """Of one photograph, the same every time: of each size clean, faint and strong grain, then in grey."""
    rng = np.random.default_rng((photograph.number, 4))
    for which in range(SIZES):
        colour = clean_part(photograph, which)
        grey = toned(colour, _TINTS[int(rng.choice(3, p=(0.6, 0.25, 0.15)))])
        for clean in (colour, grey):
            yield Extra(clean, clean)
            yield Extra(clean, grained(clean, float(np.exp(rng.uniform(np.log(1), np.log(5)))), rng))
            yield Extra(clean, grained(clean, float(np.exp(rng.uniform(np.log(4), np.log(20)))), rng))
