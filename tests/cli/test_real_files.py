"""Files as people have them: every command reads them alike, and nothing is wrong in silence."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from iqa_jax.data.preparation import prepare_dataset
from iqa_jax.data.source import PairSource
from iqa_jax.data.splits import trained_on
from iqa_jax.evaluation.evaluation import file_name
from iqa_jax.parallel.jobs import run_shared
from tests import miniature

SIZE = (80, 100)


def kinds(folder: Path) -> Path:
    """A pair of each kind of image that is read, and a table of them."""
    turned = Image.Exif()
    turned[0x0112] = 6
    rgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    reference = miniature.picture(1, SIZE)
    for side, image in (("references", reference), ("distorted", miniature.noisy(reference, 15.0, 1))):
        place = folder / side
        place.mkdir(parents=True)
        plain = Image.fromarray(image)
        alpha = np.tile(np.linspace(0, 255, SIZE[1]).astype(np.uint8), (SIZE[0], 1))
        Image.fromarray((image.mean(2) * 257).astype(np.uint16)).save(place / "grey16.png")
        Image.fromarray(np.dstack([image, alpha])).save(place / "alpha.png")
        plain.save(place / "exif.jpg", quality=95, exif=turned)
        plain.save(place / "profile.png", icc_profile=rgb)
        plain.convert("CMYK").save(place / "cmyk.jpg", quality=95)
        plain.quantize(64).save(place / "palette.png")
        plain.convert("LA").save(place / "grey_alpha.png")
        plain.convert("1").save(place / "bits.png")
        plain.save(place / "lossless.webp", lossless=True)
        plain.save(place / "deflated.tif", compression="tiff_deflate")
        plain.save(place / "plain.bmp")
        rows = [file.name for file in sorted(place.iterdir())]
    table = folder / "kinds.csv"
    lines = [f"references/{name},distorted/{name},{3 + 0.1 * k:.1f}" for k, name in enumerate(rows)]
    table.write_text("\n".join(["reference,distorted,mos", *lines]) + "\n")
    return table


def test_evaluate_and_score_read_every_kind_of_image_alike(tmp_path, call, small_weights):
    table = kinds(tmp_path / "files")
    call("prepare", "pairs", "--manual-dir", table, "--data-dir", tmp_path)
    common = ("--weights", small_weights, "--crops", "grid")
    code, _, err = call(
        "evaluate", *common, "--dataset", "pairs/kinds", "--data-dir", tmp_path, "--output", tmp_path / "e"
    )
    assert code == 0, err
    with open(tmp_path / "e" / "predictions-pairs-kinds-train.csv") as file:
        evaluated = {Path(row["name"]).name: float(row["predicted"]) for row in csv.DictReader(file)}
    folder = table.parent
    code, out, err = call("score", *common, "-t", folder / "distorted", "-r", folder / "references", "--json")
    assert code == 0, err
    scored = {Path(result["target"]).name: result["score"] for result in json.loads(out)}
    assert len(scored) == 11 and evaluated == pytest.approx(scored, abs=1e-4)


def test_a_pair_that_only_exif_turns_is_a_pair(tmp_path, call, small_weights):
    image, turned = miniature.picture(1, SIZE), Image.Exif()
    turned[0x0112] = 6
    (tmp_path / "d").mkdir()
    miniature.save(tmp_path / "r" / "up.png", np.rot90(image, -1).copy())
    Image.fromarray(image).save(tmp_path / "d" / "up.jpg", quality=95, exif=turned)
    (tmp_path / "turned.csv").write_text("reference,distorted,mos\nr/up.png,d/up.jpg,3\n")
    builder = prepare_dataset("pairs", data_dir=tmp_path, manual_dir=tmp_path / "turned.csv")
    source = PairSource(builder, "train")
    assert source.size.tolist() == [[100, 80]]
    assert np.abs(source[0].reference.astype(float) - source[0].distorted).mean() < 10
    code, out, err = call(
        "score", "--weights", small_weights, "-t", tmp_path / "d/up.jpg", "-r", tmp_path / "r/up.png"
    )
    assert code == 0 and float(out), err


@pytest.fixture
def two_tables(tmp_path, call):
    """pairs/mine and pairs/second, prepared; the second has half of the first's references."""
    table = miniature.pairs(tmp_path / "own", size=(72, 80))
    lines = table.read_text().splitlines()
    (table.parent / "second.csv").write_text("\n".join(lines[:4]) + "\n")
    for name in ("mine", "second"):
        call("prepare", "pairs", "--manual-dir", table.parent / f"{name}.csv", "--data-dir", tmp_path)
    return tmp_path


