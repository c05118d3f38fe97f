"""What is validated on was not trained on, whatever its files are called."""

import json

import pytest

from iqa_jax.cli.train_arguments import parse
from iqa_jax.data.preparation import prepare_dataset
from iqa_jax.data.splits import digests_trained_on
from iqa_jax.errors import DataError
from iqa_jax.training import run
from iqa_jax.training.initial import Start
from iqa_jax.training.inputs import data_record, open_data
from tests import miniature

pytestmark = pytest.mark.quick


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IQA_JAX_CACHE", str(tmp_path / "cache"))


def table(folder, *, paired, same=(0, 2)):
    """Three pictures with two labelled versions each; of `same`, the second shows the first."""
    lines = ["reference,distorted,mos" if paired else "image,mos,content"]
    for number in range(3):
        image = miniature.picture(same[0] if number == same[1] else number, (100, 104))
        miniature.save(folder / f"scene{number}.png", image)
        for version in range(2):
            name = f"scene{number}-{version}.png"
            miniature.save(folder / name, miniature.noisy(image, 10.0 * version, 7))
            score = 2 + version + number / 10
            lines.append(f"scene{number}.png,{name},{score}" if paired else f"{name},{score},scene{number}")
    (folder / "mine.csv").write_text("\n".join(lines) + "\n")
    return folder / "mine.csv"


def opened(tmp_path, *, paired, model="conformer", **where):
    prepare_dataset(
        "pairs", data_dir=tmp_path / "data", manual_dir=table(tmp_path / "own", paired=paired, **where)
    )
    splits = tmp_path / "splits.json"
    end = ".png" if paired else ""
    names = {"train": [f"scene0{end}", f"scene1{end}"], "validation": [f"scene2{end}"]}
    splits.write_text(json.dumps({"dataset": "pairs/mine", **names}))
    fields = {"dataset": "pairs/mine", "data_dir": tmp_path / "data", "splits": splits, "crop_size": 96}
    if model == "student":
        fields["pseudo_ratio"] = 0
    return open_data(
        parse([f"--config={model}:pipal", *(f"--config.{k}={v}" for k, v in fields.items())]).config
    )


@pytest.mark.parametrize(("paired", "model"), [(True, "conformer"), (True, "student"), (False, "student")])
def test_one_picture_under_two_names_is_not_on_both_sides(tmp_path, paired, model):
    with pytest.raises(DataError) as error:
        opened(tmp_path, paired=paired, model=model)
    text = str(error.value)
    assert "scene0" in text and "scene2" in text and "one picture under two names" in text
    assert "\n" not in text


def test_one_picture_under_two_names_may_be_on_one_side(tmp_path):
    training, validation = opened(tmp_path, paired=True, same=(0, 1))
    assert len(training) == 4 and len(validation) == 2


def test_weights_that_saw_the_validation_are_named_and_recorded(tmp_path, capsys, monkeypatch):
    training, validation = opened(tmp_path, paired=True, same=(0, 1))
    seen = list(validation.digests().values())
    backbone = {"format": 1, "source": {"data": {"training": {"references": {"theirs.png": seen[0]}}}}}
    monkeypatch.setattr(run, "read_config", lambda path: backbone)

    def noted(start=None, source=None):
        record = {
            "source": source or {},
            "data": data_record(training, validation, by_reference=True),
        }
        run._record_overlap(tmp_path, record, start)
        return record["source"]["seen_in_validation"], capsys.readouterr().out

    names = ["scene2.png"]
    found, said = noted(Start(None, None, {"trained_on": seen}))
    assert found == {"init_from": names} and "config.init_from were trained on 1 of the 1 validation" in said
    assert noted(Start(None, None, {"trained_on": ["another"]})) == ({}, "")
    found, said = noted(source={"pseudo_labels": {"trained_on": seen}})
    assert found == {"backbone_weights": names, "teacher": names}
    assert "attention: the weights of config.teacher" in said and "scene2.png" in said


def test_a_student_was_trained_on_what_its_teacher_saw():
    record = {"source": {"pseudo_labels": {"by": ["x"], "trained_on": ["a digest"]}}}
    assert digests_trained_on(record) == {"a digest"}
