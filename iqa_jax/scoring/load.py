"""Loading a metric from whatever holds weights."""

import os
from typing import Literal, overload

from iqa_jax.errors import WeightsError, missing_devices_named
from iqa_jax.files import local_path
from iqa_jax.models import IQA_MODELS
from iqa_jax.scoring.engine import BATCH_SIZE, Network, WindowModel, check_process
from iqa_jax.scoring.metric import BlindMetric, FullReferenceMetric, Metric
from iqa_jax.weights.flat import iqa_model_with
from iqa_jax.weights.hub import on_hub
from iqa_jax.weights.reading import check_choice, read_any

FULL_REFERENCE, BLIND = "full-reference", "blind"  # the metrics that come with the package


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
    """A metric that comes with the package, or that of any weights.

    Args:
      path: "full-reference" or "blind", the metrics that come with the package; or the directory or file
        of a run, of converted, averaged or packed weights or of an exported program; or `hf://OWNER/NAME`,
        weights from the model hub.  A directory of one of those names is meant by "./blind".
      crops, batch_size: see `Metric`.
      step: of a run: "best" (by validation SRCC), "latest" or a step number.
      ema: of a run: its exponential moving average instead of the raw weights.
    Returns:
      A `FullReferenceMetric` or a `BlindMetric`.
    Raises:
      WeightsError: nothing there to load, it is damaged, or it is a backbone's; a step or a moving average is
        chosen of what is no run.
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
    if not on_hub(path) and local_path(path).is_file():
        from iqa_jax.scoring.export import read_exported

        check_choice(path, step=step, ema=ema)
        return read_exported(path)
    config, weights, record = read_any(path, step=step, ema=ema)
    if config.name not in IQA_MODELS:
        raise WeightsError(
            f"{path}: a backbone's weights ({config.name}), expected an IQA model's; the network itself is "
            "what iqa_jax.weights.reading.load_backbone gives"
        )
    return Network.from_model(iqa_model_with(config, weights)), record


def metric_of(model: WindowModel, record: dict, **options) -> Metric:
    """The metric for a model of either kind; see `Metric`."""
    kind = FullReferenceMetric if model.full_reference else BlindMetric
    return kind(model, record, **options)
