"""The fields of a training configuration: what each may hold, and which do nothing beside others."""

import dataclasses
import difflib
import math
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from iqa_jax.data.datasets import DATASETS
from iqa_jax.errors import ConfigError
from iqa_jax.models import BACKBONES, IQA_MODELS
from iqa_jax.ops.windows import CROPS
from iqa_jax.training.feed import PLACEMENTS

_NUMBERS: dict[type, tuple[type, ...]] = {int: (int, np.integer), float: (int, float, np.number)}
_INT32 = 2**31 - 1  # steps are counted in 32 bits


@dataclasses.dataclass(frozen=True)
class Field:
    """What a field may hold.

    Attributes:
      kind: `bool`, `int`, `float` or `str`.
      low, high: bounds of a number.
      above, below: that it may not reach.
      choices: of a text; what follows a "/" is not looked at where `parts` is set.
      required: whether a text may not be empty.
      expected: in place of what the bounds would say.
    """

    kind: type
    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    choices: tuple[str, ...] = ()
    parts: bool = False
    required: bool = False
    expected: str = ""

    def problem(self, value: Any) -> str | None:
        """What was expected in place of `value`; None if it fits."""
        if self.kind is bool:
            return None if isinstance(value, bool) else "true or false"
        if self.kind is str:
            return self._problem_of_text(value)
        if isinstance(value, bool) or not issubclass(type(value), _NUMBERS[self.kind]):
            return "a whole number" if self.kind is int else "a number"
        if self.kind is float and not math.isfinite(value):
            return "a finite number"
        if self.low <= value <= self.high and self.above < value < self.below:
            return None
        if self.expected:
            return self.expected
        if value < self.low:
            return f"{self.low} or more"
        return f"{self.high} or less"

    def _problem_of_text(self, value) -> str | None:
        if not isinstance(value, str):
            return "a text"
        if self.choices and (value.partition("/")[0] if self.parts else value) not in self.choices:
            near = difflib.get_close_matches(value, self.choices, n=1, cutoff=0.0)[0]
            return f"one of {', '.join(self.choices)}; did you mean {near}?"
        return "a text that is not empty" if self.required and not value.strip() else None


def _whole(low: int, high: int = _INT32) -> Field:
    return Field(int, low=low, high=high)


def _rate(*, zero: str = "") -> Field:
    if zero:
        return Field(float, low=0, high=1000, expected=f"0 ({zero}) or a number above, at most 1000")
    return Field(float, low=1e-30, high=1000, expected="a number above 0, at most 1000")


def _one_of(choices: Collection[str]) -> Field:
    return Field(str, choices=tuple(choices))


_TEXT, _NEEDED_TEXT = Field(str), Field(str, required=True)
_PROBABILITY = Field(float, low=0, high=1, expected="a probability")
_PROBABILITY_BELOW_ONE = Field(float, low=0, below=1, expected="a probability below 1")
_DEGREES = Field(float, low=0, high=360, expected="degrees, 0 to 360")

_OF_ALL = {
    "model": _one_of(IQA_MODELS),
    "seed": _whole(0),
    "dataset": Field(str, choices=("auto", *DATASETS), parts=True),
    "data_dir": _TEXT,
    "train_split": _NEEDED_TEXT,
    "validation_split": _NEEDED_TEXT,
    "splits": _TEXT,
    "rotation": _DEGREES,
    "crop_size": _whole(96, 8192),
    "data.placement": _one_of(PLACEMENTS),
    "data.steps_at_once": _whole(0, 10_000),
    "init_from": _TEXT,
    "backbone": _one_of(BACKBONES),
    "backbone_weights": _NEEDED_TEXT,
    "dim": _whole(2, 2**16),
    "heads": _whole(1, 2**16),
    "taps": _TEXT,
    "stride": _whole(0, 8192),
    "dtype": _one_of(("float32", "bfloat16")),
    "optimizer": _one_of(("adam", "sgd")),
    "batch_size": _whole(1, 2**20),
    "accumulation": _whole(1, 2**20),
    "learning_rate": _rate(),
    "schedule": _one_of(("constant", "cosine")),
    "warmup_steps": _whole(0),
    "num_epochs": _whole(1),
    "num_steps": _whole(0),
    "ema_decay": Field(float, low=0, below=1, expected="0 (none) or a number below 1"),
    "eval_every": _whole(0),
    "crops": _one_of(CROPS),
    "checkpoint_every": _whole(0),
    "keep_checkpoints": _whole(1, 10**6),
    "keep_epochs": Field(bool),
}
_OF_FULL_REFERENCE = {"dropout": _PROBABILITY_BELOW_ONE, "magnitudes": _TEXT}
_OF_STUDENTS = {
    "teacher": _TEXT,
    "unlabelled": _TEXT,
    "unlabelled_split": _NEEDED_TEXT,
    "pseudo_crops": _one_of(CROPS),
    "pseudo_ratio": Field(float, low=0, high=1000, expected="0 (labels only) to 1000"),
    "pseudo_weight": Field(float, low=0, high=1000, expected="0 to 1000"),
    "rounds": _whole(1, 100),
    "noise.flip": _PROBABILITY,
    "noise.rotation": _DEGREES,
    "noise.cut_out": _PROBABILITY,
    "noise.grid_mask": _PROBABILITY,
    "noise.dropout": _PROBABILITY_BELOW_ONE,
    "noise.stochastic_depth": _PROBABILITY_BELOW_ONE,
    "backbone_learning_rate": _rate(zero="frozen"),
}


