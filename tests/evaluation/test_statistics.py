import numpy as np
import pytest
from scipy import stats

from iqa_jax.evaluation.statistics import (
    bootstrap_intervals,
    compare_numbers,
    fit_logistic,
    logistic4,
    logistic5,
)

pytestmark = pytest.mark.quick


def curved(count=300, noise=0.02, seed=0):
    """Predictions, and MOS that is a logistic of them on another scale."""
    rng = np.random.default_rng(seed)
    predicted = rng.uniform(20, 50, count)
    mos = logistic4(predicted, 4.8, 1.2, 33.0, 3.0)
    return predicted, mos + noise * rng.standard_normal(count)


@pytest.mark.parametrize("parameters", [4, 5])
def test_a_logistic_relation_is_found_again(parameters):
    predicted, mos = curved()
    fit = fit_logistic(predicted, mos, parameters=parameters)
    assert fit.succeeded and len(fit.parameters) == parameters
    assert np.corrcoef(fit.mapped, mos)[0, 1] > 0.999 > np.corrcoef(predicted, mos)[0, 1]
    assert np.sqrt(np.mean((fit.mapped - mos) ** 2)) < 0.05
    assert fit_logistic(predicted, mos, parameters=parameters).parameters == fit.parameters


@pytest.mark.parametrize("parameters", [4, 5])
def test_the_fit_is_the_least_squares_one_on_any_scale(parameters):
    predicted, mos = curved(noise=0.3)
    fit = fit_logistic(predicted, mos, parameters=parameters)
    other = fit_logistic(1000 * predicted - 7, mos / 50, parameters=parameters)
    np.testing.assert_allclose(other.mapped * 50, fit.mapped, rtol=1e-5)
    function = {4: logistic4, 5: logistic5}[parameters]
    x, y = ((v - v.mean()) / v.std() for v in (predicted, mos))
    best = np.sum((function(x, *fit.parameters) - y) ** 2)
    rng = np.random.default_rng(1)
    for _ in range(50):
        nearby = np.array(fit.parameters) * (1 + 0.02 * rng.standard_normal(parameters))
        assert np.sum((function(x, *nearby) - y) ** 2) >= best - 1e-9


def test_a_falling_relation_is_fitted_too():
    predicted, mos = curved()
    assert np.corrcoef(fit_logistic(-predicted, mos, parameters=4).mapped, mos)[0, 1] > 0.999


@pytest.mark.parametrize(
    ("predicted", "mos"), [(np.ones(9), np.arange(9.0)), (np.arange(3.0), np.arange(3.0))]
)
def test_a_fit_that_cannot_be_is_reported_as_failed(predicted, mos):
    fit = fit_logistic(predicted, mos, parameters=4)
    assert not fit.succeeded and fit.message and np.isnan(fit.mapped).all() and fit.parameters == ()


def test_a_fit_that_does_not_converge_is_reported_as_failed(monkeypatch):
    def fail(*args, **kw):
        raise RuntimeError("Optimal parameters not found")

    monkeypatch.setattr("scipy.optimize.curve_fit", fail)
    fit = fit_logistic(*curved(), parameters=5)
    assert not fit.succeeded and "not found" in fit.message and np.isnan(fit.mapped).all()


def test_intervals_resample_reference_contents():
    rng = np.random.default_rng(0)
    contents = np.repeat([f"r{k:02d}" for k in range(40)], 25)
    values = np.repeat(rng.standard_normal(40), 25)  # the pairs of a reference are alike

    def mean(at):
        return {"mean": float(values[at].mean())}

    low, high = bootstrap_intervals(contents, mean, resamples=2000)["mean"]
    error = stats.sem(values[::25])
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert low < values.mean() < high
    assert bootstrap_intervals(contents, mean, resamples=50) == bootstrap_intervals(
        contents, mean, resamples=50
    )


def test_one_reference_gives_no_interval():
    found = bootstrap_intervals(["a"] * 5, lambda at: {"x": 1.0})
    assert np.isnan(found["x"]).all()


def test_a_difference_is_taken_within_each_resample():
    rng = np.random.default_rng(0)
    contents = np.repeat([f"r{k:02d}" for k in range(30)], 10)
    shared = np.repeat(rng.standard_normal(30), 10)  # what moves both in the same direction
    values = {"a": shared, "b": shared + 0.1 + 0.05 * rng.standard_normal(300), "c": shared - 0.1}
    values["d"] = shared + np.repeat(rng.standard_normal(30), 10) - shared.mean()

    def means(at):
        return {name: float(value[at].mean()) for name, value in values.items()}

    found = compare_numbers(contents, means, "a", resamples=500)
    assert {name: c.verdict for name, c in found.items()} == {
        "a": "no difference",
        "b": "higher",
        "c": "lower",
        "d": "no difference",
    }
    assert found["b"].interval == bootstrap_intervals(contents, means, resamples=500)["b"]
    low, high = found["b"].difference_interval
    assert low < found["b"].difference < high and high - low < 0.1 * np.ptp(found["b"].interval)
    assert found["a"].difference == 0 and found["a"].difference_interval == (0, 0)
    assert found["c"].difference == pytest.approx(-0.1)
    alone = compare_numbers(["a"] * 300, means, "a")["b"]
    assert np.isnan(alone.difference_interval).all() and alone.verdict == ""
