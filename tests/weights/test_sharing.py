"""What weights are called, what they say of where they come from, and folders that are written whole."""

import builtins
import json
import resource
import signal
import time

import numpy as np
import pytest

import iqa_jax
from iqa_jax.errors import UserError, WeightsError
from iqa_jax.scoring.dataset import Predictor
from iqa_jax.weights.directory import CARD, FILE, read_weights, save_weights, whole_directory
from iqa_jax.weights.flat import content_hash
from iqa_jax.weights.places import SHIPPED
from iqa_jax.weights.reading import read_any
from iqa_jax.weights.record import made_record, text_of
from iqa_jax.weights.sharing import source_of, without_paths
from tests import hub

pytestmark = pytest.mark.quick


# Names


def test_a_name_that_nothing_has_says_what_there_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, message in (
        ("lpips", "lpips: .*these are full-reference and blind.  Expected one of them, a run"),
        ("Blind", "Blind: .*did you mean blind"),
        ("full_reference", "did you mean full-reference"),
    ):
        with pytest.raises(WeightsError, match=message):
            iqa_jax.load(name)
    with pytest.raises(WeightsError, match="nowhere/at all: no such directory"):
        iqa_jax.load("nowhere/at all")


@pytest.mark.parametrize("options", [{"step": "bogus"}, {"step": 5}, {"step": "latest"}, {"ema": True}])
def test_options_that_do_nothing_are_refused(options, small_weights, tmp_path):
    (name,) = options
    (tmp_path / "a.jaxexport").write_bytes(b"")
    for path in ("blind", small_weights, tmp_path / "a.jaxexport"):
        with pytest.raises(WeightsError, match=f"no training run; {name} chooses between those of a run"):
            iqa_jax.load(path, **options)


def test_weights_are_called_by_their_name_and_hash(tmp_path, small_weights):
    config, weights, record = read_weights(small_weights)
    save_weights(tmp_path / "averaged-equal-3-4", config, weights, {"file": "x", "run": "conformer"})
    for path, name in (
        ("blind", "blind"),
        (small_weights, "weights"),
        (tmp_path / "averaged-equal-3-4", "averaged-equal-3-4 (of conformer)"),
    ):
        sha256 = read_any(path)[2]["sha256"]
        assert Predictor(path).name == f"{name} {sha256[:12]}"
        assert f"weights {name} {sha256[:12]}, grid crops" in repr(iqa_jax.load(path))


def test_weights_of_the_hub_say_which_revision_was_taken(tmp_path, monkeypatch):
    snapshot = tmp_path / "snapshots" / hub.COMMIT
    snapshot.parent.mkdir()
    snapshot.symlink_to(SHIPPED["full-reference"])
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(snapshot))
    for address in ("hf://someone/metric", "hf://someone/metric@main"):
        record = read_any(address)[2]
        assert record["revision"] == hub.COMMIT
        assert record["name"] == f"someone/metric@{hub.COMMIT[:12]}"


def without(monkeypatch, package):
    """Lets a package be one that is not installed."""
    plain_import = builtins.__import__

    def checked_import(name, *args, **kw):
        if name.startswith(package):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return plain_import(name, *args, **kw)

    monkeypatch.setattr(builtins, "__import__", checked_import)


def test_what_is_not_installed_is_said_with_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (tmp_path / "a.jaxexport").write_bytes(b"")
    with pytest.raises(UserError, match="needs flatbuffers, .*pip install .iqa-conformer.export"):
        iqa_jax.load(tmp_path / "a.jaxexport")
    without(monkeypatch, "huggingface_hub")
    with pytest.raises(
        WeightsError, match=r"hf://a/b .*needs huggingface_hub; .*pip install 'iqa-conformer\[convert\]'"
    ):
        iqa_jax.load("hf://a/b")


# Where they come from


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/jane doe/data, old/PIPAL", "PIPAL"),
        ("~/runs/teacher/", "teacher"),
        ("C:\\Users\\jane\\w.pth", "w.pth"),
        ("file:///home/jane/w.pth", "w.pth"),
        (
            "PIPAL was found in /home/jane doe/PIPAL; for the built-in set: x",
            "PIPAL was found in PIPAL; for the built-in set: x",
        ),
        ("hf://someone/metric", "hf://someone/metric"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("pairs/windows", "pairs/windows"),
        ("train[80%:] and/or 1/2", "train[80%:] and/or 1/2"),
    ],
)
def test_paths_of_the_machine_are_cut(text, expected):
    assert without_paths({"a": [{"b": text}]}) == {"a": [{"b": expected}]}


