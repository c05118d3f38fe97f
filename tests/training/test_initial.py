"""Runs that begin from other weights."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from iqa_jax.data.splits import digests_trained_on
from iqa_jax.errors import ConfigError, DataError, WeightsError
from iqa_jax.training.distillation import train_student
from iqa_jax.training.initial import Start, taken_over
from iqa_jax.training.loop import train
from iqa_jax.weights.directory import save_weights
from iqa_jax.weights.flat import iqa_model_with
from iqa_jax.weights.reading import read_any, read_run_weights
from tests import miniature, networks
from tests.training.test_run import cache, configured, data_dir  # noqa: F401  fixtures

OTHER = networks.small_config(dim=16, crop_size=96, taps=("stage0", "stage1"), stride=32, mos_std=1.1)
weights_of = networks.random_weights


@pytest.fixture
def other(tmp_path):
    save_weights(tmp_path / "other", OTHER, weights_of(OTHER, seed=3), {"file": "test"}, card="")
    return tmp_path / "other"


def test_scores_are_put_on_the_new_scale():
    new = dataclasses.replace(OTHER, mos_mean=1400.0, mos_std=120.0, mos_low=900.0, mos_high=1900.0)
    old_weights = weights_of(OTHER, seed=3)
    weights, remark = taken_over(weights_of(new), Start(OTHER, old_weights, {}), new)
    assert "from the scale 1 to 5 to 900 to 1900" in remark and "nothing made new" in remark
    crops = jax.random.uniform(jax.random.key(0), (2, 3, 96, 96, 3))
    before, after = (
        model.denormalise(model(*crops))
        for model in (iqa_model_with(OTHER, old_weights), iqa_model_with(new, weights))
    )
    np.testing.assert_allclose(after, 900 + (before - 1) / 4 * 1000, rtol=1e-5)


def test_a_run_has_the_architecture_and_the_weights_it_begins_from(data_dir, other, capsys):  # noqa: F811
    config = configured(data_dir, init_from=other, num_steps=2, learning_rate=1e-6)
    train(config, data_dir / "run")
    assert "starting from" in capsys.readouterr().out
    record = json.loads((data_dir / "run" / "config.json").read_text())
    assert record["model"]["dim"] == 16 and record["model"]["taps"] == ["stage0", "stage1"]
    assert record["source"]["init_from"]["sha256"] == read_any(other)[2]["sha256"]
    trained = read_run_weights(data_dir / "run", step="latest")
    _, given, _ = read_any(other)
    np.testing.assert_allclose(trained["conv_proj.kernel"], given["conv_proj.kernel"], atol=1e-4)
    for path in other.iterdir():  # they are not needed any more
        path.unlink()
    assert train(dataclasses.replace(config, num_steps=4), data_dir / "run")["step"] == 4


def test_a_student_takes_what_fits_of_a_full_reference_model(data_dir, other, capsys):  # noqa: F811
    config = configured(data_dir, "student", init_from=other, pseudo_ratio=0, num_steps=2)
    train_student(config, data_dir / "student")
    assert "arrays taken" in capsys.readouterr().out


def test_a_run_without_references_is_for_students(data_dir, tmp_path):  # noqa: F811
    for number in range(8):
        miniature.save(tmp_path / "own" / f"{number}.png", miniature.picture(number, (96, 100)))
    rows = "".join(f"{number}.png,{1 + number / 2}\n" for number in range(8))
    (tmp_path / "own" / "own.csv").write_text(f"image,mos\n{rows}")
    from iqa_jax.data.preparation import prepare_dataset

    prepare_dataset("pairs", data_dir=tmp_path / "data", manual_dir=tmp_path / "own" / "own.csv")
    fields = {"dataset": "pairs/own", "train_split": "train[:6]", "validation_split": "train[6:]"}
    with pytest.raises(DataError, match="config.dataset=pairs/own: has no references"):
        train(configured(tmp_path / "data", **fields), tmp_path / "conformer")
    config = configured(tmp_path / "data", "student", pseudo_ratio=0, **fields)
    line = train_student(config, tmp_path / "student")
    assert "psnr_srcc" not in line and np.isfinite(line["srcc"])


@pytest.mark.parametrize(
    ("init", "error", "message"),
    [
        ("nowhere", WeightsError, "nowhere: no such directory"),
        ("backbone", ConfigError, "weights of a backbone alone"),
    ],
)
def test_what_cannot_be_begun_from_is_named(data_dir, packaged_weights, init, error, message):  # noqa: F811
    config = configured(
        data_dir,
        init_from=packaged_weights / "weights" / "efficientnet_lite0" if init == "backbone" else init,
    )
    with pytest.raises(error, match=message):
        train(config, data_dir / "run")
    assert not (data_dir / "run" / "config.json").exists()


def test_the_recipe_for_a_few_pairs_needs_a_table_and_a_division(tmp_path, call):
    table = miniature.pairs(tmp_path / "own", size=(200, 204))
    text = table.read_text()
    for given, on_scale in (("59", "3"), ("60", "3.5"), ("69", "4"), ("70", "5")):
        text = text.replace(f" {given},", f" {on_scale},")
    table.write_text(text)
    place = ["--data-dir", tmp_path / "data"]
    assert call("prepare", "pairs", "--manual-dir", table, "--scale", "1-5", *place)[0] == 0
    assert call("splits", "pairs/mine", "--seeds", 1, *place, "--output", tmp_path / "splits")[0] == 0
    splits = tmp_path / "splits" / "pairs-mine-0.json"
    options = [f"--config.splits={splits}", f"--config.data_dir={tmp_path / 'data'}", "--config.batch_size=2"]
    for recipe in ("conformer", "student"):
        run = ["--config", f"{recipe}:finetune", "--workdir", tmp_path / recipe, "--config.num_steps=2"]
        code, out, err = call("train", *run, *options)
        assert code == 0 and "starting from" in out, err
    record = json.loads((tmp_path / "conformer" / "config.json").read_text())
    assert record["source"]["init_from"]["file"] == "full-reference"
    assert record["source"]["init_from"]["trained_on"] and record["model"]["stride"] == 32


@pytest.mark.quick
def test_what_the_first_weights_saw_counts_as_trained_on():
    data = {"training": {"references": {"a.png": "digest a"}}}
    record = {"data": data, "source": {"init_from": {"trained_on": ["digest b"]}}}
    assert digests_trained_on(record) == {"digest a", "digest b"}
    assert digests_trained_on({}) == set()
