"""What a run takes: its pairs, the sizes of its batches, its schedule, and the model on the labels' scale."""

import dataclasses

import numpy as np

from iqa_jax.data.preparation import prepare_dataset
from iqa_jax.data.source import PairSource
from iqa_jax.data.splits import part_of_splits
from iqa_jax.errors import ConfigError, DataError
from iqa_jax.models import ModelConfig
from iqa_jax.training.config import TrainConfig

_PIPAL_MOS = (1448.9595, 121.5351)  # mean and deviation that the original normalises with


def open_data(config: TrainConfig) -> tuple[PairSource, PairSource]:
    """Training and validation pairs, prepared if need be.

    Raises:
      DataError, ConfigError: they are not there, share a reference, have no labels or are too small.
    """
    builder = prepare_dataset(config.dataset, data_dir=config.data_dir or None)
    if config.splits:
        training, validation = (
            part_of_splits(builder, config.splits, part) for part in ("train", "validation")
        )
    else:
        training = PairSource(builder, config.train_split)
        validation = PairSource(builder, config.validation_split)
    for field, source in (("train_split", training), ("validation_split", validation)):
        if np.isnan(source.mos).any():
            raise DataError(f"config.{field}={source.split}: pairs without a label; choose another split")
        if source.size.min() < config.crop_size:
            raise DataError(
                f"config.{field}={source.split}: an image of {source.size.min()} pixels on a side, "
                f"expected config.crop_size={config.crop_size} or more"
            )
    if not training.paired and config.full_reference:
        raise DataError(
            f"config.dataset={config.dataset}: has no references; config.model={config.model} needs them, "
            "blind_student does not"
        )
    if not np.ptp(training.mos) > 0:
        raise DataError(
            f"config.train_split={training.split}: every label is {abs(training.mos[0]):g}; expected labels "
            "that vary, there is nothing to learn from these"
        )
    _check_apart(training, validation)
    return training, validation


def _check_apart(training: PairSource, validation: PairSource) -> None:
    """Raises DataError if a picture that is trained on is validated on too, under whatever name."""
    where = f"config.train_split={training.split}", f"config.validation_split={validation.split}"
    shared = set(training.reference) & set(validation.reference)
    if shared:
        raise DataError(
            f"the reference {min(shared)} is in both {where[0]} and {where[1]}; split between references"
        )
    trained_on = {digest: name for name, digest in training.digests().items()}
    twice = [(trained_on[d], name) for name, d in validation.digests().items() if d in trained_on]
    if twice:
        one, other = twice[0]
        more = f" (and {len(twice) - 1} more)" if len(twice) > 1 else ""
        raise DataError(
            f"{one} in {where[0]} and {other} in {where[1]} are one picture under two names{more}; put both "
            "names into the same part, or leave one of them out of the data"
        )


def batch_sizes(config: TrainConfig, training: PairSource, pseudo: PairSource | None) -> tuple[int, int]:
    """How many labelled and how many pseudo-labelled pairs there are in a batch.

    Raises:
      ConfigError: there are fewer in all, or none of one in a batch; a student has no pseudo-labelled ones.
    """
    if config.pseudo_labelled and pseudo is None:
        raise ConfigError(
            f"config.pseudo_ratio={config.pseudo_ratio}: expected pseudo-labelled pairs, which "
            "`train_student` makes; with 0 a student trains on the labels alone"
        )
    share = config.pseudo_ratio / (1 + config.pseudo_ratio) if pseudo else 0
    from_pseudo = round(config.batch_size * share)
    sizes = (config.batch_size - from_pseudo, from_pseudo)
    if pseudo and not all(sizes):
        raise ConfigError(
            f"config.pseudo_ratio={config.pseudo_ratio}: makes {sizes[0]} labelled and {sizes[1]} "
            f"pseudo-labelled images in a batch of {config.batch_size}; expected one or more of each"
        )
    for name, source, size in (("training", training, sizes[0]), ("pseudo-labelled", pseudo, sizes[1])):
        if source is not None and len(source) < size:
            raise ConfigError(
                f"config.batch_size={config.batch_size}: takes {size} {name} pairs, there are {len(source)}"
            )
    return sizes


