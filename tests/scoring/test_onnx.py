"""Metrics as ONNX files, and scores of them without JAX."""

import csv
import dataclasses
import functools
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import iqa_jax
from iqa_jax.errors import UserError, WeightsError
from iqa_jax.scoring.load import metric_of
from iqa_jax.scoring.network import Network
from iqa_jax.weights.places import SHIPPED
from iqa_jax.weights.record import read_config
from tests import miniature, networks
from tests.reference import figures

onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime, of the extras onnx and lite")
ROOT = Path(__file__).parents[2]
EXAMPLE = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "onnx.md").read_text(), re.DOTALL)[1]


def pairs(side=(224, 300)):
    """Those of the golden figures."""
    reference = miniature.picture(0, side)
    yield reference, miniature.noisy(reference, 20.0, 1)
    yield reference, np.clip(reference.astype(int) + 25, 0, 255).astype(np.uint8)
    yield reference, reference


@pytest.fixture(scope="module")  # what onnxruntime holds for them goes with the module
def shipped():
    """`shipped(name)`: a metric of the package on onnxruntime, loaded once."""
    return functools.cache(lambda name: iqa_jax.load(name, engine="onnx"))


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_files_are_of_the_shipped_weights_and_give_the_golden_scores(name, shipped):
    """After weights or network have changed: python examples/hub.py --refresh"""
    metric = shipped(name)
    assert metric.record["sha256"] == read_config(SHIPPED[name])["sha256"]
    found = [float(metric(*(pair if metric.full_reference else pair[1:]))) for pair in pairs()]
    np.testing.assert_allclose(found, figures("shipped_golden")[name], atol=1e-4)
    assert (SHIPPED[name] / "metric.onnx").stat().st_size <= {"full-reference": 4e6, "blind": 8e6}[name]


@pytest.mark.quick
@pytest.mark.parametrize("name", SHIPPED)
def test_the_metadata_say_what_a_program_must_know(name, shipped):
    session = onnxruntime.InferenceSession(SHIPPED[name] / "metric.onnx")
    metadata, metric = session.get_modelmeta().custom_metadata_map, shipped(name)
    documented = (ROOT / "docs" / "onnx.md").read_text()
    assert all(f"`{key}`" in documented for key in metadata)
    assert metadata["window_size"] == "192" and metadata["metric"] == name
    assert (float(metadata["worst"]), float(metadata["best"])) == metric.range == (1, 5)
    assert metadata["licence"] == "apache-2.0" and metadata["identity"] == metric.identity
    for given in session.get_inputs():
        assert given.type == "tensor(float)" and given.shape == ["batch", 192, 192, 3]


@pytest.mark.parametrize("side", [(224, 256), (50, 200), (577, 95)])
def test_the_example_of_the_documentation_gives_our_score(side, shipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "metric.onnx").symlink_to(SHIPPED["full-reference"] / "metric.onnx")
    pair = next(pairs(side))
    for name, image in zip(("original.png", "restored.png"), pair, strict=True):
        Image.fromarray(image).save(name)
    names: dict = {}
    exec(compile(EXAMPLE, "onnx.md", "exec"), names)
    assert names["score"] == pytest.approx(float(shipped("full-reference")(*pair)), abs=1e-5)


