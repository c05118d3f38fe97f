"""The 25 distortion types of KADID-10k at their five levels; `iqa_jax.data.opinions` has their scores.

Source: Lin, Hosu and Saupe, "KADID-10k: A Large-scale Artificially Distorted IQA Database", QoMEX 2019.
Where its descriptions leave something open, a function's docstring says "our choice".

Every distortion takes a uint8 RGB image (H, W, 3), H and W of at least 32, and gives a new one of the same
shape; the input is left as it was. Those that draw random numbers take an explicit generator. Values are in
[0, 1] wherever a variance or an offset is given, and results are clipped to that range. Lengths in px and
counts are per image, whatever its size (the data set's are 512 x 384).

    distort(image, "jpeg", 4)          # the data set's fourth level
    jpeg(image, quality=7)             # the same, by its parameter
"""

import io
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

from iqa_jax.data.registry import LEVELS, TABLE, distortion
from iqa_jax.errors import UserError


def _unit(image):
    return image.astype(np.float32) / 255


# Blurs


@distortion(0.1, 0.5, 1, 2, 5)
def gaussian_blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of standard deviation `sigma` px."""
    return _blurred(_unit(image), sigma)


@distortion(1, 2, 4, 6, 8)
def lens_blur(image: np.ndarray, radius: float) -> np.ndarray:
    """Mean over a disk of `radius` px, its rim anti-aliased."""
    reach = np.arange(-np.ceil(radius), np.ceil(radius) + 1)
    return _convolved(_unit(image), np.clip(radius + 0.5 - np.hypot(reach[:, None], reach), 0, 1))


@distortion(1, 2, 4, 6, 10)
def motion_blur(image: np.ndarray, length: float, rng: np.random.Generator) -> np.ndarray:
    """Mean over a line of `length` px in a random direction (our choice); 1 px leaves the image as it is."""
    angle = rng.uniform(0, np.pi)
    along = np.linspace(-(length - 1) / 2, (length - 1) / 2, 64)  # points on the line
    reach = np.arange(-np.ceil(length / 2), np.ceil(length / 2) + 1)
    weight_y = np.clip(1 - np.abs(reach - along[:, None] * np.sin(angle)), 0, 1)  # (points, rows)
    weight_x = np.clip(1 - np.abs(reach - along[:, None] * np.cos(angle)), 0, 1)  # (points, columns)
    return _convolved(_unit(image), weight_y.T @ weight_x)


def _blurred(x, sigma):
    return ndimage.gaussian_filter(x, sigma, axes=(0, 1), mode="nearest")


def _convolved(x, kernel):
    """`x` convolved with a square kernel of odd side, scaled to sum 1; edge pixels repeated."""
    from scipy import signal

    reach = len(kernel) // 2
    padded = np.pad(x, ((reach, reach), (reach, reach), (0, 0)), mode="edge")
    kernel = (kernel / kernel.sum()).astype(np.float32)
    return signal.fftconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1))


# Colour


@distortion(1, 3, 6, 8, 12)
def color_diffusion(image: np.ndarray, amount: float) -> np.ndarray:
    """Gaussian blur of a* and b* in CIELAB, sigma 1.5 `amount` + 2 px, then multiplied by `amount`."""
    return _in_lab(
        image, lambda lab: np.dstack([lab[..., 0], amount * _blurred(lab[..., 1:], 1.5 * amount + 2)])
    )


@distortion(1, 3, 6, 8, 12)
def color_shift(image: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Green moved by `amount` px in a random direction, blended in where the image has edges.

    The weight is the gradient magnitude of the mean of R, G and B, blurred with sigma 4 px and scaled so
    that its 99th percentile is 1.
    """
    x = _unit(image)
    angle = rng.uniform(0, 2 * np.pi)
    moved = ndimage.shift(
        x[..., 1], amount * np.array([np.sin(angle), np.cos(angle)]), order=1, mode="nearest"
    )
    edges = _blurred(np.hypot(*np.gradient(x.mean(axis=2)))[..., None], 4)[..., 0]
    low, high = edges.min(), np.percentile(edges, 99)
    x[..., 1] += np.clip((edges - low) / max(high - low, 1e-6), 0, 1) * (moved - x[..., 1])
    return x


