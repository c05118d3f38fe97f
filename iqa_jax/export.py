"""A metric as one file that runs with JAX alone."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from iqa_jax.compilation import jit
from iqa_jax.errors import UserError, WeightsError
from iqa_jax.files import local_path, output_file, write_whole
from iqa_jax.metric import Metric
from iqa_jax.models import IQA_MODELS, ModelConfig
from iqa_jax.models.base import as_unit_float

PLATFORMS = ("cpu", "cuda", "tpu")


def export(metric: Metric, path: str | os.PathLike) -> tuple[Path, Path]:
    """Writes StableHLO with the weights inside, for CPUs, CUDA and TPUs, and its metadata beside.

    The program takes crops, (B, S, S, 3) float32 in [0, 1] for any B, of the reference (unless the metric
    needs none) and of the distorted images, and gives their MOS (B,) float32.  Crops and their mean are left
    to the caller.

    Args:
      path: of the program; the metadata get ".json" after it.
    Returns:
      Both paths.
    Raises:
      UserError: the metric is an exported one.
    """
    if isinstance(metric.model, ExportedModel):
        raise UserError("an exported metric is exported already; copy its two files")
    size = metric.config.crop_size
    (batch,) = jax.export.symbolic_shape("batch")
    crops = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)

    def score(*images):
        return metric.model.denormalise(metric.model(*images))

    images = ["reference", "distorted"] if metric.full_reference else ["distorted"]
    exported = jax.export.export(jax.jit(score), platforms=PLATFORMS)(*[crops] * len(images))
    path = output_file(path)
    beside = path.with_name(path.name + ".json")
    metadata = metric.describe() | {
        "model": dataclasses.asdict(metric.config),
        "platforms": PLATFORMS,
        "inputs": f"{', '.join(images)}: (B, {size}, {size}, 3) float32 in [0, 1]",
        "output": "(B,) float32, MOS",
    }
    write_whole(path, bytes(exported.serialize()))
    write_whole(beside, json.dumps(metadata, indent=2) + "\n")
    return path, beside


class ExportedModel:
    """A program that `export` wrote, in place of the network.

    Attributes:
      config, full_reference: the network's.
    """

    def __init__(self, config: ModelConfig, program: bytes):
        """Takes a serialized program; raises what JAX does if it is not one."""
        exported = jax.export.deserialize(bytearray(program))
        self.config, self._program = config, program
        self.full_reference = IQA_MODELS[config.name].full_reference
        self._call = jit(exported.call)

    def __reduce__(self):
        return ExportedModel, (self.config, self._program)

    def window_programs(self) -> tuple[Callable, Callable]:
        """What `iqa_jax.metric.Metric` takes; the "features" of a reference are its windows."""

        def images(windows):
            return as_unit_float(jnp.asarray(windows))

        def scores(reference, windows):
            return self._call(*(() if reference is None else (reference,)), images(windows))

        return images, scores

    def __call__(self, *crops):
        raise UserError(
            "an exported metric has no gradient: load the run or the converted weights for a loss"
        )


def read_exported(path: str | os.PathLike) -> tuple[ExportedModel, dict]:
    """A program and the record of its weights ("sha256", "source"), from the metadata beside it.

    Raises:
      WeightsError: either is missing, damaged or not one of ours.
    """
    path = local_path(path)
    try:
        metadata = json.loads(path.with_name(path.name + ".json").read_text())
        model = ExportedModel(ModelConfig(**metadata["model"]), path.read_bytes())
        return model, {"sha256": metadata["sha256"], "source": metadata["weights"]}
    except Exception as error:  # flatbuffers raises many kinds for a file that is none
        raise WeightsError(
            f"{path}: not a metric that `python -m iqa_jax export` wrote, with its .json beside it "
            f"({error or type(error).__name__})"
        ) from None
