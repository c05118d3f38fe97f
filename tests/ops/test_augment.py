"""Crops, flips and rotations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from iqa_jax.ops.augment import augment_pair, flip_and_rotate, rotate
from iqa_jax.ops.keys import example_key

GOLDEN = reference.figures("rotation_golden")


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: str(case["angle_deg"]))
def test_rotation_matches_the_figures(case):
    image = np.moveaxis(np.array(GOLDEN["image_chw"], np.float32), 0, -1)
    rotated = rotate(jnp.asarray(image), case["angle_deg"], fill=-1.0)
    np.testing.assert_array_equal(np.moveaxis(np.asarray(rotated), -1, 0), case["rotated_chw"])


def augmented(key, images, shape, **options):
    return augment_pair(key, images, images, jnp.array(shape), crop_size=24, **options)


def test_both_images_are_augmented_alike_and_by_the_key_alone():
    images = np.random.default_rng(0).integers(0, 256, (40, 36, 3), dtype=np.uint8)
    first, same = augmented(example_key(0, 1, 2), images, (40, 36))
    assert first.shape == (24, 24, 3) and first.dtype == jnp.float32
    assert 0 <= first.min() and first.max() <= 1
    np.testing.assert_array_equal(first, same)
    np.testing.assert_array_equal(first, augmented(example_key(0, 1, 2), images, (40, 36))[0])
    for other in ((1, 1, 2), (0, 2, 2), (0, 1, 3)):
        assert not np.array_equal(first, augmented(example_key(*other), images, (40, 36))[0])


def test_without_rotation_it_is_a_crop_of_the_image_proper_or_its_mirror():
    y, x = np.mgrid[:40, :50].astype(np.uint8)
    images = np.stack([y, x, np.ones_like(x)], axis=-1)
    images[30:] = images[:, 36:] = 0  # filling
    crop = jax.jit(jax.vmap(lambda key: augmented(key, images, (30, 36), rotation=0.0)[0]))
    found = np.rint(np.asarray(crop(jax.random.split(jax.random.key(0), 200))) * 255).astype(int)
    tops, lefts, flips = set(), set(), set()
    for rows, columns, filled in np.moveaxis(found, -1, 1):
        assert filled.all()
        step = columns[0, 1] - columns[0, 0]
        top, left = rows[0, 0], columns[0].min()
        np.testing.assert_array_equal(rows, np.arange(top, top + 24)[:, None].repeat(24, 1))
        np.testing.assert_array_equal(columns[0], np.arange(left, left + 24)[::step])
        tops.add(top), lefts.add(left), flips.add(step)
    assert (tops, lefts, flips) == (set(range(7)), set(range(13)), {-1, 1})


def test_quarter_turns_give_each_of_the_eight_forms_of_a_crop():
    crop = jnp.arange(4 * 4 * 3, dtype=jnp.float32).reshape(4, 4, 3)

    @jax.jit
    @jax.vmap
    def form(index):
        return flip_and_rotate(example_key(0, 0, index), crop, rotation=0.0, turns=True)

    forms = form(jnp.arange(200))
    shown = {np.asarray(form).tobytes() for form in forms}
    expected = (np.rot90(x, k) for x in (crop, crop[:, ::-1]) for k in range(4))
    assert shown == {np.asarray(form).tobytes() for form in expected}
