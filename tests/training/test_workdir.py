"""A training writes into a folder of its own, or into none."""

import json

import pytest

from iqa_jax.cli.train_arguments import parse
from iqa_jax.errors import ConfigError, UserError, WeightsError
from iqa_jax.training import loop, run
from tests.training import tiny

pytestmark = pytest.mark.quick


RECORD = {"format": 1, "model": tiny.MODEL, "source": {}}


def packed(folder):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(RECORD))
    (folder / "model.safetensors").write_bytes(b"weights")


def converted(folder):
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / "manifest.ocdbt").write_bytes(b"weights")
    (folder / "config.json").write_text(json.dumps(RECORD))


def pictures(folder):
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"mine")


def notes(folder):
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "notes.txt").write_text("mine")


def evaluation(folder):
    folder.mkdir()
    (folder / "predictions-pipal.csv").write_text("mine")


def another_configuration(folder):
    folder.mkdir()
    (folder / "config.json").write_text('{"of": "another program"}')


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("fill", "what"),
    [
        (packed, "holds weights, not a run"),
        (converted, "holds weights, not a run"),
        (pictures, "holds a.png and 1 more, not a run"),
        (notes, "holds deep, not a run"),
        (evaluation, "holds predictions-pipal.csv, not a run"),
        (another_configuration, "config.json: not a configuration written by iqa_jax"),
    ],
)
@pytest.mark.parametrize("student", [False, True])
def test_a_folder_with_something_else_is_left_as_it_is(tmp_path, fill, what, student):
    folder = tmp_path / "folder"
    fill(folder)
    before = content(folder)
    recipe = ["--config=student:demo", "--config.teacher=nowhere"] if student else ["--config=conformer:demo"]
    from iqa_jax.training.distillation import train_student

    work = train_student if student else loop.train
    with pytest.raises(UserError, match=what) as error:
        work(parse(recipe).config, folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    assert content(folder) == before


def test_what_a_scheduler_prints_and_what_an_earlier_start_left_may_be_there(tmp_path):
    for name in ("slurm-12.out", "train.log", ".DS_Store"):
        (tmp_path / name).write_text("")
    for name in ("backbone", "round-1", "checkpoints"):
        (tmp_path / name).mkdir()
    assert run.check_directory(tmp_path) == tmp_path
    assert run.check_directory(tmp_path / "new") == tmp_path / "new" and not (tmp_path / "new").exists()


def test_checkpoints_alone_are_not_begun_anew(tmp_path):
    (tmp_path / "checkpoints" / "8").mkdir(parents=True)
    with pytest.raises(WeightsError, match="has checkpoints but no config.json"):
        run.check_directory(tmp_path)


def test_a_run_is_taken_with_whatever_else_is_there(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(RECORD | {"training": {}, "steps_per_epoch": 1}))
    (tmp_path / "notes.txt").write_text("mine")
    assert run.check_directory(tmp_path) == tmp_path


@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_did_not_begin_leaves_nothing(tmp_path, monkeypatch, there):
    tiny_run = tiny.patched(monkeypatch)

    def fails(workdir, *_, **__):
        (workdir / "backbone").mkdir()
        raise ConfigError("does not fit")

    monkeypatch.setattr(loop, "start_run", fails)
    if there:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "train.log").write_text("mine")
    with pytest.raises(ConfigError, match="does not fit"):
        tiny_run(tmp_path / "run")
    assert (tmp_path / "run" / "train.log").exists() if there else not list(tmp_path.iterdir())


def test_a_run_in_the_folder_is_named_by_what_it_is(tmp_path, monkeypatch):
    run = tiny.patched(monkeypatch)
    run(tmp_path)
    before = content(tmp_path)
    for fields, message in (
        (
            {"dataset": "iqa_demo"},
            "holds a run of iqa_conformer on pipal, this one is iqa_conformer on iqa_demo",
        ),
        (
            {"model": "iqa_transformer"},
            "holds a run of iqa_conformer on pipal, this one is iqa_transformer on",
        ),
        (
            {"batch_size": 2},
            r"config.batch_size=2, but the run in .* .iqa_conformer on pipal. has 16; choose",
        ),
    ):
        with pytest.raises(ConfigError, match=message) as error:
            run(tmp_path, **fields)
        assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    assert content(tmp_path) == before
