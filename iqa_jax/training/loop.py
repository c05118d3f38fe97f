"""Training: the loop, which reads like the recipe, and how it is stopped."""

import dataclasses
import math
import os
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from tqdm import tqdm

from iqa_jax import __version__
from iqa_jax.data.source import PairSource
from iqa_jax.errors import ConfigError, TrainingError
from iqa_jax.files import naming
from iqa_jax.models import IQA_MODELS, ModelConfig, split_model
from iqa_jax.ops import keys
from iqa_jax.ops.augment import Cropping
from iqa_jax.ops.noise import InputNoise
from iqa_jax.parallel import processes
from iqa_jax.reporting.plots import save_scatter
from iqa_jax.training.batches import Examples, Order
from iqa_jax.training.config import check
from iqa_jax.training.feed import Feed
from iqa_jax.training.initial import Start, start_of, with_architecture
from iqa_jax.training.inputs import batch_sizes, data_record, model_config_for, open_data
from iqa_jax.training.log import Log, closing_table, progress_bar, read_lines, say
from iqa_jax.training.placement import Placement
from iqa_jax.training.run import begun, check_settings, of_this_version, run_directory
from iqa_jax.training.step import (
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
from iqa_jax.training.stopping import Interrupted, Stop, failures_told_once, lost_process_named, stop_signals
from iqa_jax.training.validation import Abandoned, Evaluator
from iqa_jax.weights.checkpoints import Checkpoints
from iqa_jax.weights.flat import iqa_model_with
from iqa_jax.weights.record import made_record

_AT_ONCE = 10  # steps in one dispatch, where the images are on the devices
_LOOK_EVERY = 10  # steps between looks at the loss, each of which waits for the device


def train(
    config: ConfigDict,
    workdir: str | os.PathLike,
    *,
    reason: str = "",
    pseudo: PairSource | None = None,
    pseudo_origin: dict | None = None,
) -> dict:
    """Trains an IQA model, or resumes the run that is in `workdir`.

    A run that was stopped at any step and resumes ends with the same bits as one that never was.

    Args:
      config: see `iqa_jax.configs.conformer` and, for a model without reference, `iqa_jax.configs.student`.
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
    check(config)
    with run_directory(workdir) as workdir, failures_told_once():
        placement = _checked_placement(config)
        start = start_of(config, workdir)
        config = with_architecture(config, start)
        check_settings(workdir, config)
        plan = _planned(config, workdir, reason, start, pseudo, pseudo_origin)
        frozen, state, evaluation_graph, train_step = _built(config, plan)
        evaluator = Evaluator(plan.validation, evaluation_graph, crops=config.crops)
        kept_epochs = plan.steps_per_epoch if config.keep_epochs else None
        with Checkpoints(workdir, keep=config.keep_checkpoints, every=kept_epochs, say=say) as checkpoints:
            lines: list[dict] = []
            if saved := checkpoints.read_latest():
                arrays, seal = saved
                lines = read_lines(workdir) if seal.evaluations is None else seal.evaluations
                state = from_arrays(state, of_this_version(arrays, lines))
                say(f"resuming at step {state.step}")
            state, frozen = placement.put_everywhere((state, frozen))
            if int(state.step) < plan.last_step:
                # A line after the last regular evaluation is of a step that was the end only then.
                lines = [line for line in lines if line["step"] <= state.evaluated_step]
            evaluator.know_baselines(lines)
            with Log(workdir, lines, first_step=int(state.step), writes=processes.is_first()) as log:
                loop = _Loop(config, plan, placement, train_step, evaluator, checkpoints, log)
                loop.run(state, frozen)
            best = checkpoints.best_step()
        if processes.is_first():
            closing_table(log.lines, best, workdir)
            if evaluator.predicted is not None:
                with naming(workdir / "scatter.png"):
                    save_scatter(workdir / "scatter.png", evaluator.predicted, plan.validation.mos)
        return log.lines[-1]


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What a run does, before anything is computed.

    Attributes:
      validation: the pairs to validate on.
      examples, order, cropping: what the batches are made of.
      weights, model_config: of the model at the start.
      steps_per_epoch, total_steps: of the schedule.
      last_step: where the run ends.
    """

    validation: PairSource
    examples: Examples
    order: Order
    cropping: Cropping
    weights: dict
    model_config: ModelConfig
    steps_per_epoch: int
    total_steps: int
    last_step: int


def _checked_placement(config: ConfigDict) -> Placement:
    placement = Placement.of(jax.devices())
    devices = placement.mesh.size
    if config.batch_size % (config.accumulation * devices):
        raise ConfigError(
            f"config.batch_size={config.batch_size}: expected a multiple of "
            f"config.accumulation={config.accumulation} times the number of devices, {devices}"
        )
    return placement


def _planned(
    config: ConfigDict, workdir: Path, reason: str, start: Start | None, pseudo, pseudo_origin
) -> _Plan:
    """Opens the data, checks that all fits, and begins the run's directory or checks it."""
    say(f"data: {config.dataset} ({reason})" if reason else f"data: {config.dataset}")
    training, validation = open_data(config)
    named = {"training": training, "validation": validation, "pseudo-labelled": pseudo}
    for name, source in named.items():
        if source is not None:
            references = len(set(source.reference))
            say(f"  {name}: {len(source):,} pairs of {references} references ({source.split})")
    sizes = batch_sizes(config, training, pseudo)
    steps_per_epoch = len(training) // sizes[0]
    total_steps = config.num_epochs * steps_per_epoch
    if total_steps >= 2**31:
        raise ConfigError(
            f"config.num_epochs={config.num_epochs}: makes {total_steps} steps, {steps_per_epoch} an epoch; "
            "expected fewer than 2147483648"
        )
    scheduled = max(total_steps, config.num_steps) if config.schedule == "constant" else total_steps
    if config.warmup_steps >= scheduled:
        raise ConfigError(
            f"config.warmup_steps={config.warmup_steps}: expected fewer than the {scheduled} steps of the "
            f"schedule ({config.num_epochs} epochs of {steps_per_epoch})"
        )
    model_config = model_config_for(config, training)
    origin = {
        "dataset": config.dataset,
        "reason": reason,
        "version": __version__,
        "random_keys": keys.VERSION,
    }
    if start:
        origin["init_from"] = start.origin
    record = made_record(
        model_config,
        origin | ({"pseudo_labels": pseudo_origin} if pseudo_origin else {}),
        training=config.to_dict(),
        steps_per_epoch=steps_per_epoch,
        data=data_record(training, validation, by_reference=bool(config.splits)),
    )
    with processes.first_before_others("begin"):
        weights = begun(workdir, config, model_config, record, start)
    full_reference = IQA_MODELS[config.model].full_reference
    examples = Examples([training, *([pseudo] if pseudo else [])], with_references=full_reference)
    return _Plan(
        validation=validation,
        examples=examples,
        order=Order(examples.lengths, sizes[: len(examples.lengths)], seed=config.seed),
        cropping=Cropping(config.seed, config.crop_size, noise=bool(_noise(config))),
        weights=weights,
        model_config=model_config,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        last_step=config.num_steps or total_steps,
    )


def _built(config: ConfigDict, plan: _Plan):
    """Frozen weights, the state at the start, the model's structure in evaluation, and the step."""
    backbone_rate = config.get("backbone_learning_rate", 0.0)
    model = iqa_model_with(plan.model_config, plan.weights)
    evaluation_graph, trained, frozen = split_model(model, tune_backbone=backbone_rate > 0)
    model.train()
    train_graph, _, _ = split_model(model, tune_backbone=backbone_rate > 0)
    optimizer = make_optimizer(
        config.learning_rate,
        kind=config.optimizer,
        schedule=config.schedule,
        warmup_steps=config.warmup_steps,
        total_steps=plan.total_steps,
        backbone_learning_rate=backbone_rate,
    )
    train_step = make_train_step(
        train_graph,
        optimizer,
        seed=config.seed,
        rotation=config.rotation,
        accumulation=config.accumulation,
        ema_decay=config.ema_decay,
        **_noise(config),
    )
    return frozen, initial_state(trained, optimizer, ema=config.ema_decay > 0), evaluation_graph, train_step


def _noise(config: ConfigDict) -> dict:
    """What `make_train_step` takes of a student's configuration."""
    if IQA_MODELS[config.model].full_reference or not config.pseudo_ratio:
        return {}
    noise = InputNoise(**{f.name: config.noise[f.name] for f in dataclasses.fields(InputNoise)})
    return {"noise": noise, "pseudo_weight": config.pseudo_weight}


class _Loop:
    """Steps, evaluations and checkpoints, until the last step or a signal."""

    def __init__(self, config, plan: _Plan, placement, train_step, evaluator, checkpoints, log: Log):
        self._plan, self._evaluator, self._checkpoints, self._log = plan, evaluator, checkpoints, log
        self._data, self._placement, self._train_step = config.data, placement, train_step
        self._eval_every = config.eval_every or plan.steps_per_epoch
        self._checkpoint_every = config.checkpoint_every or plan.steps_per_epoch
        self._compiled: set[bool] = set()  # whether one step, whether several at once have run
        self._unseen: list[jax.Array] = []  # losses that nobody has looked at

    def run(self, state: TrainState, frozen: nnx.State) -> None:
        """Trains from the state's step on.

        Raises:
          TrainingError: the loss is not finite, or another process is lost.
          Interrupted: after saving.
        """
        step, last = int(state.step), self._plan.last_step
        if step >= last and not self._owes_evaluation(step):
            say(f"finished: the run is at step {step}, and ends at {last}")
            return
        bar = progress_bar(last, "training", "step", initial=step, leave=True)
        with stop_signals() as stop, bar, lost_process_named(self._checkpoints):
            if self._owes_evaluation(step):
                state = self._concluded(state, frozen, step, stop, bar, replace=True)
            if step < last:
                self._open_feed()
            while step < last:
                due = min(_next(step, self._eval_every), _next(step, self._checkpoint_every), last)
                state, losses = self._advanced(state, frozen, step, due, bar)
                step += losses.size
                if self._unseen:  # the bar counts what is done, not what was sent: one step ahead at most
                    jax.block_until_ready(self._unseen[-1])
                bar.update(losses.size)
                self._unseen.append(losses)
                looking = step == due or sum(x.size for x in self._unseen) >= _LOOK_EVERY
                alone = jax.process_count() == 1
                stopping = bool(stop) if alone else looking and processes.any_of(bool(stop))
                if looking or stopping:
                    self._look(step, bar)
                if step == due or stopping:
                    state = self._concluded(state, frozen, step, stop, bar, stopping=stopping)
            self._checkpoints.wait()

    def _owes_evaluation(self, step: int) -> bool:
        """Whether an evaluation is due at a step of which there is no line: a signal has ended it."""
        due = step % self._eval_every == 0 or step >= self._plan.last_step
        return step > 0 and due and step not in (line["step"] for line in self._log.lines)

    def _concluded(
        self, state: TrainState, frozen, step: int, stop: Stop, bar: tqdm, *, stopping=False, replace=False
    ) -> TrainState:
        """Evaluates, if that is due and the run goes on; saves; the state after that.

        Raises:
          Interrupted: the run was asked to stop.
        """
        srcc = None
        if not stopping and self._owes_evaluation(step):
            bar.refresh()
            try:
                state, srcc = self._evaluated(state, frozen, step, stop)
            except Abandoned:
                stopping = True
            else:
                bar.unpause()  # the time left is that of steps
                bar.set_postfix_str(f"srcc {srcc:.3f}")
        replace &= srcc is not None
        self._checkpoints.save(
            step, to_arrays(state), srcc=srcc, evaluations=self._log.lines, replace=replace
        )
        if stopping or processes.any_of(bool(stop)):
            self._checkpoints.wait()
            raise Interrupted(stop.signal, step)
        return state

    def _open_feed(self) -> None:
        """Decodes the images, or begins to."""
        plan, kept = self._plan, self._data.placement
        self._feed = Feed(plan.examples, plan.order, plan.cropping, self._placement, kept=kept, say=say)
        self._take_step = jit_step(self._train_step, self._placement, self._feed.batch)
        self._take_steps = jit_steps(self._train_step, self._placement, self._feed.batch)
        default = _AT_ONCE if self._feed.kept == "device" else 1
        self._at_once = self._data.steps_at_once or default
        if self._at_once > 1 and self._feed.kept != "device":
            say(f"config.data.steps_at_once={self._at_once} has no effect: the images are not on the devices")

    def _advanced(
        self, state: TrainState, frozen, step: int, due: int, bar: tqdm
    ) -> tuple[TrainState, jax.Array]:
        """The state after one step, or after several in one dispatch, and their losses."""
        feed = self._feed
        several = feed.kept == "device" and 1 < self._at_once <= due - step
        take, batch = (
            (self._take_steps, feed.several(step, self._at_once))
            if several
            else (self._take_step, feed.take(step))
        )
        if several in self._compiled:
            return take(state, frozen, feed.store, batch)
        self._compiled.add(several)
        bar.set_description("compiling")
        result = jax.block_until_ready(take(state, frozen, feed.store, batch))
        bar.set_description("training", refresh=False)
        bar.initial = bar.n
        bar.unpause()
        return result

    def _evaluated(self, state: TrainState, frozen, step: int, stop: Stop) -> tuple[TrainState, float]:
        """Evaluates and logs; the state after that, and the SRCC.

        Raises:
          Abandoned: the run was asked to stop.
        """
        since = step - int(state.evaluated_step)
        loss = float(state.loss_sum) / since if since else math.nan  # of a line that is lost
        metrics = {"loss": loss} | self._evaluator(state, frozen, stopped=lambda: bool(stop))
        self._log.evaluation(step, step / self._plan.steps_per_epoch, metrics)
        regular = step % self._eval_every == 0  # else it is the end, for now
        return evaluated(state) if regular else state, metrics["srcc"]

    def _look(self, step: int, bar: tqdm) -> None:
        """Fetches the latest losses, shows and logs them, and stops the run if one is not finite."""
        losses = np.concatenate([np.atleast_1d(x) for x in jax.device_get(self._unseen)])
        first = step - len(losses) + 1
        self._unseen.clear()
        if not np.isfinite(losses).all():
            bad = first + int(np.flatnonzero(~np.isfinite(losses))[0])
            steps = self._checkpoints.steps
            good = f"the last good checkpoint is step {steps[-1]}" if steps else "no checkpoint yet"
            raise TrainingError(
                f"the loss of step {bad} is {losses[bad - first]}; {good}. A lower config.learning_rate in a "
                "new working directory may help"
            )
        bar.set_postfix_str(f"loss {losses.mean():.4f}")
        for number, loss in enumerate(losses):
            self._log.scalar("training/loss", loss, first + number)
        if bar.format_dict["rate"]:
            self._log.scalar("training/steps_per_second", bar.format_dict["rate"], step)


def _next(step: int, every: int) -> int:
    """The first multiple of `every` after `step`."""
    return (step // every + 1) * every
