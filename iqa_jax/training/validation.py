"""Raw and averaged weights on the whole validation split, during training."""

import json
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from tqdm import tqdm

from iqa_jax.data.source import PairSource
from iqa_jax.evaluation.agreement import correlations, srcc
from iqa_jax.evaluation.baselines import baselines
from iqa_jax.files import write_whole
from iqa_jax.parallel import processes
from iqa_jax.scoring.dataset import predict
from iqa_jax.scoring.engine import Network
from iqa_jax.training.step import TrainState


class Evaluator:
    """Raw and averaged weights on the whole validation split, beside PSNR and SSIM."""

    def __init__(self, workdir: Path, source: PairSource, graphdef: nnx.GraphDef, *, crops: str):
        """Takes the structure of the model in evaluation mode and the crop protocol."""
        self.source = source
        self._graphdef, self._crops = graphdef, crops
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
                network = Network(self._graphdef, frozen, sets)
                part = self.source.select(mine)
                found[:, mine] = predict(network, part, crops=self._crops, progress=bar.update)
        return processes.merged(found, mine)

    def __call__(self, state: TrainState, frozen: nnx.State) -> dict[str, float]:
        metrics: dict[str, float] = {}
        predictions = self.predict(state, frozen)
        self.predicted = predictions[-1]
        for prefix, predicted in zip(("", "ema_"), predictions, strict=False):
            found = correlations(predicted, self.source.mos)
            metrics |= {f"{prefix}{name}": value for name, value in found.items()}
        return metrics | self._baseline_srcc()

    def _baseline_srcc(self) -> dict[str, float]:
        if not self.source.paired:
            return {}
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
