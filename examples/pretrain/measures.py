"""Classical full-reference measures of windows, for labels that know what a picture hides and shows.

All take reference and distorted windows (N, S, S, 3) uint8, S a multiple of 16, and give (N,); more is
better. They are close to the published measures, each written from its paper's formulas:

  psnr        over R, G and B, in dB
  psnr_hvs    Egiazarian et al., 2006: errors of the 8 x 8 DCT weighted by contrast sensitivity, in dB
  psnr_hvsm   Ponomarenko et al., 2007: the same less what the block's own texture masks, in dB
  mdsi        Nafchi et al., 2016: similarity of gradients and chromaticity, deviation pooling
  gmsd        Xue et al., 2014: deviation of the similarity of gradients, at two scales
  haarpsi     Reisenhofer et al., 2018: similarity of Haar coefficients, logistic
  msssim      Wang et al., 2003, on brightness, four scales
  chroma      mean similarity of blurred chromaticity
  light       minus the difference of blurred brightness
"""

from typing import Any, cast

import numpy as np
from scipy import fft, ndimage

# Contrast sensitivity of the DCT's coefficients: the JPEG standard's luminance table, inverted (PSNR-HVS).
_JPEG = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_SENSITIVITY = (0.2573 * 16 / _JPEG * 6.25).astype(np.float32)  # near PSNR-HVS's table
_MASKING = ((10 / _JPEG) ** 2).astype(np.float32)
_MASKING[0, 0] = 0

_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], np.float32)
_LHM = np.array([[0.2989, 0.587, 0.114], [0.3, 0.04, -0.35], [0.34, -0.6, 0.17]], np.float32)

NAMES = ("psnr", "psnr_hvs", "psnr_hvsm", "mdsi", "gmsd", "haarpsi", "msssim", "chroma", "light")


def measured(reference: np.ndarray, distorted: np.ndarray) -> np.ndarray:
    """All of `NAMES`: (N, S, S, 3) twice -> (N, len(NAMES)) float32."""
    a, b = reference.astype(np.float32), distorted.astype(np.float32)
    ya, yb = a @ _YIQ.T, b @ _YIQ.T
    small = [halved(x) for x in (a, b)]
    mdsi, chroma = _mdsi(*small)
    light = -np.abs(_box(ya[..., 0] - yb[..., 0], 24)).mean((1, 2))
    columns = [
        _decibel(np.square(a - b).mean((1, 2, 3))),
        *_psnr_hvs(ya[..., 0], yb[..., 0]),
        mdsi,
        _gmsd(small[0] @ _YIQ[0], small[1] @ _YIQ[0]),
        _haarpsi(halved(ya), halved(yb)),
        _msssim(ya[..., 0], yb[..., 0]),
        chroma,
        light,
    ]
    return np.stack(columns, axis=-1).astype(np.float32)


def _decibel(error):
    """PSNR of a mean squared error, 60 at most."""
    return 10 * np.log10(255.0**2 / np.maximum(error, 255.0**2 / 1e6))


def halved(x):
    """Means of 2 x 2 pixels of (N, H, W, …)."""
    return 0.25 * (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2])


def _box(x, size):
    return ndimage.uniform_filter(x, cast(Any, (1, size, size)), mode="nearest")  # typed as one number


def _similar(a, b, c):
    return (2 * a * b + c) / (a * a + b * b + c)


def _prewitt(x):
    """Gradient magnitude of (N, H, W)."""
    smooth_x = (x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]) / 3
    smooth_y = (x[:, :-2] + x[:, 1:-1] + x[:, 2:]) / 3
    dy = smooth_x[:, 2:] - smooth_x[:, :-2]
    dx = smooth_y[:, :, 2:] - smooth_y[:, :, :-2]
    return np.sqrt(dx * dx + dy * dy)


def _mdsi(a, b):
    la, lb = a @ _LHM.T, b @ _LHM.T
    ga, gb, gf = (_prewitt(x) for x in (la[..., 0], lb[..., 0], 0.5 * (la[..., 0] + lb[..., 0])))
    gradient = _similar(ga, gb, 140) + _similar(gb, gf, 55) - _similar(ga, gf, 55)
    product = la[..., 1] * lb[..., 1] + la[..., 2] * lb[..., 2]
    energy = sum(np.square(x[..., c]) for x in (la, lb) for c in (1, 2))
    chromatic = ((2 * product + 550) / (energy + 550))[:, 1:-1, 1:-1]
    mixed = np.sign(s := 0.6 * gradient + 0.4 * chromatic) * np.abs(s) ** 0.25
    # |complex mean deviation| is the absolute deviation for positive similarities.
    deviation = np.abs(mixed - mixed.mean((1, 2), keepdims=True)).mean((1, 2)) ** 0.25
    blurred = [_box(np.ascontiguousarray(x[..., c]), 8) for x in (la, lb) for c in (1, 2)]
    distance = np.hypot(blurred[0] - blurred[2], blurred[1] - blurred[3]).mean((1, 2))
    return -deviation, -distance


