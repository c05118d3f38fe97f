"""The training configuration: reading it from the command line, and checking it."""

import dataclasses
import difflib
import re
import sys
from pathlib import Path

from ml_collections import ConfigDict

from iqa_jax.batches import PLACEMENTS
from iqa_jax.datasets import DATASETS, default_data_dir, find_folder
from iqa_jax.errors import ConfigError
from iqa_jax.models import BACKBONES, IQA_MODELS
from iqa_jax.scoring import CROPS

_CHOICES = {
    "model": tuple(IQA_MODELS),
    "dataset": ("auto", *DATASETS),
    "backbone": tuple(BACKBONES),
    "dtype": ("float32", "bfloat16"),
    "optimizer": ("adam", "sgd"),
    "schedule": ("constant", "cosine"),
    "crops": tuple(CROPS),
}
_ABOUT_PROCESSES = re.compile(r"(?<=^--)(num-processes|process-id)")
_AT_LEAST_ONE = ("batch_size", "accumulation", "num_epochs", "keep_checkpoints")
_NOT_NEGATIVE = ("seed", "warmup_steps", "num_steps", "eval_every", "checkpoint_every", "rotation")


@dataclasses.dataclass(frozen=True)
class Command:
    """What a training command asks for.

    Attributes:
      config: checked, with `dataset` settled.
      name: of the configuration file, without its ending.
      workdir: if given.
      reason: why this data set, as a sentence.
      processes: what `iqa_jax.processes.join` takes.
    """

    config: ConfigDict
    name: str
    workdir: str | None
    reason: str
    processes: dict = dataclasses.field(default_factory=dict)


def parse(argv: list[str]) -> Command:
    """Reads `--config FILE[:RECIPE] [--config.FIELD=VALUE …] [--workdir DIR]` and, for one of several
    processes, `--coordinator HOST:PORT --num-processes N --process-id K`.

    Raises:
      ConfigError: a flag, a field or a value that does not exist or does not fit.
    """
    config, file, overrides, flags = _parse_flags(argv)
    path, _, recipe = file.partition(":")
    reason = f"{config.dataset} was asked for"
    if config.dataset == "auto":
        data_dir = config.data_dir or str(default_data_dir())
        found = find_folder("pipal", data_dir)
        recipe = "pipal" if found else "demo"
        if found:
            reason = f"PIPAL was found in {found}; for the built-in set: --config {path}:demo"
        else:
            reason = (
                f"PIPAL was not found in or under {data_dir}; to train on it, unpack it there or give the "
                f"folder above it: --config {path}:pipal --config.data_dir=DIR"
            )
        overrides.pop("dataset", None)
    elif recipe in ("", "auto"):
        recipe = "demo" if config.dataset == "iqa_demo" else "pipal"
    config, *_ = _parse_flags([f"--config={path}:{recipe}"])
    with config.ignore_type():  # the values are of the right types already
        config.update_from_flattened_dict(overrides)
    check(config)
    workdir = flags.pop("workdir")
    return Command(config, Path(path).stem, workdir, reason, flags)


def _parse_flags(argv: list[str]) -> tuple[ConfigDict, str, dict, dict]:
    """Configuration, its file with the recipe, what was overridden, and the other flags."""
    from absl import flags
    from ml_collections import config_flags

    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    flags.DEFINE_string("workdir", None, "Where the run is kept.", flag_values=values)
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0.", flag_values=values)
    flags.DEFINE_integer("num_processes", None, "How many there are.", flag_values=values)
    flags.DEFINE_integer("process_id", None, "Which one this is, from 0.", flag_values=values)
    argv = [_ABOUT_PROCESSES.sub(lambda name: name[0].replace("-", "_"), a) for a in argv]
    before = sys.argv
    sys.argv = ["train.py", *argv]  # where config_flags looks for overrides
    try:
        surplus = values(sys.argv)[1:]
        config = values.config
        list(config)  # a file that could not be read fails here
        file, overrides = (
            config_flags.get_config_filename(values["config"]),
            config_flags.get_override_values(values["config"]),
        )
    except (flags.Error, AttributeError, OSError, TypeError, ValueError) as error:
        raise ConfigError(_plainly(error, argv)) from None
    finally:
        sys.argv = before
    if surplus:
        raise ConfigError(f"unexpected argument {surplus[0]!r}; fields are set as --config.FIELD=VALUE")
    others = ("workdir", "coordinator", "num_processes", "process_id")
    return config, file, overrides, {name: values[name].value for name in others}


