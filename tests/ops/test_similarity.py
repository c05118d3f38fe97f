"""Maps of similarity: what they are for equal pictures, and which way they go for others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from iqa_jax.ops import similarity

pytestmark = pytest.mark.quick
SIZE, GRID = 64, 2
# Where the maps of a scale begin: similarity, its root mean square, the weighted one, added, lost, seen.
ADDED, LOST, SEEN = 3, 4, (5, 15, 25)


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.random((2, SIZE, SIZE, 3)), (0, 2, 2, 0))
    return np.float32(np.clip(0.5 + 4 * (smooth - 0.5), 0, 1))


@pytest.fixture(scope="module")
def compared():
    def both(a, b):
        planes = similarity.planes(a), similarity.planes(b)
        return similarity.maps(*planes, GRID), similarity.error(*planes)

    return jax.jit(both)


def test_equal_pictures_differ_nowhere(picture, compared):
    maps, error = compared(picture, picture)
    assert maps.shape == (2, GRID, GRID, similarity.CHANNELS)
    assert (error == 0).all()
    seen = np.isin(np.arange(similarity.CHANNELS), SEEN)
    assert np.abs(maps[..., ~seen]).max() < 0.02
    assert (maps[..., seen] > 0).all()


def test_blur_loses_gradients_and_noise_adds_them(picture, compared):
    blurred = ndimage.gaussian_filter(picture, (0, 3, 3, 0))
    noisy = np.float32(blurred + 0.1 * np.random.default_rng(1).standard_normal(picture.shape))
    lost, added = compared(picture, blurred)[0], compared(blurred, noisy)[0]
    assert (lost[..., LOST] > 10 * lost[..., ADDED]).all()
    assert (added[..., ADDED] > 1.5 * added[..., LOST]).all()


def test_only_the_cells_that_a_distortion_touches_differ(picture, compared):
    spoilt = picture.copy()
    spoilt[:, 40:56, 40:56] = 0.5
    maps, _ = compared(picture, spoilt)
    assert maps[:, 1, 1, 0].min() > 0.1
    assert np.abs(maps[:, 0, 0, : SEEN[0]]).max() < 1e-3


def test_gradient_similarity_is_that_of_gmsd(picture, compared):
    """The first map beside Xue et al.'s formula in NumPy, with Scharr's gradients of the halved luma."""
    other = ndimage.gaussian_filter(picture, (0, 1, 1, 0))
    magnitudes = []
    for image in (picture, other):
        luma = (image.astype(np.float64) @ (0.299, 0.587, 0.114)).reshape(2, SIZE // 2, 2, SIZE // 2, 2)
        luma = luma.mean((2, 4))
        kernel = np.array([[3, 10, 3]]) / 16 * np.array([[1], [0], [-1]])
        down, across = (ndimage.correlate(luma, k[None], mode="nearest") for k in (kernel, kernel.T))
        magnitudes.append(np.hypot(down, across))
    a, b = magnitudes
    unlike = 1 - (2 * a * b + 170 / 255**2) / (a**2 + b**2 + 170 / 255**2)
    half = SIZE // 2 // GRID
    cells = unlike.reshape(2, GRID, half, GRID, half).mean((2, 4))
    np.testing.assert_allclose(compared(picture, other)[0][..., 0], cells, rtol=0.02, atol=1e-4)


def test_gradients_are_finite_where_pictures_are_flat_or_equal(picture):
    def total(distorted, reference):
        planes = similarity.planes(reference), similarity.planes(distorted)
        return similarity.maps(*planes, GRID).sum() + similarity.error(*planes).sum()

    slope = jax.jit(jax.grad(total))
    flat = jnp.full_like(picture, 0.5)
    for distorted, reference in ((picture, picture), (flat, flat), (flat, picture), (picture, flat)):
        assert np.isfinite(slope(distorted, reference)).all()
