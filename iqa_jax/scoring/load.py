"""Loading a metric by name, from the model hub or from a path; for JAX or for onnxruntime."""

import importlib.util
import os
import sys
from typing import Literal, overload

from iqa_jax.errors import UserError, WeightsError, missing_devices_named
from iqa_jax.scoring.engine import BATCH_SIZE, WindowModel, check_process
from iqa_jax.scoring.metric import BlindMetric, FullReferenceMetric, Metric
from iqa_jax.weights.hub import on_hub
from iqa_jax.weights.places import check_choice, is_file, named, place_of

FULL_REFERENCE, BLIND = "full-reference", "blind"  # the metrics that ship with the package
# What runs a metric: the package that it needs, and the extra that installs it.
ENGINES = {"jax": ("jax", "jax"), "onnx": ("onnxruntime", "lite")}


@overload
def load(
    path: Literal["full-reference"] = ...,
    *,
    crops: str = ...,
    batch_size: int = ...,
    step: int | str = ...,
    ema: bool = ...,
    engine: str = ...,
) -> FullReferenceMetric: ...


@overload
def load(
    path: Literal["blind"],
    *,
    crops: str = ...,
    batch_size: int = ...,
    step: int | str = ...,
    ema: bool = ...,
    engine: str = ...,
) -> BlindMetric: ...


@overload
def load(
    path: str | os.PathLike,
    *,
    crops: str = ...,
    batch_size: int = ...,
    step: int | str = ...,
    ema: bool = ...,
    engine: str = ...,
) -> Metric: ...


def load(
    path: str | os.PathLike = FULL_REFERENCE,
    *,
    crops: str = "grid",
    batch_size: int = BATCH_SIZE,
    step: int | str = "best",
    ema: bool = False,
    engine: str = "",
) -> Metric:
    """A metric that ships with the package, or one with your weights.

    Args:
      path: what to load; the first of these that fits.
        1. "full-reference" or "blind": a metric that ships with the package ("./blind" is a folder).
        2. "hf://OWNER/NAME" or "hf://OWNER/NAME@REVISION": weights on the model hub.
        3. A file: an exported program, or an ONNX file (NAME.onnx).
        4. A folder that holds `model.safetensors`: converted, averaged or packed weights.
        5. A folder that holds `checkpoints`: a training run.
      crops, batch_size: see `Metric`.
      step: which checkpoint of a run: "best" (by validation SRCC), "latest" or a step number.
      ema: take a run's exponential moving average instead of its raw weights.
      engine: "jax", or "onnx" for onnxruntime, which starts sooner, needs no JAX and gives no gradients; it
        takes an ONNX file, a shipped metric or a folder with `metric.onnx`.  JAX where it is installed if not
        given.
    Returns:
      A `FullReferenceMetric` or a `BlindMetric`.
    Raises:
      WeightsError: nothing there to load, it is damaged, it holds a backbone alone, or `step` or `ema` is
        given for something that is not a run.
      UserError: the engine is unknown or not installed.
    """
    model, record = load_model(path, step=step, ema=ema, engine=engine)
    return metric_of(model, record, crops=crops, batch_size=batch_size)


@missing_devices_named()
def load_model(
    path: str | os.PathLike, *, step: int | str = "best", ema: bool = False, engine: str = ""
) -> tuple[WindowModel, dict]:
    """What scores windows, and the record of its weights (`config.json` with their "sha256").

    From here on, JAX keeps the programs that it compiles, for the next start, as it does for commands; see
    `iqa_jax.ops.programs.keep_programs`.

    Raises:
      WeightsError, UserError: see `load`.
      UserError: this process was forked from one that had loaded a metric.
    """
    check_process()
    given_file = is_file(path)
    if _engine_for(path, given_file, engine) == "onnx":
        from iqa_jax.scoring.onnx_model import read_onnx

        check_choice(path, step=step, ema=ema)
        place = place_of(path)
        model, record = read_onnx(place)
        return model, record | (named(path, place, record) if on_hub(path) else {})
    from iqa_jax.ops.programs import keep_programs

    keep_programs()
    if given_file:
        from iqa_jax.scoring.export import read_exported

        check_choice(path, step=step, ema=ema)
        return read_exported(path)
    return _network(path, step, ema)


def _engine_for(path: str | os.PathLike, given_file: bool, asked: str) -> str:
    """The engine for weights: the one that is asked for, else the one that the file or the machine has."""
    if asked and asked not in ENGINES:
        raise UserError(f"engine {asked!r}: expected {' or '.join(ENGINES)}")
    of_file = ("onnx" if os.fspath(path).lower().endswith(".onnx") else "jax") if given_file else ""
    if asked and of_file and asked != of_file:
        raise UserError(f"{path}: a file for {of_file}, {asked} cannot run it")
    chosen = asked or of_file or ("jax" if _is_installed("jax") else "onnx")
    if not _is_installed(chosen):
        package, extra = ENGINES[chosen]
        if asked or of_file:
            raise UserError(
                f"{package} is not installed; it comes with: pip install 'iqa-conformer[{extra}]'"
            )
        raise UserError(
            "neither JAX nor onnxruntime is installed; pip install 'iqa-conformer[jax]' brings the first, "
            "pip install 'iqa-conformer[lite]' the second, which scores pictures without JAX"
        )
    return chosen


def _is_installed(engine: str) -> bool:
    package, _ = ENGINES[engine]
    return sys.modules.get(package) is not None or importlib.util.find_spec(package) is not None


def _network(path: str | os.PathLike, step: int | str, ema: bool) -> tuple[WindowModel, dict]:
    """A network that JAX runs; without Flax where an earlier start has kept the programs of these weights."""
    from iqa_jax.scoring import traced

    place = place_of(path)
    is_plain = step == "best" and not ema
    if is_plain and (earlier := traced.kept(place, lambda: _read(path, step, ema)[0])):
        model, record = earlier
        return model, record | named(path, place, record)
    network, weights, record = _read(path, step, ema)
    return (traced.keeping(place, network, weights) if is_plain else network), record


def _read(path: str | os.PathLike, step: int | str, ema: bool):
    """A network, its weights by name, and their record."""
    from iqa_jax.models import IQA_MODELS
    from iqa_jax.scoring.network import Network
    from iqa_jax.weights.flat import iqa_model_with
    from iqa_jax.weights.reading import read_any

    config, weights, record = read_any(path, step=step, ema=ema)
    if config.name not in IQA_MODELS:
        raise WeightsError(
            f"{path}: a backbone's weights ({config.name}), expected an IQA model's; for the network itself "
            "call iqa_jax.weights.reading.load_backbone"
        )
    return Network.from_model(iqa_model_with(config, weights)), weights, record


def metric_of(model: WindowModel, record: dict, **options) -> Metric:
    """The metric for a model of either kind; see `Metric`."""
    kind = FullReferenceMetric if model.full_reference else BlindMetric
    return kind(model, record, **options)
