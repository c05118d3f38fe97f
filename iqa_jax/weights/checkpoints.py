"""A run's checkpoints: written in the background, checked when read, skipped where damaged.

A checkpoint is a flat {name: array} mapping.  Names start with "weights.", "ema." or "optimizer."; all others
belong to the training state.  Beside the arrays a seal keeps the evaluations so far, the validation SRCC and
checksums, also of itself.  All processes of a run save together; the first one writes.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from iqa_jax.errors import TrainingError, WeightsError
from iqa_jax.files import failure_reason, file_sha256, write_whole
from iqa_jax.ops import Array
from iqa_jax.parallel.processes import first_before_others, is_first

FOLDER = "checkpoints"
_SEAL = "sha256.json"
_UNFINISHED = "*.orbax-checkpoint-tmp*"
_WORST = -2.0  # in place of an SRCC that is undefined or was not measured


@dataclasses.dataclass(frozen=True)
class Seal:
    """The file beside the arrays of a checkpoint.

    Attributes:
      files: the checksum of every file that holds arrays.
      srcc: of the validation; a bad one where it is undefined or was not measured.
      evaluations: lines of `metrics.jsonl` up to this step.
    """

    files: dict[str, str]
    srcc: float = _WORST
    evaluations: list[dict] = dataclasses.field(default_factory=list)

    def as_json(self) -> str:
        content = dataclasses.asdict(self)
        return json.dumps({**content, "sha256": _digest(content)})

    @classmethod
    def read(cls, checkpoint: Path) -> "Seal":
        """Raises WeightsError, with what is wrong, if it is not what was written."""
        try:
            content = json.loads((checkpoint / _SEAL).read_bytes())
            if not isinstance(content, dict):
                raise TypeError("not an object")
            if content.pop("sha256") != _digest(content):
                raise WeightsError(f"{_SEAL} is not what was written")
            return cls(**content)
        except OSError as error:
            raise WeightsError(f"{Path(error.filename or _SEAL).name}: {error.strerror}") from None
        except WeightsError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"{_SEAL}: {error}") from None


def _digest(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_arrays(folder: Path) -> dict[str, np.ndarray]:
    """The flat mapping in a folder of orbax's; each of several processes reads it alone."""
    import orbax.checkpoint as ocp

    number = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=number, active_processes={number}, barrier_sync_key_prefix=f"process_{number}"
    )
    with ocp.StandardCheckpointer(multiprocessing_options=alone) as checkpointer:
        shapes = checkpointer.metadata(folder).item_metadata
        target = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in shapes.items()}
        return checkpointer.restore(folder, target)


