"""A training run: what it reads, the loop, evaluation, checkpoints, and going on where it stopped."""

import contextlib
import dataclasses
import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tqdm import tqdm

from iqa_jax import __version__, processes
from iqa_jax.augment import Cropping
from iqa_jax.batches import Examples, Order
from iqa_jax.checkpoints import Checkpoints, Saved
from iqa_jax.conversion import pretrained_backbone
from iqa_jax.data import PairSource
from iqa_jax.datasets import prepare
from iqa_jax.ending import STOP_SIGNALS
from iqa_jax.errors import ConfigError, DataError, TrainingError, WeightsError
from iqa_jax.feed import Feed
from iqa_jax.files import Busy, locked, writable_directory, write_whole
from iqa_jax.metrics import baselines, correlations, srcc
from iqa_jax.models import IQA_MODELS, ModelConfig, build, split_model
from iqa_jax.noise import InputNoise
from iqa_jax.placement import Placement
from iqa_jax.plots import save_scatter
from iqa_jax.scoring import PairScorer
from iqa_jax.splits import part_of_splits
from iqa_jax.training import (
    TrainState,
    evaluated,
    from_arrays,
    initial_state,
    jit_step,
    jit_steps,
    make_optimizer,
    make_train_step,
    to_arrays,
)
from iqa_jax.weights import (
    FORMAT,
    STORED,
    backbone_weights,
    flat_weights,
    model_with,
    read_config,
    read_weights,
    save_weights,
)

# Fields that may differ when a run goes on: they do not change what a step does.
_FREE_FIELDS = (
    "num_steps",
    "eval_every",
    "checkpoint_every",
    "keep_checkpoints",
    "data_dir",
    "data",
    "crops",
)
_AT_ONCE = 10  # steps in one dispatch, where the images are on the devices
_LOOK_EVERY = 10  # steps between looks at the loss, each of which waits for the device
_PIPAL_MOS = (1448.9595, 121.5351)  # mean and deviation that the original normalises with


def train(
    config: ConfigDict,
    workdir: str | os.PathLike,
    *,
    reason: str = "",
    pseudo: PairSource | None = None,
    pseudo_origin: dict | None = None,
) -> dict:
    """Trains an IQA model, or goes on with the run that is in `workdir`.

    A run that was stopped at any step and goes on ends with the same bits as one that never was.

    Args:
      config: see `configs/conformer.py` and, for a model without reference, `configs/student.py`.
      workdir: gets config.json, backbone/, checkpoints/, metrics.jsonl, TensorBoard events and
        scatter.png.
      reason: why this data set, to be said and recorded.
      pseudo: pseudo-labelled pairs for a model without reference, and `pseudo_origin`, where their
        labels come from, to be recorded.
    Returns:
      The last line of metrics.jsonl.
    Raises:
      ConfigError, DataError, WeightsError: what is asked for does not fit or is not there.
      TrainingError: the loss is not finite.
      Interrupted: by Ctrl-C or a signal that asks to stop, after saving.
    """
    workdir = writable_directory(workdir).absolute()
    with _alone_in(workdir):
        return _train(config, workdir, reason=reason, pseudo=pseudo, pseudo_origin=pseudo_origin)


@contextlib.contextmanager
def _alone_in(workdir: Path) -> Iterator[None]:
    """Refuses a second run in a directory; the processes of one run count as one."""
    with contextlib.ExitStack() as stack:
        if processes.is_first():
            try:
                stack.enter_context(locked(workdir / ".lock", wait=False))
            except Busy:
                raise ConfigError(
                    f"{workdir}: another training is at work there; wait for its end, stop it, or choose "
                    "another --workdir"
                ) from None
        yield