def test_each_data_set_has_files_of_its_own(two_tables, call, small_weights):
    out = two_tables / "out"
    arguments = ["--weights", small_weights, "--data-dir", two_tables, "--output", out, "--crops", "grid"]
    arguments += ["--dataset", "pairs/mine", "--dataset", "pairs/second"]
    code, _, err = call("evaluate", *arguments)
    assert code == 0, err
    found = {
        name: json.loads((out / f"metrics-pairs-{name}-train.json").read_text())
        for name in ("mine", "second")
    }
    assert {name: result["dataset"] for name, result in found.items()} == {
        "mine": "pairs/mine",
        "second": "pairs/second",
    }
    assert [result["pairs"] for result in found.values()] == [4, 2]
    assert "pairs/second" in (out / "cross.md").read_text()
    code, _, err = call("evaluate", *arguments, "--dataset", "pairs/mine")
    assert (
        code == 1
        and "--dataset pairs/mine: its files would overwrite those of another, pairs-mine-train" in err
    )


def test_lower_is_better_and_few_references_are_said(two_tables, call, small_weights):
    table = two_tables / "own" / "lower.csv"
    text = (table.parent / "mine.csv").read_text()
    table.write_text(text.replace("mos", "dmos").replace(" 70,", " 0,"))
    call("prepare", "pairs", "--manual-dir", table, "--data-dir", two_tables)
    arguments = ["--weights", small_weights, "--data-dir", two_tables, "--output", two_tables / "out"]
    arguments += ["--dataset", "pairs/lower", "--crops", "grid", "--resamples", 10]
    code, out, err = call("evaluate", *arguments)
    assert code == 0 and "the intervals are rough: they come from 2 references only" in out, err
    result = json.loads((two_tables / "out" / "metrics-pairs-lower-train.json").read_text())
    assert result["label"] == "DMOS, lower is better" and "mos is dmos negated" in result["predictions"]
    with (two_tables / "out" / "predictions-pairs-lower-train.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["mos"], row["dmos"]) for row in rows] == [
        ("0.000000", "0.000000"),
        ("-60.000000", "60.000000"),
        ("-69.000000", "69.000000"),
        ("-59.000000", "59.000000"),
    ]


def refused_beside_a_picture(tmp_path, call, monkeypatch, arguments) -> str:
    """What a command says that is refused in a directory with one picture, and writes nothing there."""
    monkeypatch.chdir(tmp_path)
    miniature.save(tmp_path / "a.png", miniature.picture(0, (72, 72)))
    code, _, err = call(*arguments)
    assert code == 1, err
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    return err


