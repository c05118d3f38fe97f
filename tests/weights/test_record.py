"""What guards weights: `config.json` is checked by name and by checksum, the content by its hash."""

import hashlib
import json
import math

import numpy as np
import pytest
from safetensors.numpy import save

import iqa_jax
from iqa_jax.errors import WeightsError
from iqa_jax.models import ModelConfig
from iqa_jax.weights.directory import FILE, read_weights, save_weights
from iqa_jax.weights.flat import content_hash
from iqa_jax.weights.places import SHIPPED
from iqa_jax.weights.reading import read_any
from iqa_jax.weights.record import (
    identity_of,
    made_record,
    read_config,
    text_of,
)

pytestmark = pytest.mark.quick

# What a field of the model may not be, whoever wrote it.
REFUSED = {
    "name": ["iqa_former", "", None, 3, ["iqa_conformer"], {}],
    "backbone": ["vgg", "", None, 1.5, ["efficientnet_lite0"]],
    "num_classes": [-1, 5, "0", None, 0.5, True],
    "dim": [0, -1, 33, 10**9, "32", None, 32.0, [32]],
    "heads": [0, -4, 3, 5, "4", None, 4.0],
    "dropout": [-0.1, 1, 2, "0.1", None, math.nan],
    "stochastic_depth": [-0.1, 1, "0", None],
    "crop_size": [0, -64, 8, 10**12, "64", None, 64.5],
    "taps": [["stage9"], "stage1", [3], None, [], [["stage1"]]],
    "stride": [-32, "32", None, 24, 0],
    "magnitudes": [["stage9"], "stage1", None, [None]],
    "similarities": [0, 1, "true", None, [True]],
    "mos_mean": ["3", None, math.nan, math.inf, [3.0], 10**400],
    "mos_std": [0, -1, "1", None, math.nan],
    "mos_low": [5.0, 7, "1", None, -math.inf],
    "mos_high": [1.0, 0, "5", None],
    "dtype": ["float16", "int8", None, 32],
}
# What it may be, but was not.
OTHER = {
    "dim": [64, 16],
    "heads": [1, 2, 8],
    "dropout": [0.2],
    "crop_size": [96],
    "mos_mean": [3.1, -3.0],
    "mos_std": [2.0],
    "mos_low": [0.0],
    "mos_high": [9.0],
    "dtype": ["bfloat16"],
}


@pytest.fixture(scope="module")
def small(small_weights):
    """Configuration, weights and record of a small model."""
    return read_weights(small_weights)


@pytest.fixture
def folder(small, tmp_path):
    config, weights, _ = small
    save_weights(tmp_path / "small", config, weights, {"file": "random"}, card="# Small")
    return tmp_path / "small"


def changed(folder, change, *, seal):
    """Changes the record of a folder; without a `seal` it is one of the last version."""
    record = json.loads((folder / "config.json").read_text())
    if not seal:
        del record["record_sha256"]
    change(record)
    (folder / "config.json").write_text(json.dumps(record))


@pytest.mark.parametrize("field", REFUSED)
def test_each_field_of_a_model_is_checked_by_name(folder, field):
    content = (folder / "config.json").read_text()
    for value in REFUSED[field]:
        (folder / "config.json").write_text(content)
        changed(folder, lambda record: record["model"].update({field: value}), seal=False)  # noqa: B023
        with pytest.raises(WeightsError) as caught:
            read_any(folder)
        message = str(caught.value)
        assert "config.json: not a configuration" in message and "\n" not in message, message
        assert "model: " in message and ("expected" in message or "need" in message or "has" in message), (
            message
        )


def test_a_field_that_is_missing_or_unknown_is_named(folder):
    content = (folder / "config.json").read_text()
    for change, message in (
        (lambda record: record["model"].pop("mos_mean"), "model: mos_mean: is missing"),
        (lambda record: record["model"].update(depth=3), "model: 'depth': no such field"),
        (lambda record: record.update(model=[]), "model: .*expected the fields of a model"),
        (lambda record: record.pop("model"), "model: .*expected the fields of a model"),
        (lambda record: record.update(source=None), "source: expected"),
        (lambda record: record.update(sha256=7), "sha256: expected a SHA-256"),
        (lambda record: record.update(files={"x": 1}), "files: expected a SHA-256 of each file"),
        (lambda record: record.update(steps_per_epoch="2"), "steps_per_epoch: expected"),
        (lambda record: record.update(training=3), "training: expected"),
    ):
        (folder / "config.json").write_text(content)
        changed(folder, change, seal=False)
        with pytest.raises(WeightsError, match=message):
            read_config(folder)
    for text in ("[" * 100_000, "{}", "3", "", '{"format": 1, "model": ' + "9" * 5000 + "}"):
        (folder / "config.json").write_text(text)
        with pytest.raises(WeightsError, match="config.json: "):
            read_config(folder)


