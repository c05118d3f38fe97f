"""The distortions of KADID-10k: contract, determinism, severity, and what each one does."""

import csv
import hashlib
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, optimize
from skimage import color, data

from iqa_jax.data import distortions
from iqa_jax.data.datasets import iqa_demo
from iqa_jax.data.distortions import KADID_TYPES, LEVELS, TYPES, distort, parameter
from iqa_jax.data.opinions import mean_opinion
from iqa_jax.data.registry import TABLE, distortion
from iqa_jax.errors import UserError
from iqa_jax.evaluation.baselines import luma

FOLDER = Path(distortions.__file__).parent
CASES = [(type, level) for type in KADID_TYPES for level in LEVELS]


@pytest.fixture(scope="module")
def photographs():
    return [data.astronaut()[:160, 150:310], data.chelsea()[60:220, 120:280], data.coffee()[80:240, 200:360]]


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (33, 47, 3), np.uint8)


def grey(value, side=200):
    return np.full((side, side, 3), value, np.uint8)


def digest():
    """Of all distortions of one image."""
    image = np.random.default_rng(1).integers(0, 256, (40, 36, 3), np.uint8)
    return hashlib.sha256(
        b"".join(distort(image, *case, seed=(3, 4)).tobytes() for case in CASES)
    ).hexdigest()


def test_table():
    lines = Path(distortions.__file__).with_name("kadid10k_mean_mos.csv").read_text().splitlines()
    rows = list(csv.DictReader(lines[1:]))
    assert [(row["type"], int(row["level"])) for row in rows] == CASES
    for row, case in zip(rows, CASES, strict=True):
        assert mean_opinion(*case) == float(row["mos_mean"])
        assert not row["value"] or parameter(*case) == float(row["value"])


