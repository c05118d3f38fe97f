"""Noise on the student's images, as pure JAX functions with one key an example.

The paper's figure shows square cut-outs, a grid of them, flips and rotations; sizes and probabilities
are our choice.  What is cut out becomes mid-grey, 0 after normalisation.
"""

import dataclasses

import jax
import jax.numpy as jnp

from iqa_jax.ops.augment import GREY, NOISE_KEYS, rotate


@dataclasses.dataclass(frozen=True)
class InputNoise:
    """What `add_noise` does; 0 switches each off.

    Attributes:
      flip: probability of a horizontal flip, and of a vertical one.
      rotation: largest angle either way, degrees.
      cut_out: probability of a square cut-out.
      grid_mask: probability of a grid of cut-outs.
    """

    flip: float = 0.5
    rotation: float = 180.0
    cut_out: float = 0.5
    grid_mask: float = 0.5


def flips(key: jax.Array, image: jax.Array, probability: float | jax.Array) -> jax.Array:
    """Flips (S, S, C) horizontally and, by itself, vertically."""
    horizontal, vertical = jax.random.bernoulli(key, probability, (2,))
    image = jnp.where(horizontal, image[:, ::-1], image)
    return jnp.where(vertical, image[::-1], image)


def cut_out(
    key: jax.Array, image: jax.Array, *, shares: tuple[float, float] = (0.25, 0.5), fill: float = GREY
) -> jax.Array:
    """Fills one square of (S, S, C) (DeVries and Taylor, 2017).

    Args:
      shares: range of the square's side, as shares of S; the square lies wholly inside the image.
    """
    side_key, place_key = jax.random.split(key)
    size = image.shape[0]
    side = jax.random.uniform(side_key, minval=shares[0] * size, maxval=shares[1] * size)
    top, left = jax.random.uniform(place_key, (2,)) * (size - side)
    along = jnp.arange(size)
    rows, columns = ((start <= along) & (along < start + side) for start in (top, left))
    return jnp.where((rows[:, None] & columns)[..., None], jnp.asarray(fill, image.dtype), image)


def grid_mask(
    key: jax.Array,
    image: jax.Array,
    *,
    periods: tuple[float, float] = (0.17, 0.34),
    share: float = 0.4,
    fill: float = GREY,
) -> jax.Array:
    """Fills a grid of squares of (S, S, C) (Chen et al., 2020).

    Args:
      periods: range of the distance from square to square, as shares of S.
      share: of that distance that a square takes.
    """
    period_key, shift_key = jax.random.split(key)
    size = image.shape[0]
    period = jax.random.uniform(period_key, minval=periods[0] * size, maxval=periods[1] * size)
    shift = jax.random.uniform(shift_key, (2,)) * period
    rows, columns = (jnp.mod(jnp.arange(size) + s, period) < share * period for s in shift)
    return jnp.where((rows[:, None] & columns)[..., None], jnp.asarray(fill, image.dtype), image)


def add_noise(key: jax.Array, crop: jax.Array, noise: InputNoise) -> jax.Array:
    """A flipped, rotated, partly cut out version of a crop (S, S, C), float in [0, 1].

    Args:
      key: of this example; its first two parts are those of `iqa_jax.ops.augment.crop_corner`.
    """
    keys = jax.random.split(key, NOISE_KEYS)
    if noise.flip:
        crop = flips(keys[2], crop, noise.flip)
    if noise.rotation:
        crop = rotate(crop, jax.random.uniform(keys[3], minval=-noise.rotation, maxval=noise.rotation))
    for fill, probability, choice, key in (
        (cut_out, noise.cut_out, keys[4], keys[5]),
        (grid_mask, noise.grid_mask, keys[6], keys[7]),
    ):
        if probability:
            crop = jnp.where(jax.random.bernoulli(choice, probability), fill(key, crop), crop)
    return crop
