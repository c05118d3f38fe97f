"""Loading a metric by name, from the model hub or from a path."""

import os
from typing import Literal, overload

from iqa_jax.errors import WeightsError, missing_devices_named
from iqa_jax.models import IQA_MODELS
from iqa_jax.scoring.engine import BATCH_SIZE, Network, WindowModel, check_process
from iqa_jax.scoring.metric import BlindMetric, FullReferenceMetric, Metric
from iqa_jax.weights.flat import iqa_model_with
from iqa_jax.weights.reading import check_choice, is_file, read_any

FULL_REFERENCE, BLIND = "full-reference", "blind"  # the metrics that ship with the package


@overload
def load(
    path: Literal["full-reference"] = ...,
    *,
    crops: str = ...,
    batch_size: int = ...,
    step: int | str = ...,
    ema: bool = ...,
) -> FullReferenceMetric: ...


@overload
def load(
    path: Literal["blind"],
    *,
    crops: str = ...,
    batch_size: int = ...,
    step: int | str = ...,
    ema: bool = ...,
) -> BlindMetric: ...


@overload
def load(
    path: str | os.PathLike,
    *,
    crops: str = ...,
    batch_size: int = ...,
    step: int | str = ...,
    ema: bool = ...,
) -> Metric: ...


def load(
    path: str | os.PathLike = FULL_REFERENCE,
    *,
    crops: str = "grid",
    batch_size: int = BATCH_SIZE,
    step: int | str = "best",
    ema: bool = False,
) -> Metric:
    """A metric that ships with the package, or one with your weights.

    Args:
      path: what to load; the first of these that fits.
        1. "full-reference" or "blind": a metric that ships with the package ("./blind" is a folder).
        2. "hf://OWNER/NAME" or "hf://OWNER/NAME@REVISION": weights on the model hub.
        3. A file: an exported program.
        4. A folder that holds `model.safetensors`: converted, averaged or packed weights.
        5. A folder that holds `checkpoints`: a training run.
      crops, batch_size: see `Metric`.
      step: which checkpoint of a run: "best" (by validation SRCC), "latest" or a step number.
      ema: take a run's exponential moving average instead of its raw weights.
    Returns:
      A `FullReferenceMetric` or a `BlindMetric`.
    Raises:
      WeightsError: nothing there to load, it is damaged, it holds a backbone alone, or `step` or `ema` is
        given for something that is not a run.
    """
    model, record = load_model(path, step=step, ema=ema)
    return metric_of(model, record, crops=crops, batch_size=batch_size)


@missing_devices_named()
def load_model(
    path: str | os.PathLike, *, step: int | str = "best", ema: bool = False
) -> tuple[WindowModel, dict]:
    """What scores windows, and the record of its weights (`config.json` with their "sha256").

    Raises:
      WeightsError: see `load`.
      UserError: this process was forked from one that had loaded a metric.
    """
    check_process()
    if is_file(path):
        from iqa_jax.scoring.export import read_exported

        check_choice(path, step=step, ema=ema)
        return read_exported(path)
    config, weights, record = read_any(path, step=step, ema=ema)
    if config.name not in IQA_MODELS:
        raise WeightsError(
            f"{path}: a backbone's weights ({config.name}), expected an IQA model's; for the network itself "
            "call iqa_jax.weights.reading.load_backbone"
        )
    return Network.from_model(iqa_model_with(config, weights)), record


def metric_of(model: WindowModel, record: dict, **options) -> Metric:
    """The metric for a model of either kind; see `Metric`."""
    kind = FullReferenceMetric if model.full_reference else BlindMetric
    return kind(model, record, **options)
