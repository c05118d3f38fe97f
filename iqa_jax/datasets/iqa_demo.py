"""The built-in data set: photographs that come with installed packages, distorted as in KADID-10k."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from iqa_jax.datasets.base import Contents, DistortedImage, PairBuilder, Score

SIDE = 288
_SHORT_SIDE = 384  # photographs are brought to KADID-10k's scale before they are cut
VALIDATION = ("chelsea", "china", "coffee")
# Colour photographs in scikit-image and scikit-learn.
PHOTOGRAPHS = {
    "astronaut": "skimage/astronaut.png",
    "chelsea": "skimage/chelsea.png",
    "china": "sklearn/china.jpg",
    "coffee": "skimage/coffee.png",
    "flower": "sklearn/flower.jpg",
    "hubble": "skimage/hubble_deep_field.jpg",
    "ihc": "skimage/ihc.png",
    "motorcycle": "skimage/motorcycle_left.png",
    "retina": "skimage/retina.jpg",
    "rocket": "skimage/rocket.jpg",
}
# The types whose parameter KADID-10k states and whose effect is the same all over the image and in
# every photograph, so that the mean opinion of type and level is fair to any crop; this leaves out
# those that change colours alone, which depend on the colours that there are.
TYPES = (
    "gaussian_blur",
    "lens_blur",
    "motion_blur",
    "jpeg2000",
    "jpeg",
    "white_noise",
    "white_noise_ycbcr",
    "impulse_noise",
    "multiplicative_noise",
    "brighten",
    "darken",
    "jitter",
    "pixelate",
    "quantization",
    "high_sharpen",
)
_SEED = 2022


class IqaDemo(PairBuilder):
    """Ten photographs, fifteen of KADID-10k's distortion types at five levels.

    The label of a pair is the mean human opinion of its type and level in KADID-10k, over that data
    set's 81 photographs: no human saw *these* images.
    """

    SCORE = Score(kind="MOS", low=1.0, high=5.0, higher_is_better=True)
    DESCRIPTION = "Installed photographs with KADID-10k's distortions, labelled with its mean opinions."

    def find(self, source: Path | None) -> Contents:
        from iqa_jax import distortions

        contents = Contents()
        for number, name in enumerate(PHOTOGRAPHS):
            pixels = photograph(name)
            contents.references[f"{name}.png"] = partial(_png, lambda pixels=pixels: pixels)
            split = "validation" if name in VALIDATION else "train"
            images = contents.splits.setdefault(split, [])
            for kind in TYPES:
                for level in range(1, 6):
                    make = partial(distortions.distort, pixels, kind, level, seed=(_SEED, number))
                    images.append(
                        DistortedImage(
                            name=f"{name}_{kind}_{level}.png",
                            reference=f"{name}.png",
                            read=partial(_png, make),
                            mos=distortions.mean_opinion(kind, level),
                            distortion=kind,
                            level=level,
                        )
                    )
        return contents


def photograph(name: str) -> np.ndarray:
    """One of `PHOTOGRAPHS`: the middle of it, (288, 288, 3) uint8."""
    package, file = PHOTOGRAPHS[name].split("/")
    if package == "skimage":
        import skimage

        path = Path(skimage.__file__).parent / "data" / file
    else:
        import sklearn

        path = Path(sklearn.__file__).parent / "datasets" / "images" / file
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    scale = _SHORT_SIDE / min(image.size)
    image = image.resize([round(side * scale) for side in image.size], Image.Resampling.LANCZOS)
    left, top = ((side - SIDE) // 2 for side in image.size)
    return np.asarray(image.crop((left, top, left + SIDE, top + SIDE)))


def _png(make: Callable[[], np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(make()).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
