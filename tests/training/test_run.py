"""What a run and its averages must never lose or mix up."""

import errno
import json
import os
import pwd
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import numpy as np
import orbax.checkpoint
import pytest

from iqa_jax import files
from iqa_jax.cli import train as train_command
from iqa_jax.cli.train_arguments import parse
from iqa_jax.errors import ConfigError, DataError, UserError, WeightsError
from iqa_jax.training.averaging import average_run
from iqa_jax.training.distillation import train_student
from iqa_jax.training.loop import Interrupted, train
from iqa_jax.weights.checkpoints import Saved
from iqa_jax.weights.directory import read_weights, save_weights
from iqa_jax.weights.reading import read_run_weights
from tests import miniature, networks
from tests.training import tiny
from tests.training.test_loop import losses

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def cache(monkeypatch, packaged_weights):
    monkeypatch.setenv("IQA_JAX_CACHE", str(packaged_weights))


@pytest.fixture
def data_dir(tmp_path):
    miniature.pipal(tmp_path / "PIPAL", references=5, per_reference=4)
    return tmp_path


def configured(place, model="conformer", **fields):
    fields = {
        "data_dir": place,
        **networks.SMALL_RUN,
        "batch_size": 4,
        "num_steps": 2,
        "eval_every": 2,
        "checkpoint_every": 2,
        **fields,
    }
    if "init_from" in fields:  # whose architecture it is
        fields = {name: value for name, value in fields.items() if name not in networks.SMALL_RUN}
    given = [f"--config.{name}={value}" for name, value in fields.items()]
    return parse([f"--config={ROOT}/configs/{model}.py:pipal", *given]).config


def run(place, **fields):
    return train(configured(place, **fields), place / "run")


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


# Directories that hold more than weights.


def test_only_a_directory_of_weights_alone_is_replaced(tmp_path, small_weights):
    config, weights, _ = read_weights(small_weights)
    for name in ("inception", "lite0"):
        save_weights(tmp_path / "weights" / name, config, weights, {"file": name})

    def there():
        return sorted(path for pattern in ("*", "*/*", "*/*/*") for path in tmp_path.glob(pattern))

    before = there()
    with pytest.raises(WeightsError, match="it holds weights, so it is not replaced"):
        save_weights(tmp_path, config, weights, {"file": "new"})
    own = tmp_path / "weights" / "lite0"
    (own / "notes.txt").write_text("mine")
    with pytest.raises(WeightsError, match="it holds notes.txt, so it is not replaced"):
        save_weights(own, config, weights, {"file": "new"})
    (own / "notes.txt").unlink()
    assert there() == before
    save_weights(own, config, weights, {"file": "new"})
    assert read_weights(own)[2]["source"] == {"file": "new"}
    assert there() == before


