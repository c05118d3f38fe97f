"""What a metric is asked for, with a model that costs nothing: options, masks, files, forked processes."""

import dataclasses
import json
import multiprocessing
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from iqa_jax.errors import UserError
from iqa_jax.models import ModelConfig
from iqa_jax.scoring import engine
from iqa_jax.scoring.files import score_files
from iqa_jax.scoring.load import load
from iqa_jax.scoring.metric import BlindMetric, FullReferenceMetric

pytestmark = pytest.mark.quick
SIZE = 32
CONFIG = ModelConfig("bright", crop_size=SIZE, mos_mean=0.0, mos_std=1.0, mos_low=0.0, mos_high=1.0)


class Bright:
    """A `WindowModel` whose score is the brightness of the distorted windows, from 0 to 1."""

    sets, config = 1, CONFIG

    def __init__(self, full_reference=True):
        self.full_reference = full_reference

    def features(self, windows, count):
        return (windows.reshape(len(windows), -1).mean(1),)

    def scores(self, reference, windows, count):
        white = 255 if windows.dtype == np.uint8 else 1
        return windows.reshape(1, len(windows), -1).mean(2) / white

    def predict(self, *windows):
        return windows[-1].mean((1, 2, 3))


def metric(crops="grid", **options):
    return FullReferenceMetric(Bright(), {"sha256": "0" * 64}, crops=crops, **options)


def two_corners(side):
    """An image that is bright in two corners of `SIZE`, and the mask of them."""
    mask = np.zeros((side, side), bool)
    mask[:SIZE, :SIZE] = mask[-SIZE:, -SIZE:] = True
    return np.where(mask[..., None], 200, 10).repeat(3, axis=-1).astype(np.uint8), mask


@pytest.mark.parametrize("crops", ["center", "ten", "grid"])
@pytest.mark.parametrize("side", [4 * SIZE, 9 * SIZE])
def test_a_part_has_a_score_by_every_protocol(crops, side):
    image, mask = two_corners(side)
    assert metric(crops)(image, image, mask=mask) == pytest.approx(200 / 255)


def test_a_ring_that_no_window_of_the_protocol_touches_has_a_score():
    across = np.hypot(*(np.indices((400, 400)) - 199.5))
    ring = (across > 150) & (across < 160)
    image = np.where(ring[..., None], 250, 5).repeat(3, axis=-1).astype(np.uint8)
    scores = {crops: float(metric(crops)(image, image, mask=ring)) for crops in ("ten", "center", "grid")}
    assert scores["ten"] == scores["center"] == scores["grid"] > float(metric()(image, image))
    shown = float(metric("center")(image, image, mask=ring | (across < 2)))  # now the centre shows some of it
    assert shown == pytest.approx(float(metric("center")(image, image)))


def test_mask_files_with_transparency_are_the_grey_ones(tmp_path):
    image, mask = two_corners(3 * SIZE)
    Image.fromarray(image).save(tmp_path / "image.png")
    grey, white = Image.fromarray(np.uint8(mask * 255)), Image.new("L", image.shape[:2], 255)
    for name, picture in {"grey": grey, "clear": Image.merge("LA", (white, grey))}.items():
        picture.save(tmp_path / f"{name}.png")
    path = tmp_path / "image.png"
    for name in ("grey", "clear"):
        masks = {path: tmp_path / f"{name}.png"}
        ((_, result),) = score_files(metric("center"), [(path, path)], masks=masks)
        assert result.score == metric("center")(path, path, mask=masks[path]) == pytest.approx(200 / 255)


@pytest.mark.parametrize("value", [True, 1.5, "8", 0, -1, None])
def test_batch_sizes_that_are_none(value):
    with pytest.raises(UserError, match=rf"batch_size {value!r}: expected a whole number, 1 or more"):
        metric(batch_size=value)


