"""How alike two pictures are, place by place: the maps that classical measures are made of.

Gradients at several scales (GMSD: Xue et al., 2014; MDSI: Nafchi et al., 2016), the share of them that was
lost and that was added, their similarity weighted by what is visible (HaarPSI: Reisenhofer et al., 2018),
local structure and information (SSIM: Wang et al., 2004; VIF: Sheikh and Bovik, 2006), chroma, brightness,
and plain errors.  The formulas are brought to one form, so they differ from the published ones in detail.
"""

import jax
import jax.numpy as jnp
from jax import lax

SCALES = 3  # 1/2, 1/4 and 1/8 of the window's size
CHANNELS = 6 * SCALES + 4 * (SCALES - 1) + 2 + 2 * 2 + 6
SMALLEST_CELL = 8  # pixels of a window on a side; places are of this size or a multiple

# Standard deviation of each map over distorted photographs: what a network sees of them is divided by it.
TYPICAL = (
    (0.072, 0.095, 0.094, 0.056, 0.063, 0.072, 0.126, 0.142, 0.274, 0.046)  # at 1/2
    + (0.055, 0.072, 0.067, 0.042, 0.053, 0.081, 0.089, 0.100, 0.237, 0.040)  # at 1/4
    + (0.047, 0.059, 0.054, 0.034, 0.049, 0.097)  # at 1/8
    + (0.046, 0.044)  # brightness
    + (0.093, 0.103, 0.092, 0.100)  # chroma
    + (0.047, 0.051, 0.063, 0.048, 0.027, 0.031)  # errors
)

_LUMA = (0.299, 0.587, 0.114)
_CHROMA = ((0.3, 0.04, -0.35), (0.34, -0.6, 0.17))  # H and M of MDSI
_GRADIENT = 0.0026  # 170 / 255², GMSD's constant for values in [0, 1]
_STRUCTURE = 0.0009  # (0.03)², SSIM's second constant
_SEEN = 3e-5  # 2 / 255², the power of the eye's noise in VIF
_COLOUR = 0.0085  # 550 / 255², MDSI's constant of chroma


