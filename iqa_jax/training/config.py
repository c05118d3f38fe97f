"""The training configuration: reading it from the command line, and checking it."""

import contextlib
import dataclasses
import difflib
import re
import sys
from pathlib import Path

from ml_collections import ConfigDict

from iqa_jax import configs
from iqa_jax.data.datasets import DATASETS, default_data_dir, find_folder
from iqa_jax.errors import ConfigError
from iqa_jax.models import ModelConfig
from iqa_jax.models.config import taps_problem
from iqa_jax.training.fields import check_effects, check_fields, leaves

_ABOUT_PROCESSES = re.compile(r"(?<=^--)(num-processes|process-id)")


@dataclasses.dataclass(frozen=True)
class Command:
    """What a training command asks for.

    Attributes:
      config: checked, with `dataset` settled.
      name: what to call the run's folder; every recipe has a name of its own.
      workdir: if given.
      reason: why this data set, as a sentence.
      processes: what `iqa_jax.parallel.processes.join` takes.
    """

    config: ConfigDict
    name: str
    workdir: str | None
    reason: str
    processes: dict = dataclasses.field(default_factory=dict)


def parse(argv: list[str]) -> Command:
    """Reads `--config FILE[:RECIPE] [--config.FIELD=VALUE …] [--workdir DIR]` and, for one of several
    processes, `--coordinator HOST:PORT --num-processes N --process-id K`.

    FILE is a Python file's path, or the name of a configuration of this package: `conformer`.

    Raises:
      ConfigError: a flag, a field or a value that does not exist or does not fit.
    """
    config, file, overrides, flags = _parse_flags(argv)
    path, _, asked = file.partition(":")
    recipe = asked
    shown = _file_of(argv).partition(":")[0]
    reason = f"{config.dataset} was asked for"
    if config.dataset == "auto":
        data_dir = config.data_dir or str(default_data_dir())
        found = find_folder("pipal", data_dir)
        if found and not DATASETS["pipal"].has_training_images(found):
            found = None  # the challenge's test pairs alone
        recipe = "pipal" if found else "demo"
        if found:
            reason = f"PIPAL was found in {found}; for the built-in set: --config {shown}:demo"
        else:
            reason = (
                f"PIPAL was not found in or under {data_dir}; to train on it, unpack it there or give the "
                f"folder above it: --config {shown}:pipal --config.data_dir=DIR"
            )
        overrides.pop("dataset", None)
    elif recipe in ("", "auto"):
        recipe = "demo" if config.dataset == "iqa_demo" else "pipal"
    config, *_ = _parse_flags([f"--config={path}:{recipe}"])
    of_recipe = leaves(config)
    with config.ignore_type():  # the values are of the right types already
        config.update_from_flattened_dict(overrides)
    check(config)
    check_effects(config, [name for name, value in overrides.items() if value != of_recipe[name]])
    name = _folder(path, asked, config.dataset if config.dataset != of_recipe["dataset"] else "")
    workdir = flags.pop("workdir")
    return Command(config, name, workdir, reason, flags)


def _folder(path: str, recipe: str, dataset: str) -> str:
    """What a run's folder is called: configuration, recipe and data set, as far as they were asked for."""
    parts = (Path(path).stem, recipe if recipe != "auto" else "", dataset.removeprefix("pairs/"))
    return re.sub(r"[^\w.-]", "-", "-".join(filter(None, parts)))


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
    sys.argv = ["train", *_with_file(argv)]  # where config_flags looks for overrides
    try:
        surplus = values(sys.argv)[1:]
        config = values.config
        list(config)  # a file that could not be read fails here
        file, overrides = (
            config_flags.get_config_filename(values["config"]),
            config_flags.get_override_values(values["config"]),
        )
    except Exception as error:  # absl's and ml_collections', and whatever the file raises
        raise ConfigError(_plainly(error, argv)) from None
    finally:
        sys.argv = before
    if surplus:
        raise ConfigError(f"unexpected argument {surplus[0]!r}; fields are set as --config.FIELD=VALUE")
    others = ("workdir", "coordinator", "num_processes", "process_id")
    return config, file, overrides, {name: values[name].value for name in others}


def _config_in(argv: list[str]) -> tuple[int, str]:
    """Where the configuration stands among the arguments, and what stands before it in the same one."""
    for number, argument in enumerate(argv):
        name, equals, _ = argument.partition("=")
        if name in ("--config", "-config"):
            return (number, f"{name}=") if equals else (number + 1, "")
    return len(argv), ""


def _file_of(argv: list[str]) -> str:
    """What stands after --config, in either spelling; empty where nothing does."""
    position, flag = _config_in(argv)
    return argv[position].removeprefix(flag) if position < len(argv) else ""


