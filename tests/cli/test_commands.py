"""The command line from end to end, on a PIPAL in miniature."""

import csv
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from iqa_jax.cli.train_arguments import parse
from iqa_jax.data.preparation import prepare_dataset
from iqa_jax.data.source import PairSource
from iqa_jax.journal import Journal
from iqa_jax.scoring import dataset as scoring
from iqa_jax.scoring.load import load_model
from iqa_jax.training.loop import train
from iqa_jax.weights.checkpoints import Saved
from tests import miniature, networks

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, packaged_weights):
    """Data directory and a run of three epochs."""
    folder = tmp_path_factory.mktemp("data")
    tests = {"test_references": 5, "test_per_reference": 33}  # a submission keeps each reference by itself
    miniature.pipal(folder / "PIPAL", references=6, per_reference=6, **tests)
    fields = {
        "data_dir": folder,
        **networks.SMALL_RUN,
        "batch_size": 6,
        "num_epochs": 3,
        "train_split": "train[:50%]",
        "validation_split": "train[50%:]",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IQA_JAX_CACHE", str(packaged_weights))
        command = [f"--config={ROOT}/configs/conformer.py:pipal"]
        command += [f"--config.{name}={value}" for name, value in fields.items()]
        train(parse(command).config, folder / "run")
    return folder, folder / "run"


def test_every_command_has_an_example(call):
    _, out, _ = call("--help")
    names = re.findall(r"^  (\w[\w-]*)  ", out, re.MULTILINE)
    assert {"average", "prepare", "splits", "evaluate", "submit", "show", "score", "export"} <= set(names)
    for name in names:
        code, out, _ = call(name, "--help")
        assert code == 0 and f"Example: python -m iqa_jax {name}" in re.sub(r"\s+", " ", out)


def test_prepare_tells_what_it_found(call, prepared):
    data_dir, _ = prepared
    code, out, _ = call("prepare", "pipal", "--data-dir", data_dir, "--json")
    found = json.loads(out)["splits"]
    assert code == 0
    assert (found["train"]["pairs"], found["train"]["references"]) == (36, 6)
    assert found["ntire2022_test"]["pairs"] == 165
    code, out, _ = call("prepare", "pipal", "--data-dir", data_dir)
    assert code == 0 and "ntire2022_test" in out and "group 00, group 01" in out


def test_splits_are_by_reference_and_training_takes_one(call, prepared, tmp_path):
    data_dir, _ = prepared
    code, out, _ = call(
        "splits",
        "pipal",
        "--seeds",
        3,
        "--train",
        0.5,
        "--output",
        tmp_path,
        "--data-dir",
        data_dir,
        "--json",
    )
    files = [Path(name) for name in json.loads(out)]
    assert code == 0 and len(files) == 3
    parts = [json.loads(file.read_text()) for file in files]
    for part in parts:
        assert len(part["train"]) == 3 and not set(part["train"]) & set(part["validation"])
    assert parts[0]["train"] != parts[1]["train"] or parts[0]["train"] != parts[2]["train"]
    from iqa_jax.training.inputs import open_data

    config = parse(
        [
            f"--config={ROOT}/configs/conformer.py:pipal",
            f"--config.data_dir={data_dir}",
            f"--config.splits={files[0]}",
            "--config.crop_size=96",
        ]
    ).config
    training, validation = open_data(config)
    assert sorted(set(training.reference)) == parts[0]["train"]
    assert sorted(set(validation.reference)) == parts[0]["validation"]


def test_average_of_epochs(call, prepared, tmp_path):
    data_dir, run = prepared
    code, out, _ = call("average", "--workdir", run, "--epochs", "2-3", "--output", tmp_path / "a", "--json")
    assert code == 0 and json.loads(out)["epochs"] == [2, 3]
    import iqa_jax
    from iqa_jax.weights.directory import read_weights

    _, weights, record = read_weights(tmp_path / "a")
    assert record["source"]["epochs"] == [2, 3] and record["source"]["statistics_steps"] == 3
    checkpoints = Saved(run)
    epochs = [checkpoints.read(step) for step in (6, 9)]
    for name in ("head.output.kernel", "encoder.ff_module1.expand.kernel"):
        mean = np.mean([e[f"weights.{name}"].astype(np.float64) for e in epochs], axis=0)
        np.testing.assert_allclose(weights[name], mean, rtol=1e-5, atol=1e-7)
    statistics = "encoder.conv_module.batch_norm.mean"
    mean = np.mean([e[f"weights.{statistics}"] for e in epochs], axis=0)
    assert not np.allclose(weights[statistics], mean)  # estimated anew
    image = miniature.picture(0, (100, 100))
    assert np.isfinite(iqa_jax.load(tmp_path / "a")(image, image))
    call("average", "--workdir", run, "--list", "2,3", "--output", tmp_path / "b")
    again = read_weights(tmp_path / "b")
    assert again[2]["sha256"] == record["sha256"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--epochs", "2-5"), "no checkpoint of epoch 4-5; epochs with one: 1-3"),
        (("--epochs", "x"), "--epochs x: expected numbers such as 2-4"),
        ((), "give either --epochs"),
        (("--epochs", "1-2", "--type", "mean"), "type 'mean': expected equal or exp"),
    ],
)
def test_average_names_what_does_not_fit(call, prepared, arguments, message):
    code, _, err = call("average", "--workdir", prepared[1], *arguments)
    assert code == 1 and message in err and "Traceback" not in err


