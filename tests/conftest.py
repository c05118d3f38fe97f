"""What the tests share: models with the weights of the reference figures."""

# ruff: noqa: E402
import functools
import os
import tempfile

# Before jax is imported.  Programs that several tests, their subprocesses or the other workers need are
# compiled once in a test run.
if "IQA_JAX_TESTS" not in os.environ:
    _COMPILED = tempfile.TemporaryDirectory(prefix="iqa_jax-tests-")
    os.environ["IQA_JAX_TESTS"] = os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED.name
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"

import pytest
import reference

from iqa_jax.conversion import convert_state_dict, pretrained_backbone
from iqa_jax.weights import model_with


@pytest.fixture(scope="session")
def packaged_weights(tmp_path_factory):
    """A cache directory in which EfficientNet-Lite0's weights are converted already."""
    directory = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IQA_JAX_CACHE", str(directory))
        pretrained_backbone("efficientnet_lite0", "auto")
    return directory


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
