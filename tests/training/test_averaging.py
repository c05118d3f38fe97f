import numpy as np
import pytest
import torch

from iqa_jax.errors import UserError
from iqa_jax.training.averaging import average


def epochs(count=4):
    rng = np.random.default_rng(0)
    return [
        {"a": rng.standard_normal((3, 2)).astype(np.float32), "b": rng.standard_normal(5).astype(np.float32)}
        for _ in range(count)
    ]


def test_equal_is_the_arithmetic_mean():
    found = average(epochs())
    for name in ("a", "b"):
        expected = np.mean([e[name].astype(np.float64) for e in epochs()], axis=0)
        np.testing.assert_allclose(found[name], expected, rtol=1e-6)
        assert found[name].dtype == np.float32


def test_exp_weighs_each_new_epoch_by_the_decay():
    first, second, third = (e["b"].astype(np.float64) for e in epochs(3))
    found = average(epochs(3), kind="exp", decay=0.9)["b"]
    np.testing.assert_allclose(found, 0.1 * (0.1 * first + 0.9 * second) + 0.9 * third, rtol=1e-6)


def test_one_epoch_stays_what_it_is():
    np.testing.assert_array_equal(average(epochs(1), kind="exp")["a"], epochs(1)[0]["a"])


@pytest.mark.parametrize(
    ("kw", "message"),
    [
        ({"kind": "mean"}, "equal or exp"),
        ({"kind": "exp", "decay": 0.0}, "above 0"),
        ({"kind": "exp", "decay": float("nan")}, "above 0"),
        ({"decay": 0.5}, "decay 0.5: has no effect on type equal"),
    ],
)
def test_what_does_not_fit_is_named(kw, message):
    with pytest.raises(UserError, match=message):
        average(epochs(), **kw)


def test_statistics_follow_pytorch():
    """The running estimates of `BatchNorm` over several batches are torch's."""
    from iqa_jax.models.conformer import BatchNorm

    rng = np.random.default_rng(0)
    ours, theirs = BatchNorm(6), torch.nn.BatchNorm2d(6, eps=1e-5, momentum=0.1)
    ours.train()
    for _ in range(3):
        x = (2 + 3 * rng.standard_normal((4, 5, 7, 6))).astype(np.float32)
        y = ours(x)
        z = theirs(torch.as_tensor(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).detach().numpy()
        np.testing.assert_allclose(y, z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.mean[...], theirs.running_mean.numpy(), rtol=1e-5)
    np.testing.assert_allclose(ours.var[...], theirs.running_var.numpy(), rtol=1e-5)
