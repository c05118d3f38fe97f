"""The student from its teacher to its use, on a PIPAL in miniature."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import iqa_jax
from iqa_jax.cli import app as commands
from iqa_jax.cli.train_arguments import parse
from iqa_jax.errors import ConfigError, DataError, UserError, WeightsError
from iqa_jax.scoring import dataset
from iqa_jax.training import distillation
from iqa_jax.training.inputs import open_data
from iqa_jax.training.loop import train
from iqa_jax.weights.checkpoints import Saved
from iqa_jax.weights.record import text_of
from tests import miniature, networks
from tests.training import tiny

ROOT = Path(__file__).resolve().parents[2]
STEPS = 4


@pytest.fixture(scope="module")
def place(tmp_path_factory, packaged_weights):
    """A folder with PIPAL and a teacher; the cache directory is its own, with the backbone's weights."""
    folder = tmp_path_factory.mktemp("student")
    miniature.pipal(folder / "PIPAL", references=5, per_reference=4, test_references=3, test_per_reference=4)
    (folder / "cache").mkdir()
    (folder / "cache" / "weights").symlink_to(packaged_weights / "weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IQA_JAX_CACHE", str(folder / "cache"))
        patch.setattr("iqa_jax.scoring.dataset._PART", 4)
        untrained_teacher(folder, folder / "teacher")
        yield folder


def untrained_teacher(place, workdir, **fields):
    with pytest.MonkeyPatch.context() as patch:
        tiny.untrained(patch)
        train(parse(arguments("conformer", place, **fields)).config, workdir)


def arguments(name, place, **fields):
    fields = {
        "data_dir": place,
        **networks.SMALL_RUN,
        "batch_size": 4,
        "num_steps": STEPS,
        "eval_every": STEPS,
        "checkpoint_every": 2,
        **fields,
    }
    return [f"--config={ROOT}/configs/{name}.py:pipal", *(f"--config.{k}={v}" for k, v in fields.items())]


def student(place, workdir, **fields):
    fields = {"teacher": place / "teacher", **fields}
    return distillation.train_student(parse(arguments("student", place, **fields)).config, workdir)


def last(workdir):
    checkpoints = Saved(workdir)
    return checkpoints.read(checkpoints.steps[-1])


@pytest.fixture(scope="module")
def finished(place):
    student(place, place / "student")
    return place / "student"


def test_the_teacher_labels_once_and_goes_on_after_an_interruption(place, finished, monkeypatch):
    (labels,) = (place / "cache" / "pseudo_labels").iterdir()
    parts = sorted(labels.glob("part-*.journal"))

    def scores_in(part):
        _, (_, (scores, _)) = json.loads(part.read_text().splitlines()[1])
        return scores

    content = [scores_in(part) for part in parts]
    assert len(parts) == 3
    asked = []
    predict = dataset.predict
    monkeypatch.setattr(
        dataset,
        "predict",
        lambda model, source, **kw: asked.append(len(source)) or predict(model, source, **kw),
    )
    parts[1].unlink()
    teacher = distillation.predictor_of(place / "teacher", "ten")
    config = parse(arguments("student", place, teacher="x")).config
    source = distillation.unlabelled_pairs(config, open_data(config)[1])
    found = distillation.pseudo_labels(teacher, source)
    assert asked == [4] and [scores_in(part) for part in parts] == content
    expected = teacher(source)
    np.testing.assert_allclose(found, expected, atol=1e-2)


def test_pairs_of_references_to_validate_on_are_not_pseudo_labelled(place, capsys):
    config = parse(
        arguments("student", place, teacher="x", unlabelled="pipal", unlabelled_split="train")
    ).config
    training, validation = open_data(config)
    source = distillation.unlabelled_pairs(config, validation)
    assert set(source.reference) == set(training.reference)
    assert f"{len(validation)} unlabelled pairs are of validation references" in capsys.readouterr().out
    config = dataclasses.replace(config, unlabelled_split=config.validation_split)
    with pytest.raises(DataError, match="every pair is of a validation reference"):
        distillation.unlabelled_pairs(config, validation)


def test_the_run_tells_its_teacher_and_its_pseudo_labels(place, finished):
    record = json.loads((finished / "config.json").read_text())
    assert record["model"]["name"] == "blind_student" and record["model"]["stochastic_depth"] == 0.1
    origin = record["source"]["pseudo_labels"]
    assert origin["by"] == [distillation.predictor_of(place / "teacher", "ten").sha256]
    assert origin["split"] == "ntire2022_test" and record["steps_per_epoch"] == 8


def test_a_stopped_student_ends_with_the_same_bits(place, finished, tmp_path):
    student(place, tmp_path / "run", num_steps=2, eval_every=2)
    student(place, tmp_path / "run")
    expected = last(finished)
    for name, array in last(tmp_path / "run").items():
        if name != "loss_sum":
            assert array.tobytes() == expected[name].tobytes(), name