def evaluate(call, prepared, output, *more):
    data_dir, run = prepared
    common = ("--weights", run, "--data-dir", data_dir, "--output", output, "--resamples", 50)
    return call("evaluate", *common, *more)


def test_evaluate_writes_predictions_and_metrics(call, prepared, tmp_path):
    arguments = ("--dataset", "pipal", "--split", "train[50%:]", "--crops", "center", "--baselines", "--json")
    code, out, _ = evaluate(call, prepared, tmp_path / "a", *arguments, "--report", tmp_path / "report")
    (result,) = json.loads(out)
    assert code == 0 and result["pairs"] == 18 and result["references"] == 3
    with open(tmp_path / "a" / "predictions-pipal-train-50.csv") as file:
        rows = list(csv.DictReader(file))
    mos, predicted = (np.array([float(row[c]) for row in rows]) for c in ("mos", "predicted"))
    assert len(rows) == 18 and rows[0]["reference"] == "A0004.bmp"
    assert result["metrics"]["plcc"] == pytest.approx(np.corrcoef(mos, predicted)[0, 1], abs=1e-4)
    assert {"plcc", "srcc", "krcc", "rmse", "main_score", "logistic4_plcc"} <= set(result["intervals_95"])
    assert set(result["baselines"]) == {"psnr", "ssim"} and set(result["by_distortion"]) == {
        "group 00",
        "group 01",
    }
    third = result["by_opinion"]["best third"]
    best = np.argsort(mos)[-third["pairs"] :]
    assert third["srcc"] == pytest.approx(stats.spearmanr(mos[best], predicted[best]).statistic, abs=1e-4)
    assert third["lowest_mos"] == pytest.approx(mos[best].min()) and third["highest_mos"] == mos.max()
    assert sum(third["pairs"] for third in result["by_opinion"].values()) == 18
    # At the last evaluation the run itself saw the same pairs with the same crops.
    lines = (prepared[1] / "metrics.jsonl").read_text().splitlines()
    best = max((json.loads(line) for line in lines), key=lambda line: line["srcc"])
    assert result["metrics"]["srcc"] == pytest.approx(best["srcc"], abs=1e-9)
    assert (tmp_path / "report" / "report-pipal-train-50.html").is_file()
    evaluate(call, prepared, tmp_path / "b", *arguments)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_several_data_sets_make_one_table(call, prepared, tmp_path):
    data_dir, _ = prepared
    table = miniature.pairs(tmp_path / "own", size=(100, 110))
    call("prepare", "pairs", "--manual-dir", table, "--data-dir", data_dir)
    names = ("--dataset", "pipal", "--dataset", "pairs/mine", "--crops", "grid")
    code, out, err = evaluate(call, prepared, tmp_path, *names)
    assert code == 0 and "pairs/s" in out and "references loaded once" in out, err
    lines = (tmp_path / "cross.md").read_text().splitlines()
    assert len(lines) == 4 and lines[0].startswith("| dataset | split | method | pairs | trained on | plcc")
    assert "| pairs/mine | train |" in lines[3]
    assert len((tmp_path / "cross.csv").read_text().splitlines()) == 3