def _file_sums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of an orbax checkpoint that holds arrays."""
    return {
        str(path.relative_to(folder)): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "commit_success.txt"  # orbax adds it last
    }


def _damage(folder: Path, expected: Mapping[str, str]) -> str | None:
    """The first file whose checksum is not the `expected` one, as a phrase; None if all are."""
    sums = _file_sums(folder)
    for name in sorted(expected.keys() | sums.keys()):
        if name not in sums:
            return f"{name} is missing"
        if sums[name] != expected.get(name):
            return f"{name} is not what was written"
    return None


class Saved:
    """Reads the finished checkpoints of the run in `workdir`; changes nothing."""

    def __init__(self, workdir: Path):
        self.folder = Path(workdir).absolute() / FOLDER

    @property
    def steps(self) -> list[int]:
        return sorted(int(path.name) for path in self.folder.glob("[0-9]*") if path.name.isdigit())

    def best_step(self) -> int | None:
        """The step with the highest validation SRCC; the latest where none was evaluated.

        Raises:
          WeightsError: the SRCC of a step is damaged, so the best step is unknown.
        """
        srcc = {}
        for step in self.steps:
            try:
                srcc[step] = Seal.read(self.folder / str(step)).srcc
            except WeightsError as error:
                raise WeightsError(
                    f"{self.folder / str(step)}: damaged ({error}), so the best step is unknown; name a step "
                    f"(there are {', '.join(map(str, self.steps))}), or resume the run, which moves the "
                    "damaged one away"
                ) from None
        return max(srcc, key=lambda step: (srcc[step], step)) if srcc else None

    def read(self, step: int) -> dict[str, np.ndarray]:
        """All arrays saved at `step`.

        Raises:
          WeightsError: the step has no checkpoint, or a damaged one.
        """
        if step not in self.steps:
            steps = ", ".join(map(str, self.steps)) or "none"
            raise WeightsError(f"{self.folder}: no checkpoint of step {step}; there are: {steps}")
        problem = self.problem(step)
        if problem:
            raise WeightsError(f"{self.folder / str(step)}: damaged ({problem}); choose another step")
        return read_arrays(self.folder / str(step) / "arrays")

    def problem(self, step: int) -> str | None:
        """The damage to the files of a step, as a phrase; None if they are whole."""
        checkpoint = self.folder / str(step)
        try:
            return _damage(checkpoint / "arrays", Seal.read(checkpoint).files)
        except WeightsError as error:
            return str(error)


class Checkpoints:
    """The checkpoints that the run in `workdir` writes.

    It keeps the latest `keep`, the best by validation SRCC and, for weight averaging, all at multiples of
    `every` steps.  It moves a damaged one to the run's `damaged/` and reports it through `say`.
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
        self._beside = Seal({})  # the arrays that are being written; without their checksums
        self.folder = self._saved.folder
        with first_before_others("checkpoints"):
            self._tidy()
            self._check_metrics()
        with self._failures_named():
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
        """Repairs metrics from the seals, since the manager reads all metrics when it starts."""
        for step in self._saved.steps:
            checkpoint = self.folder / str(step)
            try:
                srcc = Seal.read(checkpoint).srcc
            except WeightsError as error:
                self._put_aside(step, str(error))
                continue
            try:
                if json.loads((checkpoint / "metrics" / "metrics").read_bytes())["srcc"] == srcc:
                    continue
            except (OSError, ValueError, KeyError, TypeError):
                pass
            (checkpoint / "metrics").mkdir(exist_ok=True)
            write_whole(checkpoint / "metrics" / "metrics", json.dumps({"srcc": srcc}))
            self._say(f"{checkpoint / 'metrics'}: was damaged; written again from {_SEAL}")

    def _tidy(self) -> None:
        """Removes what a killed run left half-written; restores a checkpoint that it had not yet replaced."""
        for unfinished in self.folder.glob(_UNFINISHED):
            shutil.rmtree(unfinished)
        for before in self.folder.parent.glob(_replaced("*")):
            step = self.folder / before.name.removeprefix(_replaced(""))
            if step.exists():
                shutil.rmtree(before)
            else:
                before.rename(step)

    def _put_aside(self, step: int, problem: str) -> None:
        aside = self.folder.parent / "damaged"
        aside.mkdir(exist_ok=True)
        place, number = aside / str(step), 2
        while place.exists():
            place, number = aside / f"{step}-{number}", number + 1
        (self.folder / str(step)).rename(place)
        self._say(f"{self.folder / str(step)}: damaged ({problem}); skipped and moved to {place}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(Exception):  # `wait` reports failures
            self._manager.close()

    @property
    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The step with the highest validation SRCC, the latest where none was evaluated."""
        return self._manager.best_step()

    def save(
        self,
        step: int,
        arrays: Mapping[str, Array],
        *,
        srcc: float | None = None,
        evaluations: Sequence[dict] = (),
        replace: bool = False,
    ) -> None:
        """Starts to write a checkpoint.

        Args:
          srcc: of the validation; None if it was not measured.
          evaluations: the lines of `metrics.jsonl` up to this step.
          replace: whether to replace a checkpoint of this step, once the new one is whole; else it is kept.
        """
        self.wait()  # one at a time: `_seal` belongs to the latest
        with self._failures_named():
            self._check_room(arrays)
        before = None
        if step in self._manager.all_steps():
            if not replace:
                return
            before = self._moved_away(step)
        import orbax.checkpoint as ocp

        arrays = {name: np.asarray(array) for name, array in arrays.items()}
        srcc = _WORST if srcc is None or np.isnan(srcc) else float(srcc)
        self._beside = Seal({}, srcc, list(evaluations))
        with self._failures_named():
            self._manager.save(
                step,
                args=ocp.args.Composite(arrays=ocp.args.StandardSave(arrays)),
                metrics={"srcc": srcc},
            )
        if before:
            self.wait()
            if is_first():
                shutil.rmtree(before)

    def _check_room(self, arrays: Mapping[str, Array]) -> None:
        """Raises OSError if the disk has no room; else each of orbax's threads prints a failure."""
        files = 64 * 1024 + 512 * len(arrays)  # what lies beside the numbers
        needed = sum(array.nbytes for array in arrays.values()) + files
        if is_first() and shutil.disk_usage(self.folder).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _moved_away(self, step: int) -> Path:
        before = self.folder.parent / _replaced(str(step))
        with first_before_others("replacing"):
            if is_first():
                (self.folder / str(step)).rename(before)
        self._manager.reload()
        return before

    def _seal(self) -> None:
        """Adds the seal to the checkpoint in writing, just before it gets its final name."""
        if not is_first():
            return
        for unfinished in self.folder.glob(_UNFINISHED):
            seal = dataclasses.replace(self._beside, files=_file_sums(unfinished / "arrays"))
            (unfinished / _SEAL).write_text(seal.as_json(), encoding="utf-8")

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
                "ones are whole. Free some space or repair the disk, then run the same command again"
            ) from None

    def read_latest(self) -> tuple[dict[str, np.ndarray], Seal] | None:
        """The newest whole checkpoint; None if there is none."""
        with first_before_others("damaged checkpoints"):
            for step in reversed(self.steps):
                problem = self._saved.problem(step)
                if not problem:
                    break
                self._put_aside(step, problem)
                self._manager.reload()
        self._manager.reload()  # what the first process has put aside is gone for the others too
        if not self.steps:
            return None
        latest = self.steps[-1]
        return self._saved.read(latest), Seal.read(self.folder / str(latest))


def _replaced(step: str) -> str:
    """The name of a checkpoint while it is being replaced."""
    return f".checkpoint-{step}"


def _srcc(metrics: dict) -> float:
    return metrics["srcc"]
