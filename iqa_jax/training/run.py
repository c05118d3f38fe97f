"""A run's directory: started, or checked to be that of the same run."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from flax import nnx

from iqa_jax import __version__
from iqa_jax.data.source import PairSource
from iqa_jax.data.splits import digests_trained_on
from iqa_jax.errors import ConfigError, DataError, WeightsError
from iqa_jax.files import Busy, locked, new_directory, writable_directory, write_whole
from iqa_jax.models import IQAModel, ModelConfig, build
from iqa_jax.ops import Array
from iqa_jax.ops.keys import Purpose, key_for
from iqa_jax.parallel import processes
from iqa_jax.training.config import TrainConfig
from iqa_jax.training.initial import Start, reuse
from iqa_jax.training.inputs import changed, data_record, model_config_for
from iqa_jax.training.log import METRICS, say
from iqa_jax.weights.checkpoints import Saved
from iqa_jax.weights.directory import read_weights, save_weights
from iqa_jax.weights.flat import STORED, Weights, flat_weights, iqa_model_with
from iqa_jax.weights.pytorch.convert import pretrained_backbone
from iqa_jax.weights.reading import backbone_weights
from iqa_jax.weights.record import config_in, made_record, read_config, text_of

# Fields that may differ when a run resumes, because no step depends on them.
_FREE_FIELDS = (
    "num_steps",
    "eval_every",
    "checkpoint_every",
    "keep_checkpoints",
    "data_dir",
    "data",
    "crops",
)


# What a run's directory may hold before it has a config.json, and the files to which schedulers print.
_BEFORE_CONFIG = ("backbone", "checkpoints", "damaged", "round-*", "tensorboard")
_PRINTED = ("*.log", "*.out", "*.err")


def check_directory(workdir: str | os.PathLike) -> Path:
    """The absolute path of a directory that is new, empty or a run's; writes nothing.

    Raises:
      ConfigError: it holds something else; says what.
    """
    workdir = new_directory(workdir)
    if not workdir.is_dir():
        return workdir
    if (workdir / "config.json").exists():
        what = "weights" if read_config(workdir).get("training") is None else None
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
    """The directory of a run, created if it is missing, for this run alone; its processes count as one.

    A run that fails before its first step leaves nothing behind.

    Raises:
      ConfigError: another training is at work there, or the directory holds something else.
      UserError: this process cannot write there.
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


def start_run(
    workdir: Path,
    config: TrainConfig,
    training: PairSource,
    validation: PairSource,
    steps_per_epoch: int,
    *,
    source: dict,
    start: Start | None = None,
) -> IQAModel:
    """The model with its initial weights; starts the run in `workdir`, or checks that it is the same run.

    A run without a checkpoint starts from scratch, whatever its settings were.  The first of several
    processes writes; then the others read what it has written.

    Args:
      source: where the data and the labels come from; config.json keeps it.
    Raises:
      ConfigError, DataError: the run in `workdir` has other data or labels.
    """
    model_config = model_config_for(config, training)
    record = made_record(
        model_config,
        {"dataset": config.dataset, "version": __version__, **source}
        | ({"init_from": start.origin} if start else {}),
        training=config.to_dict(),
        steps_per_epoch=steps_per_epoch,
        data=data_record(training, validation, by_reference=bool(config.splits)),
    )
    with processes.first_before_others("start"):
        if Saved(workdir).steps:
            _check_same_data(workdir, config, model_config, record)
            weights = _initial_weights(workdir, config, model_config)
        elif not processes.is_first():
            weights = _initial_weights(workdir, config, model_config, start)
        else:
            weights = _initial_weights(workdir, config, model_config, start, new=True)
            (workdir / METRICS).unlink(missing_ok=True)
            _record_overlap(workdir, record, start)
            write_whole(workdir / "config.json", text_of(record))
    return iqa_model_with(model_config, weights)


def _record_overlap(workdir: Path, record: dict, start: Start | None) -> None:
    """Logs and records which validation references the run's first weights or its teacher were trained on."""
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
    _say_overlap(record)


