"""What is done to the photographs: KADID-10k's 25 types at any strength, and types that it lacks.

A strength u is a real number: 0 leaves the image (nearly) as it is, 1 to 5 are KADID-10k's levels, and what
lies between them lies between them in the parameter too.  The types that KADID-10k lacks have the same scale
by eye only; their labels come from measures, see `labels.py`.
"""

import io
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import generative
import numpy as np
from arrays import as_image, between
from PIL import Image
from scipy import fft as scipy_fft
from scipy import ndimage

from iqa_jax.data import distortions as kadid

fft: Any = scipy_fft  # its annotations are of what dispatches, not of the arrays that come back


class Kind(NamedTuple):
    """A type of distortion.

    Attributes:
      make: (image (H, W, 3) uint8, strength, generator) -> distorted image.
      range: smallest and largest strength.
      known: whether KADID-10k has opinions of it.
      local: whether it touches parts of the image only.
    """

    make: Callable
    range: tuple[float, float]
    known: bool = False
    local: bool = False


def by_levels(function, values, *, log=False, random=False, whole=False):
    """A `make` from one of KADID-10k's functions and its parameter at u = 0 to 5 (or 6)."""

    def make(image, u, rng):
        value = between(u, values, log)
        if whole:
            value = int(round(value))
        return function(image, value, rng) if random else function(image, value)

    return make


# Coding


