"""The metrics that come with the package, and the folders that weights are shared in."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import iqa_jax
from iqa_jax.errors import WeightsError
from iqa_jax.weights.directory import CARD, FILE, read_weights, save_weights
from iqa_jax.weights.places import SHIPPED
from iqa_jax.weights.reading import read_any
from tests import hub, miniature
from tests.reference import figures

ROOT = Path(__file__).parents[2]
GOLDEN = "shipped_golden"


def pairs():
    """Three pairs that are the same everywhere: noise, an offset, and a reference by itself."""
    reference = miniature.picture(0, (224, 300))
    yield reference, miniature.noisy(reference, 20.0, 1)
    yield reference, np.clip(reference.astype(int) + 25, 0, 255).astype(np.uint8)
    yield reference, reference


def scores(name: str) -> list[float]:
    metric = iqa_jax.load(name)
    return [float(metric(*(pair if metric.full_reference else pair[1:]))) for pair in pairs()]


@pytest.mark.parametrize("name", SHIPPED)
def test_scores_are_the_golden_ones(name):
    np.testing.assert_allclose(scores(name), figures(GOLDEN)[name], atol=5e-4)


def test_nothing_is_better_than_the_reference_itself():
    noisy, brighter, identical = scores("full-reference")
    assert noisy < brighter < identical == 5


def test_identical_pictures_get_exactly_the_best_score():
    metric = iqa_jax.load()
    for picture in (miniature.picture(2, (33, 200)), *photographs().values()):
        assert metric(picture, picture) == metric.range[1]
        assert metric(prepared := metric.prepare(picture / np.float32(255)), picture) == metric.range[1]
        almost = picture.copy()
        almost[::16, ::16] ^= 8
        assert metric(prepared, almost) < metric.range[1]
    assert (metric.map(picture, picture).values == metric.range[1]).all()


def test_the_slope_is_finite_where_pictures_are_identical():
    metric, picture = iqa_jax.load(), miniature.picture(2, (33, 200)) / np.float32(255)
    slope = jax.jit(jax.grad(lambda distorted: metric.loss(picture, distorted)))(jnp.asarray(picture))
    assert np.isfinite(slope).all()


def photographs() -> dict[str, np.ndarray]:
    """Crops of the photographs of the package, by their names."""
    folder = Path(iqa_jax.__file__).parent / "data" / "photographs"
    images = {path.stem: np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.glob("*.jpg"))}
    assert len(images) == 2
    return {name: image[40:328, 60:444] for name, image in images.items()}


def test_the_blind_metric_knows_grey_photographs_and_grain():
    metric, rng = iqa_jax.load("blind"), np.random.default_rng(0)
    changes = []
    for colour in photographs().values():
        grey = np.repeat(np.rint(colour @ np.array([0.299, 0.587, 0.114]))[..., None], 3, -1).astype(np.uint8)
        changes.append(metric(grey) - metric(colour))
        for picture in (colour, grey):
            for sigma in (3, 6, 12):
                grain = sigma * rng.standard_normal((*picture.shape[:2], 1))
                noisy = np.clip(np.rint(picture + grain), 0, 255).astype(np.uint8)
                assert metric(noisy) < metric(picture)
    assert abs(np.mean(changes)) < 0.3


@pytest.mark.quick
@pytest.mark.parametrize("name", SHIPPED)
def test_the_files_are_small_and_complete(name):
    folder = SHIPPED[name]
    assert (folder / FILE).stat().st_size <= 4_000_000
    assert {array.dtype.name for array in load_file(folder / FILE).values()} == {"float16"}
    card = (folder / CARD).read_text()
    for heading in ("Data", "Recipe", "Agreement", "Where it fails", "Licence"):
        assert f"## {heading}" in card
    config, _, record = read_any(name)
    assert (config.mos_low, config.mos_high) == (1, 5) and record["card"].endswith(CARD)


def test_a_metric_of_the_package_needs_the_core_alone(tmp_path):
    for name, image in zip(("r.png", "d.png"), next(pairs()), strict=True):
        miniature.save(tmp_path / name, image)
    code = (
        "import sys, iqa_jax; print(iqa_jax.load()('r.png', 'd.png'));"
        "print(*sorted({'torch', 'orbax', 'tensorflow_datasets', 'matplotlib'} & sys.modules.keys()))"
    )
    environment = {"PYTHONPATH": str(Path(iqa_jax.__file__).parents[1]), "PATH": "/usr/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    score, modules = done.stdout.splitlines()
    assert float(score) == pytest.approx(figures(GOLDEN)["full-reference"][0], abs=5e-4)
    # Flax imports orbax by itself where it is installed.
    assert set(modules.split()) <= {"orbax"}, done.stderr


@pytest.mark.quick
def test_a_shared_folder_is_whole_or_not_there(tmp_path, small_weights):
    config, weights, _ = read_any(small_weights)
    save_weights(tmp_path / "shared", config, weights, {"file": "x"}, card="# Card")
    found, arrays, record = read_weights(tmp_path / "shared")
    assert found == config and record["source"] == {"file": "x"}
    for name, array in weights.items():
        np.testing.assert_array_equal(arrays[name], array)
    with pytest.raises(WeightsError, match="is there already"):
        save_weights(tmp_path / "shared", config, weights, {}, card="")
    bad = {**weights, "conv_proj.bias": np.full_like(weights["conv_proj.bias"], 1e6)}
    with pytest.raises(WeightsError, match="not finite in float16"):
        save_weights(tmp_path / "half", config, bad, {}, card="", half=True)
    assert [path.name for path in tmp_path.iterdir()] == ["shared"]
    content = (tmp_path / "shared" / FILE).read_bytes()
    (tmp_path / "shared" / FILE).write_bytes(content[:-1] + b"x")
    with pytest.raises(WeightsError, match="damaged, its checksum"):
        read_weights(tmp_path / "shared")


def test_pack_writes_what_load_takes(call, tmp_path, small_weights):
    code, out, _ = call("pack", "--weights", small_weights, "--output", tmp_path / "mine", "--half", "--json")
    assert code == 0 and json.loads(out)["output"].endswith("mine")
    metric, before = iqa_jax.load(tmp_path / "mine"), iqa_jax.load(small_weights)
    reference, distorted = next(pairs())
    assert float(metric(reference, distorted)) == pytest.approx(float(before(reference, distorted)), abs=0.01)
    assert metric.record["card"] == str(tmp_path / "mine" / CARD)
    assert 'iqa_jax.load("hf://OWNER/mine")' in (tmp_path / "mine" / CARD).read_text()


def test_weights_come_from_a_hub_and_then_from_its_cache(tmp_path):
    for name, image in zip(("r.png", "d.png"), next(pairs()), strict=True):
        miniature.save(tmp_path / name, image)

    files = ["-r", str(tmp_path / "r.png"), "-t", str(tmp_path / "d.png")]

    def score(address, **variables):
        environment = {**os.environ, **hub.environment(server, tmp_path / "hub-cache"), **variables}
        command = [sys.executable, "-m", "iqa_jax", "score", *files, "--weights", address]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    with hub.served({"someone/metric": SHIPPED["full-reference"]}) as (server, asked):
        unknown = score("hf://someone/else")
        assert unknown.returncode == 1 and unknown.stderr.count("\n") == 1
        assert "hf://someone/else cannot be fetched from the model hub" in unknown.stderr
        fetched = score("hf://someone/metric")
        assert fetched.returncode == 0, fetched.stderr
        assert float(fetched.stdout) == pytest.approx(figures(GOLDEN)["full-reference"][0], abs=1e-3)
        assert f"weights: someone/metric at revision {hub.COMMIT}" in fetched.stderr
        again = score(f"hf://someone/metric@{hub.COMMIT}")
        assert again.stdout == fetched.stdout
        asked.clear()
        offline = score("hf://someone/metric", HF_HUB_OFFLINE="1")
        assert offline.stdout == fetched.stdout and not asked
    gone = score("hf://someone/metric")  # the server does not answer; what is in the cache is taken
    assert gone.stdout == fetched.stdout, gone.stderr
