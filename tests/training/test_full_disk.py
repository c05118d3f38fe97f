"""A full disk ends a training with one line that names what could not be written; the rest is whole."""

import errno
import os

import pytest
from absl import logging

from iqa_jax.cli.train import quiet_libraries
from iqa_jax.errors import TrainingError
from iqa_jax.training import log
from iqa_jax.weights import checkpoints
from iqa_jax.weights.checkpoints import Saved
from tests.training import tiny

pytestmark = pytest.mark.quick


@pytest.fixture
def run(monkeypatch):
    before = logging.get_verbosity()
    quiet_libraries()
    yield tiny.patched(monkeypatch)
    logging.set_verbosity(before)


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_room(patch):
    usage = checkpoints.shutil.disk_usage
    patch.setattr(checkpoints.shutil, "disk_usage", lambda path: usage(path)._replace(free=1000))


def no_room_for_the_seal(patch):
    """In one of orbax's threads, when everything else is written."""
    patch.setattr(checkpoints.Seal, "as_json", full)


def no_room_for_events(patch):
    """In one of TensorBoard's threads."""
    patch.setattr("tensorboard.summary.writer.event_file_writer.RecordWriter.write", full)


def no_room_for_metrics(patch):
    write_whole = log.write_whole

    def fails(path, content):
        with log.naming(path):
            return full() if content else write_whole(path, content)

    patch.setattr(log, "write_whole", fails)


def no_room_for_the_picture(patch):
    patch.setattr(log, "save_scatter", full)
    patch.setattr(tiny.Evaluator, "__call__", predicting(tiny.Evaluator.__call__))


def predicting(call):
    def with_predictions(self, *arguments, **options):
        self.predicted = [0.0]
        return call(self, *arguments, **options)

    return with_predictions


@pytest.mark.parametrize(
    ("disk", "named", "steps"),
    [
        (no_room, "checkpoints: a checkpoint could not be written .No space left on device", []),
        (no_room_for_the_seal, "checkpoints: a checkpoint could not be written .No space left on", []),
        (no_room_for_events, "run/tensorboard", []),
        (no_room_for_metrics, "run/metrics.jsonl", [2]),
        (no_room_for_the_picture, "run/scatter.png", [2, 4, 6, 8]),
    ],
)
def test_what_could_not_be_written_is_named_once(run, tmp_path, monkeypatch, capfd, disk, named, steps):
    run(tmp_path / "whole")
    capfd.readouterr()
    with monkeypatch.context() as patch:
        disk(patch)
        with pytest.raises((TrainingError, OSError), match=named) as error:
            run(tmp_path / "run")
    assert "No space left on device" in str(error.value) and str(tmp_path / "run") in str(error.value)
    assert "Traceback" not in capfd.readouterr().err
    assert Saved(tmp_path / "run").steps == steps
    run(tmp_path / "run")
    ours, theirs = (Saved(tmp_path / name) for name in ("run", "whole"))
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == (
        tmp_path / "whole" / "metrics.jsonl"
    ).read_text()
    assert all((ours.read(8)[name] == array).all() for name, array in theirs.read(8).items())
