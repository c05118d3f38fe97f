"""What the tests share: models with the weights of the reference figures."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import functools

import pytest
import reference

from iqa_jax.conversion import convert_state_dict
from iqa_jax.weights import model_with


@pytest.fixture(scope="session")
def converted():
    """`converted(name)`: our weights for `figures/NAME_state_dict.json`, converted once."""
    return functools.cache(lambda name: convert_state_dict(reference.fill_rule(name)))


@pytest.fixture(scope="session")
def filled(converted):
    """`filled(name)`: a new model in evaluation mode with those weights."""

    def build(name):
        return model_with(converted(name).config, converted(name).weights)

    return build
