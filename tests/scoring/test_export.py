import functools
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import iqa_jax
from iqa_jax.errors import UserError, WeightsError
from iqa_jax.scoring.export import export
from iqa_jax.scoring.metric import FullReferenceMetric
from iqa_jax.scoring.network import Network
from tests import miniature, networks


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """`exports(name)`: a metric and the file that it was exported to, once for each model."""

    @functools.cache
    def exported(name):
        model = networks.random_model(networks.small_config(name))
        record = {"sha256": "a" * 64, "source": {"file": "random"}}
        metric = FullReferenceMetric(Network.from_model(model), record)
        path, _ = export(metric, tmp_path_factory.mktemp("exported") / "metric.jaxexport")
        return metric, path

    return exported


@pytest.fixture
def exported(exports):
    return exports("iqa_conformer")


each_model = pytest.mark.parametrize("name", ["iqa_conformer", "iqa_transformer"])


@each_model
def test_an_exported_metric_gives_the_same_scores(name, exports):
    metric, path = exports(name)
    loaded = iqa_jax.load(path)
    for height, width in ((64, 64), (90, 70), (200, 40)):
        reference = miniature.picture(0, (height, width))
        distorted = miniature.noisy(reference, 20.0, 0)
        expected = float(metric(reference, distorted))
        assert float(loaded(reference, distorted)) == pytest.approx(expected, rel=1e-5)
        assert float(loaded(loaded.prepare(reference), distorted)) == pytest.approx(expected, rel=1e-5)
    assert loaded.describe() == metric.describe() and loaded.range == metric.range
    images = [np.float32(image / 255) for image in (reference, distorted)]
    losses = [float(jax.jit(either.loss)(*images)) for either in (loaded, metric)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    with pytest.raises(UserError, match="an exported metric has no gradient"):
        jax.grad(loaded.loss, argnums=1)(*images)


def test_it_runs_with_jax_alone_and_names_its_platforms(exported, tmp_path):
    metric, path = exported
    metadata = json.loads((path.parent / (path.name + ".json")).read_text())
    assert metadata["platforms"] == ["cpu", "cuda", "tpu"] and metadata["sha256"] == "a" * 64
    rng = np.random.default_rng(0)
    crops = rng.uniform(size=(2, 3, 64, 64, 3)).astype(np.float32)
    np.save(tmp_path / "crops.npy", crops)
    code = (
        "import sys, jax, numpy as np\n"
        "program = jax.export.deserialize(bytearray(open(sys.argv[1], 'rb').read()))\n"
        "print(*program.call(*np.load(sys.argv[2])), sep='\\n')\n"
        "assert 'iqa_jax' not in sys.modules and 'flax' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, path, tmp_path / "crops.npy"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    assert done.returncode == 0, done.stderr
    expected = jax.jit(metric.model.predict)(*crops)
    np.testing.assert_allclose([float(x) for x in done.stdout.split()], expected, rtol=1e-5)


@each_model
def test_the_program_asks_for_float32_throughout(name, exports):
    """On a GPU it gives the scores of a CPU, as the engine does."""
    module = jax.export.deserialize(bytearray(exports(name)[1].read_bytes())).mlir_module()
    for operation in ("stablehlo.convolution", "stablehlo.dot_general"):
        lines = [line for line in module.splitlines() if f" = {operation}" in line]
        assert lines and all(line.count("HIGHEST") == 2 for line in lines), operation


def test_another_file_is_not_replaced(exported, tmp_path):
    metric, _ = exported
    path = tmp_path / "a.jaxexport"
    path.write_bytes(b"mine")
    with pytest.raises(UserError, match="a.jaxexport: is there already, without a.jaxexport.json"):
        export(metric, path)
    assert path.read_bytes() == b"mine"


def test_a_file_that_is_none_is_refused(exported, tmp_path):
    _, path = exported
    whole, beside = path.read_bytes(), path.with_name(path.name + ".json").read_text()
    for content in (b"", b"no program", whole[: len(whole) // 3]):
        (tmp_path / "broken.jaxexport").write_bytes(content)
        (tmp_path / "broken.jaxexport.json").write_text(beside)
        with pytest.raises(WeightsError, match="broken.jaxexport: damaged"):
            iqa_jax.load(tmp_path / "broken.jaxexport")
    (tmp_path / "alone.jaxexport").write_bytes(whole)
    with pytest.raises(WeightsError, match="alone.jaxexport: not a metric that .* with its .json beside it"):
        iqa_jax.load(tmp_path / "alone.jaxexport")


def test_every_changed_byte_of_the_two_files_is_noticed(exported, tmp_path):
    whole = {
        ending: (exported[1].parent / f"metric.jaxexport{ending}").read_bytes() for ending in ("", ".json")
    }
    rng = np.random.default_rng(0)
    for ending, content in whole.items():
        for place in rng.integers(len(content), size=60):
            for other in whole:
                (tmp_path / f"metric.jaxexport{other}").write_bytes(whole[other])
            changed = bytearray(content)
            changed[place] ^= 1 << int(rng.integers(8))
            (tmp_path / f"metric.jaxexport{ending}").write_bytes(changed)
            with pytest.raises(WeightsError):
                iqa_jax.load(tmp_path / "metric.jaxexport")


def test_a_program_is_kept_apart_from_anothers_metadata(exported, tmp_path):
    """A process that was killed between the two files leaves such a pair."""
    (tmp_path / "metric.jaxexport").write_bytes(exported[1].read_bytes() + b"x")
    beside = (exported[1].parent / "metric.jaxexport.json").read_bytes()
    (tmp_path / "metric.jaxexport.json").write_bytes(beside)
    with pytest.raises(WeightsError, match="not the program that metric.jaxexport.json was written for"):
        iqa_jax.load(tmp_path / "metric.jaxexport")