def planes(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Luma (B, S, S) and chroma at half the size (B, S/2, S/2, 2) of pictures (B, S, S, 3) in [0, 1]."""
    luma = _mixed(images, _LUMA)  # no matrix product, which some devices round
    small = halved(images)
    return luma, _stacked([_mixed(small, weights) for weights in _CHROMA])


def _mixed(images, weights):
    first, second, third = (weight * images[..., channel] for channel, weight in enumerate(weights))
    return first + second + third


def halved(x: jax.Array) -> jax.Array:
    """Means of 2 x 2 pixels of (B, H, W, …)."""
    batch, height, width = x.shape[:3]
    return x.reshape(batch, height // 2, 2, width // 2, 2, *x.shape[3:]).mean((2, 4))


def error(reference: tuple[jax.Array, jax.Array], distorted: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Mean squared error (B,) of both kinds of `planes`."""
    luma, chroma = (jnp.square(a - b) for a, b in zip(reference, distorted, strict=True))
    return luma.mean((1, 2)) + chroma.mean((1, 2, 3))


def maps(
    reference: tuple[jax.Array, jax.Array], distorted: tuple[jax.Array, jax.Array], grid: int
) -> jax.Array:
    """What differs at each of grid x grid places: (B, grid, grid, CHANNELS).

    Where both are equal it is about 0, but for three maps that show how much there is to see.

    Args:
      reference, distorted: what `planes` gave of the same windows.
    """
    a, b = reference[0], distorted[0]
    differences = []
    for scale in range(SCALES):
        a, b = halved(a), halved(b)
        differences += _gradients(a, b, grid)
        if scale < SCALES - 1:
            differences += _structure(a, b, grid)
    differences += [_root(_cells((a - b) ** 2, grid)), jnp.abs(_cells(a - b, grid))]  # brightness
    hues = reference[1], distorted[1]
    for scale in range(2):
        if scale:
            hues = halved(hues[0]), halved(hues[1])
        c, d = hues
        unlike = 1 - (2 * (c * d).sum(-1) + _COLOUR) / ((c * c).sum(-1) + (d * d).sum(-1) + _COLOUR)
        differences += [_cells(unlike, grid), _root(_cells(unlike**2, grid))]
    differences += _errors(reference[0] - distorted[0], grid)
    differences += [_root(_cells((reference[1][..., k] - distorted[1][..., k]) ** 2, grid)) for k in (0, 1)]
    return _stacked(differences)


def _errors(difference, grid):
    """Four maps of luma's errors at full size: their mean size, power and peaks, and how fine they are."""
    squared = difference**2
    down, across = _steps(difference, 1), _steps(difference, 2)
    return [
        _cells(jnp.abs(difference), grid),
        _root(_cells(squared, grid)),
        _root(_root(_cells(squared**2, grid))),
        _root(_cells(down**2 + across**2, grid)),
    ]


def _steps(x, axis):
    """Differences of neighbours of (B, H, W), 0 after the last."""
    extended = jnp.concatenate([x, lax.slice_in_dim(x, -1, None, axis=axis)], axis=axis)
    return jnp.diff(extended, axis=axis)


def _gradients(a, b, grid):
    """Six maps of two planes' gradient magnitudes."""
    ga, gb = _magnitude(a), _magnitude(b)
    unlike = (ga - gb) ** 2 / (ga**2 + gb**2 + _GRADIENT)  # 1 - similarity
    larger = jnp.maximum(ga, gb)
    seen = _cells(larger, grid)
    change = (gb - ga) / (ga + gb + 0.05)
    return [
        _cells(unlike, grid),
        _root(_cells(unlike**2, grid)),
        _cells(unlike * larger, grid) / (seen + 1e-3),
        _cells(jax.nn.relu(change), grid),
        _cells(jax.nn.relu(-change), grid),
        seen,
    ]


def _structure(a, b, grid):
    """Four maps of means, variances and covariance of blocks."""
    size = 4 if a.shape[1] // grid % 4 == 0 else 2

    def blocks(x):
        batch, height, width = x.shape
        x = x.reshape(batch, height // size, size, width // size, size)
        return x - x.mean((2, 4), keepdims=True)  # at once: differences of squares would lose digits

    a, b = blocks(a), blocks(b)
    va, vb, both = ((x * y).mean((2, 4)) for x, y in ((a, a), (b, b), (a, b)))
    unlike = 1 - (2 * both + _STRUCTURE) / (va + vb + _STRUCTURE)
    gain = jax.nn.relu(both) / (va + 1e-6)
    rest = jax.nn.relu(vb - gain * both)
    kept = _cells(jnp.log1p(gain**2 * va / (rest + _SEEN)), grid)  # information, as in VIF
    known = _cells(jnp.log1p(va / _SEEN), grid)
    share = (kept + 0.1) / (known + 0.1)
    return [_cells(unlike, grid), _root(_cells(unlike**2, grid)), 1 - share, jax.nn.relu(share - 1)]


def _magnitude(x):
    """Scharr's gradient of (B, H, W), the border repeated."""
    x = jnp.concatenate([x[:, :1], x, x[:, -1:]], axis=1)
    x = jnp.concatenate([x[:, :, :1], x, x[:, :, -1:]], axis=2)
    down = x[:, 2:] - x[:, :-2]
    across = x[:, :, 2:] - x[:, :, :-2]
    down = (3 * down[:, :, :-2] + 10 * down[:, :, 1:-1] + 3 * down[:, :, 2:]) / 16
    across = (3 * across[:, :-2] + 10 * across[:, 1:-1] + 3 * across[:, 2:]) / 16
    return _root(down**2 + across**2)


def _stacked(maps):
    """Maps as channels; converters to other formats know no `jnp.stack`."""
    return jnp.concatenate([x[..., None] for x in maps], axis=-1)


def _root(x):
    """Square root with a finite slope at 0."""
    return jnp.sqrt(x + 1e-8) - 1e-4


def _cells(x, grid):
    """Means over grid x grid cells of (B, H, W)."""
    batch, height, width = x.shape
    return x.reshape(batch, grid, height // grid, grid, width // grid).mean((2, 4))