@distortion(64, 48, 32, 16, 8)
def color_quantization(image: np.ndarray, colors: int) -> np.ndarray:
    """A palette of `colors` colours by median cut, with Floyd-Steinberg dithering.

    The paper has minimum variance quantisation to 8 to 64 colours; median cut and the steps in between
    are our choice.
    """
    rgb = Image.fromarray(image)
    return np.array(rgb.quantize(palette=rgb.quantize(colors)).convert("RGB"))


@distortion(0.4, 0.2, 0.1, 0, -0.4)
def saturation_hsv(image: np.ndarray, factor: float) -> np.ndarray:
    """The saturation of HSV multiplied by `factor`: 0 leaves grey, below 0 turns to the opposite hue."""
    x = _unit(image)
    value = x.max(axis=2, keepdims=True)  # at fixed hue and value, RGB is linear in the saturation
    return value + factor * (x - value)


@distortion(1, 2, 3, 6, 9)
def saturation_lab(image: np.ndarray, factor: float) -> np.ndarray:
    """a* and b* of CIELAB multiplied by `factor`; 1 leaves the image as it is."""
    return _in_lab(image, lambda lab: lab * np.array([1, factor, factor], np.float32))


def _in_lab(image, function):
    """`function` of the image in CIELAB, back in RGB."""
    from skimage import color

    lab = function(color.rgb2lab(_unit(image)))
    lab[..., 2] = np.minimum(lab[..., 2], 199.9 * (lab[..., 0] + 16) / 116)  # above, Z turns negative
    return color.lab2rgb(lab)


# Compression


@distortion(16, 32, 45, 120, 170)
def jpeg2000(image: np.ndarray, ratio: float) -> np.ndarray:
    """JPEG 2000 at compression `ratio` (raw size to compressed size), irreversible transform."""
    return _recoded(image, format="JPEG2000", quality_mode="rates", quality_layers=[ratio], irreversible=True)


@distortion(43, 36, 24, 7, 4)
def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """JPEG of `quality` (libjpeg's scale, 1 to 100), chroma at half resolution."""
    return _recoded(image, format="JPEG", quality=quality, subsampling="4:2:0")


def _recoded(image, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, **options)
    return np.array(Image.open(buffer))


# Noise