def _with_file(argv: list[str]) -> list[str]:
    """The arguments, with the file's path where a configuration of the package is named.

    Raises:
      ConfigError: neither such a name nor a Python file is given.
    """
    given = _file_of(argv)
    named = {path.stem: path for path in sorted(Path(configs.__file__).parent.glob("[a-z]*.py"))}
    expected = f"{', '.join(named)} (of this package) or the path of a Python file"
    if not given:
        raise ConfigError(f"give a configuration, as in --config conformer: {expected}")
    name, colon, recipe = given.partition(":")
    path = Path(name)
    if name in named and not path.is_file():
        found = argv.copy()
        position, flag = _config_in(argv)
        found[position] = f"{flag}{named[name]}{colon}{recipe}"
        return found
    if not path.is_file():
        what = "a directory" if path.is_dir() else "no such configuration file"
        raise ConfigError(f"{given}: {what}; expected {expected}")
    if path.suffix != ".py":
        raise ConfigError(f"{given}: not a Python file; expected {expected}")
    return argv


def _plainly(error: Exception, argv: list[str]) -> str:
    """One line for what absl, ml_collections or the configuration file raise."""
    given = _file_of(argv)
    if overrides := _overrides(argv):
        config, *_ = _parse_flags([f"--config={given}"])  # raises if it is the file's fault
        problems = (_problem_of(override, config) for override in overrides)
        if problem := next(filter(None, problems), None):
            return problem
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = " ".join(dict.fromkeys((lines[0], lines[-1])))
    if type(error).__module__.startswith(("absl", "ml_collections")) or isinstance(error, ValueError):
        return text
    return f"{given}: cannot be read as a configuration ({type(error).__name__}: {text})"


def _overrides(argv: list[str]) -> list[str]:
    """Each --config.FIELD with its value, as FIELD=VALUE."""
    found = []
    for number, argument in enumerate(argv):
        if match := re.match(r"--?config\.(.*)", argument):
            following = next(iter(argv[number + 1 :]), "--")
            apart = "=" not in argument and not following.startswith("-")
            found.append(f"{match[1]}={following}" if apart else match[1])
    return found


_EXPECTED = {bool: "true or false", int: "a whole number", float: "a number"}


def _problem_of(override: str, config: ConfigDict) -> str | None:
    """What is wrong with FIELD=VALUE; None if nothing is."""
    name, equals, value = override.partition("=")
    names = list(leaves(config))
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = (
            f"; the nearest is config.{near[0]}" if near else ", nor one like it; the file lists its fields"
        )
        return f"config has no field {name!r}{hint}"
    group, _, inner = name.rpartition(".")
    kind = type((config[group] if group else config)[inner])
    if kind is bool and (not equals or value.lower() in ("true", "false", "1", "0", "t", "f")):
        return None
    if kind in _EXPECTED:
        with contextlib.suppress(ValueError):
            if kind is not bool:
                kind(value)
                return None
    elif equals:
        return None
    return f"config.{name}={value}: expected {_EXPECTED.get(kind, 'a value')}"


def check(config: ConfigDict) -> None:
    """Raises ConfigError for a value that makes no sense; names the field and what is expected."""
    check_fields(config)
    for field, fits, expected in (
        ("accumulation", config.batch_size % config.accumulation == 0, "a divisor of config.batch_size"),
        ("dim", config.dim % 2 == 0, "an even number"),
        ("heads", config.dim % config.heads == 0, f"a divisor of config.dim={config.dim}"),
    ):
        if not fits:
            raise ConfigError(f"config.{field}={config[field]}: expected {expected}")
    chosen = ModelConfig(config.model, config.backbone, crop_size=config.crop_size, **chosen_taps(config))
    if problem := taps_problem(chosen):
        raise ConfigError(f"config.stride={config.stride}: {problem}")
    if config.get("pseudo_ratio"):
        _check_pseudo_labels(config)


def chosen_taps(config: ConfigDict) -> dict:
    """The fields of `ModelConfig` that say which maps of the backbone a model looks at."""

    def names(text: str) -> tuple[str, ...]:
        return tuple(name.strip() for name in text.split(",") if name.strip())

    return {
        "taps": names(config.taps),
        "stride": config.stride,
        "magnitudes": names(config.get("magnitudes", "")),
    }


def _check_pseudo_labels(config: ConfigDict) -> None:
    if not config.teacher:
        raise ConfigError(
            "config.teacher: give the run or the averaged checkpoint of a full-reference model, "
            "--config.teacher=runs/conformer; or --config.pseudo_ratio=0 to train on the labels alone"
        )
    if config.unlabelled.partition("/")[0] not in DATASETS:
        raise ConfigError(
            f"config.unlabelled={config.unlabelled}: expected one of {', '.join(DATASETS)}; pairs that "
            "`python -m iqa_jax distort` made are pairs/NAME once they are prepared"
        )
