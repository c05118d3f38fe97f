import copy
import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from iqa_jax.errors import UserError
from iqa_jax.ops.windows import windows
from iqa_jax.scoring.metric import FullReferenceMetric
from iqa_jax.scoring.network import Network
from tests import miniature, networks

CROP = 64


@pytest.fixture(scope="module")
def model():
    return networks.random_model(networks.small_config(crop_size=CROP))


@pytest.fixture(scope="module")
def metric(model):
    return FullReferenceMetric(Network.from_model(model), {"sha256": "0" * 64, "source": {"file": "random"}})


def pair(height, width, seed=0):
    reference = miniature.picture(seed, (height, width))
    return reference, miniature.noisy(reference, 20.0, seed)


@pytest.fixture(scope="module")
def predict(metric):
    """MOS of windows, ten at a time."""
    compiled = jax.jit(metric.model.predict)
    return lambda *images: compiled(*(np.resize(x, (10, CROP, CROP, 3)) for x in images))[: len(images[0])]


@pytest.mark.parametrize("crops", ["ten", "center", "grid"])
def test_crops_are_those_of_the_paper(model, predict, crops):
    reference, distorted = pair(90, 83)
    cut = [windows(x[None], crops, CROP)[0] for x in (reference, distorted)]
    expected = predict(*cut).mean()
    score = FullReferenceMetric(Network.from_model(model), {"sha256": ""}, crops=crops)(reference, distorted)
    assert score.shape == () and float(score) == pytest.approx(float(expected), abs=1e-4)


def test_the_score_is_the_same_however_it_is_asked_for(model, metric):
    pairs = [pair(100, 80, seed) for seed in range(3)]
    alone = np.array([metric(r, d) for r, d in pairs])
    references, distorted = (np.stack(images) for images in zip(*pairs, strict=True))
    ways = {
        "a batch": metric(references, distorted),
        "in another order": metric(references[::-1], distorted[::-1])[::-1],
        "JAX arrays": metric(jnp.asarray(references), jnp.asarray(distorted)),
        "floats": metric(references / 255, np.float32(distorted / 255)),
        "prepared": np.array([metric(metric.prepare(r), d) for r, d in pairs]),
        "a prepared batch": metric(metric.prepare(references), distorted),
        "a stream": np.array(list(metric.stream(pairs))),
    }
    for batch_size in (1, 3, 32):
        other = FullReferenceMetric(Network.from_model(model), {"sha256": ""}, batch_size=batch_size)
        ways[f"{batch_size} at a time"] = np.array([other(r, d) for r, d in pairs])
    for way, scores in ways.items():
        np.testing.assert_allclose(scores, alone, rtol=0, atol=1e-4, err_msg=way)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(32, 150), st.integers(32, 150), st.sampled_from(["uint8", "float16", "float32", "float64"])
)
def test_any_size_and_kind_of_number(metric, height, width, dtype):
    reference, distorted = pair(height, width)
    if dtype != "uint8":
        reference, distorted = ((x / 255).astype(dtype) for x in (reference, distorted))
    score = metric(reference, distorted)
    assert score.shape == () and np.isfinite(score)
    assert metric(reference, distorted) == score


def test_small_images_are_mirrored_up(metric):
    reference, distorted = pair(40, 50)
    mirrored = [np.pad(x, ((0, 24), (0, 14), (0, 0)), mode="symmetric") for x in (reference, distorted)]
    assert float(metric(reference, distorted)) == pytest.approx(float(metric(*mirrored)), abs=1e-5)


IMAGE = np.zeros((64, 64, 3), np.uint8)


@pytest.mark.parametrize(
    ("reference", "distorted", "message"),
    [
        ([IMAGE], IMAGE[None], "reference: a list; expected a NumPy or JAX array"),
        (IMAGE, "image.png", "image.png: No such file"),
        (IMAGE, IMAGE[:, :60], r"reference \(64, 64, 3\) and distorted \(64, 60, 3\) differ in shape"),
        (IMAGE, IMAGE[None], "differ in shape"),
        (IMAGE[..., 0], IMAGE, r"reference: shape \(64, 64\)"),
        (IMAGE[..., :1], IMAGE, r"reference: shape \(64, 64, 1\)"),
        (IMAGE, IMAGE.astype(np.int32), "distorted: int32"),
        (IMAGE, IMAGE.astype(bool), "distorted: bool"),
        (IMAGE, IMAGE + np.float32(7), r"values from 7.0 to 7.0; expected \[0, 1\]; divide by 255"),
        (IMAGE, IMAGE - np.float32(1), r"values from -1.0 to -1.0; expected \[0, 1\]"),
        (IMAGE, IMAGE * np.float32("nan"), "distorted: holds NaN"),
        (IMAGE[:31], IMAGE[:31], "expected 32 pixels or more"),
    ],
)
def test_what_came_and_what_is_wanted(metric, reference, distorted, message):
    with pytest.raises(UserError, match=message):
        metric(reference, distorted)


