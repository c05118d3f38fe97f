"""Windows of many images in few programs."""

import gc
import weakref

import jax
import numpy as np
import pytest

import iqa_jax
from iqa_jax.models import ModelConfig, split_model
from iqa_jax.ops.windows import places
from iqa_jax.scoring.engine import Engine, Reference
from iqa_jax.scoring.network import Network
from tests import miniature

SIZE = 8


class Counting:
    """A `WindowModel` of two sets whose score is the mean difference; counts what it is asked for."""

    full_reference, sets = True, 2
    config = ModelConfig("counting", crop_size=SIZE)

    def __init__(self):
        self.of_references, self.of_distorted, self.shapes = [], [], set()

    def features(self, windows, count):
        self.of_references.append(count)
        self.shapes.add(windows.shape)
        means = windows.reshape(len(windows), -1).mean(1)
        return means, 10 * means

    def scores(self, reference, windows, count):
        self.of_distorted.append(count)
        self.shapes.add(windows.shape)
        means = windows.reshape(len(windows), -1).mean(1)
        return np.stack([means - reference[0], 10 * means - reference[1]])


def image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def item(reference, distorted, crops="grid"):
    return reference, distorted, places(crops, *distorted.shape[:2], SIZE)


def expected(reference, distorted, crops="grid"):
    from iqa_jax.ops.windows import windows

    a, b = (np.asarray(windows(x[None], crops, SIZE))[0].mean((1, 2, 3)) for x in (reference, distorted))
    return np.stack([b - a, 10 * (b - a)])


def test_one_window_pairs_share_a_program():
    model = Counting()
    pairs = [(image(SIZE, SIZE, k), image(SIZE, SIZE, 100 + k)) for k in range(5)]
    found = list(Engine(model).scores(item(Reference(r), d) for r, d in pairs))
    assert model.of_references == [5] and model.of_distorted == [5]
    for scores, (r, d) in zip(found, pairs, strict=True):
        np.testing.assert_allclose(scores, expected(r, d), rtol=1e-4, atol=1e-3)


def test_images_of_all_sizes_use_one_program_and_come_back_in_order():
    model = Counting()
    sizes = np.random.default_rng(0).integers(5, 40, (12, 2))
    pairs = [(image(*size, k), image(*size, 100 + k)) for k, size in enumerate(sizes)]
    found = list(Engine(model, batch_size=6).scores(item(Reference(r), d) for r, d in pairs))
    assert model.shapes == {(6, SIZE, SIZE, 3)}
    total = sum(len(places("grid", *size, SIZE)) for size in sizes)
    assert sum(model.of_distorted) == total and set(model.of_distorted[:-1]) == {6}
    for scores, (r, d) in zip(found, pairs, strict=True):
        np.testing.assert_allclose(scores, expected(r, d), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("keep", [True, False])
def test_features_serve_all_versions_where_they_are_kept(keep):
    model, reference = Counting(), Reference(image(20, 20), keep=keep)
    versions = [image(20, 20, k) for k in range(1, 7)]
    found = list(Engine(model, batch_size=4).scores(item(reference, d) for d in versions))
    windows = len(places("grid", 20, 20, SIZE))
    assert sum(model.of_references) == (windows if keep else 6 * windows)
    assert len(reference.rows) == (windows if keep else 0)
    for scores, d in zip(found, versions, strict=True):
        np.testing.assert_allclose(scores, expected(reference.image, d), rtol=1e-4, atol=1e-3)


def test_items_are_taken_as_they_are_needed_and_let_go():
    taken, alive = [], []

    class Image(np.ndarray):
        pass

    def items():
        for number in range(50):
            taken.append(number)
            distorted = image(SIZE, SIZE, number).view(Image)
            alive.append(weakref.ref(distorted))
            yield item(Reference(image(SIZE, SIZE)), distorted)

    scores = Engine(Counting(), batch_size=4).scores(items())
    for number in range(20):
        next(scores)
        assert len(taken) <= number + 4 * 3
    gc.collect()
    assert sum(ref() is not None for ref in alive) <= 12


def test_features_ahead():
    model = Counting()
    references = [Reference(image(20, 12, k)) for k in range(3)]
    runner = Engine(model, batch_size=4)
    runner.features(references, lambda x: places("grid", *x.shape[:2], SIZE))
    assert sum(model.of_references) == 3 * 6 and set(model.of_references[:-1]) == {4}
    before = list(model.of_references)
    list(runner.scores(item(r, image(20, 12, 9)) for r in references))
    assert model.of_references == before


def test_a_network_compiles_once_for_all_sizes(small_weights):
    metric = iqa_jax.load(small_weights)

    def pair(height, width):
        reference = miniature.picture(height, (height, width))
        return reference, miniature.noisy(reference, 20.0, 0)

    metric(*pair(70, 70))
    compiled = []

    def listen(event, *_, **__):
        if "compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        sizes = np.random.default_rng(0).integers(40, 300, (12, 2))
        assert len(list(metric.stream(pair(*size) for size in sizes))) == 12
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert compiled == []


def test_sets_of_weights_are_scored_together_as_alone(small_weights):
    graphdef, weights, frozen = split_model(iqa_jax.load(small_weights).model.model)
    other = jax.tree.map(lambda x: x * 1.5, weights)
    both, network, alone = (
        Network(graphdef, frozen, sets) for sets in ([weights, other], [weights], [other])
    )
    reference = miniature.picture(0, (90, 70))
    distorted = miniature.noisy(reference, 20.0, 0)
    where = places("grid", 90, 70, 64)

    def scored(model):
        return next(Engine(model).scores([(Reference(reference), distorted, where)]))

    found = scored(both)
    assert found.shape == (2, 4) and np.abs(found[0] - found[1]).max() > 1e-3
    np.testing.assert_allclose(found[0], scored(network)[0], atol=1e-4)
    np.testing.assert_allclose(found[1], scored(alone)[0], atol=1e-4)