def test_rounds_and_a_tuned_backbone(place, tmp_path):
    student(place, tmp_path / "run", rounds=2, backbone_learning_rate=1e-4, num_steps=2, eval_every=2)
    records = [json.loads((tmp_path / d / "config.json").read_text()) for d in ("run/round-1", "run")]
    first, second = (record["source"]["pseudo_labels"]["by"] for record in records)
    assert len(first) == 1 and second[0] == first[0] and len(second) == 2
    weights = last(tmp_path / "run")
    before = last(tmp_path / "run" / "round-1")
    tuned = "weights.backbone.conv_stem.kernel"
    assert tuned in weights and tuned in before and "weights.backbone.conv_stem.mean" not in weights
    image = miniature.picture(0, (100, 120))
    scores = [float(iqa_jax.load(tmp_path / "run", ema=ema)(image)) for ema in (False, True)]
    assert np.isfinite(scores).all()


def test_labels_alone_need_no_teacher(place, tmp_path, monkeypatch):
    tiny.untrained(monkeypatch)
    metrics = student(place, tmp_path / "run", teacher="", pseudo_ratio=0, num_steps=1, eval_every=1)
    assert metrics["step"] == 1
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert "pseudo_labels" not in record["source"]


def test_a_teacher_that_does_not_fit_is_named(place, finished, tmp_path):
    def refused(error, message, **fields):
        with pytest.raises(error, match=message):
            student(place, tmp_path / "run", **fields)

    refused(WeightsError, "blind_student needs no reference; expected a full-reference", teacher=finished)
    refused(WeightsError, "config.teacher: .*nowhere: .*no such directory", teacher=tmp_path / "nowhere")
    refused(
        WeightsError,
        "a backbone's weights .*, expected an IQA model's",
        teacher=place / "teacher" / "backbone",
    )
    with pytest.raises(ConfigError, match="config.pseudo_ratio=1.0: expected pseudo-labelled pairs"):
        train(parse(arguments("student", place, teacher="x")).config, tmp_path / "alone")
    with pytest.raises(ConfigError, match="config.teacher: expected the run or the averaged checkpoint"):
        parse(arguments("student", place))
    with pytest.raises(ConfigError, match="config.noise.cut_out=2.0: expected a probability"):
        parse([*arguments("student", place, teacher="x"), "--config.noise.cut_out=2.0"])
    copy = tmp_path / "other"
    (copy).mkdir()
    for path in (place / "teacher").iterdir():
        (copy / path.name).symlink_to(path)
    (copy / "config.json").unlink()
    record = json.loads((place / "teacher" / "config.json").read_text())
    record["model"] |= {"mos_low": 1.0, "mos_high": 5.0}
    (copy / "config.json").write_text(text_of(record))
    refused(WeightsError, "has learned scores from 1 to 5, the labels of pipal go from", teacher=copy)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_another_teacher_needs_another_directory(place, finished, tmp_path):
    untrained_teacher(place, tmp_path / "teacher", seed=1, num_steps=1, eval_every=1)
    with pytest.raises(ConfigError, match="config.teacher"):
        student(place, finished, teacher=tmp_path / "teacher")


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["iqa_jax", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            commands.main()
        return exit_.value.code, *capsys.readouterr()

    return run


def test_every_command_takes_the_student(place, finished, call, tmp_path):
    image = miniature.picture(3, (100, 130))
    Image.fromarray(image).save(tmp_path / "image.png")
    metric = iqa_jax.load(finished)
    expected = float(metric(image))
    assert not metric.full_reference and metric(np.stack([image, image])).shape == (2,)
    found = metric.map(image)
    assert found.values.shape == image.shape[:2]
    loss = float(metric.loss(np.float32(image / 255)))
    assert loss == pytest.approx((metric.range[1] - expected) / metric.config.mos_std, abs=1e-3)
    for bad, message in ((image[:31], "32 pixels or more"), (image.astype(int), "int64")):
        with pytest.raises(UserError, match=message):
            metric(bad)

    code, out, _ = call(
        "score", "--weights", finished, "-t", tmp_path / "image.png", "--map", tmp_path / "maps"
    )
    assert code == 0 and float(out) == pytest.approx(expected, abs=1e-3)
    assert (tmp_path / "maps" / "image-map.png").is_file()
    code, _, err = call(
        "score", "--weights", finished, "-t", tmp_path / "image.png", "-r", tmp_path / "image.png"
    )
    assert code == 0 and "the references are not used" in err

    exported = tmp_path / "student.jaxexport"
    assert call("export", "--weights", finished, "--output", exported)[0] == 0
    assert float(iqa_jax.load(exported)(image)) == pytest.approx(expected, rel=1e-5)
    metadata = json.loads((tmp_path / "student.jaxexport.json").read_text())
    assert metadata["inputs"].startswith("distorted: ")

    data = ("--dataset", "pipal", "--data-dir", place)
    code, out, _ = call("evaluate", "--weights", finished, *data, "--output", tmp_path / "e", "--json")
    assert code == 0 and json.loads(out)[0]["pairs"] == 4
    code, *_ = call("submit", "--weights", finished, *data, "--output", tmp_path / "submission")
    assert code == 0 and "Non-Reference [0] : 0" in (tmp_path / "submission" / "readme.txt").read_text()


def test_a_metric_of_the_package_can_teach():
    teacher = distillation.predictor_of("full-reference", "center")
    assert teacher.full_reference and (teacher.config.mos_low, teacher.config.mos_high) == (1, 5)