def test_single_pictures_are_reported_and_shown(tmp_path, call):
    for number in range(4):
        picture = miniature.noisy(miniature.picture(number, (80, 96)), 10.0 * number, number)
        miniature.save(tmp_path / f"{number}.png", picture)
    rows = [f"{number}.png,{5 - number}" for number in range(4)]
    (tmp_path / "single.csv").write_text("\n".join(["image,mos", *rows]) + "\n")
    place = ["--data-dir", tmp_path / "data"]
    assert call("prepare", "pairs", "--manual-dir", tmp_path / "single.csv", *place)[0] == 0
    common = ["--dataset", "pairs/single", *place]
    report = ["--report", tmp_path / "report", "--output", tmp_path / "out", "--resamples", 10]
    code, out, err = call("evaluate", "--weights", "blind", *common, *report, "--crops", "grid")
    assert code == 0, err
    (page,) = (tmp_path / "report").glob("report-*.html")
    text = page.read_text()
    assert "Distorted image 3.png" in text and "One reference and its" not in text
    assert not list((tmp_path / "report").glob("examples-*"))
    assert (tmp_path / "report" / "viewer-pairs-single-train" / "index.html").is_file()
    samples = ["--output", tmp_path / "samples.png", "--crop-size", 64]
    assert call("show", *common, *samples)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("score", "-t", "a.png", "--workers", "2"), "--workers without --ray"),
        (("evaluate", "--dataset", "iqa_demo", "--workers", "2"), "--workers without --ray"),
        (("show", "--dataset", "iqa_demo", "--split", "train", "--splits", "x.json"), "give one of them"),
        (("score", "-t", ".", "--map", "."), "images are read from there"),
        (("score", "-t", ".", "--page", "."), "images are read from there"),
        (("pack", "--weights", "hf://nobody", "--output", "x"), "expected hf://OWNER/NAME"),
        (
            ("submit", "--weights", "hf://nobody", "--dataset", "iqa_demo", "--output", "x")
            + ("--split", "validation"),
            "expected hf://OWNER/NAME",
        ),
    ],
)
def test_options_that_do_not_go_together(tmp_path, call, monkeypatch, arguments, message):
    assert message in refused_beside_a_picture(tmp_path, call, monkeypatch, arguments)


def test_a_file_of_splits_is_of_one_data_set_and_leaves_something(two_tables, call):
    place = ["--dataset", "pairs/mine", "--data-dir", two_tables, "--output", two_tables / "x.png"]
    content = {"dataset": "kadid10k", "train": ["photos/p0.png"], "validation": ["i01.png"]}
    file = two_tables / "splits.json"
    for changed, message in (
        ({}, "divides kadid10k, not pairs/mine"),
        ({"dataset": "pairs/mine", "validation": []}, "its part validation has no pair in split train"),
    ):
        file.write_text(json.dumps(content | changed))
        code, _, err = call("show", *place, "--splits", file)
        assert code == 1 and message in err


def test_other_images_of_the_same_table_are_noticed(two_tables, call):
    own = two_tables / "own"
    prepare = ("prepare", "pairs", "--manual-dir", own / "mine.csv", "--data-dir", two_tables)
    assert call(*prepare)[0] == 0
    miniature.save(own / "distorted" / "p0-1.png", miniature.picture(9, (72, 80)))
    code, _, err = call(*prepare)
    assert code == 0 and "pairs/mine: distorted/p0-1.png has changed; preparing it again" in err


def test_pairs_without_labels_are_not_evaluated(two_tables, call, small_weights):
    table = two_tables / "own" / "unlabelled.csv"
    lines = (table.parent / "mine.csv").read_text().splitlines()
    table.write_text("\n".join(",".join(line.split(",")[:2]) for line in lines) + "\n")
    assert call("prepare", "pairs", "--manual-dir", table, "--data-dir", two_tables)[0] == 0
    arguments = ["--weights", small_weights, "--data-dir", two_tables, "--output", two_tables / "out"]
    code, _, err = call("evaluate", *arguments, "--dataset", "pairs/unlabelled")
    assert code == 1 and "split unlabelled: 6 pairs have no label to evaluate against" in err


def test_decibels_have_no_rmse(two_tables, call, small_weights):
    arguments = ["--weights", small_weights, "--data-dir", two_tables, "--output", two_tables / "out"]
    arguments += ["--dataset", "pairs/mine", "--crops", "grid", "--baselines", "--json"]
    code, out, err = call("evaluate", *arguments)
    (result,) = json.loads(out)
    assert code == 0 and result["baselines"]["psnr"]["srcc"] is not None, err
    assert result["baselines"]["psnr"]["rmse"] is None and result["baselines"]["ssim"]["rmse"] is None
    # Nor has a model that was trained on 1 to 5 where the labels go from 59 to 70.
    assert result["metrics"]["rmse"] is None and result["mapped"]["logistic4"].keys() == {"plcc", "rmse"}


