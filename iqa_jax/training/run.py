"""A run's directory: begun, or checked to be that of the same run."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from iqa_jax.data.splits import digests_trained_on
from iqa_jax.errors import ConfigError, DataError, WeightsError
from iqa_jax.files import Busy, locked, new_directory, writable_directory, write_whole
from iqa_jax.models import ModelConfig, build
from iqa_jax.ops import Array
from iqa_jax.ops.keys import Purpose, key_for
from iqa_jax.parallel import processes
from iqa_jax.training.initial import Start, reuse
from iqa_jax.training.inputs import changed
from iqa_jax.training.log import METRICS, say
from iqa_jax.weights.checkpoints import Saved
from iqa_jax.weights.directory import read_weights, save_weights
from iqa_jax.weights.flat import STORED, Weights, flat_weights
from iqa_jax.weights.pytorch.convert import pretrained_backbone
from iqa_jax.weights.reading import backbone_weights
from iqa_jax.weights.record import config_in, read_config, text_of

# Fields that may differ when a run resumes: they do not change what a step does.
_FREE_FIELDS = (
    "num_steps",
    "eval_every",
    "checkpoint_every",
    "keep_checkpoints",
    "data_dir",
    "data",
    "crops",
)


# What a run's directory may hold before its config.json is there, and where schedulers write what is printed.
_BEFORE_CONFIG = ("backbone", "checkpoints", "damaged", "round-*", "tensorboard")
_PRINTED = ("*.log", "*.out", "*.err")


def check_directory(workdir: str | os.PathLike) -> Path:
    """The absolute path of a directory that is new, empty or a run's; nothing is written.

    Raises:
      ConfigError: it holds something else, which is named.
    """
    workdir = new_directory(workdir)
    if not workdir.is_dir():
        return workdir
    if (workdir / "config.json").exists():
        record = read_config(workdir)
        what = None
        if record.get("training") is None:
            what = "weights"
    elif Saved(workdir).steps:
        raise WeightsError(f"{workdir}: has checkpoints but no config.json; choose another working directory")
    else:
        expected = (".*", *_BEFORE_CONFIG, *_PRINTED)
        others = sorted(p.name for p in workdir.iterdir() if not any(map(p.match, expected)))
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        what = f"{others[0]}{more}" if others else None
    if what:
        raise ConfigError(f"{workdir}: holds {what}, not a run; choose another working directory")
    return workdir


@contextlib.contextmanager
def run_directory(workdir: str | os.PathLike) -> Iterator[Path]:
    """The directory of a run, made if need be, for this run alone; its processes count as one.

    Where the run ends before it has begun, nothing of it stays.

    Raises:
      ConfigError: another training is at work there; see `check_directory` too.
      UserError: it cannot be written.
    """
    workdir = check_directory(workdir)
    new = not workdir.exists()
    writable_directory(workdir)
    try:
        with contextlib.ExitStack() as stack:
            if processes.is_first():
                try:
                    stack.enter_context(locked(workdir / ".lock", wait=False))
                except Busy:
                    raise ConfigError(
                        f"{workdir}: another training is at work there; wait for its end, stop it, or choose "
                        "another working directory"
                    ) from None
            yield workdir
    finally:
        if new and processes.is_first() and not (workdir / "config.json").exists():
            shutil.rmtree(workdir / "backbone", ignore_errors=True)
            with contextlib.suppress(OSError):
                (workdir / ".lock").unlink(missing_ok=True)
                workdir.rmdir()  # unless somebody has put something there


def begun(
    workdir: Path, config: ConfigDict, model_config: ModelConfig, record: dict, start: Start | None = None
) -> dict[str, Array]:
    """The initial weights of the run in `workdir`; begins it, or makes sure that it is the same run.

    A run without a checkpoint begins anew, whatever its settings were.  The first of several processes
    writes; the others, which come after it, read what it has written.
    """
    if Saved(workdir).steps:
        _check_same_data(workdir, config, model_config, record)
        return _initial_weights(workdir, config, model_config)
    if not processes.is_first():
        return _initial_weights(workdir, config, model_config, start)
    weights = _initial_weights(workdir, config, model_config, start, anew=True)
    (workdir / METRICS).unlink(missing_ok=True)
    _note_what_was_seen(workdir, record, start)
    write_whole(workdir / "config.json", text_of(record))
    return weights


def _note_what_was_seen(workdir: Path, record: dict, start: Start | None) -> None:
    """Says and records which references to validate on the weights that the run takes were trained on."""
    origins = {
        "init_from": set(start.origin["trained_on"]) if start else set(),
        "backbone_weights": digests_trained_on(read_config(workdir / "backbone")),
        "teacher": set(record["source"].get("pseudo_labels", {}).get("trained_on", ())),
    }
    if start:
        del origins["backbone_weights"]  # they are those of `init_from`
    references = record["data"]["validation"]["references"]
    seen = {
        field: [name for name, digest in references.items() if digest in digests]
        for field, digests in origins.items()
    }
    record["source"]["seen_in_validation"] = {field: names for field, names in seen.items() if names}
    _say_what_was_seen(record)


def _say_what_was_seen(record: dict) -> None:
    references = record["data"]["validation"]["references"]
    for field, names in record["source"].get("seen_in_validation", {}).items():
        say(
            f"attention: the weights of config.{field} were trained on {len(names)} of the {len(references)} "
            f"references to validate on ({names[0]}{', …' if len(names) > 1 else ''}); the validation's "
            "figures are not those of new pictures"
        )


def check_settings(workdir: Path, config: ConfigDict) -> None:
    """Raises ConfigError if a run in `workdir` began with other settings; it is named by what it is."""
    if not Saved(workdir).steps:
        return
    before = read_config(workdir)
    theirs, ours = (f"{fields['model']} on {fields['dataset']}" for fields in (before["training"], config))
    if theirs != ours:
        raise ConfigError(
            f"{workdir}: holds a run of {theirs}, this one is {ours}; choose another working directory"
        )
    free = set(_FREE_FIELDS)
    if config.schedule == "constant":
        free.add("num_epochs")
    for field, value in config.to_dict().items():
        if field not in free and before["training"].get(field, value) != value:
            longer = f"; for more epochs begin a new run with config.init_from={workdir}"
            raise ConfigError(
                f"config.{field}={value}, but the run in {workdir} ({theirs}) has "
                f"{before['training'].get(field)}; choose another working directory, or the same settings "
                "to resume it" + (longer if field == "num_epochs" else "")
            )


def _check_same_data(workdir: Path, config: ConfigDict, model_config: ModelConfig, record: dict) -> None:
    """Raises ConfigError or DataError if labels or data are others than when the run began."""
    before = read_config(workdir)
    if _labelled_by(before) != _labelled_by(record):
        raise ConfigError(
            f"config.teacher={config.teacher}: other weights or pairs than when the run in {workdir} began; "
            "choose another working directory"
        )
    before.setdefault("data", record["data"])
    change = changed(before["data"], record["data"])
    scale = config_in(before)
    if change is None and (scale.mos_mean, scale.mos_std) != (model_config.mos_mean, model_config.mos_std):
        change = f"labels of mean {model_config.mos_mean:g} and deviation {model_config.mos_std:g}, before "
        change += f"{scale.mos_mean:g} and {scale.mos_std:g}"
    if change:
        raise DataError(
            f"the data have changed since the run in {workdir} began: {change}; choose another working "
            "directory, or prepare the same data again to resume it"
        )
    if before["source"].get("random_keys") != record["source"]["random_keys"]:
        say(
            f"{workdir} was begun by a version that derived its random keys in another way; it resumes, but "
            "the steps to come are not those that version would have taken"
        )
    _say_what_was_seen(before)


def _labelled_by(record: dict) -> dict | None:
    """Where pseudo-labels come from, but for what the teacher was trained on."""
    origin = record["source"].get("pseudo_labels")
    return origin and {name: value for name, value in origin.items() if name != "trained_on"}


def of_this_version(arrays: dict[str, np.ndarray], lines: list[dict]) -> dict[str, np.ndarray]:
    """A checkpoint's arrays; one that does not know its last evaluation is told by the lines."""
    if "evaluated_step" in arrays:
        return arrays
    steps = [line["step"] for line in lines if line["step"] <= arrays["step"]]
    return {**arrays, "evaluated_step": np.array(max(steps, default=0), np.int32)}


