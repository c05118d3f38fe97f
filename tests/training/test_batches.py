"""Batches, wherever their images are kept."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from iqa_jax.data.preparation import prepare_dataset
from iqa_jax.data.source import PairSource
from iqa_jax.errors import ConfigError
from iqa_jax.ops.augment import Cropping
from iqa_jax.training import batches, feed
from iqa_jax.training.mesh import DataMesh
from tests import miniature


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Labelled pairs of one size and pseudo-labelled ones of another."""
    folder = tmp_path_factory.mktemp("data") / "PIPAL"
    miniature.pipal(folder, references=3, per_reference=4, size=(48, 64))
    table = miniature.pairs(folder.parent / "pairs")
    pipal = prepare_dataset("pipal", data_dir=folder.parent)
    mine = prepare_dataset("pairs", data_dir=folder.parent, manual_dir=table)
    unlabelled = PairSource(mine, "unlabelled")
    return PairSource(pipal, "train"), unlabelled.pseudo_labelled(np.arange(len(unlabelled)))


def test_the_order_depends_on_the_seed_and_the_number_alone():
    order, again, other = (batches.Order([10, 7], [3, 2], seed=seed) for seed in (1, 1, 2))
    draws = [order(number) for number in range(9)]
    assert all((again(n).position == draws[n].position).all() for n in (8, 0, 5))
    assert any((other(n).position != draws[n].position).any() for n in range(9))
    labelled, pseudo = (np.stack([d.position for d in draws])[:, part] for part in (np.s_[:3], np.s_[3:]))
    assert labelled.max() < 10 <= pseudo.min() and pseudo.max() < 17
    assert len(set(labelled[:3].ravel())) == 9 and len(set(pseudo[:3].ravel())) == 6
    assert [d.epoch.tolist() for d in draws[2:4]] == [[0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]


CROPPING = Cropping(seed=0, size=32, noise=True)
ONE = DataMesh.of(jax.devices()[:1])


@pytest.mark.parametrize("with_references", [True, False])
def test_batches_are_the_same_wherever_the_images_are(sources, with_references):
    examples = batches.Examples(sources, with_references=with_references)
    order = batches.Order(examples.lengths, [3, 1], seed=0)
    feeds = {k: feed.Feed(examples, order, CROPPING, ONE, kept=k) for k in ("stream", "host", "device")}
    assert (feeds["device"].store.references is None) == (not with_references)
    for number in range(2, 6):
        found = {k: f.batch(f.store, f.take(number)) for k, f in feeds.items()}
        expected = examples.batch(order(number), CROPPING, examples)
        assert (expected.reference is None) == (not with_references)
        assert expected.pseudo.tolist() == [False] * 3 + [True]
        for kept, batch in found.items():
            for a, b in zip(jax.tree.leaves(batch), jax.tree.leaves(expected), strict=True):
                np.testing.assert_array_equal(a, b, err_msg=kept)
    several = feeds["device"].several(2, 4)
    np.testing.assert_array_equal(several.position[1], order(3).position)


def test_both_crops_of_a_pair_are_at_one_place_inside_the_image(sources):
    examples = batches.Examples(sources[:1])
    order = batches.Order(examples.lengths, [4], seed=1)
    images = batches.Images(
        [np.indices((48, 64)).transpose(1, 2, 0)] * len(examples),
        [np.indices((48, 64)).transpose(1, 2, 0)] * len(examples.reference_size),
    )
    corners = set()
    for number in range(6):
        batch = examples.batch(order(number), CROPPING, images)
        np.testing.assert_array_equal(batch.distorted, batch.reference)
        corners |= {tuple(crop[0, 0]) for crop in batch.distorted}
    assert len(corners) > 12 and max(c[0] for c in corners) <= 16 and max(c[1] for c in corners) <= 32


def test_one_large_image_does_not_make_a_batch_large():
    """Memory follows the images' own sizes, and a batch the size of its crops."""
    size = np.array([[288, 288]] * 200 + [[4000, 6000]])
    shelves = feed.Shelves.of(size)
    assert shelves.height * shelves.width < 1.2 * size.prod(1).sum()
    taken = np.zeros((shelves.height, shelves.width), np.uint8)
    for (height, width), (top, left) in zip(size, shelves.corner, strict=True):
        taken[top : top + height, left : left + width] += 1
    assert taken.max() == 1 and taken.sum() == size.prod(1).sum()  # no two at one place


def test_references_are_stored_once(sources):
    examples = batches.Examples(sources)
    assert len(examples.reference_size) == 3 + 2 and len(examples) == 12 + 2
    assert examples.reference_size.tolist() == [[48, 64]] * 3 + [[40, 50], [40, 51]]


def test_auto_takes_what_there_is_room_for_and_says_so(sources, monkeypatch):
    examples = batches.Examples(sources)
    order = batches.Order(examples.lengths, [3, 1], seed=0)

    def chosen(kept="auto", device=0, free=10**9):
        said = []
        monkeypatch.setattr(feed, "_memory", lambda placement: (device, free))
        found = feed.Feed(examples, order, CROPPING, ONE, kept=kept, say=said.append)
        assert said[0].startswith(f"images: {found.kept} (")
        return found.kept

    assert chosen() == "host" and chosen(free=10**5) == "stream"
    assert chosen(device=10**9) == "device" and chosen(device=10**5) == "host"
    with pytest.raises(ConfigError, match="config.data.placement=device: .* there is room for 0; use host"):
        chosen("device", device=10**5)


def test_eight_devices_share_the_images(tmp_path):
    code = """
import jax, numpy as np
from iqa_jax.training import batches
from iqa_jax.training import feed
from iqa_jax.ops.augment import Cropping
from iqa_jax.training.mesh import DataMesh
rng = np.random.default_rng(0)
sizes = rng.integers(16, 40, (21, 2))
images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]

class Source:
    index, size, mos, pseudo = np.arange(21), sizes, np.zeros(21), False
    reference = np.array([f"r{number}" for number in range(21)])
    def __len__(self): return 21
    def distorted_image(self, position): return images[position]
    def reference_image(self, name): return 255 - images[int(name[1:])]

examples = batches.Examples([Source()])
order, cropping = batches.Order([21], [16], seed=0), Cropping(0, 16)
placement = DataMesh.of(jax.devices())
kept = feed.Feed(examples, order, cropping, placement, kept="device")
assert len(kept.store.distorted.sharding.device_set) == 8
take = jax.jit(kept.batch)
for number in range(3):
    batch = take(kept.store, kept.take(number))
    expected = examples.batch(order(number), cropping, examples)
    np.testing.assert_array_equal(batch.distorted, expected.distorted)
    np.testing.assert_array_equal(batch.reference, expected.reference)
    np.testing.assert_array_equal(batch.reference, 255 - batch.distorted)
    assert batch.distorted.sharding.is_equivalent_to(placement.split, 4)
"""
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
