"""The examples run; what they show is in the documentation."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from iqa_jax.cli.train_arguments import parse
from iqa_jax.scoring.metric import FullReferenceMetric
from iqa_jax.scoring.network import Network
from tests import miniature, networks

_EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, _EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(_EXAMPLES.rglob("*.py")), ids=lambda path: path.stem)
def test_every_example_finds_what_it_imports(path, monkeypatch):
    monkeypatch.syspath_prepend(path.parent)
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.parametrize("recipe", ["conformer", "student"])
def test_the_recipes_of_the_packages_metrics_are_complete(recipe):
    command = [f"--config={_EXAMPLES / 'pretrain' / 'recipe.py'}:{recipe}", "--config.teacher=run"]
    config = parse(command if recipe == "student" else command[:1]).config
    assert (config.stride, config.dataset) == (32, "pairs/windows")


def test_a_denoiser_learns_from_the_error_and_from_the_metric():
    denoise = example("denoise")
    model = networks.random_model(networks.small_config(crop_size=32, dim=16))
    metric = FullReferenceMetric(Network.from_model(model), {"sha256": ""})
    photographs = np.stack([miniature.picture(seed, (48, 48)) / np.float32(255) for seed in range(2)])
    noisy = photographs + denoise.NOISE * np.random.default_rng(0).standard_normal(photographs.shape)
    errors = [np.square(noisy - photographs).mean()]
    for share in (0.0, 1e-3):
        restored = denoise.train(metric, photographs, share=share, steps=150)(np.float32(noisy))
        errors.append(np.square(restored - photographs).mean())
    assert errors[1] < 0.5 * errors[0] and errors[2] < 0.5 * errors[0]
    assert errors[1] != errors[2]
