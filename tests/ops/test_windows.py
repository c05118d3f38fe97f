"""Where windows are, and cutting them."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iqa_jax.ops.windows import CROPS, mirrored_up, places, weighted_mean, windows

pytestmark = pytest.mark.quick


def test_ten_crops_are_corners_centre_and_their_mirror():
    image = np.arange(5 * 6 * 3, dtype=np.uint8).reshape(1, 5, 6, 3)
    crops = windows(image, "ten", 3)
    assert crops.shape == (1, 10, 3, 3, 3)
    for start, whole in ((0, image[0]), (5, image[0, :, ::-1])):
        for crop, (top, left) in zip(
            crops[0, start : start + 5], [(0, 0), (0, 3), (2, 0), (2, 3), (1, 1)], strict=True
        ):
            np.testing.assert_array_equal(crop, whole[top : top + 3, left : left + 3])
    np.testing.assert_array_equal(windows(image, "center", 3), crops[:, 4:5])


def test_the_grid_has_the_fewest_windows():
    assert [place[:2] for place in places("grid", 150, 64, 64)] == [(0, 0), (43, 0), (86, 0)]
    assert len(places("grid", 128, 129, 64)) == 2 * 3


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([*CROPS, "overlapping"]))
def test_windows_lie_inside_and_cover_what_they_say(height, width, crops):
    size = 64
    found = places(crops, height, width, size)
    seen = np.zeros((max(height, size), max(width, size)), int)
    for top, left, _ in found:
        assert top >= 0 and left >= 0
        part = seen[top : top + size, left : left + size]
        assert part.shape == (size, size)
        part += 1
    assert len(found) == {"center": 1, "ten": 10}.get(crops, len(found))
    assert crops not in ("grid", "overlapping") or seen.min() >= 1


def test_small_images_are_mirrored_up_in_numpy_and_jax():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    expected = np.pad(image, ((0, 24), (0, 14), (0, 0)), mode="symmetric")
    np.testing.assert_array_equal(mirrored_up(image, 64), expected)
    np.testing.assert_array_equal(mirrored_up(jnp.asarray(image), 64), expected)
    assert mirrored_up(image, 40) is image


@pytest.mark.parametrize("shape", [(150, 100), (40, 70)])
def test_a_map_of_equal_scores_is_flat(shape):
    found = places("overlapping", *shape, 64)
    flat = weighted_mean([3.0] * len(found), found, *shape, 64)
    assert flat.shape == shape and flat.dtype == np.float32
    np.testing.assert_allclose(flat, 3.0, rtol=1e-6)