def test_a_prepared_reference_fits_one_size_and_protocol(model, metric):
    prepared = metric.prepare(IMAGE)
    with pytest.raises(UserError, match=r"expected \(64, 64, 3\), the prepared reference"):
        metric(prepared, IMAGE[:40])
    with pytest.raises(UserError, match="a reference that another metric prepared"):
        FullReferenceMetric(Network.from_model(model), {"sha256": ""}, crops="ten")(prepared, IMAGE)
    with pytest.raises(UserError, match="expected one of grid, ten, center"):
        FullReferenceMetric(Network.from_model(model), {"sha256": ""}, crops="five")
    with pytest.raises(UserError, match="batch_size 0: expected a whole number, 1 or more"):
        FullReferenceMetric(Network.from_model(model), {"sha256": ""}, batch_size=0)


def test_the_loss_falls_as_the_score_rises_and_has_finite_gradients(metric):
    images = [np.float32(x / 255) for x in pair(70, 64)]
    score = metric(*images)
    loss_and_gradient = jax.jit(jax.value_and_grad(metric.loss, argnums=1))
    loss, _ = loss_and_gradient(*images)
    assert float(loss) == pytest.approx(5.0 - float(score), abs=1e-4)
    for reference, distorted in (images, (images[0], images[0]), (images[0] * 0, images[0] * 0)):
        _, gradient = loss_and_gradient(reference, distorted)
        assert gradient.shape == distorted.shape and bool(jnp.isfinite(gradient).all())
    batch = [jnp.stack([x, x]) for x in images]
    constant = jnp.asarray(images[0])
    assert float(jax.jit(lambda x: metric.loss(constant, x))(images[1])) == pytest.approx(float(loss))
    losses = jax.jit(metric.loss)(*batch)
    assert losses.shape == (2,)
    np.testing.assert_allclose(jax.jit(jax.vmap(metric.loss))(*batch), losses, rtol=1e-4)


def test_the_map_has_the_size_of_the_image_and_shows_where_it_is_bad(metric):
    reference, _ = pair(130, 200)
    distorted = reference.copy()
    distorted[:, 120:] = miniature.noisy(reference, 60.0, 0)[:, 120:]
    quality = metric.map(reference, distorted)
    assert quality.values.shape == (130, 200) and np.isfinite(quality.values).all()
    assert len(quality.windows) == len(quality.scores) and quality.windows[:, 0].min() == 0
    assert (quality.windows[:, 0] + quality.windows[:, 2]).max() == 130
    assert (quality.windows[:, 1] + quality.windows[:, 3]).max() == 200
    assert (
        quality.scores.min() - 1e-3
        <= quality.values.min()
        <= quality.values.max()
        <= quality.scores.max() + 1e-3
    )
    left, right = quality.values[:, :40].mean(), quality.values[:, 160:].mean()
    assert left != pytest.approx(right, abs=1e-4)
    assert metric.map(*pair(33, 40)).values.shape == (33, 40)


def test_describe_is_what_a_paper_must_quote(metric):
    told = metric.describe()
    assert told["metric"] == "iqa_conformer" and told["sha256"] == "0" * 64 and told["crops"] == "grid"
    assert told["trained_on"] == "not known, from random" and told["version"].startswith("iqa_jax ")
    assert metric.higher_is_better and metric.range == (1.0, 5.0) == told["range"]


def test_rounding_errors_are_clipped_and_more_is_told_at_full_precision(metric):
    image = np.ones((70, 70, 3), np.float32)
    over, under = image.copy(), np.zeros_like(image)
    over[0, 0, 0], under[0, 0, 0] = 1.0005, -0.0005
    assert metric(image, over) == metric(image, image)
    assert metric(image, under) == metric(image, np.zeros_like(image))
    over[0, 0, 0] = 1.0025
    with pytest.raises(UserError, match=r"values from 1.0 to 1.0025\d+; expected \[0, 1\]; clip them"):
        metric(image, over)