def test_evaluation_reads_each_reference_once(prepared, monkeypatch):
    data_dir, run = prepared
    source = PairSource(prepare_dataset("pipal", data_dir=data_dir), "ntire2022_test")
    model, _ = load_model(run)
    read, computed = [], []
    read_image, features = source.reference_image, model.features

    def read_counted(name):
        read.append(name)
        return read_image(name)

    def features_counted(windows, count):
        computed.append(count)
        return features(windows, count)

    monkeypatch.setattr(source, "reference_image", read_counted)
    monkeypatch.setattr(model, "features", features_counted)
    scoring.predict(model, source, crops="center")
    assert sorted(read) == sorted(set(source.reference)) and sum(computed) == len(read)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dataset", "pipl"), "unknown data set 'pipl'"),
        (("--dataset", "pipal", "--split", "nope"), "no split 'nope'"),
        (("--dataset", "pipal", "--split", "ntire2022_test"), "165 pairs have no label"),
        (("--dataset", "pipal", "--crops", "five"), "crops five: expected one of grid, ten, center"),
        (("--dataset", "pipal", "--step", "4"), "no checkpoint of step 4"),
        (("--dataset", "pipal", "--weights", "nothing"), "nothing: no such directory"),
    ],
)
def test_evaluate_names_what_does_not_fit(call, prepared, tmp_path, arguments, message):
    code, _, err = evaluate(call, prepared, tmp_path / "out", *arguments)
    assert code == 1 and message in err and "Traceback" not in err


def test_submission_has_the_originals_form_and_goes_on(call, prepared, tmp_path, monkeypatch):
    data_dir, run = prepared
    arguments = ("submit", "--weights", run, "--data-dir", data_dir, "--crops", "center")
    code, _, err = call(*arguments, "--output", tmp_path / "a")
    assert code == 0, err
    lines = (tmp_path / "a" / "output.txt").read_text().split("\n")
    assert len(lines) == 165 and lines[-1]
    assert all(re.fullmatch(r"A03\d\d_10_\d\d\.bmp,\d+\.\d{6}", line) for line in lines)
    assert lines == sorted(lines) and lines[0].startswith("A0300_10_00.bmp,")
    readme = (tmp_path / "a" / "readme.txt").read_text().split("\n")
    assert re.fullmatch(r"runtime per image \[s\] : \d+\.\d\d", readme[0])
    assert readme[1:3] == ["CPU[1] / GPU[0] : 1", "Extra Data [1] / No Extra Data [0] : 1"]
    assert readme[3].startswith("Other description : iqa_jax")
    assert readme[4:] == ["Full-Reference [1] / Non-Reference [0] : 1"]
    with zipfile.ZipFile(tmp_path / "a" / "submission.zip") as archive:
        assert archive.namelist() == ["output.txt", "readme.txt"]
        assert archive.read("output.txt").decode() == "\n".join(lines)

    # Interrupted after two references, which the second start does not score again.
    reference_image, seen = PairSource.reference_image, []

    def interrupted(self, name):
        seen.append(name)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return reference_image(self, name)

    monkeypatch.setattr(PairSource, "reference_image", interrupted)
    code, _, err = call(*arguments, "--output", tmp_path / "b")
    assert code == 130 and "interrupted" in err and not (tmp_path / "b" / "output.txt").exists()
    code, _, _ = call(*arguments, "--output", tmp_path / "b")
    assert code == 0 and len(seen) == 3 + 3 and seen.count(seen[2]) == 2
    assert (tmp_path / "b" / "output.txt").read_bytes() == (tmp_path / "a" / "output.txt").read_bytes()
    assert not list((tmp_path / "b").glob("*.partial"))


def test_part_of_another_submission_is_refused(call, prepared, tmp_path):
    data_dir, run = prepared
    unfinished = tmp_path / "predictions.partial"
    unfinished.mkdir()
    with Journal(unfinished / "part-0.journal", {"weights": "others"}) as journal:
        journal.add("0", [[3.0], 0.1])
    code, _, err = call("submit", "--weights", run, "--data-dir", data_dir, "--output", tmp_path)
    assert code == 1 and "belongs to another job" in err


def test_show_draws_what_the_model_sees(call, prepared, tmp_path):
    data_dir, _ = prepared
    picture = tmp_path / "samples.png"
    arguments = ("--data-dir", data_dir, "--crop-size", 96, "--output", picture, "--count", 2)
    code, _, err = call("show", "--dataset", "pipal", *arguments)
    assert code == 0, err
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_score_prints_a_number_and_reports_what_is_broken(call, prepared, tmp_path):
    data_dir, run = prepared
    pipal = data_dir / "PIPAL"
    target = pipal / "Distortion_1" / "A0001_00_01.bmp"
    reference = pipal / "Train_Ref" / "A0001.bmp"
    code, out, err = call("score", "--weights", run, "-t", target, "-r", reference)
    assert code == 0, err
    single = float(out)
    (tmp_path / "A0001_00_09.bmp").write_bytes(target.read_bytes()[:300])
    arguments = ("-t", pipal / "Distortion_1", "-t", tmp_path, "-r", pipal / "Train_Ref", "--json")
    code, out, _ = call("score", "--weights", run, *arguments, "--map", tmp_path / "maps")
    results = {Path(result["target"]).name: result for result in json.loads(out)["scores"]}
    assert code == 1 and "error" in results["A0001_00_09.bmp"]
    assert results["A0001_00_01.bmp"]["score"] == pytest.approx(single, abs=1e-2)
    assert results["A0005_01_02.bmp"]["reference"].endswith("A0005.bmp")
    assert len(list((tmp_path / "maps").rglob("*.png"))) == len(results) - 1