def test_any_other_value_is_noticed_by_the_checksum(folder):
    content = (folder / "config.json").read_text()
    changes = [("model", field, value) for field in OTHER for value in OTHER[field]]
    for part, field, value in [*changes, ("source", "file", "other")]:
        (folder / "config.json").write_text(content)
        changed(folder, lambda record: record[part].update({field: value}), seal=True)  # noqa: B023
        with pytest.raises(WeightsError, match="not what was written, its checksum differs"):
            read_any(folder)


def test_a_record_of_the_last_version_is_read(folder):
    changed(folder, lambda record: None, seal=False)
    config, _, record = read_any(folder)
    assert config.mos_high == 5 and "record_sha256" not in record


def test_no_flipped_byte_of_a_folder_passes(folder, small):
    """It is refused, or it changes nothing that was read."""
    expected = small[0], small[2]["sha256"]
    rng = np.random.default_rng(0)
    for name in ("config.json", FILE):
        content = (folder / name).read_bytes()
        for place in rng.integers(len(content), size=40):
            flipped = bytearray(content)
            flipped[place] ^= 1 << int(rng.integers(8))
            (folder / name).write_bytes(flipped)
            try:
                config, weights, _ = read_any(folder)
            except WeightsError as error:
                assert "\n" not in str(error)
            else:
                assert (config, content_hash(weights)) == expected
        (folder / name).write_bytes(content)


def forged(folder, config, weights, sha256=None):
    """A folder whose checksums of files and record are right, whatever the weights are."""
    content = save({name: np.asarray(array) for name, array in weights.items()})
    files = {FILE: hashlib.sha256(content).hexdigest()}
    record = made_record(config, {}, sha256=sha256 or content_hash(weights), files=files)
    folder.mkdir()
    (folder / FILE).write_bytes(content)
    (folder / "config.json").write_text(text_of(record))
    return folder


def test_weights_do_not_take_the_name_of_others(small, tmp_path):
    config, weights, record = small
    other = {**weights, "head.output.bias": np.asarray(weights["head.output.bias"]) + 1}
    with pytest.raises(WeightsError, match="not the weights that config.json was written for"):
        read_weights(forged(tmp_path / "other", config, other, record["sha256"]))


def test_weights_that_give_no_scores_are_named(small, tmp_path):
    config, weights, _ = small
    for number, (name, value, message) in enumerate(
        (
            ("head.output.bias", np.nan, "has values that are not finite"),
            ("conv_proj.kernel", np.inf, "has values that are not finite"),
            ("encoder.conv_module.batch_norm.var", -1.0, "a variance below 0"),
        )
    ):
        bad = {**weights, name: np.full_like(np.asarray(weights[name]), value)}
        with pytest.raises(WeightsError, match=f"{FILE}: weight {name}: {message}"):
            iqa_jax.load(forged(tmp_path / str(number), config, bad))
        with pytest.raises(WeightsError, match=f"weight {name}: {message}"):
            save_weights(tmp_path / "kept", config, bad, {})
        assert not (tmp_path / "kept").exists()


def test_the_scale_and_the_heads_are_part_of_the_identity():
    config = ModelConfig("iqa_conformer")
    changes = ({"mos_mean": 3.0}, {"mos_high": 9.0}, {"heads": 2}, {"dtype": "bfloat16"})
    others = [ModelConfig("iqa_conformer", **change) for change in changes]
    assert len({identity_of(c, "a" * 64) for c in (config, *others)} | {identity_of(config, "b" * 64)}) == 6


def test_the_metrics_of_the_package_have_their_checksum():
    for directory in SHIPPED.values():
        text = (directory / "config.json").read_text()
        assert "record_sha256" in text and text_of(json.loads(text)) == text