def _train(config: ConfigDict, workdir: Path, *, reason: str, pseudo, pseudo_origin) -> dict:
    first = processes.is_first()
    placement = Placement.of(jax.devices())
    devices = placement.mesh.size
    if config.batch_size % (config.accumulation * devices):
        raise ConfigError(
            f"config.batch_size={config.batch_size}: expected a multiple of "
            f"config.accumulation={config.accumulation} times the number of devices, {devices}"
        )
    say(f"data: {config.dataset} ({reason})" if reason else f"data: {config.dataset}")
    training, validation = open_data(config)
    sources = {"training": training, "validation": validation} | (
        {"pseudo-labelled": pseudo} if pseudo else {}
    )
    for name, source in sources.items():
        say(f"  {name}: {len(source):,} pairs of {len(set(source.reference))} references ({source.split})")
    full_reference = IQA_MODELS[config.model].full_reference
    sizes = _batch_sizes(config, training, pseudo)
    steps_per_epoch = len(training) // sizes[0]
    model_config = model_config_for(config, training)
    total_steps = config.num_epochs * steps_per_epoch
    if config.warmup_steps >= total_steps:
        raise ConfigError(
            f"config.warmup_steps={config.warmup_steps}: expected fewer than the {total_steps} steps of the "
            f"schedule ({config.num_epochs} epochs of {steps_per_epoch})"
        )
    origin = {"dataset": config.dataset, "reason": reason, "version": __version__}
    origin |= {"pseudo_labels": pseudo_origin} if pseudo_origin else {}
    record = {
        "format": FORMAT,
        "model": dataclasses.asdict(model_config),
        "source": origin,
        "training": config.to_dict(),
        "steps_per_epoch": steps_per_epoch,
        "data": _data_record(training, validation, by_reference=bool(config.splits)),
    }
    with processes.first_before_others("begin"):
        model = model_with(model_config, _begun(workdir, config, model_config, record))
    backbone_rate = config.get("backbone_learning_rate", 0.0)
    eval_graph, trained, frozen = split_model(model, tune_backbone=backbone_rate > 0)
    model.train()
    train_graph, _, _ = split_model(model, tune_backbone=backbone_rate > 0)

    last_step = config.num_steps or total_steps
    optimizer = make_optimizer(
        config.learning_rate,
        kind=config.optimizer,
        schedule=config.schedule,
        warmup_steps=config.warmup_steps,
        total_steps=total_steps,
        backbone_learning_rate=backbone_rate,
    )
    train_step = make_train_step(
        train_graph,
        optimizer,
        seed=config.seed,
        rotation=config.rotation,
        accumulation=config.accumulation,
        ema_decay=config.ema_decay,
        **(noise := _noise(config)),
    )
    cropping = Cropping(config.seed, config.crop_size, noise=bool(noise))
    examples = Examples([training, *([pseudo] if pseudo else [])], with_references=full_reference)
    order = Order(examples.lengths, sizes[: len(examples.lengths)], seed=config.seed)
    state = initial_state(trained, optimizer, ema=config.ema_decay > 0)
    eval_every = config.eval_every or steps_per_epoch
    checkpoint_every = config.checkpoint_every or steps_per_epoch
    scorer = PairScorer(
        eval_graph, full_reference=full_reference, crop_size=config.crop_size, crops=config.crops
    )
    evaluator = _Evaluator(workdir, validation, scorer)

    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(
            Checkpoints(
                workdir,
                keep=config.keep_checkpoints,
                every=steps_per_epoch if config.keep_epochs else None,
                say=say,
            )
        )
        found = checkpoints.read_latest()
        if found:
            state = from_arrays(state, _of_this_version(found[1], workdir))
            say(f"going on from step {found[0]}")
        state, frozen = placement.put_everywhere((state, frozen))
        step = int(state.step)
        going_on = step < last_step
        last_line = int(state.evaluated_step) if going_on else step
        log = stack.enter_context(_Log(workdir, first_step=step, last_line=last_line, writes=first))
        stop = stack.enter_context(_stop_signals())
        bar = stack.enter_context(
            tqdm(
                total=last_step,
                initial=step,
                desc="training",
                unit="step",
                dynamic_ncols=True,
                disable=not first,
            )
        )
        if going_on:
            feed = Feed(examples, order, cropping, placement, kept=config.data.placement, say=say)
            take_step = jit_step(train_step, placement, feed.batch)
            take_steps = jit_steps(train_step, placement, feed.batch)
            at_once = config.data.steps_at_once or (_AT_ONCE if feed.kept == "device" else 1)
        unseen: list[jax.Array] = []  # losses that nobody has looked at
        stack.enter_context(_lost_process_named(checkpoints))
        while step < last_step:
            due = min(_next(step, eval_every), _next(step, checkpoint_every), last_step)
            if feed.kept == "device" and 1 < at_once <= due - step:
                draws = feed.several(step, at_once)
                state, losses = take_steps(state, frozen, feed.store, draws)
            else:
                state, losses = take_step(state, frozen, feed.store, feed.take(step))
            step += losses.size
            bar.update(losses.size)
            unseen.append(losses)
            evaluation_due = step % eval_every == 0 or step == last_step
            checkpoint_due = step == due
            look_due = sum(x.size for x in unseen) >= _LOOK_EVERY or checkpoint_due
            stopping = bool(stop) if jax.process_count() == 1 else look_due and processes.any_of(bool(stop))
            if look_due or stopping:
                _look(unseen, step, bar, log, checkpoints)
            metrics = None
            if evaluation_due:
                since = step - int(state.evaluated_step)
                metrics = {"loss": float(state.loss_sum) / since} | evaluator(state, frozen)
                log.evaluation(step, step / steps_per_epoch, metrics)
                if step % eval_every == 0:
                    state = evaluated(state)
                bar.set_postfix_str(f"srcc {metrics['srcc']:.3f}")
            if checkpoint_due or stopping:
                checkpoints.save(step, to_arrays(state), srcc=metrics and metrics["srcc"])
            if stopping:
                checkpoints.wait()
                raise Interrupted(stop[0] if stop else signal.SIGTERM, step)
        checkpoints.wait()
        best = checkpoints.best_step()
    last = log.lines[-1]
    if first:
        _closing_table(log.lines, best, workdir)
    if first and evaluator.predicted is not None:
        save_scatter(workdir / "scatter.png", evaluator.predicted, validation.mos)
    return last


