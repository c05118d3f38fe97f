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
from flax import nnx

from iqa_jax.cli import app as commands
from iqa_jax.models import ModelConfig, build
from iqa_jax.weights.directory import save_weights
from iqa_jax.weights.flat import STORED, flat_weights, model_with
from iqa_jax.weights.pytorch.convert import convert_state_dict, pretrained_backbone


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


@pytest.fixture
def call(monkeypatch, packaged_weights, capsys):
    """`call("prepare", …)`: exit code, standard output, standard error of a command."""
    monkeypatch.setenv("IQA_JAX_CACHE", str(packaged_weights))

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["iqa_jax", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            commands.main()
        out, err = capsys.readouterr()
        return exit_.value.code, out, err

    return run


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory):
    """A weights directory of a small random IQA Conformer, quick to load and to compile."""
    config = ModelConfig(
        "iqa_conformer",
        "efficientnet_lite0",
        crop_size=64,
        dim=32,
        mos_mean=3.0,
        mos_std=1.0,
        mos_low=1.0,
        mos_high=5.0,
    )
    weights = flat_weights(nnx.state(build(config, rngs=nnx.Rngs(0)), STORED))
    directory = tmp_path_factory.mktemp("small") / "weights"
    save_weights(directory, config, weights, {"file": "random"})
    return directory