def test_what_is_replaced_stays_until_the_new_is_there(tmp_path, small_weights, monkeypatch):
    config, weights, _ = read_weights(small_weights)
    save_weights(tmp_path / "w", config, weights, {"file": "old"})
    rename = Path.rename

    def fails_once(self, target):
        if str(target) == str(tmp_path / "w") and "before" not in str(self):
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_once)
    with pytest.raises(OSError, match="No space"):
        save_weights(tmp_path / "w", config, weights, {"file": "new"})
    assert read_weights(tmp_path / "w")[2]["source"] == {"file": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_an_average_keeps_the_tuned_backbone(data_dir):
    config = configured(
        data_dir, "student", pseudo_ratio=0, backbone_learning_rate=1e-3, num_epochs=2, num_steps=0
    )
    train_student(config, data_dir / "run")
    epochs = [read_run_weights(data_dir / "run", step=step) for step in (4, 8)]
    _, initial, _ = read_weights(data_dir / "run" / "backbone")
    name = "stages.0.0.depthwise.kernel"
    mean = (epochs[0][f"backbone.{name}"] + epochs[1][f"backbone.{name}"]) / 2
    assert np.abs(mean - initial[name]).max() > 1e-4
    for steps in (0, 1):
        _, averaged, _ = read_weights(average_run(data_dir / "run", [1, 2], steps=steps))
        np.testing.assert_allclose(averaged[f"backbone.{name}"], mean, rtol=1e-5, atol=1e-7)


# Going on.


def test_another_eval_every_keeps_the_lines_and_the_mean_loss(tmp_path, monkeypatch):
    run, workdir = tiny.patched(monkeypatch), tmp_path / "run"
    run(workdir, num_steps=6, eval_every=2, checkpoint_every=6)
    run(workdir, num_steps=11, eval_every=4, checkpoint_every=6)
    evaluations = lines(workdir)
    assert [line["step"] for line in evaluations] == [2, 4, 6, 8, 11]
    steps = losses(workdir)
    assert evaluations[3]["loss"] == pytest.approx(np.mean(steps[6:8]), rel=1e-5)
    assert evaluations[4]["loss"] == pytest.approx(np.mean(steps[8:11]), rel=1e-5)
    run(workdir, num_steps=14, eval_every=7)
    evaluations = lines(workdir)
    assert [line["step"] for line in evaluations] == [2, 4, 6, 8, 14]  # 11 was the end only then
    assert evaluations[4]["loss"] == pytest.approx(np.mean(losses(workdir)[8:14]), rel=1e-5)


def changed_labels(data_dir):
    file = data_dir / "PIPAL" / "Train_Label" / "A0001.txt"
    file.write_text(file.read_text().replace("1700.0000", "1650.0000"))


def removed_pairs(data_dir):
    for number in range(4):
        name = f"A0005_{number % 2:02d}_{number // 2:02d}.bmp"
        (data_dir / "PIPAL" / "Distortion_1" / name).unlink()
    (data_dir / "PIPAL" / "Train_Label" / "A0005.txt").unlink()
    (data_dir / "PIPAL" / "Train_Ref" / "A0005.bmp").unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed_labels, "data have changed .*: training mos_mean"),
        (removed_pairs, "data have changed .*: validation pairs 8, before 12"),
    ],
)
def test_data_that_changed_are_refused(data_dir, change, message, monkeypatch):
    tiny.untrained(monkeypatch)
    parts = {"train_split": "train[:8]", "validation_split": "train[8:]"}
    run(data_dir, **parts)
    change(data_dir)
    for path in (data_dir / "pipal").rglob("*"):
        if path.is_file():
            path.unlink()
    for path in sorted((data_dir / "pipal").rglob("*"), reverse=True):
        path.rmdir()
    with pytest.raises(UserError, match=message):
        run(data_dir, num_steps=4, **parts)
    assert [line["step"] for line in lines(data_dir / "run")] == [2]


def test_a_run_without_a_checkpoint_starts_from_scratch(data_dir, monkeypatch):
    tiny.untrained(monkeypatch)
    with pytest.raises(WeightsError, match="no such directory or file"):
        run(data_dir, backbone_weights="missing.pth")
    assert not (data_dir / "run" / "config.json").exists()
    run(data_dir, num_steps=2)
    for step in Saved(data_dir / "run").steps:
        os.rename(data_dir / "run" / "checkpoints" / str(step), data_dir / f"gone-{step}")
    run(data_dir, num_steps=2, learning_rate=1e-3)
    record = json.loads((data_dir / "run" / "config.json").read_text())
    assert record["training"]["learning_rate"] == 1e-3 and len(lines(data_dir / "run")) == 1


@pytest.mark.parametrize("content", ["", "{", '[{"step": 2}]'])
def test_a_damaged_configuration_of_a_run_is_named(data_dir, content):
    (data_dir / "run" / "checkpoints" / "2").mkdir(parents=True)
    (data_dir / "run" / "config.json").write_text(content)
    with pytest.raises(WeightsError, match="config.json: not a configuration"):
        run(data_dir)


# Two at a time.


