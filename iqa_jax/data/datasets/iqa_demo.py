"""The built-in data sets: photographs that ship with this and other packages, distorted as in KADID-10k."""

import importlib.resources
import importlib.util
import itertools
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from iqa_jax.data.datasets.base import Contents, DistortedImage, PairBuilder, Score
from iqa_jax.data.png import png_bytes

SIDE = 288
_SHORT_SIDE = 384  # photographs are brought to KADID-10k's scale before they are cut
VALIDATION = ("chelsea", "china", "coffee")
# Colour photographs: those of scikit-image, and two that ship with this package.
PHOTOGRAPHS = {
    "astronaut": "skimage/astronaut.png",
    "chelsea": "skimage/chelsea.png",
    "china": "iqa_jax/china.jpg",
    "coffee": "skimage/coffee.png",
    "flower": "iqa_jax/flower.jpg",
    "hubble": "skimage/hubble_deep_field.jpg",
    "ihc": "skimage/ihc.png",
    "motorcycle": "skimage/motorcycle_left.png",
    "retina": "skimage/retina.jpg",
    "rocket": "skimage/rocket.jpg",
}
# Further photographs, some grey, for the pairs without labels.
_MORE = {
    "brick": "skimage/brick.png",
    "camera": "skimage/camera.png",
    "grass": "skimage/grass.png",
    "gravel": "skimage/gravel.png",
    "hopper": "matplotlib/grace_hopper.jpg",
    "moon": "skimage/moon.png",
    "motorcycle_right": "skimage/motorcycle_right.png",
}
_FOLDERS = {"skimage": "data", "iqa_jax": "data/photographs", "matplotlib": "mpl-data/sample_data"}
_LARGE_SHORT_SIDE = 640  # for the parts: large photographs are brought to about the others' size
# KADID-10k's types of which the mean opinion of type and level is fair to any crop of any photograph:
# the data set states their parameter, its observers' opinions of a level differ little between its
# photographs (a standard deviation of at most 0.5), and they act all over the image, whatever its colours
# and brightness.  This leaves out those that change colours alone; JPEG 2000 and quantization, whose effect
# at one parameter differs widely between photographs; and multiplicative noise, which dark parts hardly show.
TYPES = (
    "gaussian_blur", "lens_blur", "motion_blur", "jpeg", "white_noise", "white_noise_ycbcr", "impulse_noise",
    "brighten", "darken", "jitter", "pixelate", "high_sharpen",
)  # fmt: skip
_SEED = 2022


class IqaDemo(PairBuilder):
    """Ten photographs, twelve of KADID-10k's distortion types at five levels.

    The label of a pair is the mean human opinion of its type and level in KADID-10k, over that data
    set's 81 photographs: no human saw *these* images.
    """

    VERSION = tfds.core.Version("1.2.0")
    RELEASE_NOTES = {"1.2.0": "Types whose mean opinion fits every photograph; twelve are left."}
    SCORE = Score(kind="MOS", low=1.0, high=5.0, higher_is_better=True)
    DESCRIPTION = "Installed photographs with KADID-10k's distortions, labelled with its mean opinions."

    def find(self, source) -> Contents:
        contents = Contents()
        for number, name in enumerate(PHOTOGRAPHS):
            split = "validation" if name in VALIDATION else "train"
            versions = itertools.product(TYPES, range(1, 6))
            _add(contents, split, name, photograph(name), versions, (_SEED, number), labelled=True)
        return contents


class IqaDemoUnlabelled(PairBuilder):
    """Pairs without labels, for the student: more parts of the training photographs, and more photographs.

    Each part has each distortion type once, at a random level.  The validation photographs of the built-in
    set are left out.
    """

    VERSION, RELEASE_NOTES = IqaDemo.VERSION, IqaDemo.RELEASE_NOTES
    SCORE = IqaDemo.SCORE
    DESCRIPTION = "Parts of installed photographs with KADID-10k's distortions, without labels."

    def find(self, source) -> Contents:
        contents = Contents()
        for number, (name, pixels) in enumerate(_parts()):
            seed = (_SEED, 1, number)
            levels = np.random.default_rng(seed).integers(1, 6, len(TYPES)).tolist()
            versions = zip(TYPES, levels, strict=True)
            _add(contents, "unlabelled", name, pixels, versions, seed, labelled=False)
        return contents


def _add(contents, split, name, pixels, versions: Iterable[tuple[str, int]], seed, *, labelled: bool) -> None:
    """Adds a reference, and its distorted versions by type and level."""
    from iqa_jax.data.distortions import distort
    from iqa_jax.data.opinions import mean_opinion

    contents.references[f"{name}.png"] = partial(_png, pixels)
    for kind, level in versions:
        image = DistortedImage(
            name=f"{name}_{kind}_{level}.png",
            reference=f"{name}.png",
            encoded=partial(_png_of, partial(distort, pixels, kind, level, seed=seed)),
            mos=mean_opinion(kind, level) if labelled else float("nan"),
            distortion=kind,
            level=level,
        )
        contents.splits.setdefault(split, []).append(image)


def _parts() -> list[tuple[str, np.ndarray]]:
    """Name and pixels of the four corners of each photograph that is not for validation."""
    parts = []
    for name in [n for n in (*PHOTOGRAPHS, *_MORE) if n not in VALIDATION]:
        image = _opened(name)
        scale = min(1.0, _LARGE_SHORT_SIDE / min(image.size))
        image = _scaled(image, scale)
        width, height = image.size
        for row, top in enumerate((0, height - SIDE)):
            for column, left in enumerate((0, width - SIDE)):
                parts.append((f"{name}{2 * row + column}", _cut(image, top, left)))
    return parts


def photograph(name: str) -> np.ndarray:
    """One of `PHOTOGRAPHS`: the middle of it, (288, 288, 3) uint8."""
    image = _opened(name)
    image = _scaled(image, _SHORT_SIDE / min(image.size))
    left, top = ((side - SIDE) // 2 for side in image.size)
    return _cut(image, top, left)


def _opened(name: str) -> Image.Image:
    package, _, file = (PHOTOGRAPHS | _MORE)[name].partition("/")
    path = importlib.resources.files(package) / _FOLDERS[package] / file
    with path.open("rb") as stream, Image.open(stream) as opened:
        return opened.convert("RGB")


def _scaled(image: Image.Image, scale: float) -> Image.Image:
    return image.resize([round(side * scale) for side in image.size], Image.Resampling.LANCZOS)


def _cut(image: Image.Image, top: int, left: int) -> np.ndarray:
    return np.asarray(image.crop((left, top, left + SIDE, top + SIDE)))


def _png_of(make: Callable[[], np.ndarray]) -> bytes:
    return _png(make())


def _png(pixels: np.ndarray) -> bytes:
    return png_bytes(pixels, compress_level=1)