def _plainly(error: Exception, argv: list[str]) -> str:
    """One line for what absl and ml_collections raise."""
    file = next((a.removeprefix("--config=") for a in argv if ".py" in a), None)
    if file is None:
        return "give a configuration: --config configs/conformer.py"
    if not Path(file.partition(":")[0]).is_file():
        return f"{file}: no such configuration file; expected configs/conformer.py, say"
    if isinstance(error, AttributeError):
        asked = re.findall(r"\w+", str(error))[0]
        known = _names(_parse_flags([f"--config={file}"])[0])
        near = difflib.get_close_matches(asked, known, n=1, cutoff=0.0)[0]
        return f"config has no field {asked!r}; the nearest is config.{near}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(dict.fromkeys((lines[0], lines[-1])))


def _names(config: ConfigDict) -> list[str]:
    """All fields, those of a group as GROUP.FIELD."""
    names = []
    for name, value in config.items():
        names += [f"{name}.{inner}" for inner in value] if isinstance(value, ConfigDict) else [name]
    return names


def check(config: ConfigDict) -> None:
    """Raises ConfigError for a value that makes no sense; names the field and what is expected."""
    for field, choices in _CHOICES.items():
        if config[field].partition("/")[0] not in choices:  # "pairs/NAME" is a data set
            near = difflib.get_close_matches(config[field], choices, n=1, cutoff=0.0)[0]
            raise ConfigError(
                f"config.{field}={config[field]}: expected one of {', '.join(choices)}; did you mean {near}?"
            )
    for fields, bound in ((_AT_LEAST_ONE, 1), (_NOT_NEGATIVE, 0)):
        for field in fields:
            if config[field] < bound:
                raise ConfigError(f"config.{field}={config[field]}: expected {bound} or more")
    for field, fits, expected in (
        ("learning_rate", config.learning_rate > 0, "a number above 0"),
        ("dropout", 0 <= config.get("dropout", 0.0) < 1, "a probability below 1"),
        ("ema_decay", 0 <= config.ema_decay < 1, "0 (none) or a number below 1"),
        ("accumulation", config.batch_size % config.accumulation == 0, "a divisor of config.batch_size"),
        ("crop_size", config.crop_size >= 96, "96 or more"),
    ):
        if not fits:
            raise ConfigError(f"config.{field}={config[field]}: expected {expected}")
    if config.data.placement not in PLACEMENTS:
        raise ConfigError(
            f"config.data.placement={config.data.placement}: expected one of {', '.join(PLACEMENTS)}"
        )
    if config.data.steps_at_once < 0:
        raise ConfigError(f"config.data.steps_at_once={config.data.steps_at_once}: expected 0 or more")
    if not IQA_MODELS[config.model].full_reference:
        _check_student(config)


def _check_student(config: ConfigDict) -> None:
    noise = config.noise
    checks = [
        ("pseudo_ratio", config.pseudo_ratio >= 0, "0 (labels only) or more"),
        ("pseudo_weight", config.pseudo_weight >= 0, "0 or more"),
        ("pseudo_crops", config.pseudo_crops in CROPS, f"one of {', '.join(CROPS)}"),
        ("rounds", config.rounds >= 1, "1 or more"),
        ("backbone_learning_rate", config.backbone_learning_rate >= 0, "0 (frozen) or more"),
        ("noise.rotation", noise.rotation >= 0, "degrees, 0 or more"),
    ]
    checks += [(f"noise.{n}", 0 <= noise[n] <= 1, "a probability") for n in ("flip", "cut_out", "grid_mask")]
    checks += [
        (f"noise.{n}", 0 <= noise[n] < 1, "a probability below 1") for n in ("dropout", "stochastic_depth")
    ]
    for field, fits, expected in checks:
        if not fits:
            value = noise[field.partition(".")[2]] if "." in field else config[field]
            raise ConfigError(f"config.{field}={value}: expected {expected}")
    if config.pseudo_ratio and not config.teacher:
        raise ConfigError(
            "config.teacher: give the run or the averaged checkpoint of a full-reference model, "
            "--config.teacher=runs/conformer; or --config.pseudo_ratio=0 to train on the labels alone"
        )
    if config.pseudo_ratio and config.unlabelled.partition("/")[0] not in DATASETS:
        raise ConfigError(
            f"config.unlabelled={config.unlabelled}: expected one of {', '.join(DATASETS)}; pairs that "
            "`python -m iqa_jax distort` made are pairs/NAME once they are prepared"
        )
