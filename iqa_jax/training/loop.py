"""Training, in the order of the recipe: data, model, step; then steps, evaluations and checkpoints."""

import functools
import math
import os
from collections.abc import Callable
from typing import cast

import jax
import optax
from flax import nnx
from tqdm import tqdm

from iqa_jax.data.source import PairSource
from iqa_jax.parallel import processes
from iqa_jax.training.config import TrainConfig
from iqa_jax.training.feed import Feed, feed_of
from iqa_jax.training.initial import start_of, with_architecture
from iqa_jax.training.inputs import Schedule, batch_sizes, check_divisible, open_data
from iqa_jax.training.kept import KeptFeed, KeptScores, kept_of
from iqa_jax.training.log import Log, Losses, closing_report, progress_bar, say, say_pairs
from iqa_jax.training.mesh import DataMesh
from iqa_jax.training.run import check_settings, run_directory, start_run
from iqa_jax.training.step import (
    TrainState,
    evaluated,
    from_arrays,
    initial_state,
    jit_step,
    jit_steps,
    make_optimizer,
    make_train_step,
    split_for_training,
    to_arrays,
)
from iqa_jax.training.stopping import (
    Interrupted,
    Stop,
    lost_process_named,
    report_failures_once,
    stop_signals,
)
from iqa_jax.training.validation import Abandoned, Evaluator
from iqa_jax.weights.checkpoints import Checkpoints

_AT_ONCE = 10  # steps in one dispatch, where the images are on the devices
_LOOK_EVERY = 10  # steps between looks at the loss, each of which waits for the device


