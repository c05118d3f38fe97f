"""Crops, flips and rotations as pure JAX functions, one key an example."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from iqa_jax.ops import Array
from iqa_jax.ops.keys import example_key

# What fills a hole, of a rotation say: mid-grey, 0 after normalisation.
GREY = 0.5


def rotate(image: jax.Array, degrees: jax.Array, fill: float = GREY) -> jax.Array:
    """Rotates (H, W, C) about its centre, counter-clockwise, nearest neighbour, size unchanged.

    Same pixels as torchvision's `rotate(image, degrees, NEAREST, expand=False)`.
    """
    height, width = image.shape[:2]
    y = jnp.arange(height) - (height - 1) / 2
    x = jnp.arange(width) - (width - 1) / 2
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    from_x = jnp.rint(cos * x - sin * y[:, None] + (width - 1) / 2).astype(jnp.int32)  # (H, W)
    from_y = jnp.rint(sin * x + cos * y[:, None] + (height - 1) / 2).astype(jnp.int32)
    inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
    rotated = image[jnp.clip(from_y, 0, height - 1), jnp.clip(from_x, 0, width - 1)]
    return jnp.where(inside[..., None], rotated, jnp.asarray(fill, image.dtype))


def crop_corner(key: jax.Array, shape: jax.Array, size: int, *, keys: int = 4) -> jax.Array:
    """Top and left, (2,) int32, of a random square of side `size` in an image of (2,) height and width.

    Args:
      keys: into how many `key` is split, of which this takes the first two.
    """
    key_y, key_x = jax.random.split(key, keys)[:2]
    top = jax.random.randint(key_y, (), 0, shape[0] - size + 1)
    left = jax.random.randint(key_x, (), 0, shape[1] - size + 1)
    return jnp.stack([top, left])


@dataclasses.dataclass(frozen=True)
class Cropping:
    """Which crop of an image an example has.

    Attributes:
      seed: of the run.
      size: side of the crops.
      noise: whether the crops of pseudo-labelled images are drawn as `iqa_jax.ops.noise` does.
    """

    seed: int
    size: int
    noise: bool = False

    def corners(self, epoch: Array, index: Array, shape: Array, pseudo: Array) -> jax.Array:
        """Top and left of each crop, (B, 2) int32.

        Args:
          epoch, index, pseudo: (B,), see `iqa_jax.training.batches.Batch`.
          shape: (B, 2) height and width of the images.
        """
        keys = jax.vmap(example_key, (None, 0, 0, 0))(self.seed, epoch, index, pseudo)
        corners = jax.vmap(lambda key, shape: crop_corner(key, shape, self.size))(keys, shape)
        if not self.noise:
            return corners
        noisy = jax.vmap(lambda key, shape: crop_corner(key, shape, self.size, keys=NOISE_KEYS))(keys, shape)
        return jnp.where(pseudo[:, None], noisy, corners)

    def corners_on_host(self, *columns: Array) -> np.ndarray:
        """The same for NumPy arrays, computed beside whatever the devices are doing."""
        with jax.default_device(_host()):
            return np.asarray(_jitted_corners(self)(*columns))


NOISE_KEYS = 8  # that `iqa_jax.ops.noise` splits an example's key into


@functools.cache
def _jitted_corners(cropping: Cropping):
    return jax.jit(cropping.corners)


@functools.cache
def _host():
    """A CPU as JAX's device; None where JAX_PLATFORMS leaves CPUs out."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def cut_crop(image: jax.Array, corner: jax.Array, size: int) -> jax.Array:
    """The square of side `size` of (H, W, C) whose top and left are `corner`."""
    return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (size, size, image.shape[-1]))


def quarter_turned(image: jax.Array, quarters: jax.Array) -> jax.Array:
    """(S, S, C) turned counter-clockwise by 0 to 3 quarters; no pixel is lost."""
    turns = [lambda x, k=k: jnp.rot90(x, k) for k in range(4)]
    return jax.lax.switch(quarters, turns, image)


def flip_and_rotate(
    key: jax.Array, crop: jax.Array, *, rotation: float = 180.0, turns: bool = False
) -> jax.Array:
    """The original's training transform of a crop that is cut.

    A horizontal flip with probability 1/2, then a rotation by a uniform angle, corners filled with
    mid-grey.  Quarter turns are ours.

    Args:
      key: of this example.
      crop: (S, S, C) float in [0, 1]; of a pair, both images one behind the other in C.
      rotation: largest angle either way, in degrees; 0 for none.
      turns: whether the crop is also turned by 0 to 3 quarters, each as likely.
    """
    _, _, key_flip, key_angle = jax.random.split(key, 4)
    crop = jnp.where(jax.random.bernoulli(key_flip), crop[:, ::-1], crop)
    if turns:
        quarters = jax.random.randint(jax.random.fold_in(key_angle, 1), (), 0, 4)
        crop = quarter_turned(crop, quarters)
    if rotation:
        crop = rotate(crop, jax.random.uniform(key_angle, minval=-rotation, maxval=rotation))
    return crop


def augment(
    key: jax.Array, image: jax.Array, shape: jax.Array, *, crop_size: int, rotation: float = 180.0
) -> jax.Array:
    """The original's training transform: a random crop, then `flip_and_rotate`.

    Args:
      key: of this example.
      image: (H, W, C) uint8; of a pair, both images one behind the other in C.
      shape: (2,) height and width of the image proper; what lies below and right of it is filling.
      crop_size: side of the crop.
      rotation: largest angle either way, in degrees; 0 for none.
    Returns:
      (crop_size, crop_size, C) float32 in [0, 1].
    """
    crop = cut_crop(image, crop_corner(key, shape, crop_size), crop_size)
    return flip_and_rotate(key, crop.astype(jnp.float32) / 255.0, rotation=rotation)


def augment_pair(
    key: jax.Array, reference: jax.Array, distorted: jax.Array, shape: jax.Array, **options
) -> tuple[jax.Array, jax.Array]:
    """`augment` with the same crop, flip and rotation for both images of a pair."""
    pair = augment(key, jnp.concatenate([reference, distorted], axis=-1), shape, **options)
    return pair[..., :3], pair[..., 3:]
