"""The configuration of a training run: its fields, what each may hold, and when one has no effect.

A new field is a line here and one in the recipe, `iqa_jax/configs/`.
"""

import dataclasses
import difflib
import math
import operator
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from iqa_jax.data.datasets import DATASETS
from iqa_jax.errors import ConfigError
from iqa_jax.models import BACKBONES, IQA_MODELS, ModelConfig
from iqa_jax.models.config import taps_problem
from iqa_jax.ops.noise import InputNoise
from iqa_jax.ops.windows import CROPS

_NUMBERS: dict[type, tuple[type, ...]] = {int: (int, np.integer), float: (int, float, np.number)}
_INT32 = 2**31 - 1  # steps are counted in 32 bits


class _Idle(NamedTuple):
    """When a field has no effect, and why."""

    when: Callable[["TrainConfig"], bool]
    why: str


_LABELS_ALONE = _Idle(
    lambda c: c.pseudo_ratio == 0, "with config.pseudo_ratio=0 there are no pseudo-labelled images"
)
_GIVEN_ARCHITECTURE = _Idle(
    lambda c: bool(c.init_from), "the architecture and the backbone are those of config.init_from"
)
_GIVEN_SPLITS = _Idle(lambda c: bool(c.splits), "config.splits lists the pairs of both splits")
_STEPS_ALONE = _Idle(
    lambda c: c.num_steps > 0 and c.schedule == "constant",
    "the run ends at config.num_steps, and its rate is constant",
)
_KEPT_FEATURES = _Idle(
    lambda c: c.keep_features > 0, "with config.keep_features no images are kept, their features are"
)
_ANY_ANGLE = _Idle(lambda c: c.rotation >= 180, "config.rotation=180 turns crops by any angle already")
_NOT_ON_DEVICES = _Idle(
    lambda c: (c.data.placement in ("host", "stream") or c.keep_features > 0) and c.data.steps_at_once > 1,
    "several steps go in one dispatch only with config.data.placement=device",
)


@dataclasses.dataclass(frozen=True)
class _Limits:
    """What a field may hold, as the metadata of the dataclass field.

    Attributes:
      kind: `bool`, `int`, `float` or `str`.
      low, high: bounds of a number.
      below: a bound that it may not reach.
      choices: of a text; what follows a "/" is not checked where `by_prefix` is set.
      required: whether a text may not be empty.
      expected: in place of a sentence about the bounds.
      reads: whether full-reference models alone (True) or blind ones alone (False) read the field.
      idle: when it has no effect.
    """

    kind: type
    low: float = -math.inf
    high: float = math.inf
    below: float = math.inf
    choices: tuple[str, ...] = ()
    by_prefix: bool = False
    required: bool = False
    expected: str = ""
    reads: bool | None = None
    idle: _Idle | None = None

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
        if self.low <= value <= self.high and value < self.below:
            return None
        if self.expected:
            return self.expected
        return f"{self.low} or more" if value < self.low else f"{self.high} or less"

    def _problem_of_text(self, value: object) -> str | None:
        if not isinstance(value, str):
            return "a text"
        if self.choices and (value.partition("/")[0] if self.by_prefix else value) not in self.choices:
            near = difflib.get_close_matches(value, self.choices, n=1, cutoff=0.0)[0]
            return f"one of {', '.join(self.choices)}; did you mean {near}?"
        return "a text that is not empty" if self.required and not value.strip() else None


_PROBABILITY: dict[str, Any] = {"kind": float, "low": 0, "high": 1, "expected": "a probability"}
_BELOW_ONE: dict[str, Any] = {"kind": float, "low": 0, "below": 1, "expected": "a probability below 1"}
_DEGREES: dict[str, Any] = {"kind": float, "low": 0, "high": 360, "expected": "degrees, 0 to 360"}
_UP_TO_1000: dict[str, Any] = {"kind": float, "low": 0, "high": 1000}
_RATE_OR_FROZEN = "0 (frozen) or a number above, at most 1000"


def _field(default: Any, kind: type, **limits: Any) -> Any:
    return dataclasses.field(default=default, metadata={"limits": _Limits(kind, **limits)})


def _whole(default: int, low: int, high: int = _INT32, **more: Any) -> Any:
    return _field(default, int, low=low, high=high, **more)