def _say_overlap(record: dict) -> None:
    references = record["data"]["validation"]["references"]
    for field, names in record["source"].get("seen_in_validation", {}).items():
        say(
            f"attention: the weights of config.{field} were trained on {len(names)} of the {len(references)} "
            f"validation references ({names[0]}{', …' if len(names) > 1 else ''}); the validation figures "
            "do not hold for new pictures"
        )


def check_settings(workdir: Path, config: TrainConfig) -> None:
    """Raises ConfigError if the run in `workdir` has other settings; names its model and its data set."""
    if not Saved(workdir).steps:
        return
    before = read_config(workdir)
    settings = config.to_dict()
    theirs, ours = (f"{fields['model']} on {fields['dataset']}" for fields in (before["training"], settings))
    if theirs != ours:
        raise ConfigError(
            f"{workdir}: holds a run of {theirs}, this one is {ours}; choose another working directory"
        )
    free: set[str] = set(_FREE_FIELDS)
    if config.schedule == "constant":
        free.add("num_epochs")
    for field, value in settings.items():
        if field not in free and before["training"].get(field, value) != value:
            longer = f"; for more epochs start a new run with config.init_from={workdir}"
            raise ConfigError(
                f"config.{field}={value}, but the run in {workdir} ({theirs}) has "
                f"{before['training'].get(field)}; choose another working directory, or the same settings "
                "to resume it" + (longer if field == "num_epochs" else "")
            )


def _check_same_data(workdir: Path, config: TrainConfig, model_config: ModelConfig, record: dict) -> None:
    """Raises ConfigError or DataError if labels or data have changed since the run started."""
    before = read_config(workdir)
    if _labelled_by(before) != _labelled_by(record):
        raise ConfigError(
            f"config.teacher={config.teacher}: other weights or pairs than when the run in {workdir} "
            "started; choose another working directory"
        )
    change = changed(before["data"], record["data"])
    scale = config_in(before)
    if change is None and (scale.mos_mean, scale.mos_std) != (model_config.mos_mean, model_config.mos_std):
        change = f"labels of mean {model_config.mos_mean:g} and deviation {model_config.mos_std:g}, before "
        change += f"{scale.mos_mean:g} and {scale.mos_std:g}"
    if change:
        raise DataError(
            f"the data have changed since the run in {workdir} started: {change}; choose another working "
            "directory, or prepare the same data again to resume it"
        )
    _say_overlap(before)


def _labelled_by(record: dict) -> dict | None:
    """Where pseudo-labels come from, except what the teacher was trained on."""
    origin = record["source"].get("pseudo_labels")
    return origin and {name: value for name, value in origin.items() if name != "trained_on"}


def _initial_weights(
    workdir: Path,
    config: TrainConfig,
    model_config: ModelConfig,
    start: Start | None = None,
    *,
    new: bool = False,
) -> dict[str, Array]:
    """Random weights or those of `start`; a new run keeps its backbone's from then on."""
    model = build(model_config, rngs=nnx.Rngs(key_for(config.seed, Purpose.INITIAL_WEIGHTS)))
    weights: dict[str, Array] = {**flat_weights(nnx.state(model, STORED))}
    if start and start.weights:
        weights, remark = reuse(weights, start, model_config)
        if new:
            say(f"starting from {config.init_from}: {remark}")
    directory = workdir / "backbone"
    if directory.is_dir() and not new:
        _, backbone, kept = read_weights(directory)
        origin = kept["source"]
    else:
        backbone, origin = _first_backbone(config, model_config, weights, start)
        maps = model_config.taps + model_config.magnitudes
        save_weights(directory, ModelConfig(config.backbone, config.backbone, taps=maps), backbone, origin)
    say(f"model: {config.model} on {config.backbone}, backbone weights: {origin['file']}")
    return {**weights, **{f"backbone.{name}": array for name, array in backbone.items()}}


def _first_backbone(
    config: TrainConfig, model_config: ModelConfig, weights: Weights, start: Start | None
) -> tuple[dict[str, Array], dict]:
    """The backbone's weights at the start of a run, and where they come from."""
    backbone = backbone_weights(model_config, weights)
    if start:
        return backbone, start.origin
    if config.backbone_weights == "random":
        return backbone, {"file": "random", "seed": config.seed}
    whole, origin = pretrained_backbone(config.backbone, config.backbone_weights)
    return {name: whole[name] for name in backbone}, origin
