"""Whole training runs, on a PIPAL in miniature."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import iqa_jax
from iqa_jax.cli.train_arguments import parse
from iqa_jax.errors import ConfigError, TrainingError, UserError
from iqa_jax.evaluation.agreement import correlations
from iqa_jax.training.loop import train
from iqa_jax.weights.checkpoints import Saved
from tests import miniature, networks
from tests.training import tiny

ROOT = Path(__file__).resolve().parents[2]
STEPS = 8


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    miniature.pipal(folder / "PIPAL", references=5, per_reference=4)
    return folder


@pytest.fixture(autouse=True)
def cache(monkeypatch, packaged_weights):
    monkeypatch.setenv("IQA_JAX_CACHE", str(packaged_weights))


def arguments(data_dir, **fields):
    """16 training pairs in batches of 4: an epoch is four steps."""
    fields = {
        "data_dir": data_dir,
        **networks.SMALL_RUN,
        "batch_size": 4,
        "num_steps": STEPS,
        "ema_decay": 0.9,
        "eval_every": 4,
        "checkpoint_every": 2,
        **fields,
    }
    return [f"--config={ROOT}/configs/conformer.py:pipal", *(f"--config.{k}={v}" for k, v in fields.items())]


def run(data_dir, workdir, **fields):
    return train(parse(arguments(data_dir, **fields)).config, workdir)


def content(workdir):
    """All that must not depend on stops: the metrics and the last checkpoint."""
    checkpoints = Saved(workdir)
    return (workdir / "metrics.jsonl").read_text(), checkpoints.read(checkpoints.steps[-1])


def assert_same(found, expected):
    assert found[0] == expected[0]
    assert found[1].keys() == expected[1].keys()
    for name, array in expected[1].items():
        assert found[1][name].tobytes() == array.tobytes(), name


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory, packaged_weights):
    workdir = tmp_path_factory.mktemp("run") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IQA_JAX_CACHE", str(packaged_weights))
        run(data_dir, workdir)
    return workdir


def test_a_run_leaves_its_metrics_its_picture_and_its_configuration(finished):
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8] and [line["epoch"] for line in lines] == [1, 2]
    names = correlations(np.arange(3.0), np.arange(3.0))
    assert set(lines[0]) == {"step", "epoch", "loss", "psnr_srcc", "ssim_srcc"} | {
        prefix + name for prefix in ("", "ema_") for name in names
    }
    record = json.loads((finished / "config.json").read_text())
    assert record["source"]["dataset"] == "pipal" and record["training"]["batch_size"] == 4
    assert (finished / "scatter.png").read_bytes().startswith(b"\x89PNG")
    assert list((finished / "tensorboard").glob("events*"))


def test_load_gives_the_model_of_a_run(finished):
    raw, averaged = iqa_jax.load(finished), iqa_jax.load(finished, step=8, ema=True)
    image = miniature.picture(0, (120, 96))
    scores = [float(metric(image, image)) for metric in (raw, averaged)]
    assert np.isfinite(scores).all() and scores[0] != scores[1]
    with pytest.raises(UserError, match="no checkpoint of step 3; there are: "):
        iqa_jax.load(finished, step=3)


def test_a_run_stopped_twice_ends_with_the_same_bits(data_dir, finished, tmp_path):
    for stop in (2, 5, STEPS):  # with a checkpoint due there, and without
        run(data_dir, tmp_path, num_steps=stop)
    assert_same(content(tmp_path), content(finished))


def started(data_dir, workdir, **fields):
    command = [sys.executable, "train.py", *arguments(data_dir, **fields), f"--workdir={workdir}"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_checkpoint(workdir, process, step):
    while not (workdir / "checkpoints" / str(step) / "commit_success.txt").exists():
        assert process.poll() is None, process.stderr.read()[-2000:]
        time.sleep(0.05)


def test_a_run_that_is_killed_and_then_stopped_ends_with_the_same_bits(data_dir, finished, tmp_path):
    process = started(data_dir, tmp_path)
    wait_for_checkpoint(tmp_path, process, 2)
    process.kill()
    process.communicate()
    process = started(data_dir, tmp_path)
    wait_for_checkpoint(tmp_path, process, 4)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    if process.returncode != 0:  # else it was done before the signal came
        assert process.returncode == 128 + signal.SIGTERM
        assert "all is saved; run the same command again" in errors and "Traceback" not in errors
    run(data_dir, tmp_path)
    assert_same(content(tmp_path), content(finished))


def test_a_damaged_checkpoint_is_passed_over(tmp_path, monkeypatch, capsys):
    run = tiny.patched(monkeypatch)
    run(tmp_path / "whole")
    run(tmp_path / "run", num_steps=4)
    files = (tmp_path / "run" / "checkpoints" / "4").rglob("*")
    newest = max(files, key=lambda path: path.stat().st_size * path.is_file())
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    run(tmp_path / "run")
    assert "checkpoints/4: damaged" in capsys.readouterr().out
    assert_same(content(tmp_path / "run"), content(tmp_path / "whole"))


def test_a_run_that_is_done_stays_as_it_is(data_dir, finished):
    before = content(finished)
    run(data_dir, finished)
    assert_same(content(finished), before)


def test_other_settings_are_refused(data_dir, finished):
    with pytest.raises(ConfigError, match=r"config.batch_size=2, but the run in .* has 4"):
        run(data_dir, finished, batch_size=2)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    take = tiny.Feed.take
    monkeypatch.setattr(
        tiny.Feed, "take", lambda self, number: take(self, number) * (np.nan if number == 5 else 1)
    )
    with pytest.raises(TrainingError, match="the loss of step 6 is nan; the last good checkpoint is step 4"):
        tiny.patched(monkeypatch)(tmp_path / "run")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 17}, "config.batch_size=17: takes 17 training pairs, there are 16"),
        ({"train_split": "train"}, "the reference A0005.bmp is in both config.train_split=train and"),
        ({"validation_split": "test"}, "no split 'test'"),
        ({"crop_size": 128}, "an image of 112 pixels on a side"),
        ({"backbone_weights": "none.pth"}, "backbone_weights: none.pth: no such directory or file"),
    ],
)
def test_what_does_not_fit_is_said_before_training(data_dir, tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        run(data_dir, tmp_path / "run", **fields)


def test_a_working_directory_that_cannot_be_written(data_dir, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/run: cannot write there"):
        run(data_dir, tmp_path / "file" / "run")


def test_the_images_may_be_kept_anywhere(data_dir, tmp_path, monkeypatch):
    tiny.light(monkeypatch)
    runs = {}
    for placement, at_once in (("stream", 1), ("host", 1), ("device", 1), ("device", 5)):
        workdir = tmp_path / f"{placement}{at_once}"
        fields = {"data.placement": placement, "data.steps_at_once": at_once}
        run(data_dir, workdir, num_steps=20, eval_every=20, checkpoint_every=20, **fields)
        runs[placement, at_once] = losses(workdir)
    first = runs["stream", 1]
    assert len(first) == 20 and len(set(first)) == 20
    for kept, found in runs.items():
        assert found == first, kept


def losses(workdir):
    """The loss of each step, as TensorBoard shows it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(workdir / "tensorboard"))
    events.Reload()
    return [event.value for event in events.Scalars("training/loss")]