def coded(image, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return np.asarray(Image.open(buffer).convert("RGB"))


def webp(image, u, rng):
    return coded(image, "WEBP", quality=int(round(between(u, (95, 70, 45, 20, 6, 0)))), method=2)


def jpeg_full_chroma(image, u, rng):
    return coded(image, "JPEG", quality=int(round(between(u, (95, 50, 32, 18, 7, 4)))), subsampling=0)


def noisy_then_coded(image, u, rng):
    """Noise, then JPEG or JPEG 2000 of about the same strength."""
    noisy = kadid.white_noise(image, between(u, (1e-5, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3), log=True), rng)
    if rng.random() < 0.5:
        return kadid.jpeg(noisy, int(round(between(u, (92, 60, 40, 24, 12, 7)))))
    return kadid.jpeg2000(noisy, between(u, (4, 10, 18, 30, 60, 110), log=True))


def blurred_then_coded(image, u, rng):
    blurred = kadid.gaussian_blur(image, between(u, (0.1, 0.5, 0.8, 1.2, 1.8, 3)))
    return kadid.jpeg(blurred, int(round(between(u, (92, 60, 40, 24, 12, 7)))))


def blurred_then_noisy(image, u, rng):
    blurred = kadid.gaussian_blur(image, between(u, (0.1, 0.5, 0.8, 1.2, 1.8, 3)))
    return kadid.white_noise(blurred, between(u, (1e-5, 3e-4, 6e-4, 1e-3, 2e-3, 5e-3), log=True), rng)


def jpeg_errors(image, u, rng):
    """JPEG whose data were hit by errors; restart markers end each error's run."""
    buffer = io.BytesIO()
    markers = int(rng.choice((4, 8, 16, 32)))
    Image.fromarray(image).save(buffer, "JPEG", quality=75, subsampling=2, restart_marker_blocks=markers)
    data = np.frombuffer(buffer.getvalue(), np.uint8).copy()
    start = bytes(data).index(b"\xff\xda") + 14
    hits = max(1, rng.poisson(between(u, (0.3, 2, 5, 10, 20, 40), log=True)))
    for place in rng.integers(start, len(data) - 4, hits):
        if data[place] != 0xFF and data[place - 1] != 0xFF:
            data[place] = rng.integers(0, 255)
    return opened(data, image)


def jpeg2000_errors(image, u, rng):
    """Blocks of 16 x 16 wavelet coefficients lost or changed, as errors in JPEG 2000's data do."""
    depth = 5
    height, width = (side // 2**depth * 2**depth for side in image.shape[:2])
    x = kadid.jpeg2000(image, 12)[:height, :width].astype(float)
    wavelet(x, depth)
    for _ in range(max(1, rng.poisson(between(u, (0.7, 2, 4, 8, 14, 24), log=True)))):
        level = int(rng.choice((1, 2, 3, 4, 5), p=(0.2, 0.25, 0.25, 0.2, 0.1)))
        rows, columns = height >> level, width >> level
        down, across = ((0, 1), (1, 0), (1, 1), (0, 0))[int(rng.integers(4 if level == depth else 3))]
        size = int(rng.choice((8, 16, 32)))
        top = down * rows + int(rng.integers(0, max(rows - size, 0) + 1))
        left = across * columns + int(rng.integers(0, max(columns - size, 0) + 1))
        part = x[top : min(top + size, (down + 1) * rows), left : min(left + size, (across + 1) * columns)]
        scale = rng.uniform(10, 60) * between(u, (0.3, 0.5, 0.7, 1, 1.2, 1.5))
        noise = (
            scale
            * rng.standard_normal(part.shape[:2])[..., None]
            * (rng.random(part.shape[:2]) < 0.2)[..., None]
        )
        part[:] = (
            rng.uniform(0.75, 1.2) * part if (down, across) == (0, 0) else noise if rng.random() < 0.6 else 0
        )
    wavelet(x, depth, inverse=True)
    result = image.copy()
    result[:height, :width] = as_image(x)
    return result


def wavelet(x, depth, inverse=False):
    """The LeGall 5/3 wavelet of the first two axes, in place; sides are multiples of 2 ** depth."""
    for level in reversed(range(depth)) if inverse else range(depth):
        part = x[: x.shape[0] >> level, : x.shape[1] >> level]
        for axis in (1, 0) if inverse else (0, 1):
            y = part.swapaxes(0, axis)
            half = len(y) // 2
            if inverse:
                low, high = y[:half].copy(), y[half:].copy()
                low -= 0.25 * (high + np.concatenate([high[:1], high[:-1]]))
                high += 0.5 * (low + np.concatenate([low[1:], low[-1:]]))
                y[::2], y[1::2] = low, high
            else:
                low, high = y[::2].copy(), y[1::2].copy()
                high -= 0.5 * (low + np.concatenate([low[1:], low[-1:]]))
                low += 0.25 * (high + np.concatenate([high[:1], high[:-1]]))
                y[:half], y[half:] = low, high


def opened(data, image):
    from PIL import ImageFile

    ImageFile.LOAD_TRUNCATED_IMAGES = True
    restored = np.asarray(Image.open(io.BytesIO(data.tobytes())).convert("RGB"))
    if restored.shape != image.shape:
        raise OSError("another size")
    return restored


# Noise


def scaled_noise(image, noise, u):
    """`noise` added with the power that makes a PSNR of 45 - 4.8 u dB before clipping."""
    target = 255 * 10 ** (-(45 - 4.8 * u) / 20)
    return as_image(image + noise * (target / max(np.sqrt(np.mean(noise**2)), 1e-6)))


def correlated_noise(image, u, rng):
    noise = ndimage.gaussian_filter(rng.standard_normal(image.shape), (s := rng.uniform(0.6, 2), s, 0))
    return scaled_noise(image, noise, u)


def high_frequency_noise(image, u, rng):
    noise = rng.standard_normal(image.shape)
    s = rng.uniform(0.6, 1.6)
    return scaled_noise(image, noise - ndimage.gaussian_filter(noise, (s, s, 0)), u)


def grey_noise(image, u, rng):
    return scaled_noise(image, rng.standard_normal((*image.shape[:2], 1)) * np.ones(3), u)


def chroma_noise(image, u, rng):
    """More noise in the colours than in the brightness."""
    from_ycc = np.array([[1, 0, 1.402], [1, -0.344, -0.714], [1, 1.772, 0]])
    noise = rng.standard_normal(image.shape) * (1, *rng.uniform(1.5, 4, 2))
    return scaled_noise(image, noise @ from_ycc.T, u - 0.3)


def masked_noise(image, u, rng):
    """Noise that is stronger where there is texture to hide it, and mostly of high frequency."""
    y = image.mean(2)
    activity = ndimage.gaussian_filter(np.abs(y - ndimage.gaussian_filter(y, 2)), 4)
    noise = rng.standard_normal(image.shape)
    noise = noise - 0.7 * ndimage.gaussian_filter(noise, (1, 1, 0))
    return scaled_noise(image, noise * (activity + 0.15 * activity.mean())[..., None], u + 0.5)


def row_noise(image, u, rng):
    """Stripes along rows or columns."""
    shape = (image.shape[0], 1, 1) if rng.random() < 0.5 else (1, image.shape[1], 1)
    return scaled_noise(image, rng.standard_normal(shape) * np.ones(image.shape), u - 0.7)


def blocks_of(x):
    """(H, W, C) -> (H / 8, W / 8, C, 8, 8), what remains below and right left out."""
    height, width = (side // 8 * 8 for side in x.shape[:2])
    x = x[:height, :width].reshape(height // 8, 8, width // 8, 8, -1)
    return x.transpose(0, 2, 4, 1, 3)


def unblocked(blocks, image):
    rows, columns = blocks.shape[:2]
    x = blocks.transpose(0, 3, 1, 4, 2).reshape(rows * 8, columns * 8, -1)
    result = image.astype(float)
    result[: rows * 8, : columns * 8] = x
    return result


def comfort_noise(image, u, rng):
    """What a coder would drop is replaced by noise of the same power."""
    c = fft.dctn(blocks_of(image.astype(float)), axes=(-2, -1), norm="ortho")
    step = between(u, (3, 14, 26, 42, 70, 120), log=True)
    small = np.abs(c) < step / 2
    small[..., 0, 0] = False
    sign = rng.choice((-1, 1), c.shape)
    moved = np.where(small, np.abs(c) * sign, np.rint(c / (step / 4)) * (step / 4))
    return as_image(unblocked(fft.idctn(moved, axes=(-2, -1), norm="ortho"), image))


def uniform_quantization(image, u, rng):
    step = between(u, (2, 14, 22, 34, 52, 80), log=True)
    return as_image((np.floor(image / step) + 0.5) * step)


def channel_quantization(image, u, rng):
    """Few levels in one channel, of RGB or of YCbCr."""
    levels = round(between(u, (40, 24, 14, 9, 6, 3), log=True))
    mode, channel = ("RGB", "YCbCr")[int(rng.integers(2))], int(rng.integers(3))
    x = np.array(Image.fromarray(image).convert(mode))
    step = 256 / levels
    x[..., channel] = np.minimum((np.floor(x[..., channel] / step) + 0.5) * step, 255)
    return np.asarray(Image.fromarray(x, mode).convert("RGB"))


def dithered_palette(image, u, rng):
    colors = int(round(between(u, (256, 96, 48, 28, 16, 8), log=True)))
    rgb = Image.fromarray(image)
    dither = Image.Dither.FLOYDSTEINBERG if rng.random() < 0.7 else Image.Dither.NONE
    return np.asarray(rgb.quantize(palette=rgb.quantize(colors), dither=dither).convert("RGB"))


# Denoising and loss of detail


def dct_denoised(image, u, rng):
    """Noise, then thresholding of the DCT of overlapping blocks (four shifts)."""
    s = between(u, (2, 8, 14, 22, 34, 50), log=True)
    noisy = image + s * rng.standard_normal(image.shape)
    total = np.zeros(image.shape)
    for dy, dx in ((0, 0), (0, 4), (4, 0), (4, 4)):
        x = np.roll(noisy, (dy, dx), (0, 1))
        c = fft.dctn(blocks_of(x), axes=(-2, -1), norm="ortho")
        kept = np.abs(c) > 2.7 * s
        kept[..., 0, 0] = True
        total += np.roll(unblocked(fft.idctn(c * kept, axes=(-2, -1), norm="ortho"), x), (-dy, -dx), (0, 1))
    return as_image(total / 4)


def non_local_denoised(image, u, rng):
    from skimage import restoration

    s = between(u, (0.01, 0.04, 0.07, 0.1, 0.15, 0.22), log=True)
    noisy = image / 255 + s * rng.standard_normal(image.shape)
    restored = restoration.denoise_nl_means(
        noisy.astype(np.float32), patch_size=5, patch_distance=4, h=0.8 * s, sigma=s, channel_axis=2
    )
    return as_image(255 * restored)


def median_filtered(image, u, rng):
    size = 3 if u < 1.5 else 5 if u < 3 else 7
    restored = ndimage.median_filter(image, (size, size, 1))
    share = {3: u / 1.5, 5: (u - 0.5) / 2.5, 7: (u - 1) / 4}[size]
    return as_image(image + min(share, 1) * (restored.astype(float) - image))


def sparse_reconstruction(image, u, rng):
    """The largest coefficients of 8 x 8 or 16 x 16 blocks, the others 0."""
    keep = between(u, (0.6, 0.25, 0.14, 0.08, 0.045, 0.02), log=True)
    size = int(rng.choice((8, 16, 32)))
    height, width = (side // size * size for side in image.shape[:2])
    x = image[:height, :width].astype(float).reshape(height // size, size, width // size, size, 3)
    c = fft.dctn(x, axes=(1, 3), norm="ortho")
    magnitude = np.abs(c)
    if rng.random() < 0.5:  # one threshold for the image, or one for each block
        threshold = np.quantile(magnitude[::2], 1 - keep)
    else:
        threshold = np.quantile(magnitude, 1 - keep, axis=(1, 3), keepdims=True)
    result = image.astype(float)
    restored = fft.idctn(np.where(magnitude >= threshold, c, 0), axes=(1, 3), norm="ortho")
    result[:height, :width] = restored.reshape(height, width, 3)
    return as_image(result)


def sampled_reconstruction(image, u, rng):
    """Some pixels are kept, the others interpolated by normalised convolution."""
    keep = between(u, (0.9, 0.55, 0.38, 0.25, 0.15, 0.07), log=True)
    mask = (rng.random((*image.shape[:2], 1)) < keep).astype(float)
    s = 0.55 / np.sqrt(keep)
    weight = ndimage.gaussian_filter(mask, (s, s, 0)) + 1e-3
    restored = ndimage.gaussian_filter(image * mask, (s, s, 0)) + 1e-3 * image.mean((0, 1))
    return as_image(np.where(mask > 0, image, restored / weight))


def rescaled(image, u, rng):
    """Reduced and enlarged again, with any of Pillow's filters."""
    scale = between(u, (0.95, 0.66, 0.5, 0.36, 0.25, 0.15), log=True)
    filters = Image.Resampling
    down = rng.choice((filters.BOX, filters.BILINEAR, filters.BICUBIC, filters.LANCZOS))
    up = rng.choice(
        (filters.BILINEAR, filters.BICUBIC, filters.LANCZOS, filters.NEAREST), p=(0.35, 0.35, 0.2, 0.1)
    )
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize((round(width * scale), round(height * scale)), int(down))
    return np.asarray(small.resize((width, height), int(up)))


def ringing(image, u, rng):
    """The high frequencies of the whole image cut off sharply."""
    cut = between(u, (0.48, 0.34, 0.25, 0.18, 0.11, 0.06), log=True)
    height, width = image.shape[:2]
    y, x = np.meshgrid(fft.fftfreq(height), fft.rfftfreq(width), indexing="ij")
    spectrum = fft.rfftn(image.astype(float), axes=(0, 1)) * (np.hypot(y, x) < cut)[..., None]
    return as_image(fft.irfftn(spectrum, s=(height, width), axes=(0, 1)))


# Colour and light


def chromatic_aberration(image, u, rng):
    """Red and blue moved apart and scaled differently."""
    amount = between(u, (0, 0.7, 1.5, 3, 5, 8))
    angle = rng.uniform(0, 2 * np.pi)
    shift = amount * np.array([np.sin(angle), np.cos(angle)])
    middle = (np.array(image.shape[:2]) - 1) / 2
    result = image.astype(float)
    for channel, side in ((0, 1), (2, -1)):
        zoom = 1 + side * amount / 800 * (1 if rng.random() < 0.5 else 0)
        result[..., channel] = ndimage.affine_transform(
            result[..., channel],
            [zoom, zoom],
            cast(Any, middle - zoom * middle + side * shift / 2),  # typed as one number
            order=1,
            mode="nearest",
        )
    return as_image(result)


def color_cast(image, u, rng):
    gains = rng.standard_normal(3)
    gains -= gains.mean()
    return as_image(image * (1 + between(u, (0, 0.06, 0.12, 0.2, 0.32, 0.5)) * gains / np.abs(gains).max()))


def channel_shift(image, u, rng):
    """A constant added to each channel."""
    offset = rng.standard_normal(3)
    return as_image(image + between(u, (0, 8, 15, 25, 38, 55)) * offset / np.linalg.norm(offset) * 1.3)


def exposure(image, u, rng):
    stops = between(u, (0, 0.2, 0.4, 0.7, 1.1, 1.8)) * (1 if rng.random() < 0.5 else -1)
    return as_image(
        255 * (image / 255) ** (2.0**-stops) if rng.random() < 0.5 else image * 2.0 ** (stops / 2)
    )


def haze(image, u, rng):
    veil = rng.uniform(0.5, 1)
    share = between(u, (0, 0.12, 0.22, 0.35, 0.5, 0.7))
    return as_image(image * (1 - share) + 255 * veil * share)


def linear_contrast(image, u, rng):
    gain = (
        between(u, (1, 1.15, 1.3, 1.5, 1.8, 2.3))
        if rng.random() < 0.5
        else between(u, (1, 0.87, 0.75, 0.62, 0.48, 0.3))
    )
    mean = image.mean()
    return as_image(mean + gain * (image - mean))


def saturation(image, u, rng):
    """Chroma scaled about grey, up or down."""
    factor = (
        between(u, (1, 0.6, 0.4, 0.2, 0, -0.4))
        if rng.random() < 0.5
        else between(u, (1, 1.4, 1.8, 2.4, 3.2, 5))
    )
    grey = (image @ np.array([0.299, 0.587, 0.114]))[..., None]
    return as_image(grey + factor * (image - grey))


# Local


def block_offsets(image, u, rng):
    """Blocks made lighter or darker: few strongly or many weakly."""
    result = image.astype(float)
    side = int(rng.choice((16, 32, 48)))
    count = int(rng.choice((1, 2, 4, 8, 16)))
    power = 255 * 10 ** (-(45 - 4.6 * u) / 20)  # root of the mean squared error
    amount = min(power * np.sqrt(image.shape[0] * image.shape[1] / (count * side**2)), 140)
    for _ in range(count):
        y, x = rng.integers(0, np.array(image.shape[:2]) - side, endpoint=True)
        result[y : y + side, x : x + side] += (
            amount * rng.choice((-1, 1)) * (rng.normal(1, 0.3, 3) if rng.random() < 0.5 else 1)
        )
    return as_image(result)


def moved_patches(image, u, rng):
    """Patches copied to places near by, so that the eye hardly sees it."""
    result = image.copy()
    size = int(rng.choice((8, 16, 24)))
    count = int(round(between(u, (2, 20, 45, 80, 130, 220)) * 256 / size**2))
    room = np.array(image.shape[:2]) - size
    for _ in range(count):
        source = rng.integers(0, room, endpoint=True)
        target = np.clip(source + rng.integers(-size, size + 1, 2), 0, room)
        result[_square(target, size)] = image[_square(source, size)]
    return result


def lost_blocks(image, u, rng):
    """Runs of 16 x 16 blocks that were replaced by what is beside or above them, or by grey."""
    result = image.copy()
    rows, columns = image.shape[0] // 16, image.shape[1] // 16
    for _ in range(max(1, int(between(u, (0, 1, 2, 4, 8, 16))))):
        row, column, length = rng.integers(rows), rng.integers(columns), rng.integers(2, 9)
        fill = rng.random()
        for c in range(column, min(column + length, columns)):
            at = np.s_[16 * row : 16 * row + 16, 16 * c : 16 * c + 16]
            if fill < 0.5 and row:
                result[at] = image[16 * row - 16 : 16 * row, 16 * c : 16 * c + 16]
            elif fill < 0.8 and column:
                result[at] = image[16 * row : 16 * row + 16, 16 * column - 16 : 16 * column].mean((0, 1))
            else:
                result[at] = 128
    return result


def _square(corner, side):
    return tuple(slice(start, start + side) for start in corner)


def local_blur(image, u, rng):
    """A part of the image blurred, the rest as it is."""
    height, width = image.shape[:2]
    y, x = rng.uniform(0.2, 0.8, 2)
    distance = np.hypot(*(np.mgrid[:height, :width] - np.array([y * height, x * width])[:, None, None]))
    weight = ndimage.gaussian_filter((distance < rng.uniform(0.15, 0.35) * width).astype(float), 8)[..., None]
    blurred = kadid.gaussian_blur(image, between(u, (0.1, 0.8, 1.4, 2.2, 3.5, 6)))
    return as_image(image + weight * (blurred.astype(float) - image))


def _known(function, values, low=0.0, high=5.0, local=False, **options):
    return Kind(by_levels(function, values, **options), (low, high), known=True, local=local)


# At u = 0 the parameter of no effect where there is one; some go beyond level 5.
KADID = {
    "gaussian_blur": _known(kadid.gaussian_blur, (0.05, 0.1, 0.5, 1, 2, 5, 10), 1.5, 6),
    "lens_blur": _known(kadid.lens_blur, (0.2, 1, 2, 4, 6, 8), 0.3),
    "motion_blur": _known(kadid.motion_blur, (1, 1, 2, 4, 6, 10), 1.2, random=True),
    "color_diffusion": _known(kadid.color_diffusion, (1, 1, 3, 6, 8, 12), 1),
    "color_shift": _known(kadid.color_shift, (0, 1, 3, 6, 8, 12), 0.5, random=True),
    "color_quantization": _known(kadid.color_quantization, (128, 64, 48, 32, 16, 8), 0, whole=True),
    "saturation_hsv": _known(kadid.saturation_hsv, (1, 0.4, 0.2, 0.1, 0, -0.4), 0.1),
    "saturation_lab": _known(kadid.saturation_lab, (1, 1, 2, 3, 6, 9), 1.1),
    "jpeg2000": _known(kadid.jpeg2000, (6, 16, 32, 45, 120, 300), 0.3, log=True),
    "jpeg": _known(kadid.jpeg, (85, 43, 36, 24, 7, 4, 1), 0, 5.7, whole=True),
    "white_noise": _known(
        kadid.white_noise, (1e-4, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02), 0, 5.5, log=True, random=True
    ),
    "white_noise_ycbcr": _known(
        kadid.white_noise_ycbcr,
        (1e-5, 0.0001, 0.0005, 0.001, 0.002, 0.003, 0.006),
        0.5,
        6,
        log=True,
        random=True,
    ),
    "impulse_noise": _known(
        kadid.impulse_noise, (1e-4, 0.001, 0.005, 0.01, 0.02, 0.03, 0.06), 0, 6, log=True, random=True
    ),
    "multiplicative_noise": _known(
        kadid.multiplicative_noise, (1e-4, 0.001, 0.005, 0.01, 0.02, 0.05), 0.5, log=True, random=True
    ),
    "denoising": _known(kadid.denoising, (0.01, 0.05, 0.1, 0.15, 0.2, 0.3), 0.2, random=True),
    "brighten": _known(kadid.brighten, (0, 0.1, 0.2, 0.4, 0.7, 1.1), 0.3),
    "darken": _known(kadid.darken, (0, 0.05, 0.1, 0.2, 0.4, 0.8), 0.3),
    "mean_shift": _known(kadid.mean_shift, (0.22, 0.15, 0.08, 0, -0.08, -0.15, -0.22), 1, 5),
    "jitter": _known(kadid.jitter, (0, 0.05, 0.1, 0.2, 0.5, 1), 0.5, random=True),
    "non_eccentricity_patch": _known(
        kadid.non_eccentricity_patch, (0, 20, 40, 60, 80, 100), 0.2, local=True, whole=True, random=True
    ),
    "pixelate": _known(kadid.pixelate, (0.0005, 0.01, 0.05, 0.1, 0.2, 0.5), 0.3),
    "quantization": _known(kadid.quantization, (28, 20, 16, 13, 10, 7, 5), 0, 5.5, whole=True),
    "color_block": _known(kadid.color_block, (0, 2, 4, 6, 8, 10), 0.5, local=True, whole=True, random=True),
    "high_sharpen": _known(kadid.high_sharpen, (0, 1, 2, 3, 6, 12), 0.1),
    "contrast dist.": _known(kadid.contrast, (2.2, 1.83, 1.55, 1.3, 0.73, 0.48), 1, 5),
}

OTHERS = {
    f.__name__: Kind(f, (0.2, 5.2))
    for f in (
        webp,
        jpeg_full_chroma,
        noisy_then_coded,
        blurred_then_coded,
        blurred_then_noisy,
        correlated_noise,
        high_frequency_noise,
        grey_noise,
        chroma_noise,
        masked_noise,
        row_noise,
        comfort_noise,
        uniform_quantization,
        channel_quantization,
        dithered_palette,
        dct_denoised,
        non_local_denoised,
        median_filtered,
        sparse_reconstruction,
        sampled_reconstruction,
        rescaled,
        ringing,
        chromatic_aberration,
        color_cast,
        channel_shift,
        exposure,
        haze,
        linear_contrast,
        saturation,
    )
} | {
    f.__name__: Kind(f, (0.2, 5.2), local=True)
    for f in (jpeg_errors, jpeg2000_errors, block_offsets, moved_patches, lost_blocks, local_blur)
}

GENERATIVE = {
    f.__name__: Kind(f, (0.2, 5.2), local=f is generative.repainted_blocks) for f in generative.GENERATIVE
}
KINDS = KADID | OTHERS | GENERATIVE


def two_together(image, u, rng, kinds):
    """Two types one after the other, each of less strength."""
    for kind in kinds:
        low, high = KINDS[kind].range
        image = KINDS[kind].make(image, np.clip(0.7 * u, low, high), rng)
    return image