def _gmsd(a, b):
    total = 0
    for weight in (0.6, 0.4):
        total = total + weight * _similar(_prewitt(a), _prewitt(b), 170).std((1, 2))
        a, b = halved(a), halved(b)
    return -total


def _haar(x, scale):
    """|horizontal|, |vertical| Haar coefficients of (N, H, W) at a scale, without decimation."""
    half = 2 ** (scale - 1)
    sums = np.pad(x.cumsum(1, dtype=np.float64).cumsum(2), ((0, 0), (1, 0), (1, 0)))

    def boxes(height, width):
        s = sums
        return (
            s[:, height:, width:] - s[:, :-height, width:] - s[:, height:, :-width] + s[:, :-height, :-width]
        )

    down, across = boxes(half, 2 * half), boxes(2 * half, half)
    scaled = 2.0**-scale
    return (
        scaled * np.abs(down[:, half:] - down[:, :-half]).astype(np.float32),
        scaled * np.abs(across[:, :, half:] - across[:, :, :-half]).astype(np.float32),
    )


def _haarpsi(a, b, c=30.0, alpha=4.2):
    size = a.shape[1] - 8
    total, weights = 0.0, 0.0
    coefficients = [[_haar(x[..., 0], scale) for scale in (1, 2, 3)] for x in (a, b)]
    for direction in (0, 1):
        bands = [[level[direction][:, :size, :size] for level in image] for image in coefficients]
        weight = np.maximum(bands[0][2], bands[1][2])
        local = 0.5 * sum(_similar(bands[0][k], bands[1][k], c * c) for k in (0, 1))
        total = total + (weight / (1 + np.exp(-alpha * local))).sum((1, 2))
        weights = weights + weight.sum((1, 2))
    for channel in (1, 2):
        mean = [np.abs(_box(np.ascontiguousarray(x[..., channel]), 2))[:, :size, :size] for x in (a, b)]
        across, down = (
            np.maximum(coefficients[0][2][d][:, :size, :size], coefficients[1][2][d][:, :size, :size])
            for d in (0, 1)
        )
        weight = 0.5 * (across + down)
        total = total + (weight / (1 + np.exp(-alpha * _similar(mean[0], mean[1], c * c)))).sum((1, 2))
        weights = weights + weight.sum((1, 2))
    mean = np.clip((total + 1e-3) / (weights + 1e-3), 1e-6, 1 - 1e-6)
    return (np.log(mean / (1 - mean)) / alpha) ** 2


def _blocks(x):
    n, height, width = x.shape
    return x.reshape(n, height // 8, 8, width // 8, 8).swapaxes(2, 3)


def _psnr_hvs(a, b):
    """PSNR-HVS and PSNR-HVS-M on brightness."""
    a, b = _blocks(a), _blocks(b)
    ca, cb = (fft.dctn(x, axes=(-2, -1), norm="ortho") for x in (a, b))
    difference = np.abs(ca - cb)

    def masking(c, x):
        energy = (np.square(c) * _MASKING).sum((-2, -1))
        whole = x.var((-2, -1)) * 64
        quarters = sum(x[..., r : r + 4, s : s + 4].var((-2, -1)) * 16 for r in (0, 4) for s in (0, 4))
        return np.sqrt(energy * np.where(whole > 0, quarters / np.maximum(whole, 1e-6), 0)) / 32

    mask = np.maximum(masking(ca, a), masking(cb, b))[..., None, None]
    seen = np.maximum(difference - mask / _MASKING_ROOT, 0)
    seen[..., 0, 0] = difference[..., 0, 0]
    return [_decibel(np.square(d * _SENSITIVITY).mean((1, 2, 3, 4))) for d in (difference, seen)]


_MASKING_ROOT = np.sqrt(np.where(_MASKING > 0, _MASKING, 1))


def _msssim(a, b):
    weights = np.array([0.1, 0.3, 0.35, 0.25])
    product = 1.0
    for scale, weight in enumerate(weights):
        ma, mb = _blur(a), _blur(b)
        va, vb, cov = _blur(a * a) - ma * ma, _blur(b * b) - mb * mb, _blur(a * b) - ma * mb
        value = ((2 * cov + 58.5) / (va + vb + 58.5)).mean((1, 2))
        if scale == len(weights) - 1:
            value = (((2 * cov + 58.5) / (va + vb + 58.5)) * _similar(ma, mb, 6.5)).mean((1, 2))
        product = product * np.maximum(value, 1e-3) ** weight
        a, b = halved(a), halved(b)
    return -np.log10(np.maximum(1 - product, 1e-4))  # spread out near 1


def _blur(x):
    return ndimage.gaussian_filter(x, (0, 1.5, 1.5), mode="reflect", truncate=3.4)