def test_the_command_scores_without_jax(tmp_path):
    for name, image in zip(("r.png", "d.png", "e.png"), [*next(pairs()), next(pairs())[0]], strict=True):
        Image.fromarray(image).save(tmp_path / name)
    blocked = "import sys; sys.modules.update(dict.fromkeys(('jax', 'jaxlib', 'flax', 'safetensors')))\n"
    run = blocked + "from iqa_jax.__main__ import main; main()"
    command = [sys.executable, "-c", run, "score", "-r", "r.png", "-t", "d.png", "e.png", "--csv", "s.csv"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    golden = figures("shipped_golden")["full-reference"]
    with open(tmp_path / "s.csv", newline="") as file:
        scores = [float(row["score"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(scores, [golden[0], golden[2]], atol=1e-4)


def test_what_the_extra_lite_lacks_is_named(tmp_path):
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('jax', 'jaxlib', 'skimage')))\n"
        "import numpy as np, iqa_jax\n"
        "picture = np.zeros((40, 40, 3), np.float32)\n"
        "for call in (iqa_jax.align, iqa_jax.load().loss):\n"
        "    try: call(picture, picture)\n"
        "    except ModuleNotFoundError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    said = done.stdout.splitlines()
    assert [line.partition(" needs ")[0] for line in said] == ["align", "a loss"], done.stderr
    for line, extra in zip(said, ("align", "jax"), strict=True):
        assert line.endswith(f"it comes with: pip install 'iqa-conformer[{extra}]'")


# A file of one's own


@pytest.fixture(scope="module")
def tiny():
    """`tiny(name)`: a small random metric, built once."""
    return functools.cache(random_metric)


def random_metric(name):
    config = networks.small_config(name)
    record = {"sha256": "a" * 64, "source": {"file": "random", "licence": "mit"}, "name": name}
    return metric_of(Network.from_model(networks.random_model(config)), record)


@pytest.fixture(scope="module")
def exports(tiny, tmp_path_factory):
    """`exports(name)`: a metric and the file that it was exported to, once for each model."""
    pytest.importorskip("jax2onnx", reason="needs jax2onnx, of the extra onnx")
    from iqa_jax.scoring.to_onnx import export_onnx

    @functools.cache
    def exported(name):
        metric = tiny(name)
        return metric, export_onnx(metric, tmp_path_factory.mktemp("exported") / "metric.onnx")

    return exported


@pytest.mark.parametrize("name", ["iqa_conformer", "blind_student"])
def test_an_exported_metric_gives_the_same_scores(name, exports):
    metric, path = exports(name)
    loaded = iqa_jax.load(path)
    for height, width in ((64, 64), (40, 130), (200, 90)):
        images = next(pairs((height, width)))[0 if metric.full_reference else 1 :]
        expected = float(metric(*images))
        assert float(loaded(*images)) == pytest.approx(expected, abs=1e-4)
        as_float = [np.float32(image / 255) for image in images]
        assert float(loaded(*as_float)) == pytest.approx(expected, abs=1e-4)
    assert loaded.describe() == metric.describe() and loaded.range == metric.range
    assert float(pickle.loads(pickle.dumps(loaded))(*images)) == float(loaded(*images))
    np.testing.assert_allclose(loaded.map(*images).values, metric.map(*images).values, atol=1e-4)
    with pytest.raises(UserError, match="an ONNX file has no gradient"):
        loaded.loss(*as_float)


def test_one_reference_serves_many_and_masks_choose(exports):
    metric, path = exports("iqa_conformer")
    loaded = iqa_jax.load(path)
    reference, distorted = next(pairs((150, 150)))
    prepared, mask = loaded.prepare(reference), np.zeros((150, 150), bool)
    mask[:70, 20:] = True
    assert float(loaded(prepared, distorted)) == pytest.approx(float(metric(reference, distorted)), abs=1e-4)
    expected = float(metric(reference, distorted, mask=mask))
    assert float(loaded(reference, distorted, mask=mask)) == pytest.approx(expected, abs=1e-4)


def test_a_damaged_or_foreign_file_is_refused(exports, tmp_path):
    content = exports("blind_student")[1].read_bytes()
    rng = np.random.default_rng(0)
    for place in (*rng.integers(len(content), size=12), len(content) - 700, len(content) - 20):
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "metric.onnx").write_bytes(changed)
        with pytest.raises(WeightsError, match="metric.onnx: "):
            iqa_jax.load(tmp_path / "metric.onnx")
    for broken in (b"", b"no model", content[: len(content) // 2]):
        (tmp_path / "metric.onnx").write_bytes(broken)
        with pytest.raises(WeightsError, match="metric.onnx: "):
            iqa_jax.load(tmp_path / "metric.onnx")


@pytest.mark.quick
def test_an_engine_that_cannot_is_said_in_a_line(tmp_path, small_weights, monkeypatch):
    with pytest.raises(UserError, match="engine 'tpu': expected jax or onnx"):
        iqa_jax.load(engine="tpu")
    with pytest.raises(WeightsError, match=r"metric.onnx: .*export --format onnx"):
        iqa_jax.load(small_weights, engine="onnx")
    (tmp_path / "a.onnx").write_bytes(b"")
    with pytest.raises(UserError, match="a.onnx: a file for onnx, jax cannot run it"):
        iqa_jax.load(tmp_path / "a.onnx", engine="jax")
    monkeypatch.setattr("iqa_jax.scoring.load._is_installed", lambda engine: False)
    with pytest.raises(UserError, match=r"neither JAX nor onnxruntime is installed; .*iqa-conformer\[lite\]"):
        iqa_jax.load()
    with pytest.raises(UserError, match=r"onnxruntime is not installed; .*iqa-conformer\[lite\]"):
        iqa_jax.load(engine="onnx")


@pytest.mark.quick
def test_a_file_is_not_exported_again(shipped, tmp_path):
    from iqa_jax.scoring.to_onnx import export_onnx

    with pytest.raises(UserError, match="cannot be exported again"):
        export_onnx(shipped("blind"), tmp_path / "again.onnx")
    (tmp_path / "mine.onnx").write_bytes(b"mine")
    with pytest.raises(UserError, match="mine.onnx: is there already and is no exported metric"):
        export_onnx(shipped("blind"), tmp_path / "mine.onnx")


def test_bfloat16_weights_are_exported_in_float32(exports, tiny, tmp_path):
    from iqa_jax.scoring.to_onnx import export_onnx

    model = tiny("blind_student").model
    config = dataclasses.replace(model.config, dtype="bfloat16")
    half = metric_of(Network.from_model(networks.random_model(config)), tiny("blind_student").record)
    loaded = iqa_jax.load(export_onnx(half, tmp_path / "half.onnx"))
    assert loaded.config.dtype == "float32"
    (image,) = next(pairs((64, 64)))[1:]
    assert float(loaded(image)) == pytest.approx(float(exports("blind_student")[0](image)), abs=1e-4)
