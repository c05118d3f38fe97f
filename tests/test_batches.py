"""Batches, wherever their images are kept."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from iqa_jax import batches, datasets
from iqa_jax.data import PairSource
from iqa_jax.errors import ConfigError
from tests import miniature


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Labelled pairs of one size and pseudo-labelled ones of another."""
    folder = tmp_path_factory.mktemp("data") / "PIPAL"
    miniature.pipal(folder, references=3, per_reference=4, size=(48, 64))
    table = miniature.pairs(folder.parent / "pairs")
    pipal = datasets.prepare("pipal", data_dir=folder.parent)
    mine = datasets.prepare("pairs", data_dir=folder.parent, manual_dir=table)
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


@pytest.mark.parametrize("with_references", [True, False])
def test_batches_are_the_same_wherever_the_images_are(sources, with_references):
    examples = batches.Examples(sources, with_references=with_references)
    order = batches.Order(examples.lengths, [3, 1], seed=0)
    placement = batches.Placement.of(jax.devices()[:1])
    feeds = {k: batches.Feed(examples, order, placement, kept=k) for k in ("stream", "host", "device")}
    assert (feeds["device"].store.references is None) == (not with_references)
    for number in range(2, 6):
        found = {k: batches.as_batch(f.store, f.take(number), placement) for k, f in feeds.items()}
        expected = examples.batch(order(number))
        assert (expected.reference is None) == (not with_references)
        assert expected.pseudo.tolist() == [False] * 3 + [True]
        for kept, batch in found.items():
            for a, b in zip(jax.tree.leaves(batch), jax.tree.leaves(expected), strict=True):
                np.testing.assert_array_equal(a, b, err_msg=kept)
    several = feeds["device"].several(2, 4)
    np.testing.assert_array_equal(several.position[1], order(3).position)


def test_references_are_stored_once(sources):
    examples = batches.Examples(sources)
    assert examples.references == 3 + 2 and len(examples) == 12 + 2
    assert examples.decoded_bytes == (14 + 5) * 48 * 64 * 3


def test_auto_takes_what_there_is_room_for_and_says_so(sources, monkeypatch):
    examples = batches.Examples(sources)
    order = batches.Order(examples.lengths, [3, 1], seed=0)
    placement = batches.Placement.of(jax.devices()[:1])

    def chosen(kept="auto", device=0, free=10**9):
        said = []
        monkeypatch.setattr(batches, "_memory", lambda placement: (device, free))
        feed = batches.Feed(examples, order, placement, kept=kept, say=said.append)
        assert said[0].startswith(f"images: {feed.kept} (")
        return feed.kept

    assert chosen() == "host" and chosen(free=10**5) == "stream"
    assert chosen(device=10**9) == "device" and chosen(device=10**5) == "host"
    with pytest.raises(ConfigError, match="config.data.placement=device: .* there is room for 0; use host"):
        chosen("device", device=10**5)


def test_eight_devices_share_the_images(tmp_path):
    code = """
import jax, numpy as np
from iqa_jax import batches
examples = batches.Examples.__new__(batches.Examples)
rng = np.random.default_rng(0)
images = rng.integers(0, 256, (21, 8, 8, 3), np.uint8)
examples._start, examples._references, examples.with_references = np.array([0, 21]), [1, 2], True
examples.shape, examples.reference = (8, 8), np.arange(21, dtype=np.int32) % 2
examples.index = np.arange(21, dtype=np.int32); examples.size = np.zeros((21, 2), np.int32)
examples.mos, examples.pseudo = np.zeros(21, np.float32), np.zeros(21, bool)
examples.distorted_image = lambda position: images[position]
examples.reference_image = lambda number: images[number]
order = batches.Order([21], [16], seed=0)
placement = batches.Placement.of(jax.devices())
feed = batches.Feed(examples, order, placement, kept="device")
assert len(feed.store.distorted.sharding.device_set) == 8
assert feed.store.distorted.addressable_shards[0].data.shape == (3, 8, 8, 3)
take = jax.jit(lambda store, draw: batches.as_batch(store, draw, placement))
for number in range(3):
    batch = take(feed.store, feed.take(number))
    at = order(number).position
    assert (np.asarray(batch.distorted) == images[at]).all()
    assert (np.asarray(batch.reference) == images[at % 2]).all()
    assert batch.distorted.sharding.is_equivalent_to(placement.split, 4)
"""
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
