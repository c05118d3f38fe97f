"""What the tests share: models with the weights of the reference figures."""

# ruff: noqa: E402
import ctypes
import functools
import gc
import os
import resource
import sys
import tempfile

# Before jax is imported.  Programs that several tests, their subprocesses or the other workers need are
# compiled once in a test run.
if "IQA_JAX_TESTS" not in os.environ:
    _COMPILED = tempfile.TemporaryDirectory(prefix="iqa_jax-tests-")
    os.environ["IQA_JAX_TESTS"] = os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED.name
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
# Programs are small here: they take longer to optimise than to run.  The parity of the networks is tested on
# programs that are optimised as users have them.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=1".strip()
# Of the workers: what was freed goes back to the system; it does not stay in arenas and between other blocks.
os.environ.setdefault("MALLOC_ARENA_MAX", "2")
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**20))

import jax
import psutil
import pytest
import reference

from iqa_jax.cli import app as commands
from iqa_jax.weights.directory import save_weights
from iqa_jax.weights.flat import model_with
from iqa_jax.weights.pytorch.convert import convert_state_dict, pretrained_backbone
from tests import networks

MOST_MEMORY = 2 * 2**30  # of a worker, so that a laptop passes the tests
PROGRAMS_GO = 900 * 2**20  # above this, compiled programs are dropped after a test
WORTH_IT = 150 * 2**20  # that a worker has grown by since; to drop them takes as long as ten small tests


def peak_memory() -> int:
    """The most memory that this process has had, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.fixture(scope="session")
def process():
    return psutil.Process()


@pytest.fixture(scope="session")
def kept():
    """What a worker had in memory when programs were last dropped, as a list of one number."""
    return [0]


@pytest.fixture(autouse=True)
def bounded_memory(process, kept):
    """Drops what JAX keeps of compiled programs; the test that takes a worker past its bound fails."""
    before = peak_memory()
    yield
    if process.memory_info().rss > max(PROGRAMS_GO, kept[0] + WORTH_IT):
        jax.clear_caches()
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)
        kept[0] = process.memory_info().rss
    after = peak_memory()
    assert after <= MOST_MEMORY or before > MOST_MEMORY, f"{after / 2**20:.0f} MiB in a worker of the tests"


def pytest_xdist_auto_num_workers():
    """As many workers as there are cores, and as memory holds with what they start."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, psutil.virtual_memory().total // (2 * MOST_MEMORY)))


@pytest.fixture(scope="session")
def packaged_weights(tmp_path_factory):
    """A cache directory in which EfficientNet-Lite0's weights are converted already."""
    directory = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IQA_JAX_CACHE", str(directory))
        pretrained_backbone("efficientnet_lite0", "auto")
    return directory


@pytest.fixture(scope="module")  # they are 220 MB each
def converted():
    """`converted(name)`: our weights for `figures/NAME_state_dict.json`, converted once."""
    return functools.cache(lambda name: convert_state_dict(reference.fill_rule(name)))


@pytest.fixture(scope="module")
def filled(converted):
    """`filled(name)`: a new model in evaluation mode with those weights."""

    def build(name):
        return model_with(converted(name).config, converted(name).weights)

    return build


@pytest.fixture
def call(monkeypatch, packaged_weights, capsys):
    """`call("prepare", …)`: exit code, standard output, standard error of a command."""
    monkeypatch.setenv("IQA_JAX_CACHE", str(packaged_weights))

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["iqa_jax", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            commands.main()
        out, err = capsys.readouterr()
        return exit_.value.code, out, err

    return run


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory):
    """A weights directory of a small random IQA Conformer, quick to load and to compile."""
    config = networks.small_config()
    directory = tmp_path_factory.mktemp("small") / "weights"
    save_weights(directory, config, networks.random_weights(config), {"file": "random"})
    return directory
