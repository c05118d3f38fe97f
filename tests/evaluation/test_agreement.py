import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from iqa_jax.errors import UserError
from iqa_jax.evaluation.agreement import THIRDS, correlations, srcc, thirds
from iqa_jax.evaluation.baselines import luma, psnr, ssim
from tests import miniature

pytestmark = pytest.mark.quick


def test_correlations_are_those_of_the_whole_split():
    rng = np.random.default_rng(0)
    mos = rng.standard_normal(200)
    predicted = np.round(mos + rng.standard_normal(200), 1)  # with ties
    found = correlations(predicted, mos)
    assert found["plcc"] == pytest.approx(np.corrcoef(predicted, mos)[0, 1], rel=1e-12)
    ranks = [stats.rankdata(x) for x in (predicted, mos)]
    assert found["srcc"] == pytest.approx(np.corrcoef(*ranks)[0, 1], rel=1e-12)
    pairs = [(np.sign(predicted[i] - predicted[:i]), np.sign(mos[i] - mos[:i])) for i in range(200)]
    a, b = (np.concatenate(signs) for signs in zip(*pairs, strict=True))
    tau_b = (a * b).sum() / np.sqrt((a != 0).sum() * (b != 0).sum())
    assert found["krcc"] == pytest.approx(tau_b, rel=1e-12)
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((predicted - mos) ** 2)), rel=1e-12)
    assert found["main_score"] == found["plcc"] + found["srcc"]


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0, 2.0]])
def test_an_undefined_correlation_is_nan(values):
    found = correlations(np.array(values), np.arange(len(values)))
    assert np.isnan(found["plcc"]) and np.isnan(found["srcc"]) and np.isfinite(found["rmse"])


def test_thirds_are_of_the_opinions_and_never_divide_equal_ones():
    mos = np.random.default_rng(0).permutation(9.0 * np.arange(9))
    found = thirds(mos)
    assert [sorted(mos[at]) for at in found.values()] == [[54, 63, 72], [27, 36, 45], [0, 9, 18]]
    assert tuple(found) == THIRDS and all(np.all(np.diff(at) > 0) for at in found.values())
    for mos, expected in (
        ([1, 2, 2, 2, 3, 4], [[4, 5], [1, 2, 3], [0]]),  # most of the equal ones are in the middle third
        ([2, 2, 2, 3, 4, 5], [[4, 5], [3], [0, 1, 2]]),
        ([2, 2, 2, 2, 3, 4], [[4, 5], [0, 1, 2, 3], []]),  # half and half: in the middle third
        ([5, 5, 5, 5, 4, 3], [[], [0, 1, 2, 3], [4, 5]]),
        ([1, 1, 1], [[], [0, 1, 2], []]),
        ([], [[], [], []]),
    ):
        assert [at.tolist() for at in thirds(np.array(mos)).values()] == expected
        mirrored = thirds(-np.array(mos))
        assert [at.tolist() for at in mirrored.values()] == expected[::-1]


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\(3,\) and mos \(4,\)"):
        correlations(np.zeros(3), np.zeros(4))


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (120, 90)])
def test_ssim_is_scikit_image_s(size):
    from skimage.metrics import structural_similarity

    image = miniature.picture(3, size)
    for strength in (0.0, 2.0, 50.0):
        distorted = miniature.noisy(image, strength, 0)
        expected = structural_similarity(
            luma(image),
            luma(distorted),
            data_range=255.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert ssim(image, distorted) == pytest.approx(expected, abs=1e-13)


def test_psnr_and_ssim_take_what_a_metric_takes(tmp_path):
    reference = miniature.picture(3, (60, 80))
    distorted = miniature.noisy(reference, 9.0, 0)
    zeros = np.zeros((40, 40, 3))
    assert psnr(zeros, zeros + 0.5) == pytest.approx(20 * np.log10(2))
    paths = [tmp_path / name for name in ("r.png", "d.png")]
    for path, image in zip(paths, (reference, distorted), strict=True):
        miniature.save(path, image)
    for measure in (psnr, ssim):
        expected = measure(reference, distorted)
        floats = reference / 255, distorted / 255
        assert measure(*floats) == pytest.approx(expected, rel=1e-12)
        assert measure(*(jnp.asarray(x) for x in floats)) == pytest.approx(expected, rel=1e-5)
        assert measure(*paths) == measure(*map(Image.open, paths)) == expected
        batch = measure(np.stack([reference, distorted]), np.stack([distorted, distorted]))
        assert batch.shape == (2,) and batch[0] == expected and batch[1] == measure(distorted, distorted)
        for bad, message in (
            ((reference, zeros[:1, :1]), "expected 32 pixels or more"),
            ((reference, distorted[:50]), "differ in shape"),
            ((reference, distorted.astype(float)), "divide by 255"),
            ((reference, distorted * np.nan), "NaN"),
            ((reference, distorted.astype(int)), "distorted: int64"),
        ):
            with pytest.raises(UserError, match=message):
                measure(*bad)


def test_psnr_and_ssim():
    image = miniature.picture(0, (64, 64))
    assert psnr(image, image) == float("inf") and ssim(image, image) == pytest.approx(1.0)
    off_by_ten = np.clip(image, 0, 245) + np.uint8(10)
    assert psnr(np.clip(image, 0, 245), off_by_ten) == pytest.approx(20 * np.log10(25.5), rel=1e-9)
    scores = [ssim(image, miniature.noisy(image, s, 0)) for s in (2.0, 10.0, 50.0)]
    assert scores == sorted(scores, reverse=True) and scores[0] > 0.9 > scores[-1]
    assert srcc(np.array([np.inf, 40.0, 20.0]), np.array([3.0, 2.0, 1.0])) == pytest.approx(1.0)
