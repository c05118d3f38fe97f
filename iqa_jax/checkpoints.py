"""A run's checkpoints: written in the background, checked when read, damaged ones passed over.

What is saved is a flat {name: array} mapping.  Names begin with "weights.", "ema." or "optimizer.";
anything else belongs to the training state.  The processes of one run save together; the first one writes.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from iqa_jax.errors import TrainingError, WeightsError
from iqa_jax.processes import first_before_others, is_first
from iqa_jax.weights import by_itself, damage, file_sums, read_weights

FOLDER = "checkpoints"
_SUMS = "sha256.json"  # in each checkpoint: the checksum of every file that holds arrays
_WORST = -2.0  # in place of an SRCC that is undefined or was not measured


class Checkpoints:
    """The checkpoints of the run in `workdir`.

    Kept are the latest `keep`, the best by validation SRCC and, for weight averaging, all at
    multiples of `every` steps.  A damaged one is named through `say` and put aside in the run's
    `damaged/`; with `read_only` it is an error.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        keep: int = 2,
        every: int | None = None,
        read_only: bool = False,
        say: Callable[[str], None] = print,
    ):
        policy = [policies.LatestN(keep), policies.BestN(get_metric_fn=_srcc, n=1)]
        if every:
            policy.append(policies.EveryNSteps(every))
        self.folder = Path(workdir).absolute() / FOLDER
        self._read_only, self._say = read_only, say
        alone = {"multiprocessing_options": by_itself()} if read_only else {}
        with contextlib.nullcontext() if read_only else first_before_others("checkpoints"):
            self._check_metrics()
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(policy),
                best_fn=_srcc,
                create=not read_only,
                cleanup_tmp_directories=not read_only,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
                **alone,
            ),
            item_handlers={"arrays": ocp.StandardCheckpointHandler(**alone)},
        )

    def _check_metrics(self) -> None:
        """The manager reads every checkpoint's metrics as it starts, and would stop at a broken one."""
        for path in sorted(self.folder.glob("[0-9]*")):
            if path.name.isdigit():
                try:
                    json.loads((path / "metrics" / "metrics").read_text())
                except (OSError, ValueError) as error:
                    self._damaged(path, str(error))

    def _damaged(self, checkpoint: Path, what: str) -> None:
        message = f"{checkpoint}: damaged ({what})"
        if self._read_only:
            raise WeightsError(f"{message}; choose another step")
        aside = self.folder.parent / "damaged"
        aside.mkdir(exist_ok=True)
        shutil.rmtree(aside / checkpoint.name, ignore_errors=True)
        checkpoint.rename(aside / checkpoint.name)
        self._say(f"{message}; passed over and put into {aside}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(Exception):  # what failed was named by `wait`
            self._manager.close()

    @property
    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The step with the highest validation SRCC, the latest where none was evaluated."""
        return self._manager.best_step()

    def save(self, step: int, arrays: Mapping[str, np.ndarray], *, srcc: float | None = None) -> None:
        """Begins to write a checkpoint; a step that is there already is left as it is."""
        if step in self._manager.all_steps():
            return
        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        srcc = _WORST if srcc is None or np.isnan(srcc) else float(srcc)
        self.wait()  # one at a time: `_seal` belongs to the latest
        with self._failures_named():
            self._manager.save(
                step,
                args=ocp.args.Composite(arrays=ocp.args.StandardSave(arrays)),
                metrics={"srcc": srcc},
            )

    def _seal(self) -> None:
        """Adds the checksums to the checkpoint that is written, just before it gets its final name."""
        if not is_first():
            return
        for unfinished in self.folder.glob("*.orbax-checkpoint-tmp*"):
            (unfinished / _SUMS).write_text(json.dumps(file_sums(unfinished / "arrays")))

    def wait(self) -> None:
        """Returns when everything is on disk.

        Raises:
          TrainingError: it could not be written, on a full disk for example.
        """
        with self._failures_named():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _failures_named(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # orbax and its storage raise many kinds
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][-150:]
            raise TrainingError(
                f"{self.folder}: a checkpoint could not be written ({reason}); earlier ones are whole. "
                "Free some space or mend the disk, then run the same command again"
            ) from None

    def read(self, step: int) -> dict[str, np.ndarray]:
        """Everything that was saved at `step`.

        Raises:
          WeightsError: there is no such step, or what is there is not what was written.
        """
        if step not in self._manager.all_steps():
            there = ", ".join(map(str, self.steps)) or "none"
            raise WeightsError(f"{self.folder}: no checkpoint of step {step}; there are: {there}")
        folder = self.folder / str(step)
        problem = _problem(folder)
        if problem:
            raise WeightsError(f"{folder}: damaged ({problem}); choose another step")
        return self._restored(step)

    def _restored(self, step: int) -> dict[str, np.ndarray]:
        shapes = self._manager.item_metadata(step)["arrays"]
        target = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in shapes.items()}
        arguments = ocp.args.Composite(arrays=ocp.args.StandardRestore(target))
        return self._manager.restore(step, args=arguments)["arrays"]

    def read_latest(self) -> tuple[int, dict[str, np.ndarray]] | None:
        """Step and content of the newest checkpoint that is whole; None if there is none."""
        with first_before_others("damaged checkpoints"):
            for step in reversed(self.steps):
                problem = _problem(self.folder / str(step))
                if not problem:
                    break
                self._damaged(self.folder / str(step), problem)
                self._manager.reload()
        self._manager.reload()  # what the first process has put aside is gone for the others too
        return (self.steps[-1], self._restored(self.steps[-1])) if self.steps else None


def _problem(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files, None if they are what was written."""
    try:
        expected = json.loads((checkpoint / _SUMS).read_text())
    except (OSError, ValueError) as error:
        return str(error)
    return damage(checkpoint / "arrays", expected)


def _srcc(metrics: dict) -> float:
    return metrics["srcc"]


def read_run_weights(workdir: Path, *, step: int | str = "best", ema: bool = False) -> dict[str, np.ndarray]:
    """The trained weights of a run together with its backbone's.

    Args:
      step: "best" (by validation SRCC), "latest" or a step number.
    Raises:
      WeightsError: no such checkpoint, or it is damaged.
    """
    workdir = Path(workdir)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        if not checkpoints.steps:
            raise WeightsError(f"{checkpoints.folder}: no checkpoint yet")
        chosen = {"best": checkpoints.best_step(), "latest": checkpoints.steps[-1]}.get(step, step)
        if not isinstance(chosen, int):
            raise WeightsError(f"step {step!r}: expected 'best', 'latest' or a number")
        arrays = checkpoints.read(chosen)
    wanted = "ema." if ema else "weights."
    trained = {name.removeprefix(wanted): a for name, a in arrays.items() if name.startswith(wanted)}
    if not trained:
        raise WeightsError(f"{workdir}: the run kept no EMA weights (config.ema_decay was 0)")
    _, backbone, _ = read_weights(workdir / "backbone")
    return {**{f"backbone.{name}": array for name, array in backbone.items()}, **trained}