@pytest.mark.parametrize(
    ("shapes", "scale", "message"),
    [
        (
            ((192, 192, 3), (100, 192, 3)),
            1,
            r"reference \(192, 192, 3\) and distorted \(100, 192, 3\) differ",
        ),
        (((72, 72, 3), (72, 72, 3)), 255, "expected .0, 1.; divide by 255"),
        (((20, 20, 3), (20, 20, 3)), 1, "expected 32 pixels or more"),
        (((72, 72), (72, 72)), 1, r"expected a NumPy or JAX array \(H, W, 3\)"),
    ],
)
def test_the_loss_says_what_the_metric_says(metric, shapes, scale, message):
    images = [scale * jax.random.uniform(jax.random.key(0), shape) for shape in shapes]
    for function in (metric.loss, metric):
        with pytest.raises(UserError, match=message):
            function(*images)
    if scale == 1:  # known while tracing; the range is not
        with pytest.raises(UserError, match=message):
            jax.jit(metric.loss)(*images)
        with pytest.raises(UserError, match=message):
            jax.grad(metric.loss, argnums=1)(*images)
    with pytest.raises(UserError, match="int32"):
        jax.jit(metric.loss)(jnp.ones((72, 72, 3), jnp.int32), jnp.ones((72, 72, 3), jnp.int32))


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap, jax.grad])
def test_a_traced_metric_points_to_the_loss(metric, transform):
    images = jnp.ones((2, 72, 72, 3))
    with pytest.raises(UserError, match="inside a transformed function, use metric.loss"):
        transform(lambda x: metric(x, x).sum())(images)


def test_a_metric_survives_pickle(metric):
    images = pair(90, 83)
    again = pickle.loads(pickle.dumps(metric))
    assert again(*images) == metric(*images) and again.describe() == metric.describe()
    assert copy.deepcopy(again)(*images) == metric(*images)


def test_the_loss_of_a_large_image_goes_through_the_model_in_parts(metric):
    reference, distorted = (np.float32(x) / 255 for x in pair(200, 240))

    def at_once(x):
        cut = [windows(image[None], "grid", CROP)[0] for image in (jnp.asarray(reference), x)]
        return 5.0 - metric.model.predict(*cut).mean()

    loss, gradient = jax.jit(jax.value_and_grad(lambda x: metric.loss(reference, x)))(distorted)
    expected, slope = jax.jit(jax.value_and_grad(at_once))(distorted)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, atol=1e-3 * np.abs(slope).max())


def test_some_windows_are_drawn_for_the_loss_with_a_key(metric):
    reference, distorted = (np.float32(x) / 255 for x in pair(200, 240))
    keys = jax.random.split(jax.random.key(0), 8)
    of_two = jax.jit(lambda key: metric.loss(reference, distorted, windows=2, key=key))
    drawn = [float(of_two(key)) for key in keys]
    assert len({round(loss, 6) for loss in drawn}) > 3
    assert drawn[0] == float(of_two(keys[0]))
    all_of_99, every = (
        jax.jit(functools.partial(metric.loss, windows=count))(reference, distorted) for count in (99, None)
    )
    assert float(all_of_99) == float(every)
    with pytest.raises(UserError, match="windows=2: expected a key"):
        metric.loss(reference, distorted, windows=2)


def test_files_and_pillow_images_are_taken_as_images(metric, tmp_path):
    images = pair(90, 83)
    expected = float(metric(*images))
    paths = [tmp_path / name for name in ("r.png", "d.png")]
    for path, image in zip(paths, images, strict=True):
        miniature.save(path, image)
    assert float(metric(*paths)) == expected == float(metric(*map(str, paths)))
    assert float(metric(*map(Image.open, paths))) == expected
    with pytest.raises(UserError, match="channels come last"):
        metric(*(image.transpose(2, 0, 1) for image in images))


def test_a_mask_shows_the_part_that_is_scored(metric):
    reference, distorted = pair(200, 200)
    half = distorted.copy()
    half[:, :100] = reference[:, :100]
    mask = np.zeros((200, 200), bool)
    mask[:, :64] = True
    part = metric(reference[:, :64], half[:, :64])
    assert float(metric(reference, half, mask=mask)) == pytest.approx(float(part), abs=1e-4)
    assert float(metric(reference, half, mask=np.ones((200, 200)))) == pytest.approx(
        float(metric(reference, half)), abs=1e-4
    )
    with pytest.raises(UserError, match="mask: 0 everywhere"):
        metric(reference, half, mask=np.zeros((200, 200), bool))
    with pytest.raises(UserError, match="mask: shape"):
        metric(reference, half, mask=mask[:50])
