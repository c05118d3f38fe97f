"""Raw and averaged weights on the whole validation split, during training."""

import contextlib
import math
from collections.abc import Callable, Iterator

import jax
import numpy as np
from flax import nnx

from iqa_jax.data.source import PairSource
from iqa_jax.evaluation.agreement import correlations, srcc
from iqa_jax.evaluation.baselines import baselines
from iqa_jax.parallel import processes
from iqa_jax.scoring.dataset import predict
from iqa_jax.scoring.network import Network
from iqa_jax.training.log import progress_bar
from iqa_jax.training.step import TrainState

_BASELINES = ("psnr_srcc", "ssim_srcc")


class Abandoned(Exception):
    """The evaluation was asked to stop before it was done."""


class Evaluator:
    """Raw and averaged weights on the whole validation split, beside PSNR and SSIM."""

    def __init__(self, source: PairSource, graphdef: nnx.GraphDef, *, crops: str):
        """Takes the structure of the model in evaluation mode and the crop protocol."""
        self.source = source
        self._graphdef, self._crops = graphdef, crops
        self._baselines: dict | None = None
        self.predicted: np.ndarray | None = None  # (N,) by the latest evaluation; averaged weights if kept

    def know_baselines(self, lines: list[dict]) -> None:
        """Takes the SRCC of PSNR and SSIM from earlier lines of the run, which measures them once."""
        if lines and all(name in lines[-1] for name in _BASELINES):
            values = ((name, lines[-1][name]) for name in _BASELINES)
            self._baselines = {name: math.nan if value is None else value for name, value in values}

    def predict(
        self, state: TrainState, frozen: nnx.State, *, stopped: Callable[[], bool] = lambda: False
    ) -> np.ndarray:
        """Predicted MOS (1 or 2, N): with the raw weights and, where they are kept, the average.

        Raises:
          Abandoned: `stopped` became true, in one of the processes.
        """
        sets = [state.trained] if state.ema is None else [state.trained, state.ema]
        references = list(dict.fromkeys(self.source.reference))[jax.process_index() :: jax.process_count()]
        mine = np.flatnonzero(np.isin(self.source.reference, references))
        predicted = np.zeros((len(sets), len(self.source)), np.float32)
        with progress_bar(len(mine), "evaluating", "pair") as bar:
            sets, frozen = processes.local((sets, frozen))
            network = Network(self._graphdef, frozen, sets)
            part = self.source.select(mine)
            with _agreed(stopped):
                if len(mine):
                    progress = _until(stopped, bar.update)
                    predicted[:, mine] = predict(network, part, crops=self._crops, progress=progress)
        return processes.merged(predicted, mine)

    def __call__(
        self, state: TrainState, frozen: nnx.State, *, stopped: Callable[[], bool] = lambda: False
    ) -> dict[str, float]:
        """The figures of the state; see `predict`."""
        metrics: dict[str, float] = {}
        predictions = self.predict(state, frozen, stopped=stopped)
        self.predicted = predictions[-1]
        for prefix, predicted in zip(("", "ema_"), predictions, strict=False):
            figures = correlations(predicted, self.source.mos)
            metrics |= {f"{prefix}{name}": value for name, value in figures.items()}
        return metrics | self._baseline_srcc(stopped)

    def _baseline_srcc(self, stopped: Callable[[], bool]) -> dict[str, float]:
        if not self.source.paired:
            return {}
        if self._baselines is None:
            with progress_bar(len(self.source), "PSNR and SSIM", "pair") as bar, _agreed(stopped):
                scores = baselines(self.source, progress=_until(stopped, bar.update))
            self._baselines = {
                f"{name}_srcc": srcc(values, self.source.mos) for name, values in scores.items()
            }
        return self._baselines


def _until(stopped: Callable[[], bool], progress: Callable[[int], object]) -> Callable[[int], None]:
    """`progress`, which raises `Abandoned` once `stopped` is true."""

    def report(count: int) -> None:
        progress(count)
        if stopped():
            raise Abandoned

    return report


@contextlib.contextmanager
def _agreed(stopped: Callable[[], bool]) -> Iterator[None]:
    """Raises `Abandoned` in all processes where it was raised in one, so that none waits for another."""
    with contextlib.suppress(Abandoned):
        yield
    if processes.any_of(stopped()):
        raise Abandoned
