import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from iqa_jax.models import layers
from iqa_jax.ops import augment, noise

KEYS = jax.random.split(jax.random.key(0), 64)
WHITE = jnp.ones((96, 96, 3))


def filled(image):
    return np.asarray(image[..., 0] == 0.5)


@pytest.mark.parametrize("function", [noise.cut_out, noise.grid_mask])
def test_a_key_decides_what_is_filled(function):
    first, again, other = (filled(function(key, WHITE)) for key in (KEYS[0], KEYS[0], KEYS[1]))
    assert (first == again).all() and (first != other).any()


def test_a_cut_out_is_one_square_of_the_sizes_asked_for():
    for key in KEYS:
        hole = filled(noise.cut_out(key, WHITE, shares=(0.25, 0.5)))
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        assert hole[np.ix_(rows, columns)].all() and hole.sum() == len(rows) * len(columns)
        assert abs(len(rows) - len(columns)) <= 1 and 24 <= len(rows) <= 48


def test_a_grid_mask_is_a_grid():
    holes = np.stack([filled(noise.grid_mask(key, WHITE, share=0.5)) for key in KEYS])
    assert holes.mean() == pytest.approx(0.25, abs=0.02)
    for hole in holes[:8]:
        rows, columns = hole.any(1), hole.any(0)
        assert (hole == rows[:, None] & columns).all()
        assert np.count_nonzero(np.diff(rows.astype(int)) == 1) >= 2


def test_flips_go_both_ways():
    image = jnp.arange(16 * 16 * 3, dtype=jnp.float32).reshape(16, 16, 3)
    forms = {np.asarray(noise.flips(key, image, 0.5)).tobytes() for key in KEYS}
    both = [image, image[:, ::-1], image[::-1], image[::-1, ::-1]]
    assert forms == {np.asarray(x).tobytes() for x in both}
    assert (noise.flips(KEYS[0], image, 0.0) == image).all()


@pytest.mark.parametrize(
    "on",
    [{"flip": 1.0}, {"rotation": 90.0}, {"cut_out": 1.0}, {"grid_mask": 1.0}],
    ids=lambda on: next(iter(on)),
)
def test_each_noise_is_switched_by_itself(on):
    off = {"flip": 0.0, "rotation": 0.0, "cut_out": 0.0, "grid_mask": 0.0}
    image = jax.random.randint(jax.random.key(1), (40, 50, 3), 0, 256).astype(jnp.uint8)

    def crops(**fields):
        settings = noise.InputNoise(**{**off, **fields})

        def crop(key):
            corner = augment.crop_corner(key, jnp.array([40, 50]), 32, keys=augment.NOISE_KEYS)
            return noise.add_noise(key, augment.cut_crop(image, corner, 32) / 255.0, settings)

        return np.asarray(jax.vmap(crop)(KEYS[:8]))

    plain = crops()
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(image), (32, 32, 3))[:, :, 0] / np.float32(
        255
    )
    for crop in plain:
        assert np.isclose(windows, crop, atol=1e-6).all((-1, -2, -3)).any()
    assert (crops(**on) != plain).any((1, 2, 3)).all()


def test_noise_in_the_network_is_for_the_examples_chosen():
    x = jnp.ones((64, 5, 8))
    chosen = jnp.arange(64) % 2 == 0
    for layer in (layers.Dropout(0.5), layers.StochasticDepth(0.5)):
        y = layer(x, rngs=layers.NoiseFor(nnx.Rngs(dropout=0), chosen))
        assert (y[1::2] == 1).all() and set(np.unique(y[::2])) == {0.0, 2.0}
        everywhere = layer(x, rngs=nnx.Rngs(dropout=0))
        assert (everywhere[::2] == y[::2]).all() and (everywhere[1::2] == 0).any()
        with pytest.raises(ValueError, match="needs rngs"):
            layer(x)
        layer.eval()
        assert layer(x) is x


def test_stochastic_depth_drops_whole_examples_and_keeps_the_mean():
    y = layers.StochasticDepth(0.25)(jnp.ones((4096, 3)), rngs=nnx.Rngs(dropout=0))
    assert (y == y[:, :1]).all() and float(y.mean()) == pytest.approx(1, abs=0.05)
