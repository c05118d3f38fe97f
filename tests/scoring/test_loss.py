"""The loss of the metrics that the package ships with: it can be trained with."""

import jax
import numpy as np
import pytest

import iqa_jax
from iqa_jax.weights.places import SHIPPED
from tests import miniature


@pytest.mark.parametrize("name", SHIPPED)
def test_the_gradient_is_the_slope_of_the_loss_and_finite_everywhere(name):
    metric = iqa_jax.load(name)
    picture = miniature.picture(0, (192, 192))
    # Away from 0 and 1, beyond which values are clipped and the slope is another one.
    reference, distorted = (
        np.float32(0.1 + 0.8 * image / 255) for image in (picture, miniature.noisy(picture, 20.0, 1))
    )
    given = [reference] if metric.full_reference else []
    value_and_gradient = jax.jit(jax.value_and_grad(lambda x: metric.loss(*given, x)))

    loss, gradient = value_and_gradient(distorted)
    assert gradient.shape == distorted.shape and float(loss) > 0
    # A step along the gradient, small beside the noise, changes the loss by what the gradient says.
    direction = gradient / np.linalg.norm(gradient)
    steps = (-0.0125, 0.0125)
    ends = [float(value_and_gradient(np.float32(distorted + step * direction))[0]) for step in steps]
    slope = (ends[1] - ends[0]) / 0.025
    assert slope > 0 and slope == pytest.approx(float(np.vdot(gradient, direction)), rel=0.03)
    for image in (reference, 0 * reference, 0 * reference + 1):  # the reference itself is one of them
        assert np.isfinite(value_and_gradient(image)[1]).all()
