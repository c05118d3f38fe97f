"""The examples run; what they show is in the documentation."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from iqa_jax.scoring.metric import FullReferenceMetric
from iqa_jax.scoring.network import Network
from iqa_jax.weights.flat import STORED, flat_weights, iqa_model_with
from iqa_jax.weights.places import SHIPPED
from iqa_jax.weights.reading import read_any
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


def test_both_trainings_of_the_denoiser_in_pytorch_see_the_same():
    torch = pytest.importorskip("torch")
    denoise = example("denoise_torch")
    images = denoise.read(denoise.SHIPPED)
    assert len(images.training) == 2 and images.held_out.shape == (4, 3, denoise.SIDE, denoise.SIDE)

    def further(reference, distorted):
        return torch.square(reference - distorted).mean()

    trained = [
        denoise.train(perceptual, images.training, steps=2, share=share, seed=3, batch_size=1).state_dict()
        for perceptual, share in ((None, 1.0), (further, 0.0), (further, 1.0))
    ]
    same = [all(torch.equal(trained[0][name], other[name]) for name in other) for other in trained]
    assert same == [True, True, False]


@pytest.fixture
def pretrain(monkeypatch):
    """Imports a module of the recipe of the shipped metrics."""
    monkeypatch.syspath_prepend(_EXAMPLES / "pretrain")
    return importlib.import_module


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_metrics_are_those_of_the_recipe(name, pretrain):
    config, _, record = read_any(name)
    recipe = pretrain("recipe").RECIPES[name]
    assert config == recipe.config
    assert record["source"]["training"] == {"seed": 0, **recipe.settings._asdict()}


def test_the_recipe_fits_whole_pictures_on_kept_features(pretrain):
    fit, features = pretrain("fit"), pretrain("features")
    scale = {"mos_mean": 5.0, "mos_std": 1.0, "mos_low": 1.0, "mos_high": 5.0, "crop_size": 192}
    maps = {"taps": ("stage1",), "magnitudes": ("stage1",), "stride": 32, "similarities": True}
    model = networks.random_model(networks.small_config(dim=16, dropout=0.0, **scale, **maps))
    reference = miniature.picture(0, (200, 230))
    versions = [miniature.noisy(reference, sigma, 1) for sigma in (0, 5, 15, 40)]
    parts = features.compared_features(model, reference, versions)
    examples = {**parts, "reference": parts["reference"][None], "originals": np.zeros(4, int)}
    labels = np.float32([5, 4.3, 3.2, 2])
    settings = fit.Settings(40, batch_size=4, warmup_steps=5, ema_decay=0.8)
    weights = flat_weights(fit.fit(model, examples, labels, np.zeros((0, 2), int), settings, 0))
    trained = iqa_model_with(model.config, {**flat_weights(nnx.state(model, STORED)), **weights})
    scores = fit.predict(trained, examples, 4)
    assert scores[0] == 5 and (np.diff(scores) < 0).all()
    metric = FullReferenceMetric(Network.from_model(trained), {"sha256": ""})
    np.testing.assert_allclose([metric(reference, version) for version in versions], scores, atol=0.02)


def test_twins_show_one_picture(pretrain):
    metrics = pretrain("metrics")
    kinds = np.array(["jpeg", "haze", "blur+haze", "identical"])
    part = metrics.Part(Path("007_0.npz"), None, kinds, np.arange(4.0))
    version = np.array([0, 1, 2, 3, 1, 3, *[-1] * 12])  # two grey copies; extras of two sizes
    pictures = np.array([0, 1, 2, 3, 1, 3, *[10] * 6, *[11] * 6])
    taught = {"007_0": np.arange(4.0), "007_0-extras": np.zeros(12)}
    features = [{"version": version, "features": pictures}] * 2
    for without in ((), ("haze",)):
        examples = metrics.blind_examples(features, [part] * 2, taught, without)
        shown = examples.features["features"][examples.twins]
        assert (shown[:, 0] == shown[:, 1]).all() and (examples.twins[:, 0] != examples.twins[:, 1]).all()
        assert len(shown) == 2 * (16 + (1 if without else 2))


def test_labels_follow_the_measures_and_the_best_is_for_identical_pairs(pretrain):
    labels, degrading, names = pretrain("labels"), pretrain("degrading"), pretrain("measures").NAMES
    rng = np.random.default_rng(0)
    kinds = np.array(["identical", *(kind for kind in degrading.KADID for _ in range(20))])
    strength = np.array([0.0, *np.tile(np.linspace(0.3, 5, 20), len(degrading.KADID))])
    measures = -strength[:, None] + 0.1 * rng.standard_normal((len(kinds), len(names)))
    labeller = labels.Labeller([{"kind": kinds, "strength": strength, "measures": measures}])
    assert labeller("identical", 0.0, measures[0]) == 5
    for kind in ("jpeg", "gaussian_blur", "high_frequency_noise", "channel_quantization", "jpeg+haze"):
        scores = [labeller(kind, u, np.full(len(names), -u)) for u in (0.5, 2.0, 4.5)]
        assert 5 >= scores[0] > scores[1] > scores[2] >= 1, kind


def test_stand_ins_for_generative_models_and_extras_change_pictures(pretrain, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    generative, extras = pretrain("generative"), pretrain("extras")
    picture = miniature.noisy(miniature.picture(0, (128, 160)), 12.0, 1)  # with texture
    monkeypatch.setattr(generative, "NETWORK", tmp_path / "network.npz")
    generative.train_network([picture], generative.NETWORK, steps=2)
    for make in generative.GENERATIVE:
        mild, strong = (make(picture, u, np.random.default_rng(0)).astype(float) for u in (0.5, 4.5))
        assert 0 < np.abs(mild - picture).mean() < 1.1 * np.abs(strong - picture).mean(), make.__name__
    assert (np.ptp(extras.toned(picture), axis=-1) == 0).all()
    noise = extras.grained(picture, 6.0, np.random.default_rng(0)).astype(float) - picture
    assert 4 < noise.std() < 7


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
