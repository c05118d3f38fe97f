"""What runs on CPUs here lowers for GPUs and TPUs too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iqa_jax.models import BACKBONES, IQA_MODELS, ModelConfig, split_model
from iqa_jax.ops.noise import InputNoise
from iqa_jax.scoring.network import window_functions
from iqa_jax.training.batches import Batch
from iqa_jax.training.step import initial_state, make_optimizer, make_train_step
from tests import networks

SIZE = 64
PLATFORMS = ("cuda", "tpu")


def parts(name, dtype="float32", backbone="efficientnet_lite0"):
    # Of a structure that no other test has, so that each program is traced here.
    config = ModelConfig(name, backbone, crop_size=SIZE, dim=32, dtype=dtype, mos_mean=2.25)
    return networks.random_model(config)


@pytest.mark.parametrize("name", IQA_MODELS)
def test_the_training_step_lowers(name):
    model = parts(name, "bfloat16")
    model.train()
    graph, trained, frozen = split_model(model)
    optimizer = make_optimizer(1e-3, schedule="cosine", warmup_steps=2, total_steps=10)
    step = make_train_step(
        graph, optimizer, seed=0, accumulation=2, ema_decay=0.9, noise=InputNoise(), pseudo_weight=0.5
    )
    images = jnp.zeros((4, SIZE, SIZE, 3), jnp.uint8)
    numbers = jnp.zeros(4, jnp.int32)
    reference = images if model.full_reference else None
    batch = Batch(numbers, numbers, reference, images, jnp.zeros(4), jnp.zeros(4, bool))
    state = initial_state(trained, optimizer, ema=True)
    assert jax.jit(step).trace(state, frozen, batch).lower(lowering_platforms=PLATFORMS).as_text()


@pytest.mark.parametrize(
    ("name", "backbone"),
    dict.fromkeys(
        [*((name, "efficientnet_lite0") for name in IQA_MODELS), *(("iqa_conformer", b) for b in BACKBONES)]
    ),
)
def test_the_programs_of_the_engine_lower(name, backbone):
    model = parts(name, backbone=backbone)
    model.eval()
    graph, weights, frozen = split_model(model)
    features, scores = window_functions(graph)
    given = frozen, (weights,), np.zeros((4, SIZE, SIZE, 3), np.uint8), 3
    calls = [(scores, given)]
    if model.full_reference:
        calls = [(features, given), (scores, (*given, *jax.eval_shape(features, *given)))]
    for function, arguments in calls:
        text = jax.jit(function).trace(*arguments).lower(lowering_platforms=PLATFORMS).as_text()
        assert "HIGHEST" in text  # no TF32
    assert jax.eval_shape(function, *arguments).shape == (1, 4)
