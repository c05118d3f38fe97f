"""Programs that were traced in an earlier start."""

import shutil

import jax
import numpy as np
import pytest

import iqa_jax
from iqa_jax.errors import WeightsError
from iqa_jax.scoring import traced
from iqa_jax.scoring.network import Network
from iqa_jax.scoring.traced import TracedNetwork
from tests import miniature

pytest.importorskip("flatbuffers", reason="needs flatbuffers, of the extra export")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where programs are kept, empty at first."""
    monkeypatch.setattr(traced, "store", lambda: tmp_path / "traced")
    return tmp_path / "traced"


def pair():
    reference = miniature.picture(0, (90, 70))
    return reference, miniature.noisy(reference, 20.0, 0)


def test_a_later_start_gives_the_same_scores_without_the_network(place, small_weights, tmp_path):
    first = iqa_jax.load(small_weights)
    score = first(*pair())
    plain = Network.from_model(first.model.network.model)
    assert score == type(first)(plain, first.record)(*pair())
    again = iqa_jax.load(small_weights)
    assert again(*pair()) == score and "network" not in vars(again.model)
    assert again.describe() == first.describe() and again.record == first.record
    images = [np.float32(image) / 255 for image in pair()]
    expected = float(first.loss(*images))
    assert float(jax.jit(again.loss)(*images)) == pytest.approx(expected, rel=1e-5)
    assert float(again.loss(*images)) == pytest.approx(expected, rel=1e-5)

    programs = sorted(place.glob("*/*-*"))
    assert [path.name for path in programs] == ["features-16-uint8", "scores-16-uint8"]
    for path in programs:  # damaged ones are traced again
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert iqa_jax.load(small_weights)(*pair()) == score

    changed = shutil.copytree(small_weights, tmp_path / "changed")
    content = (changed / "model.safetensors").read_bytes()
    (changed / "model.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(WeightsError, match="checksum"):
        iqa_jax.load(changed)


@pytest.mark.quick
def test_where_nothing_can_be_kept_networks_are_read(tmp_path, monkeypatch, small_weights):
    monkeypatch.setattr(traced, "store", lambda: None)
    assert isinstance(iqa_jax.load(small_weights).model, Network)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(traced, "store", lambda: tmp_path / "file" / "traced")
    assert isinstance(iqa_jax.load(small_weights).model, Network)


@pytest.mark.quick
def test_few_are_kept(place, small_weights, monkeypatch):
    monkeypatch.setattr(traced, "_KEPT", 1)
    for other in ("older", "oldest"):
        (place / other).mkdir(parents=True)
    assert isinstance(iqa_jax.load(small_weights).model, TracedNetwork)
    (left,) = place.iterdir()
    assert left.name not in ("older", "oldest")
