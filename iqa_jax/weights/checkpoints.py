"""A run's checkpoints: written in the background, checked when read, damaged ones passed over.

What is saved is a flat {name: array} mapping.  Names begin with "weights.", "ema." or "optimizer.";
anything else belongs to the training state.  The processes of one run save together; the first one writes.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from iqa_jax.errors import TrainingError, WeightsError
from iqa_jax.files import failure_reason
from iqa_jax.ops import Array
from iqa_jax.parallel.processes import first_before_others, is_first
from iqa_jax.weights.directory import by_itself, damage, file_sums

FOLDER = "checkpoints"
_SUMS = "sha256.json"  # in each checkpoint: the checksum of every file that holds arrays
_WORST = -2.0  # in place of an SRCC that is undefined or was not measured


class Saved:
    """The finished checkpoints of the run in `workdir`, to be read; nothing there is changed."""

    def __init__(self, workdir: Path):
        self.folder = Path(workdir).absolute() / FOLDER

    @property
    def steps(self) -> list[int]:
        return sorted(int(path.name) for path in self.folder.glob("[0-9]*") if path.name.isdigit())

    def best_step(self) -> int | None:
        """The step with the highest validation SRCC; the latest where none was evaluated."""
        steps = self.steps
        return max(steps, key=lambda step: (self.srcc(step), step)) if steps else None

    def srcc(self, step: int) -> float:
        """Of the validation; a bad one where it is not known."""
        try:
            return float(_read_metrics(self.folder / str(step))["srcc"])
        except (OSError, ValueError, KeyError, TypeError):
            return _WORST

    def read(self, step: int) -> dict[str, np.ndarray]:
        """Everything that was saved at `step`.

        Raises:
          WeightsError: there is no such step, or what is there is not what was written.
        """
        if step not in self.steps:
            steps = ", ".join(map(str, self.steps)) or "none"
            raise WeightsError(f"{self.folder}: no checkpoint of step {step}; there are: {steps}")
        problem = self.problem(step)
        if problem:
            raise WeightsError(f"{self.folder / str(step)}: damaged ({problem}); choose another step")
        import orbax.checkpoint as ocp

        arrays = self.folder / str(step) / "arrays"
        with ocp.StandardCheckpointer(multiprocessing_options=by_itself()) as checkpointer:
            shapes = checkpointer.metadata(arrays).item_metadata
            target = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in shapes.items()}
            return checkpointer.restore(arrays, target)

    def problem(self, step: int) -> str | None:
        """What is wrong with the files of a step, None if they are what was written."""
        checkpoint = self.folder / str(step)
        try:
            expected = json.loads((checkpoint / _SUMS).read_text())
        except (OSError, ValueError) as error:
            return f"{_SUMS}: {error}"
        return damage(checkpoint / "arrays", expected)


class Checkpoints:
    """The checkpoints that the run in `workdir` writes.

    Kept are the latest `keep`, the best by validation SRCC and, for weight averaging, all at
    multiples of `every` steps.  A damaged one is named through `say` and put aside in the run's
    `damaged/`.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        keep: int = 2,
        every: int | None = None,
        say: Callable[[str], None] = print,
    ):
        import orbax.checkpoint as ocp
        from orbax.checkpoint import checkpoint_managers as policies

        policy = [policies.LatestN(keep), policies.BestN(get_metric_fn=_srcc, n=1)]
        if every:
            policy.append(policies.EveryNSteps(every))
        self._saved, self._say = Saved(workdir), say
        self.folder = self._saved.folder
        with first_before_others("checkpoints"):
            self._check_metrics()
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(policy),
                best_fn=_srcc,
                create=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
            ),
            item_handlers={"arrays": ocp.StandardCheckpointHandler()},
        )

    def _check_metrics(self) -> None:
        """The manager reads every checkpoint's metrics as it starts, and would stop at a broken one."""
        for step in self._saved.steps:
            try:
                _srcc(_read_metrics(self.folder / str(step)))
            except (OSError, ValueError, KeyError, TypeError) as error:
                self._put_aside(step, f"metrics: {error}")

    def _put_aside(self, step: int, problem: str) -> None:
        aside = self.folder.parent / "damaged"
        aside.mkdir(exist_ok=True)
        place, number = aside / str(step), 2
        while place.exists():
            place, number = aside / f"{step}-{number}", number + 1
        (self.folder / str(step)).rename(place)
        self._say(f"{self.folder / str(step)}: damaged ({problem}); passed over and put into {place}")

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

    def save(self, step: int, arrays: Mapping[str, Array], *, srcc: float | None = None) -> None:
        """Begins to write a checkpoint; a step that is there already is left as it is."""
        if step in self._manager.all_steps():
            return
        import orbax.checkpoint as ocp

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
            raise TrainingError(
                f"{self.folder}: a checkpoint could not be written ({failure_reason(error)}); earlier "
                "ones are whole. Free some space or mend the disk, then run the same command again"
            ) from None

    def read_latest(self) -> tuple[int, dict[str, np.ndarray]] | None:
        """Step and content of the newest checkpoint that is whole; None if there is none."""
        with first_before_others("damaged checkpoints"):
            for step in reversed(self.steps):
                problem = self._saved.problem(step)
                if not problem:
                    break
                self._put_aside(step, problem)
                self._manager.reload()
        self._manager.reload()  # what the first process has put aside is gone for the others too
        return (self.steps[-1], self._saved.read(self.steps[-1])) if self.steps else None


def _read_metrics(checkpoint: Path) -> dict:
    return json.loads((checkpoint / "metrics" / "metrics").read_text())


def _srcc(metrics: dict) -> float:
    return metrics["srcc"]