def _initial_weights(
    workdir: Path,
    config: ConfigDict,
    model_config: ModelConfig,
    start: Start | None = None,
    *,
    anew: bool = False,
) -> dict[str, Array]:
    """Random ones or those of `start`; the backbone's are kept in the run from its first start on."""
    model = build(model_config, rngs=nnx.Rngs(key_for(config.seed, Purpose.INITIAL_WEIGHTS)))
    weights: dict[str, Array] = {**flat_weights(nnx.state(model, STORED))}
    if start and start.weights:
        weights, remark = reuse(weights, start, model_config)
        if anew:
            say(f"begins from {config.init_from}: {remark}")
    directory = workdir / "backbone"
    if directory.is_dir() and not anew:
        _, backbone, kept = read_weights(directory)
        origin = kept["source"]
    else:
        backbone, origin = _first_backbone(config, model_config, weights, start)
        maps = model_config.taps + model_config.magnitudes
        save_weights(directory, ModelConfig(config.backbone, config.backbone, taps=maps), backbone, origin)
    say(f"model: {config.model} on {config.backbone}, backbone weights: {origin['file']}")
    return {**weights, **{f"backbone.{name}": array for name, array in backbone.items()}}


def _first_backbone(
    config: ConfigDict, model_config: ModelConfig, weights: Weights, start: Start | None
) -> tuple[dict[str, Array], dict]:
    """The backbone's weights at the beginning of a run, and where they come from."""
    backbone = backbone_weights(model_config, weights)
    if start:
        return backbone, start.origin
    if config.backbone_weights == "random":
        return backbone, {"file": "random", "seed": config.seed}
    whole, origin = pretrained_backbone(config.backbone, config.backbone_weights)
    return {name: whole[name] for name in backbone}, origin