@pytest.mark.parametrize("value", [None, "five", 3, ["grid"]])
def test_protocols_that_are_none(value):
    with pytest.raises(UserError, match="expected one of grid, ten, center"):
        metric(crops=value)


IMAGE = np.zeros((100, 100, 3), np.float32)


@pytest.mark.parametrize("value", [True, 1.5, "2", 0, np.float32(2)])
def test_numbers_of_windows_that_are_none(value):
    with pytest.raises(UserError, match=r"windows=.*: expected a whole number, 1 or more"):
        metric().loss(IMAGE, IMAGE, windows=value, key=jax.random.key(0))


@pytest.mark.parametrize(
    ("key", "what"),
    [
        (0, "a int"),
        ("key", "a str"),
        (np.zeros(2, np.float32), r"float32 of shape \(2,\)"),
        (np.zeros(3, np.uint32), r"uint32 of shape \(3,\)"),
        (jax.random.split(jax.random.key(0), 3), r"key<fry> of shape \(3,\)"),
    ],
)
def test_keys_that_are_none(key, what):
    with pytest.raises(UserError, match=rf"windows=2: expected a key, jax.random.key\(0\).*; key is {what}"):
        metric().loss(IMAGE, IMAGE, windows=2, key=key)


def test_keys_of_either_kind_draw_the_same_windows():
    image = np.random.default_rng(0).random((100, 100, 3), np.float32)
    kinds = jax.random.key(1), jax.random.PRNGKey(1), np.asarray(jax.random.PRNGKey(1))
    losses = [float(metric().loss(image, image, windows=np.int64(2), key=key)) for key in kinds]
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize("dtype", [">f4", ">f8", np.longdouble, np.float16, jnp.bfloat16])
def test_floats_of_any_layout_have_one_score_and_one_loss(dtype):
    image = np.full((100, 100, 3), 0.25)
    given = jnp.asarray(image, dtype) if dtype is jnp.bfloat16 else image.astype(dtype)
    assert metric()(given, given) == pytest.approx(0.25)
    assert float(metric().loss(given, given)) == pytest.approx(0.75)


def test_metrics_that_differ_describe_themselves_differently():
    one = metric()
    told = one.describe()
    assert len(json.dumps(told, indent=0).splitlines()) <= 18 and len(json.dumps(told)) < 800
    model = Bright()
    changed = {"mos_std": 2.0, "mos_high": 2.0, "heads": 8, "stride": 32, "dtype": "bfloat16"}
    for field, value in changed.items():
        model.config = dataclasses.replace(CONFIG, **{field: value})
        assert FullReferenceMetric(model, {"sha256": "0" * 64}).describe() != told, field
    assert metric("ten").describe() != told
    assert FullReferenceMetric(Bright(), {"sha256": "1" * 64}).describe() != told
    data = {"dataset": "pairs/x", "training": {"split": "train", "pairs": 7, "references": {"a": "b"}}}
    record = {"sha256": "0" * 64, "name": "mine", "source": {"data": data}}
    told = BlindMetric(Bright(full_reference=False), record).describe()
    assert told["weights"] == "mine" and told["trained_on"] == "pairs/x, train, 7 pairs"


def test_a_forked_process_says_so_instead_of_waiting():
    made, results = metric(), multiprocessing.get_context("fork").SimpleQueue()
    uses = {
        "score": lambda: made(IMAGE, IMAGE),
        "loss": lambda: made.loss(IMAGE, IMAGE),
        "prepare": lambda: made.prepare(IMAGE),
        "load": load,
    }

    def child():
        for name, use in uses.items():
            try:
                use()
            except UserError as error:
                results.put((name, str(error)))
        results.put(None)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX's own
        process = multiprocessing.get_context("fork").Process(target=child, daemon=True)
        process.start()
    told = dict(iter(results.get, None))
    process.join()
    assert told.keys() == uses.keys()
    assert all("was forked" in text and 'get_context("spawn")' in text for text in told.values())
    engine.check_process()  # nothing in the process that started it
