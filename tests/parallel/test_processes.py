"""One run in two processes, and on other numbers of devices: the same weights."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from iqa_jax.cli.train_arguments import parse
from iqa_jax.errors import ConfigError
from iqa_jax.parallel.processes import join
from iqa_jax.weights.checkpoints import Saved
from tests import miniature, networks

ROOT = Path(__file__).resolve().parents[2]
STEPS = 4


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, packaged_weights):
    from iqa_jax.data.preparation import prepare_dataset

    folder = tmp_path_factory.mktemp("data")
    miniature.pipal(folder / "PIPAL", references=10, per_reference=4)
    prepare_dataset("pipal", data_dir=folder)
    return folder


def start(data_dir, workdir, cache, *arguments, devices=1, **fields):
    fields = {
        "data_dir": data_dir,
        **networks.SMALL_RUN,
        "batch_size": 8,
        "optimizer": "sgd",
        "learning_rate": 1e-3,
        "num_steps": STEPS,
        "eval_every": 2,
        "checkpoint_every": 2,
        **fields,
    }
    command = [
        sys.executable,
        "train.py",
        f"--config={ROOT}/configs/conformer.py:pipal",
        f"--workdir={workdir}",
    ]
    command += [*arguments, *(f"--config.{name}={value}" for name, value in fields.items())]
    flags = f"--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={devices}"
    env = {**os.environ, "IQA_JAX_CACHE": str(cache), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def start_two(*arguments, **fields):
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    together = [f"--coordinator=localhost:{port}", "--num-processes=2"]
    return [start(*arguments, *together, f"--process-id={k}", **fields) for k in range(2)]


def ended(*processes):
    outputs = [process.communicate(timeout=300) for process in processes]
    return [process.returncode for process in processes], outputs


def weights(workdir):
    checkpoints = Saved(workdir)
    assert checkpoints.steps[-1] == STEPS
    arrays = checkpoints.read(STEPS)
    return {name: array for name, array in arrays.items() if name.startswith("weights.")}


def assert_same(found, expected):
    """To 1e-5 of the largest number of each array.

    Biases that softmax or BatchNorm take away again have no gradient in exact arithmetic; what rounding
    leaves of it, some 1e-11, is nowhere the same.
    """
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        atol = max(1e-5 * np.abs(array).max(), 1e-9)
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=atol, err_msg=name)


@pytest.fixture(scope="module")
def alone(data_dir, packaged_weights, tmp_path_factory):
    """The run of one process on one device."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    codes, outputs = ended(start(data_dir, workdir, packaged_weights))
    assert codes == [0], outputs
    return workdir


def test_two_processes_train_as_one_and_go_on_when_one_was_killed(
    data_dir, packaged_weights, alone, tmp_path
):
    arguments = (data_dir, tmp_path / "run", packaged_weights)
    processes = start_two(*arguments, num_steps=1000)
    deadline = time.monotonic() + 240
    while not list((tmp_path / "run" / "checkpoints").glob("[1-9]*/sha256.json")):
        assert time.monotonic() < deadline and processes[0].poll() is None, ended(*processes)
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGKILL)
    codes, outputs = ended(*processes)
    assert codes[0] not in (0, None) and codes[1] == -signal.SIGKILL
    # A thread of JAX's may end the process first, with lines of its own.
    said = ("another process of the run has ended", "terminat", "coordination_service")
    assert any(text in outputs[0][1] for text in said), outputs[0]

    # What was saved after the last step of the other run is taken away.
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        if not (path / "sha256.json").is_file() or int(path.name) >= STEPS:
            shutil.rmtree(path)
    codes, outputs = ended(*start_two(*arguments))
    assert codes == [0, 0], outputs
    assert "validation; best by SRCC" in outputs[0][0] and "resuming at step" in outputs[0][0]
    assert all(line.startswith("[Gloo]") for line in outputs[1][0].splitlines())
    assert_same(weights(tmp_path / "run"), weights(alone))
    ours, theirs = ((w / "metrics.jsonl").read_text().splitlines() for w in (tmp_path / "run", alone))
    assert len(ours) == len(theirs) == STEPS // 2


def test_eight_devices_train_as_one_and_take_its_checkpoints(data_dir, packaged_weights, alone, tmp_path):
    shutil.copytree(alone, tmp_path / "run")
    for step in range(3, STEPS + 1):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / str(step), ignore_errors=True)
    arguments = (data_dir, tmp_path / "run", packaged_weights)
    codes, outputs = ended(start(*arguments, devices=8, **{"data.placement": "device"}))
    assert codes == [0] and "resuming at step 2" in outputs[0][0], outputs
    assert_same(weights(tmp_path / "run"), weights(alone))


def test_what_was_said_of_the_processes_has_to_fit():
    with pytest.raises(ConfigError, match="expected all of coordinator, num_processes and process_id"):
        join("localhost:1", None, 0)
    with pytest.raises(ConfigError, match="process_id=2: expected 0 to 1"):
        join("localhost:1", 2, 2)
    command = parse(
        ["--config=configs/conformer.py:demo", "--coordinator=a:1", "--num-processes", "2", "--process-id=1"]
    )
    assert command.processes == {"coordinator": "a:1", "num_processes": 2, "process_id": 1}


def test_a_launcher_that_started_one_of_many_is_not_waited_for(monkeypatch, capsys):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    asked = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **options: asked.append(args))
    join(num_processes=1)
    assert not asked
    join()
    assert asked and "waiting for 4 (SLURM_STEP_NUM_TASKS) processes" in capsys.readouterr().err
