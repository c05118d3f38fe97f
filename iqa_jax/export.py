"""A metric as one file that runs with JAX alone."""

import dataclasses
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp

from iqa_jax.compilation import jit
from iqa_jax.errors import UserError, WeightsError
from iqa_jax.metric import Metric
from iqa_jax.models import ModelConfig
from iqa_jax.models.full_reference import as_unit_float

PLATFORMS = ("cpu", "cuda", "tpu")


def export(metric: Metric, path: str | os.PathLike) -> tuple[Path, Path]:
    """Writes StableHLO with the weights inside, for CPUs, CUDA and TPUs, and its metadata beside.

    The program takes reference and distorted crops, (B, S, S, 3) float32 in [0, 1] each, for any B, and
    gives their MOS (B,) float32.  Crops and their mean are left to the caller.

    Args:
      path: of the program; the metadata get ".json" after it.
    Returns:
      Both paths.
    """
    size = metric.config.crop_size
    (batch,) = jax.export.symbolic_shape("batch")
    crops = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)

    def score(reference, distorted):
        return metric.model.denormalise(metric.model(reference, distorted))

    exported = jax.export.export(jax.jit(score), platforms=PLATFORMS)(crops, crops)
    path = Path(path).expanduser()
    beside = path.with_name(path.name + ".json")
    metadata = metric.describe() | {
        "model": dataclasses.asdict(metric.config),
        "platforms": PLATFORMS,
        "inputs": f"reference, distorted: (B, {size}, {size}, 3) float32 in [0, 1]",
        "output": "(B,) float32, MOS",
    }
    for target, content in (
        (path, bytes(exported.serialize())),
        (beside, (json.dumps(metadata, indent=2) + "\n").encode()),
    ):
        partial = target.with_name(f".{target.name}.partial")
        partial.write_bytes(content)
        partial.replace(target)
    return path, beside


class ExportedMetric(Metric):
    """What `export` wrote, used like any other metric, but for `loss`."""

    def __init__(self, path: str | os.PathLike, *, crops: str = "grid", batch_size: int = 16):
        """Reads a program and the metadata beside it.

        Raises:
          WeightsError: either is missing, damaged or not one of ours.
        """
        path = Path(path).expanduser()
        try:
            metadata = json.loads(path.with_name(path.name + ".json").read_text())
            config = ModelConfig(**metadata["model"])
            exported = jax.export.deserialize(bytearray(path.read_bytes()))
        except Exception as error:  # flatbuffers raises many kinds for a file that is none
            raise WeightsError(
                f"{path}: not a metric that `python -m iqa_jax export` wrote, with its .json beside it "
                f"({error or type(error).__name__})"
            ) from None
        self._begin(config, {"sha256": metadata["sha256"], "source": metadata["weights"]}, crops, batch_size)
        self._weights = ()
        self._features = lambda weights, windows: as_unit_float(jnp.asarray(windows))
        call = jit(exported.call)
        self._scores = lambda weights, reference, windows: call(
            reference, as_unit_float(jnp.asarray(windows))
        )

    def loss(self, reference: jax.Array, distorted: jax.Array) -> jax.Array:
        raise UserError(
            "an exported metric has no gradient: load the run or the converted weights for a loss"
        )
