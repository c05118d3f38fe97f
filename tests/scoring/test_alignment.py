"""A shift is found and undone; an aligned pair stays as it is."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import iqa_jax
from iqa_jax.errors import UserError
from iqa_jax.scoring.alignment import Aligned, describe
from tests.miniature import noisy, picture

pytestmark = pytest.mark.quick


def scene(size=(240, 260), seed=0):
    """A picture with texture, (height, width, 3) uint8."""
    return ndimage.gaussian_filter(noisy(picture(seed, size), 60.0, seed), (0.8, 0.8, 0))


def moved(image, right, down, margin=16):
    """A reference, and the same moved by whole pixels; both are inner parts of a picture."""
    height, width = image.shape[:2]
    reference = image[margin : height - margin, margin : width - margin]
    return reference, image[margin - down : height - margin - down, margin - right : width - margin - right]


def jpeg(image, quality):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


DISTORTIONS = {
    "nothing": lambda image: image,
    "jpeg": lambda image: jpeg(image, 20),
    "blur": lambda image: ndimage.gaussian_filter(image, (2, 2, 0)),
    "noise": lambda image: noisy(image, 25.0, 9),
    "darker": lambda image: (image * 0.6).astype(np.uint8),
}


@pytest.mark.parametrize("distort", DISTORTIONS.values(), ids=DISTORTIONS)
@pytest.mark.parametrize(("right", "down"), [(3, 0), (-1, 2), (7, -9)])
def test_whole_pixels_are_cut_off_and_none_is_changed(distort, right, down):
    reference, target = moved(scene(), right, down)
    target = distort(target)
    found = iqa_jax.align(reference, target)
    assert found.shift == (right, down)
    height, width = (side - abs(by) for side, by in zip(reference.shape, (down, right), strict=False))
    top, left = max(0, -down), max(0, -right)
    np.testing.assert_array_equal(found.reference, reference[top : top + height, left : left + width])
    top, left = max(0, down), max(0, right)
    np.testing.assert_array_equal(found.distorted, target[top : top + height, left : left + width])


@pytest.mark.parametrize("distort", DISTORTIONS.values(), ids=DISTORTIONS)
def test_an_aligned_pair_comes_back_as_it_was(distort):
    reference = scene((120, 100), seed=3)
    target = distort(reference)
    found = iqa_jax.align(reference, target)
    assert found.shift == (0, 0) and found.reference is reference and found.distorted is target
    mask = np.ones((120, 100), np.uint8)
    assert found.cut(mask) is mask


def test_parts_of_a_pixel_are_interpolated_in_both():
    fine = ndimage.gaussian_filter(scene((480, 520), seed=1).astype(float), (1.5, 1.5, 0))

    def coarse(right, down):
        image = fine[40 - down : 440 - down, 40 - right : 480 - right]
        return image.reshape(200, 2, 220, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)

    reference = coarse(0, 0)
    for dtype in (np.uint8, np.float32):
        scale = 1 if dtype == np.uint8 else 255
        images = [(image / scale).astype(dtype) for image in (reference, coarse(3, -1))]
        found = iqa_jax.align(*images)
        assert found.shift == pytest.approx((1.5, -0.5), abs=0.1)
        assert found.reference.dtype == found.distorted.dtype == dtype
        assert found.reference.shape == found.distorted.shape
        assert all(a - 4 <= b < a for a, b in zip((200, 220), found.reference.shape[:2], strict=True))
        off = np.abs(found.reference.astype(float) - found.distorted.astype(float)).mean() * scale
        before = np.abs(reference.astype(float) - coarse(3, -1)).mean()
        assert off < 0.15 * before
        sharpness = [np.abs(np.diff(image.astype(float), axis=1)).mean() for image in found[:2]]
        assert sharpness[0] == pytest.approx(sharpness[1], rel=0.02)


def test_a_shift_that_is_too_large_is_refused_in_one_line():
    reference, target = moved(scene(), 13, 0)
    with pytest.raises(UserError, match=r"13 pixels right of its reference; more than 32 pixels or 5% of"):
        iqa_jax.align(reference, target)
    with pytest.raises(UserError, match="differ in shape"):
        iqa_jax.align(reference, target[:100])
    with pytest.raises(UserError, match="one image"):
        iqa_jax.align(reference[None], target[None])


def test_what_has_nothing_in_common_stays_where_it_is():
    reference = scene((100, 100))
    for target in (scene((100, 100), seed=5), np.full_like(reference, 128)):
        assert iqa_jax.align(reference, target).shift == (0, 0)
        assert iqa_jax.align(target, reference).shift == (0, 0)


def test_a_mask_of_the_distorted_picture_is_cut_with_it():
    image = scene((60, 70))
    mask = np.arange(60 * 70).reshape(60, 70).astype(np.float32)
    np.testing.assert_array_equal(Aligned(image, image, (2.0, -3.0)).cut(mask), mask[:-3, 2:])
    part = Aligned(image, image, (2.5, 0.0)).cut(mask)
    np.testing.assert_allclose(part, mask[:, 3:-1] + 0.25, atol=0.3)
    square = np.zeros((60, 70), bool)
    square[20:40, 20:40] = True
    for right in (0.5, -0.4, 2.3):
        assert abs(int(Aligned(image, image, (right, 0.0)).cut(square).sum()) - 400) <= 20  # a column


def test_a_shift_in_words():
    assert describe((1.0, -2.5)) == "1 pixel right of and 2.5 pixels above"
    assert describe((-3.0, 0.0)) == "3 pixels left of" and describe((0.0, 0.0)) == "exactly over"
