import numpy as np
import pytest
from scipy import stats

from iqa_jax.evaluation.agreement import correlations, srcc
from iqa_jax.evaluation.baselines import psnr, ssim
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


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\(3,\) and mos \(4,\)"):
        correlations(np.zeros(3), np.zeros(4))


def test_psnr_and_ssim():
    image = miniature.picture(0, (64, 64))
    assert psnr(image, image) == float("inf") and ssim(image, image) == pytest.approx(1.0)
    off_by_ten = np.clip(image, 0, 245) + np.uint8(10)
    assert psnr(np.clip(image, 0, 245), off_by_ten) == pytest.approx(20 * np.log10(25.5), rel=1e-9)
    scores = [ssim(image, miniature.noisy(image, s, 0)) for s in (2.0, 10.0, 50.0)]
    assert scores == sorted(scores, reverse=True) and scores[0] > 0.9 > scores[-1]
    assert srcc(np.array([np.inf, 40.0, 20.0]), np.array([3.0, 2.0, 1.0])) == pytest.approx(1.0)