class Interrupted(Exception):
    """The run was asked to stop; everything up to `step` is saved."""

    def __init__(self, signal_number: int, step: int):
        self.exit_code = 128 + signal_number
        super().__init__(
            f"stopped at step {step} ({signal.Signals(signal_number).name}), all is saved; "
            "run the same command again to go on"
        )


def _next(step: int, every: int) -> int:
    """The first multiple of `every` after `step`."""
    return (step // every + 1) * every


@contextlib.contextmanager
def _lost_process_named(checkpoints: Checkpoints) -> Iterator[None]:
    """What JAX raises when another process of the run has ended, as an error that says so."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        steps = checkpoints.steps
        saved = f"saved is step {steps[-1]}" if steps else "no checkpoint yet"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise TrainingError(
            f"another process of the run has ended or cannot be reached ({reason}); {saved}. Start the same "
            "command again in all processes to go on"
        ) from None


def say(line: str) -> None:
    """Prints a line beside the progress bar; the first process alone does."""
    if not processes.is_first():
        return
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


def open_data(config: ConfigDict) -> tuple[PairSource, PairSource]:
    """Training and validation pairs, prepared if need be.

    Raises:
      DataError, ConfigError: they are not there, share a reference, have no labels or are too small.
    """
    builder = prepare(config.dataset, data_dir=config.data_dir or None)
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
    if not np.ptp(training.mos) > 0:
        raise DataError(
            f"config.train_split={training.split}: every label is {abs(training.mos[0]):g}; expected labels "
            "that vary, there is nothing to learn from these"
        )
    shared = set(training.reference) & set(validation.reference)
    if shared:
        raise DataError(
            f"the reference {min(shared)} is in both config.train_split={training.split} and "
            f"config.validation_split={validation.split}; split between references"
        )
    return training, validation


def _batch_sizes(config: ConfigDict, training: PairSource, pseudo: PairSource | None) -> tuple[int, int]:
    """How many labelled and how many pseudo-labelled pairs there are in a batch.

    Raises:
      ConfigError: there are fewer in all, or none of a kind in a batch.
    """
    share = config.pseudo_ratio / (1 + config.pseudo_ratio) if pseudo else 0
    from_pseudo = round(config.batch_size * share)
    sizes = (config.batch_size - from_pseudo, from_pseudo)
    if pseudo and not all(sizes):
        raise ConfigError(
            f"config.pseudo_ratio={config.pseudo_ratio}: makes {sizes[0]} labelled and {sizes[1]} "
            f"pseudo-labelled images in a batch of {config.batch_size}; expected one or more of each"
        )
    for kind, source, size in (("training", training, sizes[0]), ("pseudo-labelled", pseudo, sizes[1])):
        if source is not None and len(source) < size:
            raise ConfigError(
                f"config.batch_size={config.batch_size}: takes {size} {kind} pairs, there are {len(source)}"
            )
    return sizes


def _noise(config: ConfigDict) -> dict:
    """What `make_train_step` takes of a student's configuration."""
    if IQA_MODELS[config.model].full_reference or not config.pseudo_ratio:
        return {}
    noise = InputNoise(**{f.name: config.noise[f.name] for f in dataclasses.fields(InputNoise)})
    return {"noise": noise, "pseudo_weight": config.pseudo_weight}


def model_config_for(config: ConfigDict, training: PairSource) -> ModelConfig:
    """The model that `config` asks for, on the scale of the training pairs' labels."""
    mean, deviation = _PIPAL_MOS
    if config.dataset != "pipal":
        mean, deviation = round(float(training.mos.mean()), 4), round(float(training.mos.std()), 4)
    ends = (training.score.low, training.score.high)
    low, high = ends if training.score.higher_is_better else (-ends[1], -ends[0])
    noise = config.get("noise", {})
    return ModelConfig(
        name=config.model,
        backbone=config.backbone,
        dropout=noise["dropout"] if noise else config.dropout,
        stochastic_depth=noise["stochastic_depth"] if noise else 0.0,
        crop_size=config.crop_size,
        mos_mean=mean,
        mos_std=deviation,
        mos_low=low,
        mos_high=high,
        dtype=config.dtype,
    )


def _data_record(training: PairSource, validation: PairSource, *, by_reference: bool) -> dict:
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


def _begun(
    workdir: Path, config: ConfigDict, model_config: ModelConfig, record: dict
) -> dict[str, jax.Array]:
    """The initial weights of the run in `workdir`; begins it, or makes sure that it is the same run.

    A run without a checkpoint begins anew, whatever its settings were.
    """
    if Saved(workdir).steps:
        if not (workdir / "config.json").exists():
            raise WeightsError(f"{workdir}: has checkpoints but no config.json; choose another --workdir")
        _check_same_run(workdir, config, model_config, record)
        return _initial_weights(workdir, config, model_config)
    if (workdir / "weights").exists():
        raise WeightsError(f"{workdir}: holds converted weights, not a run; choose another --workdir")
    weights = _initial_weights(workdir, config, model_config, anew=True)
    for left_over in ("metrics.jsonl", "baselines.json"):
        (workdir / left_over).unlink(missing_ok=True)
    write_whole(workdir / "config.json", json.dumps(record, indent=2) + "\n")
    return weights


def _check_same_run(workdir: Path, config: ConfigDict, model_config: ModelConfig, record: dict) -> None:
    """Raises ConfigError or DataError if settings or data are others than when the run began."""
    before = read_config(workdir)
    if before.get("training") is None:
        raise WeightsError(f"{workdir}: holds converted weights, not a run; choose another --workdir")
    free = set(_FREE_FIELDS)
    if config.schedule == "constant":
        free.add("num_epochs")
    for field, value in config.to_dict().items():
        if field not in free and before["training"].get(field, value) != value:
            raise ConfigError(
                f"config.{field}={value}, but the run in {workdir} has {before['training'].get(field)}; "
                "choose another --workdir, or the same settings to go on"
            )
    if before["source"].get("pseudo_labels") != record["source"].get("pseudo_labels"):
        raise ConfigError(
            f"config.teacher={config.teacher}: other weights or pairs than when the run in {workdir} began; "
            "choose another --workdir"
        )
    change = _changed(before.get("data", record["data"]), record["data"])
    scale = ModelConfig(**before["model"])
    if change is None and (scale.mos_mean, scale.mos_std) != (model_config.mos_mean, model_config.mos_std):
        change = f"labels of mean {model_config.mos_mean:g} and deviation {model_config.mos_std:g}, before "
        change += f"{scale.mos_mean:g} and {scale.mos_std:g}"
    if change:
        raise DataError(
            f"the data have changed since the run in {workdir} began: {change}; choose another --workdir, or "
            "prepare the same data again to go on"
        )


def _changed(before: dict, now: dict) -> str | None:
    """The first difference between two records of `_data_record`, as a phrase; None if there is none."""
    for part in ("training", "validation"):
        for name, value in now[part].items():
            earlier = before[part].get(name)
            if name == "references" and earlier != value:
                return f"{part} references"
            if name != "split" and earlier != value:
                return f"{part} {name} {value}, before {earlier}"
    return None


def _of_this_version(arrays: dict[str, np.ndarray], workdir: Path) -> dict[str, np.ndarray]:
    """A checkpoint's arrays; one that does not know its last evaluation is told by metrics.jsonl."""
    if "evaluated_step" in arrays:
        return arrays
    steps = [line["step"] for line in _read_lines(workdir / "metrics.jsonl")]
    steps = [step for step in steps if step <= arrays["step"]]
    return {**arrays, "evaluated_step": np.int32(max(steps, default=0))}


def _initial_weights(
    workdir: Path, config: ConfigDict, model_config: ModelConfig, *, anew: bool = False
) -> dict[str, jax.Array]:
    """Random ones, but for the backbone's, which are kept in the run from its first start on."""
    model = build(model_config, rngs=nnx.Rngs(config.seed))
    weights = flat_weights(nnx.state(model, STORED))
    kept = workdir / "backbone"
    if kept.is_dir() and not anew:
        _, backbone, record = read_weights(kept)
        origin = record["source"]
    else:
        if config.backbone_weights == "random":
            backbone = backbone_weights(model_config, weights)
            origin = {"file": "random", "seed": config.seed}
        else:
            backbone, origin = pretrained_backbone(config.backbone, config.backbone_weights)
        save_weights(kept, ModelConfig(config.backbone, config.backbone), backbone, origin)
    say(f"model: {config.model} on {config.backbone}, backbone weights: {origin['file']}")
    return weights | {f"backbone.{name}": array for name, array in backbone.items()}


class _Evaluator:
    """Raw and averaged weights on the whole validation split, beside PSNR and SSIM."""

    def __init__(self, workdir: Path, source: PairSource, scorer: PairScorer):
        self.source = source
        self._scorer = scorer
        self._baselines_file = workdir / "baselines.json"
        self._baselines: dict | None = None
        self.predicted: np.ndarray | None = None  # (N,) by the latest evaluation; averaged weights if kept

    def predict(self, state: TrainState, frozen: nnx.State) -> np.ndarray:
        """Predicted MOS (1 or 2, N): with the raw weights and, where they are kept, the average."""
        sets = [state.trained] if state.ema is None else [state.trained, state.ema]
        references = list(dict.fromkeys(self.source.reference))[jax.process_index() :: jax.process_count()]
        mine = np.flatnonzero(np.isin(self.source.reference, references))
        found = np.zeros((len(sets), len(self.source)), np.float32)
        with tqdm(
            total=len(mine),
            desc="evaluating",
            unit="pair",
            leave=False,
            dynamic_ncols=True,
            disable=not processes.is_first(),
        ) as bar:
            if len(mine):
                sets, frozen = processes.local((sets, frozen))
                part = self.source.select(mine)
                found[:, mine] = self._scorer.predict(part, frozen, sets, progress=bar.update)
        return processes.merged(found, mine)

    def __call__(self, state: TrainState, frozen: nnx.State) -> dict[str, float]:
        metrics = {}
        predictions = self.predict(state, frozen)
        self.predicted = predictions[-1]
        for prefix, predicted in zip(("", "ema_"), predictions, strict=False):
            found = correlations(predicted, self.source.mos)
            metrics |= {f"{prefix}{name}": value for name, value in found.items()}
        return metrics | self._baseline_srcc()

    def _baseline_srcc(self) -> dict[str, float]:
        if self._baselines is None:
            self._baselines = _read_baselines(self._baselines_file)
        if self._baselines is None:
            with tqdm(total=len(self.source), desc="PSNR and SSIM", unit="pair", leave=False) as bar:
                scores = baselines(self.source, progress=bar.update)
            self._baselines = {
                f"{name}_srcc": srcc(values, self.source.mos) for name, values in scores.items()
            }
            if processes.is_first():
                write_whole(self._baselines_file, json.dumps(self._baselines) + "\n")
        return self._baselines


def _read_baselines(path: Path) -> dict[str, float] | None:
    """What was measured before; None if it was not, or the file is damaged."""
    try:
        found = json.loads(path.read_text())
        return {name: float(found[name]) for name in ("psnr_srcc", "ssim_srcc")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


class _Log:
    """metrics.jsonl, a line for each evaluation, and TensorBoard events.

    When a run goes on at `first_step`, lines beyond `last_line`, the last regular evaluation up to there,
    go: they are written anew, or were of a step that was the end only then.  Of several processes one
    writes.
    """

    def __init__(self, workdir: Path, *, first_step: int, last_line: int, writes: bool = True):
        self._writes = writes
        self._path = workdir / "metrics.jsonl"
        self.lines = [line for line in _read_lines(self._path) if line["step"] <= last_line]
        self._rewrite()
        self._directory, self._first_step = workdir, first_step

    def __enter__(self):
        if not self._writes:
            return self
        self._events = EventFileWriter(str(self._directory / "tensorboard"), flush_secs=30)
        if self._first_step:  # what the stopped run wrote beyond this step does not count
            self._add_event(self._first_step + 1, session_log=SessionLog(status=SessionLog.START))
        return self

    def __exit__(self, *_):
        if self._writes:
            self._events.close()

    def evaluation(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        line = {"step": step, "epoch": round(epoch, 4), **metrics}
        self.lines.append({name: value if math.isfinite(value) else None for name, value in line.items()})
        self._rewrite()
        for name, value in metrics.items():
            self.scalar(f"validation/{name}", value, step)
        shown = ", ".join(
            f"{n} {metrics[n]:.4f}" for n in ("loss", "plcc", "srcc", "rmse", "ema_srcc") if n in metrics
        )
        say(f"step {step}: {shown}")

    def scalar(self, name: str, value: float, step: int) -> None:
        self._add_event(step, summary=Summary(value=[Summary.Value(tag=name, simple_value=value)]))

    def _add_event(self, step: int, **content) -> None:
        if self._writes:
            self._events.add_event(Event(step=step, wall_time=time.time(), **content))

    def _rewrite(self) -> None:
        if not self._writes:
            return
        write_whole(self._path, "".join(json.dumps(line) + "\n" for line in self.lines))


def _read_lines(path: Path) -> list[dict]:
    """The lines of metrics.jsonl in order; what is damaged in it is named and left out."""
    if not path.exists():
        return []
    lines, damaged = [], []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        try:
            content = json.loads(line)
            lines.append({**content, "step": int(content["step"])})
        except (ValueError, KeyError, TypeError):
            damaged.append(number)
    if damaged:
        say(f"{path}: damaged in line {', '.join(map(str, damaged))}; the other lines are kept")
    return lines


def _look(unseen: list, step: int, bar: tqdm, log: _Log, checkpoints: Checkpoints) -> None:
    """Fetches the latest losses, shows and logs them, and stops the run if one is not finite."""
    losses = np.concatenate([np.atleast_1d(x) for x in jax.device_get(unseen)])
    first = step - len(losses) + 1
    unseen.clear()
    if not np.isfinite(losses).all():
        bad = first + int(np.flatnonzero(~np.isfinite(losses))[0])
        good = (
            f"the last good checkpoint is step {checkpoints.steps[-1]}"
            if checkpoints.steps
            else "no checkpoint yet"
        )
        raise TrainingError(
            f"the loss of step {bad} is {losses[bad - first]}; {good}. A lower config.learning_rate in a "
            "new --workdir may help"
        )
    bar.set_postfix_str(f"loss {losses.mean():.4f}")
    for number, loss in enumerate(losses):
        log.scalar("training/loss", loss, first + number)
    if bar.format_dict["rate"]:
        log.scalar("training/steps_per_second", bar.format_dict["rate"], step)


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that gets the number of the first signal that asks to stop; a second Ctrl-C ends at once."""
    received: list[int] = []

    def handle(number, frame):
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        say(f"{signal.Signals(number).name}: saving after this step; press Ctrl-C again to end without")

    wanted = [n for n in (*STOP_SIGNALS, signal.SIGINT) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in wanted}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _closing_table(lines: list[dict], best: int | None, workdir: Path) -> None:
    columns = ("step", "epoch", "loss", "plcc", "srcc", "krcc", "rmse", "main_score", "ema_srcc")
    table = Table(title=f"validation; best by SRCC: step {best}")
    shown = [c for c in columns if c in lines[-1]]
    for column in shown:
        table.add_column(column, justify="right")
    for line in lines[-10:]:
        table.add_row(*(_cell(line.get(column)) for column in shown))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    last = lines[-1]
    psnr, ssim = (_cell(last.get(name)) for name in ("psnr_srcc", "ssim_srcc"))
    console.print(f"SRCC on the same pairs: PSNR {psnr}, SSIM {ssim}")
    console.print(f"run: {workdir} (metrics.jsonl, scatter.png, checkpoints/)", soft_wrap=True)


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