def leaves(config: ConfigDict) -> dict[str, object]:
    """All fields with their values, those of a group as GROUP.FIELD."""
    found: dict[str, object] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            found |= {f"{name}.{inner}": each for inner, each in value.items()}
        else:
            found[name] = value
    return found


def check_fields(config: ConfigDict) -> None:
    """Raises ConfigError for a field that is missing, not read, or of a value that it may not have."""
    values = leaves(config)
    model = values.get("model")
    if problem := _OF_ALL["model"].problem(model):
        raise ConfigError(f"config.model={model}: expected {problem}")
    of_model = _OF_FULL_REFERENCE if IQA_MODELS[str(model)].full_reference else _OF_STUDENTS
    fields = _OF_ALL | of_model
    if missing := [name for name in fields if name not in values]:
        raise ConfigError(
            f"config.{missing[0]} is missing, which config.model={model} needs"
            f"{_and_more(missing)}; take them from the recipe of that model"
        )
    if surplus := [name for name in values if name not in fields]:
        near = difflib.get_close_matches(surplus[0], fields, n=1)
        hint = f"; did you mean config.{near[0]}?" if near else "; leave it out"
        raise ConfigError(
            f"config.{surplus[0]}={values[surplus[0]]}: config.model={model} does not read it"
            f"{_and_more(surplus)}{hint}"
        )
    for name, field in fields.items():
        if problem := field.problem(values[name]):
            raise ConfigError(f"config.{name}={values[name]}: expected {problem}")


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


@dataclasses.dataclass(frozen=True)
class _Idle:
    """Fields that do nothing where `when` holds, and why."""

    fields: tuple[str, ...]
    when: Callable[[ConfigDict], bool]
    why: str


_IDLE = (
    _Idle(
        ("teacher", "unlabelled", "unlabelled_split", "pseudo_crops", "pseudo_weight", "rounds")
        + tuple(name for name in _OF_STUDENTS if name.startswith("noise.")),
        lambda c: c.get("pseudo_ratio", 1) == 0,
        "with config.pseudo_ratio=0 there are no pseudo-labelled images",
    ),
    _Idle(
        ("backbone", "backbone_weights", "dim", "heads", "taps", "stride", "magnitudes", "crop_size"),
        lambda c: bool(c.init_from),
        "the architecture and the backbone are those of config.init_from",
    ),
    _Idle(
        ("train_split", "validation_split"),
        lambda c: bool(c.splits),
        "config.splits says what is trained and validated on",
    ),
    _Idle(
        ("num_epochs",),
        lambda c: c.num_steps > 0 and c.schedule == "constant",
        "the run ends at config.num_steps, and its rate is constant",
    ),
    _Idle(
        ("data.steps_at_once",),
        lambda c: c.data.placement in ("host", "stream") and c.data.steps_at_once > 1,
        "several steps go in one dispatch only with config.data.placement=device",
    ),
)


def check_effects(config: ConfigDict, changed: Collection[str]) -> None:
    """Raises ConfigError for a field that somebody has changed and that does nothing.

    Args:
      changed: names of the fields whose values are not the recipe's.
    """
    for idle in _IDLE:
        without = [name for name in idle.fields if name in changed]
        if without and idle.when(config):
            value = leaves(config)[without[0]]
            raise ConfigError(
                f"config.{without[0]}={value} has no effect{_and_more(without)}: {idle.why}; leave it out"
            )