def test_what_was_trained_on_is_known_by_its_picture(two_tables):
    mine, second = (
        PairSource(prepare_dataset(f"pairs/{name}", data_dir=two_tables), "train")
        for name in ("mine", "second")
    )
    first = mine.select(np.flatnonzero(mine.reference == mine.reference[0]))
    record = {"data": {"training": {"references": first.digests()}}}
    assert trained_on(record, mine).tolist() == [True, True, False, False]
    assert trained_on(record, second).all()  # other names, the same pictures
    assert not trained_on({"source": {}}, mine).any()
    assert file_name(mine) != file_name(second)


def test_names_that_are_not_utf_8_keep_their_scores(tmp_path, call, small_weights):
    names = [b"caf\xe9.png", "日本 語.png".encode(), b"a, b;c.png"]
    for side, strength in (("names", 0.0), ("names_d", 20.0)):
        (tmp_path / side).mkdir()
        for number, name in enumerate(names):
            image = Image.fromarray(miniature.noisy(miniature.picture(number, (72, 72)), strength, 0))
            with open(os.fsencode(tmp_path / side) + b"/" + name, "wb") as file:
                image.save(file, "PNG")
    code, _, err = call(
        "score",
        *("--weights", small_weights, "-t", tmp_path / "names_d", "-r", tmp_path / "names"),
        *("--csv", tmp_path / "scores.csv", "--map", tmp_path / "maps"),
    )
    assert code == 0, err
    with open(tmp_path / "scores.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert {os.fsencode(Path(row["target"]).name) for row in rows} == set(names)
    assert all(float(row["score"]) for row in rows) and len(list((tmp_path / "maps").iterdir())) == 3


def test_maps_of_equal_names_stay_apart(tmp_path, call, small_weights):
    for scene in "ab":
        image = miniature.picture(ord(scene), (72, 72))
        miniature.save(tmp_path / "r" / scene / "1.png", image)
        miniature.save(tmp_path / "d" / scene / "1.png", miniature.noisy(image, 20.0, 0))
    table = tmp_path / "pairs.csv"
    table.write_text("target,reference\nd/a/1.png,r/a/1.png\nd/b/1.png,r/b/1.png\n")
    code, _, err = call(
        "score",
        *("--weights", small_weights, "-r", table, "-t", tmp_path / "d/a", "-t", tmp_path / "d/b"),
        *("--map", tmp_path / "maps"),
    )
    assert code == 0, err
    assert sorted((tmp_path / "maps").rglob("*.png")) == [
        tmp_path / f"maps/{scene}/1-map.png" for scene in "ab"
    ]


def test_a_device_out_of_memory_is_not_kept_as_a_result(tmp_path, call, small_weights, monkeypatch):
    from iqa_jax.scoring.metric import FullReferenceMetric

    image = miniature.picture(0, (72, 72))
    for side in "rd":
        miniature.save(tmp_path / side / "1.png", image)
    arguments = ["--weights", small_weights, "-t", tmp_path / "d", "-r", tmp_path / "r"]
    arguments += ["--csv", tmp_path / "scores.csv"]
    with monkeypatch.context() as patch:

        def full(self, pairs):
            for _ in pairs:
                raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
            yield from ()

        patch.setattr(FullReferenceMetric, "stream", full)
        code, _, err = call("score", *arguments)
        assert code == 1 and "out of memory" in err
    code, out, err = call("score", *arguments)
    assert code == 0 and float(out), err
    assert [path.name for path in tmp_path.glob("scores.csv*")] == ["scores.csv"]


def test_an_output_that_is_read_is_not_written(tmp_path, call, small_weights):
    table = miniature.pairs(tmp_path / "own", size=(72, 80))
    before = table.read_text()
    arguments = ("--weights", small_weights, "-t", table.parent / "distorted", "-r", table)
    code, _, err = call("score", *arguments, "--csv", table)
    assert code == 1 and "is read here; choose another file to write" in err and table.read_text() == before
    code, _, err = call("score", *arguments, "--csv", tmp_path)
    assert code == 1 and "a directory; expected the name of a file to write" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("score", "-t", "gs://bucket/a.png", "-r", "b.png", "--weights", "w"),
        ("evaluate", "--weights", "s3://bucket/run", "--dataset", "iqa_demo"),
        ("splits", "iqa_demo", "--output", "gs://bucket/splits"),
        ("prepare", "iqa_demo", "--data-dir", "gs://bucket/data"),
        ("average", "--workdir", "gs://bucket/run", "--epochs", "1-2"),
    ],
)
def test_a_path_with_a_scheme_is_refused(tmp_path, call, small_weights, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(*(small_weights if argument == "w" else argument for argument in arguments))
    assert code == 1 and "not a path of this machine's file system" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "--dataset", "iqa_demo", "--output", "x.json"), "expected a directory, such as"),
        (("evaluate", "--dataset", "iqa_demo", "--report", "x.html"), "expected a directory, such as"),
        (("submit", "--weights", "w", "--output", "x.zip"), "expected a directory, such as"),
        (("average", "--workdir", "w", "--epochs", "1-2", "--output", "x.npz"), "expected a directory"),
        (("convert", "--model", "efficientnet_lite0", "--output", "x.safetensors"), "expected a directory"),
        (("pack", "--weights", "blind", "--output", "x.safetensors"), "expected a directory, such as"),
        (("distort", "--images", "a.png", "--output", "x.csv"), "expected a directory, such as"),
        (("splits", "iqa_demo", "--output", "x.json"), "expected a directory, such as"),
        (("score", "-t", "a.png", "--map", "x.png"), "expected a directory, such as"),
        (("score", "-t", "a.png", "--page", "x.html"), "expected a directory, such as"),
        (("score", "-t", "a.png", "--csv", "x.json"), "ends in .csv or .parquet"),
        (("show", "--dataset", "iqa_demo", "--output", "x.pdf"), "ends in .png"),
        (("export", "--output", "x.pth"), "ends in .jaxexport"),
    ],
)
def test_an_output_of_another_ending_is_told(tmp_path, call, small_weights, monkeypatch, arguments, message):
    arguments = [small_weights if argument == "w" else argument for argument in arguments]
    err = refused_beside_a_picture(tmp_path, call, monkeypatch, arguments)
    assert message in err and len(err.splitlines()) == 1


