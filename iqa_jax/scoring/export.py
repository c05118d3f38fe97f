"""A metric as one file that runs with JAX alone; written and read."""

import dataclasses
import importlib.util
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp

from iqa_jax.errors import UserError, WeightsError
from iqa_jax.files import local_path, output_file, write_whole
from iqa_jax.models import IQA_MODELS
from iqa_jax.models.base import as_unit_float
from iqa_jax.models.config import ModelConfig
from iqa_jax.ops.programs import jit
from iqa_jax.scoring.engine import cut_to_program
from iqa_jax.scoring.metric import Metric

PLATFORMS = ("cpu", "cuda", "tpu")


def _check_flatbuffers() -> None:
    """`jax.export` says nothing of what it lacks."""
    if importlib.util.find_spec("flatbuffers") is None:
        raise ModuleNotFoundError("No module named 'flatbuffers'", name="flatbuffers")


def export(metric: Metric, path: str | os.PathLike) -> tuple[Path, Path]:
    """Writes StableHLO with the weights inside, for CPUs, CUDA and TPUs, and its metadata beside.

    The program takes crops, (B, S, S, 3) float32 in [0, 1] for any B, of the reference (unless the metric
    needs none) and of the distorted images, and gives their MOS (B,) float32.  Crops and their mean are left
    to the caller.  `jax.export` needs the package flatbuffers; files of jax 0.10 are read by jax 0.9 to 0.12.

    Args:
      path: of the program, NAME.jaxexport; the metadata get ".json" after it.
    Returns:
      Both paths.
    """
    _check_flatbuffers()
    size = metric.config.crop_size
    (batch,) = jax.export.symbolic_shape("batch")
    crops = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    images = ["reference", "distorted"] if metric.full_reference else ["distorted"]
    program = jax.export.export(jax.jit(metric.model.predict), platforms=PLATFORMS)(*[crops] * len(images))
    path = output_file(path, ".jaxexport")
    beside = path.with_name(path.name + ".json")
    metadata = metric.describe() | {
        "model": dataclasses.asdict(metric.config),
        "platforms": PLATFORMS,
        "inputs": f"{', '.join(images)}: (B, {size}, {size}, 3) float32 in [0, 1]",
        "output": "(B,) float32, MOS",
    }
    write_whole(path, bytes(program.serialize()))
    write_whole(beside, json.dumps(metadata, indent=2) + "\n")
    return path, beside


class ExportedProgram:
    """A program that `export` wrote, as a `WindowModel`; the "features" of a window are the window."""

    sets = 1

    def __init__(self, config: ModelConfig, program: bytes):
        """Takes a serialized program; raises what JAX does if it is not one."""
        exported = jax.export.deserialize(bytearray(program))
        self.config, self._program = config, program
        self.full_reference = IQA_MODELS[config.name].full_reference
        self._call = jit(exported.call)
        self._without_gradient = _without_gradient(exported.call)

    def features(self, windows, count):
        return (as_unit_float(jnp.asarray(windows)),)

    def scores(self, reference, windows, count):
        images = (*(reference or ()), as_unit_float(jnp.asarray(windows)))
        return self._call(*cut_to_program(images, count))[None]

    def predict(self, *windows):
        return self._without_gradient(*windows)

    def __reduce__(self):
        return ExportedProgram, (self.config, self._program)


def _without_gradient(function):
    """The same function, with a plain error where a gradient is asked for."""

    @jax.custom_vjp
    def wrapped(*images):
        return function(*images)

    def refused(*_):
        raise UserError(
            "an exported metric has no gradient: load the run or the converted weights for a loss"
        )

    wrapped.defvjp(refused, refused)
    return wrapped


def read_exported(path: str | os.PathLike) -> tuple[ExportedProgram, dict]:
    """A program and the record of its weights ("sha256", "source"), from the metadata beside it.

    Raises:
      WeightsError: either is missing, damaged or not one of ours.
    """
    path = local_path(path)
    _check_flatbuffers()
    try:
        metadata = json.loads(path.with_name(path.name + ".json").read_text())
        model = ExportedProgram(ModelConfig(**metadata["model"]), path.read_bytes())
        return model, {"sha256": metadata["sha256"], "source": metadata["weights"]}
    except Exception as error:  # flatbuffers raises many kinds for a foreign file
        raise WeightsError(
            f"{path}: not a metric that `python -m iqa_jax export` wrote, with its .json beside it "
            f"({error or type(error).__name__})"
        ) from None