def test_a_second_training_in_one_workdir_is_refused_while_the_first_lives(data_dir, monkeypatch):
    tiny.untrained(monkeypatch)
    code = (
        "import sys, time; from pathlib import Path; from iqa_jax.files import locked\n"
        "with locked(Path(sys.argv[1])): print('locked', flush=True); time.sleep(600)"
    )
    (data_dir / "run").mkdir()
    first = subprocess.Popen(
        [sys.executable, "-c", code, str(data_dir / "run" / ".lock")], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert first.stdout.readline()
    with pytest.raises(ConfigError, match="another training is at work there"):
        run(data_dir)
    first.kill()
    first.wait()
    run(data_dir)


def test_locks_where_the_file_system_has_none(tmp_path, monkeypatch):
    def no_locks(self, *_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", no_locks)
    path = tmp_path / ".lock"
    with files.locked(path, wait=False), pytest.raises(files.Busy), files.locked(path, wait=False):
        pass
    with files.locked(path, wait=False):
        pass
    crashed = (
        "import os, sys; from filelock import SoftFileLock\n"
        "lock = SoftFileLock(sys.argv[1]); lock.acquire()\n"
        "os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", crashed, f"{path}.soft"], check=False)
    assert Path(f"{path}.soft").exists()
    with files.locked(path, wait=False):  # of a process that has ended
        pass


# Stopping.


def signalled_at(monkeypatch, number, sent):
    """Sends a signal while the batch of this number is made."""
    take = tiny.Feed.take

    def signalled(self, batch):
        if batch == number:
            os.kill(os.getpid(), sent)
        return take(self, batch)

    monkeypatch.setattr(tiny.Feed, "take", signalled)


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2", "SIGHUP", "SIGTERM"])
def test_a_signal_saves_and_stops(tmp_path, monkeypatch, name):
    run, number = tiny.patched(monkeypatch), getattr(signal, name)
    signalled_at(monkeypatch, 2, number)
    before = signal.signal(number, signal.SIG_DFL)  # nohup has SIGHUP ignored
    try:
        with pytest.raises(Interrupted, match=f"stopped at step 3 .{name}., all is saved") as stopped:
            run(tmp_path / "run", eval_every=8, checkpoint_every=8)
    finally:
        signal.signal(number, before)
    assert stopped.value.exit_code == 128 + number
    assert Saved(tmp_path / "run").steps == [3]


def test_what_is_ignored_stays_ignored(tmp_path, monkeypatch):
    """As under nohup."""
    run = tiny.patched(monkeypatch)
    signalled_at(monkeypatch, 1, signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run(tmp_path / "run", num_steps=2)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert Saved(tmp_path / "run").steps == [2]


def test_an_interrupted_preparation_leaves_nothing_and_says_so(tmp_path):
    miniature.pipal(tmp_path / "PIPAL", references=10, per_reference=50, size=(288, 288))
    command = [sys.executable, "-m", "iqa_jax", "prepare", "pipal", "--data-dir", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("pipal/incomplete.*/*")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert errors.splitlines()[-1] == (
        "stopped by SIGTERM: pipal was not prepared; no partial data are left behind"
    )
    assert not [path for path in (tmp_path / "pipal").rglob("*") if path.is_file() and path.stat().st_size]


# What a run cannot do.


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"warmup_steps": 120, "num_epochs": 30},
            "config.warmup_steps=120: expected fewer than the 120 steps",
        ),
        ({"warmup_steps": 500, "schedule": "cosine"}, "config.warmup_steps=500: expected fewer"),
        ({"data_dir": "/no/such/place"}, "data directory /no/such/place: no such directory"),
        ({"data_dir": __file__}, "no such directory"),
        ({"splits": "none.json"}, "none.json: No such file or directory; expected a file of splits"),
    ],
)
def test_what_does_not_fit_is_one_line(data_dir, fields, message):
    with pytest.raises(UserError, match=message) as error:
        run(data_dir, **fields)
    assert "\n" not in str(error.value)