def test_export_writes_a_file_that_scores_the_same(call, prepared, tmp_path):
    import iqa_jax

    _, run = prepared
    code, out, err = call("export", "--weights", run, "--output", tmp_path / "metric.jaxexport", "--json")
    assert code == 0 and json.loads(out)["output"][0].endswith("metric.jaxexport"), err
    images = miniature.picture(0, (100, 100)), miniature.noisy(miniature.picture(0, (100, 100)), 9.0, 0)
    scores = [float(iqa_jax.load(path)(*images)) for path in (run, tmp_path / "metric.jaxexport")]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)


def test_several_files_may_follow_an_option(call, tmp_path, small_weights):
    image = miniature.picture(0, (72, 80))
    for name in ("r.png", "a.png", "b.png"):
        miniature.save(tmp_path / name, image)
    files = [tmp_path / name for name in ("a.png", "b.png")]
    code, out, err = call("score", "--weights", small_weights, "-t", *files, "-r", tmp_path / "r.png")
    assert code == 0 and [line.split("\t")[0] for line in out.splitlines()] == list(map(str, files))
    code, out, _ = call(
        "score", "--weights", small_weights, "-t", files[0], "-r", tmp_path / "r.png", "--json", files[1]
    )
    assert code == 2


def test_targets_are_checked_before_weights_are_loaded(call, tmp_path):
    code, _, err = call("score", "--weights", tmp_path / "nowhere", "-t", tmp_path / "gone.png")
    assert code == 1 and "gone.png: no such file" in err
    code, _, err = call("score", "--weights", tmp_path / "nowhere")
    assert code == 1 and "nothing to score: give -t FILES" in err


def test_a_table_of_pairs_alone_is_scored(call, tmp_path, small_weights):
    for name in ("ref/r.png", "dis/a.png", "dis/b.png"):
        miniature.save(tmp_path / name, miniature.picture(0, (72, 80)))
    text = '\ufeffdistorted;ref\r\ndis\\a.png;ref\\r.png\r\n"dis/b.png";ref/r.png\r\n'
    for encoding in ("utf-8", "utf-16"):
        (tmp_path / "pairs.csv").write_bytes(
            text.lstrip("\ufeff" if encoding == "utf-16" else "").encode(encoding)
        )
        for option in ("-r", "-t"):
            code, out, _ = call("score", "--weights", small_weights, option, tmp_path / "pairs.csv")
            assert code == 0 and len(out.splitlines()) == 2


def test_the_metric_of_the_package_fits_what_is_given(call, tmp_path):
    for name in ("r.png", "a.png"):
        miniature.save(tmp_path / name, miniature.picture(0, (72, 80)))
    (tmp_path / "pairs.csv").write_text("target,reference\na.png,r.png\n")
    (tmp_path / "single.csv").write_text("target\na.png\n")
    by_table, alone = (
        call("score", "-t", tmp_path / name, "--json")[1] for name in ("pairs.csv", "single.csv")
    )
    by_files = call("score", "-t", tmp_path / "a.png", "-r", tmp_path / "r.png", "--json")[1]
    assert by_table == by_files and "reference" not in json.loads(alone)[0]


def test_commands_take_the_held_out_part_of_a_file_of_splits(call, prepared, tmp_path):
    data_dir, _ = prepared
    place = ["--data-dir", data_dir]
    code, out, _ = call("splits", "pipal", *place, "--seeds", 1, "--output", tmp_path)
    assert code == 0 and "split train divided" in out
    (splits,) = tmp_path.glob("*.json")
    samples = ["--output", tmp_path / "samples.png", "--crop-size", 64, "--count", 2]
    assert call("show", "--dataset", "pipal", *place, "--splits", splits, *samples)[0] == 0
    code, _, err = call("show", "--dataset", "pipal", *place, "--splits", tmp_path / "none.json", *samples)
    assert code == 1 and "expected a file of splits" in err