def test_files_of_one_name_stay_two():
    found = without_paths({"references": {"/data/one/a.png": 1, "/data/two/a.png": 2}})
    assert found == {"references": {"one/a.png": 1, "two/a.png": 2}}


def test_pack_keeps_sources_and_licence_and_no_path(call, tmp_path, small_weights):
    config, weights, _ = read_weights(small_weights)
    source = {"file": "/home/jane/w.pth", "backbone": {"file": "/opt/x/lite0.pth", "package": "lite0"}}
    training = {"data_dir": "/mnt/data", "teacher": "runs/teacher", "init_from": "hf://someone/metric"}
    card = "---\nlicense: cc-by-4.0\n---\n# Mine\n\n## Licence\n\nCC BY."
    save_weights(tmp_path / "mine", config, weights, source | {"training": training}, card=card)
    for name, options in (("kept", ()), ("other", ("--card", tmp_path / "card.md"))):
        (tmp_path / "card.md").write_text("# Another card")
        code, _, err = call("pack", "--weights", tmp_path / "mine", "--output", tmp_path / name, *options)
        assert code == 0, err
        record = json.loads((tmp_path / name / "config.json").read_text())
        assert record["source"]["licence"] == "cc-by-4.0"
        assert record["source"]["backbone"] == {"file": "lite0.pth", "package": "lite0"}
        assert record["source"]["training"] == {
            "data_dir": "data",
            "teacher": "teacher",
            "init_from": "hf://someone/metric",
        }
        assert "/home" not in json.dumps(record) and "/mnt" not in json.dumps(record)
    assert (tmp_path / "kept" / CARD).read_text() == card
    assert (tmp_path / "other" / CARD).read_text() == "# Another card"
    code, _, err = call("pack", "--weights", small_weights, "--output", tmp_path / "short")
    assert code == 0, err
    text = (tmp_path / "short" / CARD).read_text()
    assert "## Sources\n\n- file: random" in text and "## Licence" in text


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_metric_is_packed_with_its_card_and_licence(name, call, tmp_path):
    code, _, err = call("pack", "--weights", name, "--output", tmp_path / name)
    assert code == 0, err
    assert (tmp_path / name / CARD).read_text() == (SHIPPED[name] / CARD).read_text()
    record = json.loads((tmp_path / name / "config.json").read_text())
    assert record["source"]["licence"] == "apache-2.0"


def test_a_run_is_packed_with_its_backbone_and_step():
    record = {
        "source": {"dataset": "x"},
        "data": {"dataset": "x"},
        "backbone": {"hub": "timm/y", "file": "/a/y"},
    }
    found = source_of(record | {"run": "conformer", "step": 40, "ema": True, "training": {}})
    assert found["backbone"] == {"hub": "timm/y", "file": "y"}
    assert (found["run"], found["step"], found["ema"]) == ("conformer", 40, True)


def test_an_empty_card_is_refused(call, tmp_path, small_weights):
    for content in (b" \n", b"\xff\xfe"):
        (tmp_path / "card.md").write_bytes(content)
        code, _, err = call(
            "pack", "--weights", small_weights, "--output", tmp_path / "x", "--card", tmp_path / "card.md"
        )
        assert code == 1 and "card.md: " in err and err.count("\n") == 1 and not (tmp_path / "x").exists()


# Written whole


def test_the_same_content_again_is_a_success(tmp_path, small_weights):
    config, weights, _ = read_weights(small_weights)
    for _ in range(2):  # the first was killed after its last write
        save_weights(tmp_path / "a", config, weights, {"file": "x"}, card="# A")
    for change in ({"card": "# B"}, {"half": True}):
        with pytest.raises(WeightsError, match="is there already"):
            save_weights(tmp_path / "a", config, weights, {"file": "x"}, **{"card": "# A", **change})
    (tmp_path / "a" / "notes.txt").write_text("mine")
    with pytest.raises(WeightsError, match="is there already"):
        save_weights(tmp_path / "a", config, weights, {"file": "x"}, card="# A")


