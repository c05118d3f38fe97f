"""Kept features are those of the crops, wherever they are kept; runs on them resume to the bit."""

from typing import cast

import jax
import numpy as np
import pytest

from iqa_jax.data.preparation import prepare_dataset
from iqa_jax.data.source import PairSource
from iqa_jax.errors import ConfigError
from iqa_jax.models import IQAModel
from iqa_jax.scoring.dataset import predict
from iqa_jax.scoring.network import Network
from iqa_jax.training import features, kept
from iqa_jax.training.batches import Examples, KeptBatch
from iqa_jax.training.config import TrainConfig
from iqa_jax.training.features import views_of_picture
from iqa_jax.training.loop import train
from iqa_jax.training.mesh import DataMesh
from iqa_jax.training.step import split_for_training
from iqa_jax.weights.checkpoints import Saved
from iqa_jax.weights.directory import save_weights
from tests import miniature, networks
from tests.training.test_run import cache, configured, data_dir  # noqa: F401  fixtures

SIZE, PLACES = 64, 3
FIELDS = {
    "dataset": "pairs/x",
    "crop_size": 96,  # the least of a recipe; what follows has its own
    "rotation": 0.0,
    "turns": True,
    "keep_features": PLACES,
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    miniature.pipal(folder / "PIPAL", references=2, per_reference=3, size=(70, 100))
    return PairSource(prepare_dataset("pipal", data_dir=folder), "train")


def model_of(kind: str) -> IQAModel:
    return cast(IQAModel, networks.random_model(MODELS[kind]))


def keeping(model, source, workdir, **fields):
    """What a run of the model on these pairs keeps, and the parts of the model."""
    save_weights(workdir / "backbone", model.config, networks.random_weights(model.config), {"file": "x"})
    graphs, trained, frozen = split_for_training(model)
    labels_alone = {} if model.full_reference else {"pseudo_ratio": 0.0}
    config = TrainConfig(**{**FIELDS, **labels_alone, "model": model.config.name, **fields})
    object.__setattr__(config, "crop_size", SIZE)
    weights = graphs.evaluation, trained, frozen
    return kept.kept_of(config, source, source, weights, workdir=workdir), config, weights


MODELS = {
    "full-reference": networks.small_config(magnitudes=("stage0",), similarities=True),
    "blind": networks.small_config("blind_student"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_kept_features_give_the_scores_of_the_crops(kind, pairs, tmp_path):
    """Of the windows that are evaluated, and of those that are trained on, flipped and turned."""
    model = model_of(kind)
    whole, config, (graph, trained, frozen) = keeping(model, pairs, tmp_path, crops="ten")
    model.eval()
    found = kept.KeptScores(graph, whole)(frozen, [trained, trained])
    expected = predict(Network(graph, frozen, [trained]), pairs, crops="ten")
    np.testing.assert_allclose(found, np.concatenate([expected] * 2), rtol=1e-5)
    examples = Examples([pairs], with_references=model.full_reference)
    views = whole.views("training")
    number = 2 * 4 * PLACES - 1
    batch = whole["training"].rows(np.arange(len(pairs)), np.full(len(pairs), number))
    crops = []
    for position in range(len(pairs)):
        picture = examples.reference[position] if model.full_reference else position
        pair = pairs[position]
        images = [pair.reference, pair.distorted] if model.full_reference else [pair.distorted]
        crops.append([views[picture][number].of(image, SIZE) for image in images])
    of_crops = jax.jit(lambda *images: model(*images))(*map(np.stack, zip(*crops, strict=True)))
    found = jax.jit(lambda features: kept.judged(model, features))(batch)
    np.testing.assert_allclose(found, of_crops, rtol=1e-4, atol=1e-5)


@pytest.mark.quick
def test_the_places_are_those_of_the_grid_and_others():
    def drawn(number, size=(100, 200), turns=False, seed=0):
        generator = np.random.default_rng(seed)
        return views_of_picture(size[0], size[1], SIZE, generator, number=number, turns=turns)

    grid = [(0, 0), (0, 45), (0, 91), (0, 136), (36, 0), (36, 45), (36, 91), (36, 136)]
    assert [view.place[:2] for view in drawn(8)[::2]] == grid
    assert {view.place[:2] for view in drawn(5)} < set(grid) and len(drawn(5)) == 10
    more = drawn(11)
    assert [view.place[:2] for view in more[:16:2]] == grid and len(more) == 22
    assert all(0 <= v.place.top <= 36 and 0 <= v.place.left <= 136 for v in more)
    assert drawn(11) == more != drawn(11, seed=1)
    assert len(drawn(8, size=(SIZE, SIZE), turns=True)) == 8  # one place
    image = np.arange(SIZE * SIZE * 3).reshape(SIZE, SIZE, 3)
    shown = {view.of(image, SIZE).tobytes() for view in drawn(1, size=(SIZE, SIZE), turns=True)}
    expected = {np.rot90(x, k).tobytes() for x in (image, image[:, ::-1]) for k in range(4)}
    assert shown == expected


def test_what_is_too_large_for_the_memory_is_in_files(pairs, tmp_path, monkeypatch):
    model = model_of("blind")
    in_memory = keeping(model, pairs, tmp_path)[0]["training"]
    monkeypatch.setattr(features, "_MEMORY_SHARE", 0.0)
    positions, numbers = np.arange(len(pairs)), np.arange(len(pairs))

    def same(one, other):
        found = (jax.tree.leaves(x.rows(positions, numbers)) for x in (one, other))
        return all(np.array_equal(a, b) for a, b in zip(*found, strict=True))

    assert same(keeping(model, pairs, tmp_path)[0]["training"], in_memory)
    assert sorted(path.suffix for path in (tmp_path / "features").iterdir()).count(".json") == 1
    with monkeypatch.context() as patch:  # read, not computed
        patch.setattr(features, "_compute", None)
        assert same(keeping(model, pairs, tmp_path)[0]["training"], in_memory)
    assert not same(keeping(model, pairs, tmp_path, seed=1)[0]["training"], in_memory)
    monkeypatch.setattr(features, "_DISK_SHARE", 0.0)
    with pytest.raises(ConfigError, match="keep_features: the features would take .* MiB, .*; choose fewer"):
        keeping(model, pairs, tmp_path)


def test_batches_depend_on_the_epoch_and_the_seed_alone(pairs, tmp_path):
    model = model_of("blind")
    whole, config, _ = keeping(model, pairs, tmp_path)
    mesh = DataMesh.of(jax.devices()[:1])
    feeds = [kept.KeptFeed(config, whole, 2, mesh) for _ in range(2)]

    def leaf(batch: KeptBatch) -> np.ndarray:
        return np.asarray(batch.features)

    early = [feeds[0].take(number) for number in range(6)]
    assert all(np.array_equal(leaf(feeds[1].take(n)), leaf(early[n])) for n in (5, 0, 3))
    assert len({np.asarray(row).tobytes() for batch in early for row in leaf(batch)}) > len(pairs)


def test_a_run_on_kept_features_resumes_to_the_bit(data_dir):  # noqa: F811
    fields = {"rotation": 0.0, "keep_features": 2, "eval_every": 4}
    line = train(configured(data_dir, num_steps=4, **fields), data_dir / "whole")
    assert np.isfinite(line["loss"]) and "ema_srcc" in line
    for steps in (2, 4):
        train(configured(data_dir, num_steps=steps, **fields), data_dir / "run")
    one, other = (Saved(data_dir / name).read(4) for name in ("whole", "run"))
    assert {n: a.tobytes() for n, a in one.items()} == {n: a.tobytes() for n, a in other.items()}