def train(
    config: TrainConfig,
    workdir: str | os.PathLike,
    *,
    reason: str = "",
    pseudo: PairSource | None = None,
    pseudo_origin: dict | None = None,
) -> dict:
    """Trains an IQA model, or resumes the run in `workdir`, bit-identical to an uninterrupted one.

    Args:
      workdir: gets config.json, backbone/, checkpoints/, metrics.jsonl, TensorBoard events and scatter.png.
      reason: why this data set, for the log and config.json.
      pseudo: pseudo-labelled pairs for a student, and `pseudo_origin`, where their labels come from, for
        config.json; `iqa_jax.training.distillation.train_student` makes them.
    Returns:
      The last line of metrics.jsonl.
    Raises:
      ConfigError, DataError, WeightsError: what the configuration names does not fit or does not exist.
      TrainingError: the loss is not finite.
      Interrupted: by Ctrl-C or a signal that asks to stop, after saving.
    """
    with run_directory(workdir) as workdir, report_failures_once():
        mesh = DataMesh.of(jax.devices())
        check_divisible(config, jax.device_count())
        start = start_of(config, workdir)
        config = with_architecture(config, start)
        check_settings(workdir, config)

        say(f"data: {config.dataset} ({reason})" if reason else f"data: {config.dataset}")
        training, validation = open_data(config)
        say_pairs({"training": training, "validation": validation, "pseudo-labelled": pseudo})
        sizes = batch_sizes(config, training, pseudo)
        schedule = Schedule.of(config, steps_per_epoch=len(training) // sizes[0])

        source = {"reason": reason, **({"pseudo_labels": pseudo_origin} if pseudo_origin else {})}
        per_epoch = schedule.steps_per_epoch
        model = start_run(workdir, config, training, validation, per_epoch, source=source, start=start)
        tuned = config.backbone_learning_rate > 0  # else the backbone is frozen
        graphs, trained, frozen = split_for_training(model, tune_backbone=tuned)

        optimizer, train_step = _optimizer_and_step(config, schedule, graphs.training)
        state = initial_state(trained, optimizer, ema=config.ema_decay > 0)
        kept = None
        if config.keep_features:
            weights = graphs.evaluation, trained, frozen
            kept = kept_of(config, training, validation, weights, workdir=workdir)

        def open_steps() -> Steps:
            feed: Feed | KeptFeed
            if kept is not None:
                feed = KeptFeed(config, kept, sizes[0], mesh)
            else:
                feed = feed_of(config, training, pseudo, sizes, mesh, say=say)
            return Steps(train_step, feed, mesh, at_once=config.data.steps_at_once)

        scores = KeptScores(graphs.evaluation, kept) if kept else None
        evaluator = Evaluator(validation, graphs.evaluation, crops=config.crops, kept=scores)
        every = per_epoch if config.keep_epochs else None
        with Checkpoints(workdir, keep=config.keep_checkpoints, every=every, say=say) as checkpoints:
            state, lines = _resumed(state, checkpoints, schedule.last_step)
            state, frozen = mesh.replicate((state, frozen))
            evaluator.know_baselines(lines)
            with Log(workdir, lines, first_step=int(state.step), writes=processes.is_first()) as log:
                run_steps(state, frozen, schedule, open_steps, evaluator, checkpoints, log)
            best = checkpoints.best_step()
        if kept is not None:
            kept.remove_files()
        closing_report(workdir, log.lines, best, evaluator.predicted, validation.mos)
        return log.lines[-1]


def _optimizer_and_step(
    config: TrainConfig, schedule: Schedule, graphdef: nnx.GraphDef
) -> tuple[optax.GradientTransformation, Callable]:
    """What changes the weights, for a model of this structure in training mode."""
    optimizer = make_optimizer(
        config.learning_rate,
        kind=config.optimizer,
        schedule=config.schedule,
        warmup_steps=config.warmup_steps,
        total_steps=schedule.total_steps,
        backbone_learning_rate=config.backbone_learning_rate,
    )
    train_step = make_train_step(
        graphdef,
        optimizer,
        seed=config.seed,
        rotation=config.rotation,
        turns=config.turns,
        accumulation=config.accumulation,
        ema_decay=config.ema_decay,
        noise=config.noise if config.pseudo_labelled else None,
        pseudo_weight=config.pseudo_weight,
    )
    return optimizer, train_step


def _resumed(state: TrainState, checkpoints: Checkpoints, last_step: int) -> tuple[TrainState, list[dict]]:
    """The state of the latest checkpoint, if there is one, and the lines of metrics.jsonl up to there."""
    saved = checkpoints.read_latest()
    if saved is None:
        return state, []
    arrays, seal = saved
    state, lines = from_arrays(state, arrays), seal.evaluations
    say(f"resuming at step {state.step}")
    if int(state.step) < last_step:
        # A line after the last regular evaluation is of a step that was the end only then.
        lines = [line for line in lines if line["step"] <= state.evaluated_step]
    return state, lines


class Steps:
    """Takes steps: one, or several in one dispatch where the images are on the devices."""

    def __init__(self, train_step: Callable, feed: Feed | KeptFeed, mesh: DataMesh, *, at_once: int):
        """Takes how many steps go in one dispatch; 0 for `_AT_ONCE`."""
        self._feed = feed
        self._one = jit_step(train_step, mesh, feed.batch)
        self._several = jit_steps(train_step, mesh, feed.batch)
        on_devices = feed.kept == "device"
        self._at_once = (at_once or _AT_ONCE) if on_devices else 1
        if at_once > 1 and not on_devices:
            say(f"config.data.steps_at_once={at_once} has no effect: the images are not on the devices")
        self._compiled: set[bool] = set()  # whether one step, whether several at once have run

    def take(
        self, state: TrainState, frozen: nnx.State, step: int, due: int, bar: tqdm
    ) -> tuple[TrainState, jax.Array]:
        """The state after one or several steps, none of them after `due`, and their losses."""
        several = 1 < self._at_once <= due - step
        program = self._several if several else self._one
        # Several are of a `Feed` with its images on the devices.
        inputs = cast(Feed, self._feed).several(step, self._at_once) if several else self._feed.take(step)
        if several in self._compiled:
            return program(state, frozen, self._feed.store, inputs)
        self._compiled.add(several)
        bar.set_description("compiling")
        result = jax.block_until_ready(program(state, frozen, self._feed.store, inputs))
        bar.set_description("training", refresh=False)
        bar.initial = bar.n
        bar.unpause()
        return result


def run_steps(
    state: TrainState,
    frozen: nnx.State,
    schedule: Schedule,
    open_steps: Callable[[], Steps],
    evaluator: Evaluator,
    checkpoints: Checkpoints,
    log: Log,
) -> None:
    """Takes steps from the state's to the last, evaluates and saves when that is due.

    Raises:
      TrainingError: the loss is not finite, or another process is lost.
      Interrupted: after saving.
    """
    step, last = int(state.step), schedule.last_step
    owed = schedule.evaluates_at(step) and not log.has(step)  # a signal has ended that evaluation
    if step >= last and not owed:
        say(f"finished: the run is at step {step}, and ends at {last}")
        return
    bar = progress_bar(last, "training", "step", initial=step, leave=True)
    losses = Losses(log, bar)
    with stop_signals() as stop, bar, lost_process_named(checkpoints):
        conclude = functools.partial(
            _evaluate_and_save, frozen, schedule, evaluator, checkpoints, log, stop, bar
        )
        if owed:
            state = conclude(state, replace=True)
        steps = open_steps() if step < last else None
        while steps and step < last:
            due = schedule.next_due(step)
            state, latest = steps.take(state, frozen, step, due, bar)
            step += latest.size
            losses.add(latest)
            looking = step == due or losses.unseen >= _LOOK_EVERY
            alone = jax.process_count() == 1
            stopping = bool(stop) if alone else looking and processes.any_of(bool(stop))
            if looking or stopping:
                losses.look(step, saved=checkpoints.steps)
            if step == due or stopping:
                state = conclude(state, stopping=stopping)
        checkpoints.wait()


def _evaluate_and_save(
    frozen: nnx.State,
    schedule: Schedule,
    evaluator: Evaluator,
    checkpoints: Checkpoints,
    log: Log,
    stop: Stop,
    bar: tqdm,
    state: TrainState,
    *,
    stopping: bool = False,
    replace: bool = False,
) -> TrainState:
    """Evaluates, if that is due and nobody asked to stop; saves; the state after that.

    Args:
      replace: the checkpoint of this step, once it is evaluated.
    Raises:
      Interrupted: the run was asked to stop.
    """
    step, srcc = int(state.step), None
    if not stopping and schedule.evaluates_at(step) and not log.has(step):
        bar.refresh()
        since = step - int(state.evaluated_step)
        loss = float(state.loss_sum) / since if since else math.nan  # of a line that is lost
        try:
            metrics = ({"loss": loss} if step else {}) | evaluator(state, frozen, stopped=lambda: bool(stop))
        except Abandoned:
            stopping = True
        else:
            log.evaluation(step, step / schedule.steps_per_epoch, metrics)
            srcc = metrics["srcc"]
            if step % schedule.eval_every == 0:  # else it is the end, for now
                state = evaluated(state)
            bar.unpause()  # the time left is that of steps
            bar.set_postfix_str(f"srcc {srcc:.3f}")
    replace &= srcc is not None
    if step:
        checkpoints.save(step, to_arrays(state), srcc=srcc, evaluations=log.lines, replace=replace)
    if stopping or processes.any_of(bool(stop)):
        checkpoints.wait()
        raise Interrupted(stop.signal, step)
    return state