@settings(deadline=None, max_examples=100)
@given(
    st.integers(32, 70),
    st.integers(32, 70),
    st.sampled_from(TYPES),
    st.sampled_from(LEVELS),
    st.integers(0, 2**32),
)
def test_any_size(height, width, type, level, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    before = image.copy()
    result = distort(image, type, level, seed=seed)
    assert result.shape == image.shape and result.dtype == np.uint8 and result.flags.writeable
    assert not np.shares_memory(result, image)
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(result, distort(image, type, level, seed=seed))


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.filterwarnings("error")
def test_flat_images(value):
    for case in CASES:
        distort(grey(value, 32), *case)


def test_same_in_another_process():
    command = (
        "import sys; sys.path.append('tests/data'); from test_distortions import digest; print(digest())"
    )
    root = Path(__file__).parents[2]
    shown = subprocess.run(
        [sys.executable, "-c", command], cwd=root, capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == digest()


def test_seed_matters_to_the_random_types_alone(noise):
    for type in TYPES:
        differs = (distort(noise, type, 5, seed=0) != distort(noise, type, 5, seed=[0, 1])).any()
        assert differs == TABLE[type].random, type


@pytest.mark.parametrize("type", KADID_TYPES)
@pytest.mark.filterwarnings("error")
def test_error_grows_as_opinion_falls(photographs, type):
    if type == "color_shift":  # people found levels 4 and 5 equally bad
        levels = LEVELS
    else:
        levels = sorted(LEVELS, key=lambda level: -mean_opinion(type, level))
    errors = []
    for level in levels:
        distorted = [distort(image, type, level, seed=i) for i, image in enumerate(photographs)]
        errors.append(np.mean(np.subtract(distorted, photographs, dtype=np.float64) ** 2))
    if type == "mean_shift":  # up and down by the same amount: the same error but for the clipping
        np.testing.assert_allclose(errors[1:3], np.mean(errors[1:3]), rtol=0.15)
        np.testing.assert_allclose(errors[3:5], np.mean(errors[3:5]), rtol=0.15)
        errors = [errors[0], np.mean(errors[1:3]), np.mean(errors[3:5])]
    assert all(np.diff(errors) > 0), dict(zip(levels, errors, strict=False))


@pytest.mark.parametrize(
    "type, level", [("gaussian_blur", 1), ("motion_blur", 1), ("saturation_lab", 1), ("mean_shift", 3)]
)
def test_mildest_leaves_the_image_as_it_is(noise, type, level):
    np.testing.assert_allclose(distort(noise, type, level).astype(int), noise, atol=1)


def test_blurs_keep_a_flat_image(noise):
    flat = grey(77, 40)
    for type in ("gaussian_blur", "lens_blur", "motion_blur", "jitter", "high_sharpen", "pixelate"):
        np.testing.assert_array_equal(distort(flat, type, 5), flat, type)


def test_lens_blur_spreads_over_a_disk():
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    lit = np.argwhere(distortions.lens_blur(point, 6)[..., 0])
    assert np.hypot(*(lit - 20).T).max() < 6.5 and len(lit) == pytest.approx(np.pi * 6**2, rel=0.1)


def test_motion_blur_spreads_over_a_line():
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    blurred = distortions.motion_blur(point, 10, np.random.default_rng(0))[..., 0].astype(float)
    places = np.argwhere(blurred) - 20
    spread = np.linalg.eigvalsh(np.cov(places.T, aweights=blurred[blurred > 0]))  # px^2, across and along
    assert spread[0] < 0.5 and spread[1] == pytest.approx(9**2 / 12, rel=0.15)


def test_color_diffusion_keeps_the_lightness():
    image = data.astronaut()[:64, 200:264]
    moved = color.rgb2lab(distortions.color_diffusion(image, 3)) - color.rgb2lab(image)
    assert np.median(abs(moved[..., 0])) < 1 < np.median(abs(moved[..., 1:]))


def test_saturation_is_that_of_hsv(noise):
    hsv = color.rgb2hsv(noise)
    hsv[..., 1] *= 0.4
    expected = np.rint(255 * color.hsv2rgb(hsv))
    np.testing.assert_allclose(distortions.saturation_hsv(noise, 0.4), expected, atol=1)


def test_color_shift_moves_green_alone(noise):
    changed = distortions.color_shift(noise, 3, np.random.default_rng(0)) != noise
    assert changed[..., 1].any() and not changed[..., [0, 2]].any()


@pytest.mark.parametrize(
    "function, variance, expected",
    [
        (distortions.white_noise, 0.002, 0.002),
        (distortions.multiplicative_noise, 0.01, 0.01 / 4),  # at half of full scale
        (distortions.impulse_noise, 0.02, 0.02 / 4),  # density times the square of the jump
    ],
)
def test_noise_has_its_variance(function, variance, expected):
    image = grey(128)
    noisy = function(image, variance, np.random.default_rng(0))
    assert np.var((noisy.astype(float) - image) / 255) == pytest.approx(expected, rel=0.05)


def test_number_of_colors_and_levels(photographs):
    for image in photographs:
        assert len(np.unique(distortions.color_quantization(image, 8).reshape(-1, 3), axis=0)) == 8
        assert len(np.unique(distortions.quantization(image, 7))) == 7


def test_curves_keep_black_and_white():
    ends = grey(0, 64)
    ends[32:] = 255
    for type in ("brighten", "darken", "contrast dist."):
        np.testing.assert_array_equal(distort(ends, type, 5), ends, type)
    assert (distortions.brighten(grey(128), 0.5) > 140).all()
    assert (distortions.darken(grey(128), 0.5) < 115).all()


def test_patches_and_blocks():
    ramp = np.broadcast_to(np.arange(100, dtype=np.uint8)[:, None, None], (100, 100, 3))
    patched = distortions.non_eccentricity_patch(ramp, 5, np.random.default_rng(0))
    assert 0 < (patched != ramp).any(axis=2).sum() <= 5 * 16**2
    assert abs(patched.astype(int) - ramp).max() <= 16
    blocked = distortions.color_block(grey(0), 1, np.random.default_rng(0))
    assert (blocked != 0).any(axis=2).sum() == 32**2


@pytest.mark.parametrize(
    "image, message",
    [
        (np.zeros((40, 40, 3)), "uint8 array, got float64"),
        ([[0]], "uint8 array, got list"),
        (np.zeros((40, 40), np.uint8), r"\(40, 40\): expected \(H, W, 3\)"),
        (np.zeros((40, 40, 4), np.uint8), r"\(40, 40, 4\): expected \(H, W, 3\)"),
        (np.zeros((31, 40, 3), np.uint8), r"\(31, 40, 3\): expected \(H, W, 3\), H and W of 32 or more"),
    ],
)
def test_wrong_image(image, message):
    with pytest.raises(UserError, match=message):
        distort(image, "jpeg", 1)
    with pytest.raises(UserError, match=message):
        distortions.gaussian_blur(image, 1)


@pytest.mark.parametrize("call", [parameter, mean_opinion, lambda *case: distort(grey(0), *case)])
def test_wrong_type_or_level(call):
    with pytest.raises(UserError, match="type 'blur': expected one of gaussian_blur, "):
        call("blur", 1)
    for level in (0, 6, 1.0, "1"):
        with pytest.raises(UserError, match=f"level {level!r}: expected one of 1, 2, 3, 4, 5"):
            call("jpeg", level)


def test_the_built_in_types_are_what_the_set_says_of_them():
    """The label of a type and level fits every photograph."""
    rows = csv.DictReader((FOLDER / "kadid10k_mean_mos.csv").read_text().splitlines()[1:])
    table = {(row["type"], int(row["level"])): row for row in rows}
    for kind, level in itertools.product(iqa_demo.TYPES, LEVELS):
        assert table[kind, level]["value"], f"{kind}: the data set states no parameter"
        assert float(table[kind, level]["mos_std"]) <= 0.5, f"{kind}: opinions differ between photographs"
    photographs = [iqa_demo.photograph(name) for name in iqa_demo.PHOTOGRAPHS]
    kinds = (*iqa_demo.TYPES, "jpeg2000")
    effect = {
        kind: np.array(
            [[gradient_deviation(p, distort(p, kind, level)) for p in photographs] for level in LEVELS]
        )
        for kind in kinds
    }
    label = {
        kind: np.tile([[mean_opinion(kind, level)] for level in LEVELS], (1, len(photographs)))
        for kind in kinds
    }

    def off(kind):
        """How far (5, photographs) labels are from those of other types' pictures that changed as much."""
        others = [other for other in iqa_demo.TYPES if other != kind]
        effects, labels = (np.concatenate([of[other].ravel() for other in others]) for of in (effect, label))
        seen, position, count = np.unique(effects, return_inverse=True, return_counts=True)
        means = np.bincount(position, labels) / count
        usual = optimize.isotonic_regression(means, weights=count, increasing=False).x
        return np.abs(np.interp(effect[kind], seen, usual) - label[kind])

    for kind in iqa_demo.TYPES:
        assert np.median(off(kind), axis=1).max() < 1.1 and off(kind).max() < 1.9, kind
    assert np.median(off("jpeg2000"), axis=1).max() > 1.3  # one ratio is not one effect: it is left out


def gradient_deviation(reference, distorted):
    """GMSD (Xue et al., IEEE Transactions on Image Processing, 2014) of two images (H, W, 3) uint8."""
    kernel = np.array([[1, 0, -1]] * 3) / 3
    magnitudes = []
    for image in (reference, distorted):
        small = ndimage.uniform_filter(luma(image), 2)[::2, ::2]
        magnitudes.append(np.hypot(ndimage.convolve(small, kernel), ndimage.convolve(small, kernel.T)))
    a, b = magnitudes
    return ((2 * a * b + 170) / (a**2 + b**2 + 170)).std()


def test_a_new_type_leaves_the_data_sets_own_as_they_are(monkeypatch, noise):
    before = distort(noise, "color_block", 2, seed=1)

    @distortion(1, 2, 3, 4, 5)
    def checkers(image, amount, rng):
        return (image.astype(float) + amount * rng.standard_normal(image.shape)) / 255

    try:
        monkeypatch.setattr(distortions, "TYPES", ("checkers", *TYPES))
        np.testing.assert_array_equal(distort(noise, "color_block", 2, seed=1), before)
        assert distort(noise, "checkers", 3).shape == noise.shape
        with pytest.raises(UserError, match="no opinion is known of checkers"):
            mean_opinion("checkers", 1)
    finally:
        del TABLE["checkers"]