@distortion(0.001, 0.002, 0.003, 0.005, 0.01)
def white_noise(image: np.ndarray, variance: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of `variance` added to R, G and B."""
    return _noisy(_unit(image), variance, rng)


@distortion(0.0001, 0.0005, 0.001, 0.002, 0.003)
def white_noise_ycbcr(image: np.ndarray, variance: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of `variance` added to Y, Cb and Cr (ITU-R BT.601, 16 to 235 and 240 of 255)."""
    from skimage import color

    return color.ycbcr2rgb(255 * _noisy(color.rgb2ycbcr(_unit(image)) / 255, variance, rng))


@distortion(0.001, 0.005, 0.01, 0.02, 0.03)
def impulse_noise(image: np.ndarray, density: float, rng: np.random.Generator) -> np.ndarray:
    """Salt and pepper: a share `density` of all R, G and B values set to 0 or 1, each as likely."""
    draw = rng.random(image.shape)
    return np.where(draw < density / 2, 0, np.where(draw < density, 255, image)).astype(np.uint8)


@distortion(0.001, 0.005, 0.01, 0.02, 0.05)
def multiplicative_noise(image: np.ndarray, variance: float, rng: np.random.Generator) -> np.ndarray:
    """Speckle: x + x n, with n Gaussian noise of `variance`."""
    x = _unit(image)
    return x * _noisy(np.ones_like(x), variance, rng)


@distortion(0.05, 0.1, 0.15, 0.2, 0.3)
def denoising(image: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of standard deviation `deviation`, then denoising by non-local means.

    The paper denoises with DnCNN, a network; non-local means and the deviations are our choice.
    """
    from skimage import restoration

    noisy = _noisy(_unit(image), deviation**2, rng)
    return restoration.denoise_nl_means(
        noisy, patch_size=3, patch_distance=3, h=1.5 * deviation, fast_mode=True, channel_axis=2
    )


def _noisy(x, variance, rng):
    return x + np.sqrt(variance) * rng.standard_normal(x.shape, np.float32)


# Brightness


@distortion(0.1, 0.2, 0.4, 0.7, 1.1)
def brighten(image: np.ndarray, amount: float) -> np.ndarray:
    """L* of CIELAB, scaled to [0, 1], to the power (1 + `amount`)^-2 (our choice): black and white stay."""
    return _lightness_power(image, (1 + amount) ** -2)


@distortion(0.05, 0.1, 0.2, 0.4, 0.8)
def darken(image: np.ndarray, amount: float) -> np.ndarray:
    """L* of CIELAB, scaled to [0, 1], to the power (1 + `amount`)^2 (our choice): black and white stay."""
    return _lightness_power(image, (1 + amount) ** 2)


def _lightness_power(image, exponent):
    def curve(lab):
        lab[..., 0] = 100 * np.clip(lab[..., 0] / 100, 0, 1) ** exponent
        return lab

    return _in_lab(image, curve)


@distortion(0.15, 0.08, 0, -0.08, -0.15)
def mean_shift(image: np.ndarray, offset: float) -> np.ndarray:
    """`offset` added to all values."""
    return _unit(image) + np.float32(offset)


# Spatial


@distortion(0.05, 0.1, 0.2, 0.5, 1)
def jitter(image: np.ndarray, amount: float, rng: np.random.Generator) -> np.ndarray:
    """Each pixel taken from a place off by Gaussian noise, 2 `amount` px in x and in y (our choice)."""
    height, width = image.shape[:2]
    places = np.mgrid[:height, :width] + 2 * amount * rng.standard_normal((2, height, width), np.float32)
    x = _unit(image)
    return np.dstack([ndimage.map_coordinates(x[..., c], places, order=1, mode="nearest") for c in range(3)])


@distortion(20, 40, 60, 80, 100)
def non_eccentricity_patch(image: np.ndarray, patches: int, rng: np.random.Generator) -> np.ndarray:
    """`patches` patches of 16 x 16 px (our choice) copied to places 16 px off, in random directions."""
    result = image.copy()
    room = np.array(image.shape[:2]) - 16
    for _ in range(patches):
        source = rng.integers(0, room, endpoint=True)
        angle = rng.uniform(0, 2 * np.pi)
        offset = np.rint(16 * np.array([np.sin(angle), np.cos(angle)])).astype(int)
        target = np.clip(source + offset, 0, room)
        result[_square(target, 16)] = image[_square(source, 16)]
    return result


@distortion(0.01, 0.05, 0.1, 0.2, 0.5)
def pixelate(image: np.ndarray, strength: float) -> np.ndarray:
    """Nearest-neighbour resize to 0.95 - `strength`^0.6 of the size (our choice) and back."""
    height, width = image.shape[:2]
    scale = 0.95 - strength**0.6
    small = Image.fromarray(image).resize(
        (round(width * scale), round(height * scale)), Image.Resampling.NEAREST
    )
    return np.array(small.resize((width, height), Image.Resampling.NEAREST))


@distortion(20, 16, 13, 10, 7)
def quantization(image: np.ndarray, levels: int) -> np.ndarray:
    """All values, whatever the channel, quantised to `levels` levels, fitted to the image.

    The paper's thresholds are Otsu's; median cut, which is faster, is our choice.
    """
    values = Image.fromarray(image.reshape(len(image), -1))
    return np.array(values.quantize(levels).convert("L")).reshape(image.shape)


@distortion(2, 4, 6, 8, 10)
def color_block(image: np.ndarray, blocks: int, rng: np.random.Generator) -> np.ndarray:
    """`blocks` blocks of 32 x 32 px (our choice), each of one random colour, at random places."""
    result = image.copy()
    for _ in range(blocks):
        corner = rng.integers(0, np.array(image.shape[:2]) - 32, endpoint=True)
        result[_square(corner, 32)] = rng.integers(0, 256, 3)
    return result


def _square(corner, side):
    return tuple(slice(start, start + side) for start in corner)


# Sharpness and contrast


@distortion(1, 2, 3, 6, 12)
def high_sharpen(image: np.ndarray, amount: float) -> np.ndarray:
    """Unsharp masking: `amount` times the difference to a blur of sigma 3 px (our choice) added."""
    x = _unit(image)
    return x + amount * (x - _blurred(x, 3))


@distortion(1.83, 1.55, 1.3, 0.73, 0.48, name="contrast dist.")
def contrast(image: np.ndarray, gain: float) -> np.ndarray:
    """Sigmoid curve on all values: their log-odds multiplied by `gain`; 0, 1/2 and 1 stay.

    A gain above 1 raises the contrast, one below 1 lowers it. The curve is our choice.
    """
    from scipy import special

    return special.expit(gain * special.logit(_unit(image)))


TYPES: tuple[str, ...] = tuple(TABLE)
# The data set's own, in the order of its numbers.
KADID_TYPES = (
    "gaussian_blur", "lens_blur", "motion_blur",
    "color_diffusion", "color_shift", "color_quantization", "saturation_hsv", "saturation_lab",
    "jpeg2000", "jpeg",
    "white_noise", "white_noise_ycbcr", "impulse_noise", "multiplicative_noise", "denoising",
    "brighten", "darken", "mean_shift",
    "jitter", "non_eccentricity_patch", "pixelate", "quantization", "color_block",
    "high_sharpen", "contrast dist.",
)  # fmt: skip


def distort(image: np.ndarray, type: str, level: int, *, seed: int | Sequence[int] = 0) -> np.ndarray:
    """One of the data set's distortions; a function of its arguments and nothing else.

    Args:
      image: (H, W, 3) uint8 RGB, H and W of at least 32; not modified.
      type: one of `TYPES`.
      level: 1 (mildest, as a rule) to 5; `mean_shift` and "contrast dist." are mildest at 3.
      seed: of the random distortions, one or more integers of at least 0; each type and level draws
        its own numbers from it.
    Returns:
      The distorted image, (H, W, 3) uint8.
    Raises:
      UserError: an unknown type or level, or an image of another form.
    """
    check_level(type, level)
    function, parameters, random = TABLE[type]
    if not random:
        return function(image, parameters[level - 1])
    number = KADID_TYPES.index(type) + 1 if type in KADID_TYPES else zlib.crc32(type.encode())
    rng = np.random.default_rng([*np.atleast_1d(seed), number, level])
    return function(image, parameters[level - 1], rng)


def parameter(type: str, level: int) -> float:
    """The number that `distort` gives the type's function at that level.

    Raises:
      UserError: an unknown type or level.
    """
    check_level(type, level)
    return float(TABLE[type].parameters[level - 1])


def check_level(type: str, level: int) -> None:
    """Raises UserError for a type or a level that does not exist."""
    if type not in TYPES:
        raise UserError(f"distortion type {type!r}: expected one of {', '.join(TYPES)}")
    if not isinstance(level, int | np.integer) or level not in LEVELS:
        raise UserError(f"distortion level {level!r}: expected one of 1, 2, 3, 4, 5")