def test_a_job_with_other_pairs_is_refused(tmp_path):
    run_shared(tmp_path / "job", 2, lambda number: number, identity={"pairs": 1})
    assert run_shared(tmp_path / "job", 2, lambda number: None, identity={"pairs": 1}) == [0, 1]


def test_a_backbone_is_no_metric(tmp_path, call, packaged_weights):
    miniature.save(tmp_path / "a.png", miniature.picture(0, (72, 72)))
    backbone, image = packaged_weights / "weights" / "efficientnet_lite0", tmp_path / "a.png"
    for arguments in (
        ("score", "--weights", backbone, "-t", image, "-r", image),
        ("evaluate", "--weights", backbone, "--dataset", "iqa_demo"),
        ("export", "--weights", backbone, "--output", tmp_path / "metric.jaxexport"),
    ):
        code, _, err = call(*arguments)
        assert code == 1 and f"{backbone}: a backbone's weights" in err and len(err.splitlines()) == 1


def test_an_exported_file_does_what_its_weights_do(two_tables, call, small_weights):
    exported = two_tables / "metric.jaxexport"
    assert call("export", "--weights", small_weights, "--output", exported)[0] == 0
    found = []
    for weights in (small_weights, exported):
        common = ("--dataset", "pairs/mine", "--data-dir", two_tables, "--crops", "grid", "--json")
        code, out, err = call("evaluate", "--weights", weights, "--output", two_tables / "e", *common)
        assert code == 0, err
        found.append(json.loads(out)[0]["metrics"]["plcc"])
    assert found[0] == pytest.approx(found[1], abs=1e-4)
    assert call("export", "--weights", exported, "--output", two_tables / "again.jaxexport")[0] == 0