def test_what_killed_writers_left_is_put_back_or_removed(tmp_path, small_weights):
    config, weights, _ = read_weights(small_weights)
    (tmp_path / ".iqa_jax-0123456789abcdef.partial").mkdir()  # while it was filled
    save_weights(tmp_path / "a", config, weights, {"file": "old"}, card="# A")
    aside = tmp_path / ".a-before-xyz"
    aside.mkdir()
    (tmp_path / "a").rename(aside / "a")  # between the two renames
    with pytest.raises(RuntimeError), whole_directory(tmp_path / "a"):
        raise RuntimeError("and another failure")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert read_any(tmp_path / "a")[2]["source"] == {"file": "old"}


def test_a_full_disk_is_one_error_that_names_the_folder(tmp_path, small_weights):
    config, weights, _ = read_weights(small_weights)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # as a disk with a quota
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            save_weights(tmp_path / "a", config, weights, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.filename == str(tmp_path / "a") and not list(tmp_path.iterdir())


def test_arrays_in_another_order_are_the_same_when_read(tmp_path, small_weights):
    config, weights, _ = read_weights(small_weights)
    turned = {name: np.asarray(array, order="F") for name, array in weights.items()}
    save_weights(tmp_path / "a", config, turned, {})
    for name, array in read_weights(tmp_path / "a")[1].items():
        np.testing.assert_array_equal(array, weights[name])


def test_a_configuration_of_something_else_is_not_replaced(tmp_path, small_weights):
    config, weights, _ = read_weights(small_weights)
    for text in ("{}", text_of(made_record(config, {}))):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(WeightsError, match="it has no config.json of weights, so it is not replaced"):
            save_weights(tmp_path, config, weights, {})
        assert (tmp_path / "config.json").read_text() == text


@pytest.fixture
def of_the_last_version(tmp_path, small_weights):
    """A folder with an orbax checkpoint in the place of the file."""
    import orbax.checkpoint as ocp

    config, weights, _ = read_weights(small_weights)
    folder = tmp_path / "last"
    folder.mkdir()
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "weights", dict(weights))
    record = made_record(config, {"file": "old"}, sha256=content_hash(weights), files={})
    (folder / "config.json").write_text(text_of(record))
    return folder


def test_a_folder_of_the_last_version_is_read(of_the_last_version, small_weights, monkeypatch):
    _, weights, record = read_any(of_the_last_version)
    assert record["source"] == {"file": "old"}
    assert content_hash(weights) == content_hash(read_weights(small_weights)[1])
    config, *_ = read_weights(small_weights)
    with pytest.raises(WeightsError, match="it holds weights, so it is not replaced"):
        save_weights(of_the_last_version, config, weights, {})
    largest = max(of_the_last_version.rglob("d/*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])
    with pytest.raises(WeightsError, match="last/weights: .*convert the weights again") as caught:
        read_any(of_the_last_version)
    assert "\n" not in str(caught.value)
    without(monkeypatch, "orbax")
    with pytest.raises(WeightsError, match="needs? orbax.checkpoint, .*pip install .iqa-conformer.train"):
        iqa_jax.load(of_the_last_version)
    assert read_any(small_weights)  # what is written now needs no orbax


def test_reading_that_does_not_end_is_given_up(of_the_last_version, monkeypatch):
    monkeypatch.setattr("iqa_jax.weights.checkpoints.read_arrays", lambda folder: time.sleep(3))
    monkeypatch.setattr("iqa_jax.weights.directory._PATIENCE", 0.01)
    monkeypatch.setattr("iqa_jax.weights.directory._SLOWEST", 1e12)
    with pytest.raises(WeightsError, match="last/weights: damaged .reading it does not end"):
        read_any(of_the_last_version)


def test_scores_that_are_not_finite_are_not_passed_on(small_weights, monkeypatch):
    predictor = Predictor(small_weights)
    monkeypatch.setattr("iqa_jax.scoring.dataset.predict", lambda *_, **__: np.array([[3.0, np.nan]]))

    class Source:
        name = np.array(["a.png", "b.png"])

    with pytest.raises(WeightsError, match="b.png: the score is nan; the weights .* overflow"):
        predictor(Source())


def test_a_flipped_file_of_a_packed_folder_is_named(tmp_path, small_weights):
    config, weights, _ = read_weights(small_weights)
    save_weights(tmp_path / "a", config, weights, {"file": "x"}, card="# A")
    (tmp_path / "a" / FILE).unlink()
    with pytest.raises(WeightsError, match="has neither model.safetensors nor"):
        iqa_jax.load(tmp_path / "a")