def check_divisible(config: TrainConfig, devices: int) -> None:
    """Raises ConfigError for a batch that cannot be split into equal parts."""
    if config.batch_size % (config.accumulation * devices):
        raise ConfigError(
            f"config.batch_size={config.batch_size}: expected a multiple of "
            f"config.accumulation={config.accumulation} times the number of devices, {devices}"
        )


@dataclasses.dataclass(frozen=True)
class Schedule:
    """At which steps a run does what.

    Attributes:
      steps_per_epoch: whole batches of the training pairs.
      total_steps: of all epochs, over which the learning rate changes.
      last_step: where the run ends.
      eval_every, checkpoint_every: steps from one to the next.
      evaluates_first: whether the weights that a run starts from are evaluated too.
    """

    steps_per_epoch: int
    total_steps: int
    last_step: int
    eval_every: int
    checkpoint_every: int
    evaluates_first: bool = False

    @classmethod
    def of(cls, config: TrainConfig, steps_per_epoch: int) -> "Schedule":
        """Raises ConfigError for more steps than can be counted, or a warm-up longer than the schedule."""
        total_steps = config.num_epochs * steps_per_epoch
        if total_steps >= 2**31:
            raise ConfigError(
                f"config.num_epochs={config.num_epochs}: makes {total_steps} steps, {steps_per_epoch} an "
                "epoch; expected fewer than 2147483648"
            )
        scheduled = max(total_steps, config.num_steps) if config.schedule == "constant" else total_steps
        if config.warmup_steps >= scheduled:
            raise ConfigError(
                f"config.warmup_steps={config.warmup_steps}: expected fewer than the {scheduled} steps of "
                f"the schedule ({config.num_epochs} epochs of {steps_per_epoch})"
            )
        return cls(
            steps_per_epoch=steps_per_epoch,
            total_steps=total_steps,
            last_step=config.num_steps or total_steps,
            eval_every=config.eval_every or steps_per_epoch,
            checkpoint_every=config.checkpoint_every or steps_per_epoch,
            evaluates_first=bool(config.init_from),
        )

    def evaluates_at(self, step: int) -> bool:
        """Whether an evaluation is due."""
        if step == 0:
            return self.evaluates_first
        return step % self.eval_every == 0 or step >= self.last_step

    def next_due(self, step: int) -> int:
        """The first step after this one with an evaluation, a checkpoint or the end."""
        regular = ((step // every + 1) * every for every in (self.eval_every, self.checkpoint_every))
        return min(*regular, self.last_step)


def model_config_for(config: TrainConfig, training: PairSource) -> ModelConfig:
    """The model that `config` asks for, on the scale of the training pairs' labels."""
    mean, deviation = _PIPAL_MOS
    if config.dataset != "pipal":
        mean, deviation = round(float(training.mos.mean()), 4), round(float(training.mos.std()), 4)
    ends = (training.score.low, training.score.high)
    low, high = ends if training.score.higher_is_better else (0.0 - ends[1], 0.0 - ends[0])  # not -0.0
    return ModelConfig(
        name=config.model,
        backbone=config.backbone,
        dropout=config.dropout if config.full_reference else config.noise.dropout,
        stochastic_depth=0.0 if config.full_reference else config.noise.stochastic_depth,
        dim=config.dim,
        heads=config.heads,
        **config.chosen_taps,
        crop_size=config.crop_size,
        mos_mean=mean,
        mos_std=deviation,
        mos_low=low,
        mos_high=high,
        dtype=config.dtype,
    )


def data_record(training: PairSource, validation: PairSource, *, by_reference: bool) -> dict:
    """What a run is trained on and validated on, for its config.json; references with their digests.

    Args:
      by_reference: whether a file of splits divided them.
    """

    def of(source):
        return {
            "split": source.split,
            "by_reference": by_reference,
            "pairs": len(source),
            "mos_mean": round(float(source.mos.mean()), 4),
            "mos_std": round(float(source.mos.std()), 4),
            "references": source.digests(),
        }

    return {"dataset": training.dataset, "training": of(training), "validation": of(validation)}


def changed(before: dict, now: dict) -> str | None:
    """The first difference between two records of `data_record`, as a phrase; None if there is none."""
    for part in ("training", "validation"):
        for name, value in now[part].items():
            earlier = before[part].get(name)
            if name == "references" and earlier != value:
                return f"{part} references"
            if name != "split" and earlier != value:
                return f"{part} {name} {value}, before {earlier}"
    return None
