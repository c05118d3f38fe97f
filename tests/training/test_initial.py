"""Runs that start from other weights."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

from iqa_jax.cli.train_arguments import parse
from iqa_jax.data.splits import digests_trained_on
from iqa_jax.errors import ConfigError, DataError, WeightsError
from iqa_jax.training.initial import Start, reuse, start_of, with_architecture
from iqa_jax.training.loop import train
from iqa_jax.weights.checkpoints import Saved
from iqa_jax.weights.directory import save_weights
from iqa_jax.weights.flat import iqa_model_with
from iqa_jax.weights.reading import read_any, read_run_weights
from tests import miniature, networks
from tests.training.test_run import cache, configured, data_dir  # noqa: F401  fixtures

OTHER = networks.small_config(dim=16, crop_size=96, taps=("stage0", "stage1"), stride=32, mos_std=1.1)
weights_of = networks.random_weights


@pytest.fixture
def other(tmp_path):
    save_weights(tmp_path / "other", OTHER, weights_of(OTHER, seed=3), {"file": "test"})
    return tmp_path / "other"


@pytest.fixture
def trained(call, tmp_path):
    """`trained(recipe, dataset, …)` runs the command in `tmp_path`; gives what it printed."""

    def run(recipe, dataset, *options):
        place = ["--data-dir", tmp_path / "data"]
        assert call("splits", dataset, "--seeds", 1, *place, "--output", tmp_path / "splits")[0] == 0
        splits = tmp_path / "splits" / f"{dataset.replace('/', '-')}-0.json"
        fields = {"dataset": dataset, "splits": splits, "data_dir": tmp_path / "data", "batch_size": 2}
        fields |= {"init_from": tmp_path / "other", "learning_rate": 1e-6}
        given = [f"--config.{name}={value}" for name, value in fields.items()]
        code, out, err = call("train", "--config", recipe, "--workdir", tmp_path / "run", *given, *options)
        assert code == 0, err
        return out

    return run


def test_scores_are_put_on_the_new_scale():
    new = dataclasses.replace(OTHER, mos_mean=1400.0, mos_std=120.0, mos_low=900.0, mos_high=1900.0)
    old_weights = weights_of(OTHER, seed=3)
    weights, remark = reuse(weights_of(new), Start(OTHER, old_weights, {}), new)
    assert "from the scale 1 to 5 to 900 to 1900" in remark and "initialised nothing" in remark
    crops = jax.random.uniform(jax.random.key(0), (2, 2, 96, 96, 3))
    models = [iqa_model_with(config, w) for config, w in ((OTHER, old_weights), (new, weights))]
    forward = jax.jit(lambda state: nnx.merge(nnx.graphdef(models[0]), state)(*crops))  # the same for both
    before, after = (model.denormalise(forward(nnx.state(model))) for model in models)
    np.testing.assert_allclose(after, 900 + (before - 1) / 4 * 1000, rtol=1e-5)


def test_what_fits_is_reused_and_the_rest_initialised():
    new = networks.small_config(crop_size=96, stride=32)
    given, initial = weights_of(OTHER, seed=3), weights_of(new)
    weights, remark = reuse(initial, Start(OTHER, given, {}), new)
    same = {name for name in initial if name in given and given[name].shape == initial[name].shape}
    assert f"({len(same)} of {len(initial)} arrays, same scale)" in remark
    parts, start = remark.partition("; initialised ")[::2]
    assert "backbone" in parts and "conv_proj" in start and "backbone" not in start
    for name in initial:
        expected = given if name in same and not name.startswith("head.output") else initial
        assert np.array_equal(weights[name], expected[name]) or name.startswith("head.output")


def test_a_run_has_the_architecture_and_the_weights_it_starts_from(trained, tmp_path, call, other):
    """With the recipe for a few pairs."""
    table = miniature.pairs(tmp_path / "own", size=(100, 104))
    text = table.read_text()
    for label, on_scale in (("59", "3"), ("60", "3.5"), ("69", "4"), ("70", "5")):
        text = text.replace(f" {label},", f" {on_scale},")
    table.write_text(text)
    place = ["--data-dir", tmp_path / "data"]
    assert call("prepare", "pairs", "--manual-dir", table, "--scale", "1-5", *place)[0] == 0
    out = trained("conformer:finetune", "pairs/mine", "--config.num_steps=1")
    assert "initialised nothing" in out
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["model"]["dim"] == 16 and record["model"]["taps"] == ["stage0", "stage1"]
    assert record["source"]["init_from"]["sha256"] == read_any(other)[2]["sha256"]
    weights = read_run_weights(tmp_path / "run", step="latest")
    _, given, _ = read_any(other)
    np.testing.assert_allclose(weights["conv_proj.kernel"], given["conv_proj.kernel"], atol=1e-4)
    for path in other.iterdir():  # not needed any more
        path.unlink()
    trained("conformer:finetune", "pairs/mine", "--config.num_steps=1")
    assert Saved(tmp_path / "run").steps == [1]


def test_a_student_reuses_a_full_reference_model_and_needs_no_references(trained, tmp_path, call, other):
    for number in range(8):
        miniature.save(tmp_path / "own" / f"{number}.png", miniature.picture(number, (96, 100)))
    rows = "".join(f"{number}.png,{1 + number / 2}\n" for number in range(8))
    (tmp_path / "own" / "own.csv").write_text(f"image,mos\n{rows}")
    table = ["--manual-dir", tmp_path / "own" / "own.csv", "--data-dir", tmp_path / "data"]
    assert call("prepare", "pairs", *table)[0] == 0
    fields = {"dataset": "pairs/own", "train_split": "train[:6]", "validation_split": "train[6:]"}
    with pytest.raises(DataError, match="config.dataset=pairs/own: has no references"):
        train(configured(tmp_path / "data", **fields), tmp_path / "conformer")
    out = trained("student:finetune", "pairs/own", "--config.num_steps=1")
    assert "; initialised " in out
    assert "features: kept in memory" in out and "before training: plcc" in out
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    first, line = (json.loads(line) for line in lines)
    assert first["step"] == 0 and "loss" not in first and np.isfinite(first["rmse"])
    assert "psnr_srcc" not in line and np.isfinite(line["loss"])


@pytest.mark.quick
@pytest.mark.parametrize(("recipe", "metric"), [("conformer", "full-reference"), ("student", "blind")])
def test_the_recipe_for_a_few_pairs_starts_from_the_metric_of_the_package(recipe, metric, tmp_path):
    start = start_of(parse([f"--config={recipe}:finetune"]).config, tmp_path)
    assert start.origin["file"] == metric and start.origin["trained_on"]
    config = with_architecture(parse([f"--config={recipe}:finetune"]).config, start)
    assert config.stride == start.config.stride == 32 and tuple(config.taps.split(",")) == start.config.taps


@pytest.mark.parametrize(
    ("init", "error", "message"),
    [
        ("nowhere", WeightsError, "nowhere: no such directory"),
        ("backbone", ConfigError, "weights of a backbone alone"),
    ],
)
def test_what_cannot_be_started_from_is_named(data_dir, packaged_weights, init, error, message):  # noqa: F811
    config = configured(
        data_dir,
        init_from=packaged_weights / "weights" / "efficientnet_lite0" if init == "backbone" else init,
    )
    with pytest.raises(error, match=message):
        train(config, data_dir / "run")
    assert not (data_dir / "run" / "config.json").exists()


@pytest.mark.quick
def test_what_the_first_weights_saw_counts_as_trained_on():
    data = {"training": {"references": {"a.png": "digest a"}}}
    record = {"data": data, "source": {"init_from": {"trained_on": ["digest b"]}}}
    assert digests_trained_on(record) == {"digest a", "digest b"}
    assert digests_trained_on({}) == set()
