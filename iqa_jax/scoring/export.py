"""A metric as one file that runs with JAX alone; written and read."""

import dataclasses
import hashlib
import importlib.util
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from iqa_jax.errors import UserError, WeightsError
from iqa_jax.files import check_replaceable, failure_reason, local_path, output_file, write_whole
from iqa_jax.models import IQA_MODELS, config_from
from iqa_jax.models.base import as_unit_float
from iqa_jax.models.config import ModelConfig
from iqa_jax.ops.programs import jit
from iqa_jax.scoring.metric import Metric
from iqa_jax.scoring.network import cut_to_program
from iqa_jax.weights.record import parsed, text_of
from iqa_jax.weights.sharing import source_of, without_paths

PLATFORMS = ("cpu", "cuda", "tpu")
_EXPORTED = "a metric that `python -m iqa_jax export` wrote, with its .json beside it"


def _check_flatbuffers() -> None:
    """`jax.export` says nothing of what it lacks."""
    if importlib.util.find_spec("flatbuffers") is None:
        raise UserError(
            "an exported metric needs flatbuffers, which is not installed; it comes with: "
            "pip install 'iqa-conformer[export]'"
        )


def export(metric: Metric, path: str | os.PathLike) -> tuple[Path, Path]:
    """Writes StableHLO with the weights inside, for CPUs, CUDA and TPUs, and its metadata beside.

    The program takes crops, (B, S, S, 3) float32 in [0, 1] for any B, of the reference (unless the metric
    needs none) and of the distorted images, and gives their MOS (B,) float32.  Crops and their mean are left
    to the caller.  `jax.export` needs the package flatbuffers; files of jax 0.10 are read by jax 0.9 to 0.12.

    Args:
      path: of the program, NAME.jaxexport; the metadata get ".json" after it.
    Returns:
      Both paths.
    Raises:
      UserError: another file is there, or the path cannot be written.
    """
    _check_flatbuffers()
    path = output_file(path, ".jaxexport")
    beside = _beside(path)
    if path.exists() and not beside.exists():
        raise UserError(f"{path}: is there already, without {beside.name}; delete it or choose another name")
    check_replaceable(beside, b'"program_sha256"', "description of an exported metric")
    size = metric.config.crop_size
    (batch,) = jax.export.symbolic_shape("batch")
    crops = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    images = ["reference", "distorted"] if metric.full_reference else ["distorted"]
    # In float32 throughout, as the engine computes: a GPU would take TF32, and other scores come out.
    predict = jax.default_matmul_precision("highest")(metric.model.predict)
    program = jax.export.export(jax.jit(predict), platforms=PLATFORMS)(*[crops] * len(images))
    content = bytes(program.serialize())
    metadata = without_paths(metric.describe()) | {
        "model": dataclasses.asdict(metric.config),
        "record": {
            **{name: metric.record[name] for name in ("name", "sha256") if name in metric.record},
            "source": source_of(metric.record),
        },
        "platforms": PLATFORMS,
        "inputs": f"{', '.join(images)}: (B, {size}, {size}, 3) float32 in [0, 1]",
        "output": "(B,) float32, MOS",
        "program_sha256": hashlib.sha256(content).hexdigest(),
    }
    write_whole(beside, text_of(metadata))
    write_whole(path, content)
    return path, beside


def _beside(program: Path) -> Path:
    """The metadata of a program."""
    return program.with_name(program.name + ".json")


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
        if jax.default_backend() == "cpu":
            return (np.asarray(as_unit_float(windows)),)
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
    beside = _beside(path)
    if path.is_symlink() and not beside.exists():
        beside = _beside(path.resolve())
    try:
        text, program = beside.read_text(encoding="utf-8"), path.read_bytes()
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: not {_EXPORTED} ({error})") from None
    if "program_sha256" not in text:
        raise WeightsError(f"{path}: not {_EXPORTED}, or of a version without checksums; export it again")
    try:
        metadata = parsed(text, always_sealed=True)
        if text_of(metadata) != text:
            raise ValueError("not what was written")
        config, record = config_from(metadata["model"]), dict(metadata["record"])
    except (ValueError, KeyError) as error:
        raise WeightsError(f"{beside}: damaged ({error}); export the metric again") from None
    if hashlib.sha256(program).hexdigest() != metadata["program_sha256"]:
        raise WeightsError(
            f"{path}: damaged, or not the program that {beside.name} was written for; export the metric again"
        )
    try:
        model = ExportedProgram(config, program)
    except Exception as error:  # jax's and flatbuffers' many kinds, for a program of a version too new or old
        raise WeightsError(f"{path}: this version of jax cannot read it ({failure_reason(error)})") from None
    return model, record