def _one_of(default: str, choices: Collection[str], **more: Any) -> Any:
    return _field(default, str, choices=tuple(choices), **more)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """How the images of the training pairs are kept and fed to the steps."""

    # Where decoded images are kept: "device", "host" (memory), "stream" (decoded as needed).
    placement: str = _one_of("auto", ("auto", "device", "host", "stream"), idle=_KEPT_FEATURES)
    # In one dispatch, with the images on the devices; 0: ten.
    steps_at_once: int = _whole(0, 0, 10_000, idle=_NOT_ON_DEVICES)


@dataclasses.dataclass(frozen=True)
class NoiseConfig(InputNoise):
    """Noise on a student's pseudo-labelled images; 0 switches each off."""

    flip: float = _field(0.5, **_PROBABILITY, idle=_LABELS_ALONE)  # horizontally, and vertically
    rotation: float = _field(180.0, **_DEGREES, idle=_LABELS_ALONE)  # largest, either way
    cut_out: float = _field(0.5, **_PROBABILITY, idle=_LABELS_ALONE)  # of a square cut-out
    grid_mask: float = _field(0.5, **_PROBABILITY, idle=_LABELS_ALONE)  # of a grid of cut-outs
    dropout: float = _field(0.1, **_BELOW_ONE, idle=_LABELS_ALONE)  # after the backbone
    stochastic_depth: float = _field(0.1, **_BELOW_ONE, idle=_LABELS_ALONE)  # of leaving out a branch


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run; the defaults are the paper's recipe for PIPAL.

    Raises:
      ConfigError: a value that makes no sense; names the field and what was expected.
    """

    model: str = _one_of("iqa_conformer", IQA_MODELS)
    seed: int = _whole(0, 0)  # of the initial weights, the order, augmentation, noise and dropout

    # Data.
    dataset: str = _one_of("pipal", DATASETS, by_prefix=True)  # a table of your own: pairs/NAME
    data_dir: str = _field("", str)  # "": the cache directory
    train_split: str = _field("train[:80%]", str, required=True, idle=_GIVEN_SPLITS)
    validation_split: str = _field("train[80%:]", str, required=True, idle=_GIVEN_SPLITS)
    splits: str = _field("", str)  # a file of `splits`, in place of these two
    rotation: float = _field(180.0, **_DEGREES)  # largest rotation of a training crop
    turns: bool = _field(False, bool, idle=_ANY_ANGLE)  # whether it is also turned by quarters
    # Places of each picture whose features are computed once and kept; 0: crops anywhere, computed anew.
    keep_features: int = _whole(0, 0, 10_000)
    crop_size: int = _whole(192, 96, 8192, idle=_GIVEN_ARCHITECTURE)  # side in pixels
    data: DataConfig = DataConfig()

    # Model.
    init_from: str = _field("", str)  # weights to start from; they determine the architecture
    backbone: str = _one_of("inception_resnet_v2", BACKBONES, idle=_GIVEN_ARCHITECTURE)
    # A directory, a PyTorch file, "auto" or "random".
    backbone_weights: str = _field("auto", str, required=True, idle=_GIVEN_ARCHITECTURE)
    dim: int = _whole(128, 2, 2**16, idle=_GIVEN_ARCHITECTURE)  # width after the backbone
    heads: int = _whole(4, 1, 2**16, idle=_GIVEN_ARCHITECTURE)  # of the attention
    # Maps of the backbone, "stage1,stage2", averaged over cells; "": the backbone's own.
    taps: str = _field("", str, idle=_GIVEN_ARCHITECTURE)
    stride: int = _whole(0, 0, 8192, idle=_GIVEN_ARCHITECTURE)  # side of a cell in pixels
    dropout: float = _field(0.1, **_BELOW_ONE, reads=True)
    # Maps of which the model also sees |f_ref - f_dis|.
    magnitudes: str = _field("", str, reads=True, idle=_GIVEN_ARCHITECTURE)
    # Whether it also sees maps of similarity, and gives identical crops the best score.
    similarities: bool = _field(False, bool, reads=True, idle=_GIVEN_ARCHITECTURE)
    dtype: str = _one_of("float32", ("float32", "bfloat16"))  # of the arithmetic

    # Optimisation.
    optimizer: str = _one_of("adam", ("adam", "sgd"))
    batch_size: int = _whole(16, 1, 2**20)
    accumulation: int = _whole(1, 1, 2**20)  # equal parts in which a batch passes, to save memory
    learning_rate: float = _field(
        1e-4, float, low=1e-30, high=1000, expected="a number above 0, at most 1000"
    )
    schedule: str = _one_of("constant", ("constant", "cosine"))  # the cosine, over num_epochs
    warmup_steps: int = _whole(0, 0)
    num_epochs: int = _whole(30, 1, idle=_STEPS_ALONE)
    num_steps: int = _whole(0, 0)  # when set, the run ends there
    # Of the moving average of the weights; 0: none.
    ema_decay: float = _field(0.999, float, low=0, below=1, expected="0 (none) or a number below 1")

    # Evaluation and checkpoints; in steps, 0: once an epoch.
    eval_every: int = _whole(0, 0)
    crops: str = _one_of("center", CROPS)
    checkpoint_every: int = _whole(0, 0)
    keep_checkpoints: int = _whole(2, 1, 10**6)  # the latest; the best by SRCC stays too
    keep_epochs: bool = _field(True, bool)  # every epoch's as well, for weight averaging

    # Students: pseudo-labels.
    teacher: str = _field("", str, reads=False, idle=_LABELS_ALONE)  # a full-reference model
    unlabelled: str = _field("pipal", str, reads=False, idle=_LABELS_ALONE)  # the data set to label
    unlabelled_split: str = _field("ntire2022_test", str, required=True, reads=False, idle=_LABELS_ALONE)
    pseudo_crops: str = _one_of("ten", CROPS, reads=False, idle=_LABELS_ALONE)  # that the teacher scores
    # Pseudo-labelled images for each labelled one in a batch; 0: none.
    pseudo_ratio: float = _field(1.0, **_UP_TO_1000, expected="0 (labels only) to 1000", reads=False)
    # Of their squared errors; a labelled one's is 1.
    pseudo_weight: float = _field(1.0, **_UP_TO_1000, expected="0 to 1000", reads=False, idle=_LABELS_ALONE)
    # With more than one, each student also labels the pairs, beside the teacher, for the next.
    rounds: int = _whole(1, 1, 100, reads=False, idle=_LABELS_ALONE)
    noise: NoiseConfig = dataclasses.field(default=NoiseConfig(), metadata={"reads": False})
    # Of the backbone's parameters; 0: frozen, as the teacher's.
    backbone_learning_rate: float = _field(0.0, **_UP_TO_1000, expected=_RATE_OR_FROZEN, reads=False)

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def from_dict(cls, values: Mapping) -> "TrainConfig":
        """The configuration of a recipe's fields, or of those in a run's config.json.

        Raises:
          ConfigError: a field is missing, surplus or of a value that it may not have.
        """
        given = leaves(values)
        _check_names(given)
        groups = {group: values[group] for group in ("data", "noise") if group in values}
        kinds = {"data": DataConfig, "noise": NoiseConfig}
        return cls(**{**values, **{group: kinds[group](**inner) for group, inner in groups.items()}})

    def to_dict(self) -> dict:
        """The fields that the model reads, as `from_dict` takes them."""
        read = {name.partition(".")[0] for name in fields_of(self.full_reference)}
        return {name: value for name, value in dataclasses.asdict(self).items() if name in read}

    @property
    def full_reference(self) -> bool:
        """Whether the model compares with references; a student does not."""
        return IQA_MODELS[self.model].full_reference

    @property
    def pseudo_labelled(self) -> bool:
        """Whether batches have pseudo-labelled images too."""
        return not self.full_reference and self.pseudo_ratio > 0

    @property
    def chosen_taps(self) -> dict[str, Any]:
        """The fields of `ModelConfig` that say which maps of the backbone a model sees."""

        def names(text: str) -> tuple[str, ...]:
            return tuple(name.strip() for name in text.split(",") if name.strip())

        return {
            "taps": names(self.taps),
            "stride": self.stride,
            "magnitudes": names(self.magnitudes),
            "similarities": self.similarities,
        }


def leaves(values: Mapping) -> dict[str, object]:
    """All fields with their values, those of a group as GROUP.FIELD."""
    flat: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": each for inner, each in value.items()}
        else:
            flat[name] = value
    return flat


def _limits_of(kind: type, reads: bool | None = None) -> Iterator[tuple[str, _Limits]]:
    for field in dataclasses.fields(kind):
        if limits := field.metadata.get("limits"):
            yield field.name, limits if reads is None else dataclasses.replace(limits, reads=reads)
        else:
            inner = _limits_of(type(field.default), field.metadata.get("reads"))
            yield from ((f"{field.name}.{name}", limits) for name, limits in inner)


def fields_of(full_reference: bool) -> dict[str, _Limits]:
    """What each field may hold that full-reference models read, or that blind ones do."""
    return {
        name: limits for name, limits in _limits_of(TrainConfig) if limits.reads in (None, full_reference)
    }


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


_LATER = ("similarities", "turns", "keep_features")  # runs of earlier versions do without them


def _check_names(values: Mapping[str, object]) -> None:
    """Raises ConfigError for a field that is missing or that the model does not read."""
    model = values.get("model")
    if problem := dict(_limits_of(TrainConfig))["model"].problem(model):
        raise ConfigError(f"config.model={model}: expected {problem}")
    fields = fields_of(IQA_MODELS[str(model)].full_reference)
    if missing := [name for name in fields if name not in values and name not in _LATER]:
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


def _check(config: TrainConfig) -> None:
    """Raises ConfigError for a value that makes no sense; names the field and what is expected."""
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    for group in ("data", "noise"):
        if type(getattr(config, group)) is not type(defaults[group]):
            raise ConfigError(f"config.{group}: expected a {type(defaults[group]).__name__}")
    for name, limits in _limits_of(TrainConfig):  # the model comes first
        value = operator.attrgetter(name)(config)
        if problem := limits.problem(value):
            raise ConfigError(f"config.{name}={value}: expected {problem}")
    read = config.to_dict()
    for name, default in defaults.items():
        if name not in read and getattr(config, name) != default:
            raise ConfigError(f"config.{name}: config.model={config.model} does not read it; leave it out")
    for name, fits, expected in (
        ("accumulation", config.batch_size % config.accumulation == 0, "a divisor of config.batch_size"),
        ("dim", config.dim % 2 == 0, "an even number"),
        ("heads", config.dim % config.heads == 0, f"a divisor of config.dim={config.dim}"),
    ):
        if not fits:
            raise ConfigError(f"config.{name}={getattr(config, name)}: expected {expected}")
    model = ModelConfig(config.model, config.backbone, crop_size=config.crop_size, **config.chosen_taps)
    if problem := taps_problem(model):
        raise ConfigError(f"config.stride={config.stride}: {problem}")
    if config.pseudo_labelled:
        _check_pseudo_labels(config)
    if config.keep_features:
        _check_crops_are_finite(config)


def _check_crops_are_finite(config: TrainConfig) -> None:
    """Raises ConfigError for what gives each step crops or a backbone of its own."""
    for name, why in (
        (
            "rotation",
            "a crop that is turned by any angle is a new one each time; config.turns takes quarters",
        ),
        ("backbone_learning_rate", "the features of a backbone that is trained change in every step"),
        ("pseudo_ratio", "noise makes every pseudo-labelled crop a new one"),
    ):
        if name in fields_of(config.full_reference) and (value := getattr(config, name)):
            raise ConfigError(
                f"config.{name}={value}: expected 0 with config.keep_features={config.keep_features}, since "
                f"{why}"
            )


def _check_pseudo_labels(config: TrainConfig) -> None:
    if not config.teacher:
        raise ConfigError(
            "config.teacher: expected the run or the averaged checkpoint of a full-reference model, "
            "runs/conformer say; with config.pseudo_ratio=0 a student trains on the labels alone"
        )
    if config.unlabelled.partition("/")[0] not in DATASETS:
        raise ConfigError(
            f"config.unlabelled={config.unlabelled}: expected one of {', '.join(DATASETS)}; distorted "
            "versions of your own pictures are pairs/NAME once they are prepared"
        )


def check_effects(config: TrainConfig, changed: Collection[str]) -> None:
    """Raises ConfigError for a field that somebody has changed and that has no effect.

    Args:
      changed: names of the fields whose values are not the recipe's.
    """
    idle = {
        name: limits.idle
        for name, limits in fields_of(config.full_reference).items()
        if name in changed and limits.idle and limits.idle.when(config)
    }
    for name, reason in idle.items():
        alike = [other for other, its in idle.items() if its is reason]
        raise ConfigError(
            f"config.{name}={operator.attrgetter(name)(config)} has no effect{_and_more(alike)}: "
            f"{reason.why}; leave it out"
        )