def test_a_warm_up_with_a_constant_rate():
    from iqa_jax.training.step import make_optimizer

    rate = 0.5
    optimizer = make_optimizer(rate, kind="sgd", warmup_steps=4)
    state = optimizer.init(np.float32(0))
    steps = []
    for _ in range(7):
        update, state = optimizer.update(np.float32(1), state)
        steps.append(-float(update))
    assert steps == pytest.approx([0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5])


def test_labels_that_do_not_vary_are_refused(tmp_path):
    table = miniature.pairs(tmp_path / "own", size=(100, 110))
    rows = table.read_text().splitlines()
    constant = [",".join([*row.split(",")[:2], " 3", *row.split(",")[3:]]) for row in rows[1:]]
    table.write_text("\n".join([rows[0], *constant]) + "\n")
    from iqa_jax.data.preparation import prepare_dataset

    prepare_dataset("pairs", data_dir=tmp_path, manual_dir=table)
    with pytest.raises(DataError, match="every label is 3; expected labels that vary"):
        run(tmp_path, dataset="pairs/mine", train_split="train[:50%]", validation_split="train[50%:]")


def test_a_path_with_a_scheme_is_no_workdir(data_dir, monkeypatch):
    monkeypatch.chdir(data_dir)
    before = sorted(data_dir.iterdir())
    for workdir in ("gs://bucket/run", "s3://bucket/run", "file:/run"):
        with pytest.raises(UserError, match="not a path of this machine's file system"):
            train(configured(data_dir), workdir)
    assert sorted(data_dir.iterdir()) == before


def test_training_goes_without_torch_and_tensorflow(data_dir):
    """Neither is imported, though the backbone's weights are converted on the way."""
    code = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.partition('.')[0] == 'torch':\n"
        "            print('asked for torch', file=sys.stderr)\n"
        "            raise ModuleNotFoundError('no torch', name='torch')\n"
        "sys.meta_path.insert(0, Missing())\n"
        "import train\n"
        "try: train.main()\n"
        "except SystemExit as end: sys.exit(end.code or 2 * ('tensorflow' in sys.modules))"
    )
    arguments = [f"--config={ROOT}/configs/conformer.py:pipal", f"--workdir={data_dir / 'run'}"]
    fields = {"data_dir": data_dir, **networks.SMALL_RUN, "batch_size": 4, "num_steps": 1, "ema_decay": 0.9}
    arguments += [f"--config.{name}={value}" for name, value in fields.items()]
    environment = {**os.environ, "IQA_JAX_CACHE": str(data_dir / "cache")}  # nothing is converted there
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "asked for" not in done.stderr


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"HOME": None, "IQA_JAX_CACHE": None}, "no home directory is known: set IQA_JAX_CACHE"),
        (
            {"IQA_JAX_CACHE": f"{__file__}/cache"},
            "set IQA_JAX_CACHE or --config.data_dir",
        ),
    ],
)
def test_a_cache_that_cannot_be_written_is_named(tmp_path, environment, message, monkeypatch, capsys):
    def nobody(*_):
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name, value in {**environment, "XDG_CACHE_HOME": None}.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(
        "sys.argv", ["train.py", f"--config={ROOT}/configs/conformer.py:demo", "--workdir=run"]
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        train_command.main()
    assert end.value.code == 1 and message in capsys.readouterr().err


def test_a_full_disk_is_one_line_with_the_whole_path(tmp_path, monkeypatch):
    from iqa_jax.errors import TrainingError

    def full(self, *_, **__):
        raise ValueError(f"INTERNAL: {'x' * 300} No space left on device [tensorstore]")

    monkeypatch.setattr(orbax.checkpoint.CheckpointManager, "save", full)
    with pytest.raises(TrainingError) as error:
        tiny.patched(monkeypatch)(tmp_path / "run")
    assert str(error.value).startswith(
        f"{tmp_path / 'run' / 'checkpoints'}: a checkpoint could not be written (No space left on device)"
    )
