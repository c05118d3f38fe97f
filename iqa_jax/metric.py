"""Quality scores for whole images of any size, with a reference or without."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from iqa_jax import __version__
from iqa_jax.augment import SMALLEST, grid_crop, grid_offsets
from iqa_jax.compilation import jit
from iqa_jax.errors import UserError, WeightsError
from iqa_jax.files import local_path
from iqa_jax.models import IQA_MODELS, IQAModel, split_model
from iqa_jax.models.base import as_unit_float
from iqa_jax.models.layers import few_at_a_time
from iqa_jax.weights import STORED, flat_weights, model_with, read_any

CROPS = ("grid", "ten", "center")
# Windows go through the model in programs of these sizes, up to the batch size: few to compile, little
# to waste.
_GROUP_SIZES = (2, 4, 10)
_BATCH_SIZE = 16
# A prepared reference keeps the features of up to so many windows, 226 KB each; larger images are
# streamed again for each distorted version.
_KEPT_WINDOWS = 256
_ROUNDING = 1e-3  # so far outside [0, 1] a value is clipped; further out it is an error

Array = np.ndarray | jax.Array


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A reference whose features serve several distorted versions; made by `prepare`.

    Attributes:
      image: (H, W, 3).
      metric: the one that prepared it.
      features: of each group of windows; None where there are too many to keep.
    """

    image: Array
    metric: "Metric"
    features: Sequence[jax.Array] | None


@dataclasses.dataclass(frozen=True)
class QualityMap:
    """Where an image is good and where it is not.

    Attributes:
      values: (H, W) float32, MOS; each pixel is the weighted mean of the windows over it.
      windows: (N, 4) top, left, height and width of each window, clipped to the image.
      scores: (N,) MOS of each window.
    """

    values: np.ndarray
    windows: np.ndarray
    scores: np.ndarray


def load(
    path: str | os.PathLike,
    *,
    crops: str = "grid",
    batch_size: int = _BATCH_SIZE,
    step: int | str = "best",
    ema: bool = False,
) -> "Metric":
    """The metric of a run, a converted directory, an averaged checkpoint or an exported file.

    Args:
      path: the directory or file.
      crops, batch_size: see `Metric`.
      step: of a run: "best" (by validation SRCC), "latest" or a step number.
      ema: of a run: its exponential moving average instead of the raw weights.
    Returns:
      A `FullReferenceMetric` or a `BlindMetric`.
    Raises:
      WeightsError: nothing there to load, it is damaged, or it is a backbone's.
    """
    options = {"crops": crops, "batch_size": batch_size}
    if local_path(path).is_file():
        from iqa_jax.export import read_exported

        exported, record = read_exported(path)
        return metric_of(exported, record, programs=exported.window_programs(), **options)
    config, weights, record = read_any(path, step=step, ema=ema)
    if config.name not in IQA_MODELS:
        raise WeightsError(
            f"{path}: a backbone's weights ({config.name}), expected an IQA model's; the network itself is "
            "what iqa_jax.weights.load_backbone gives"
        )
    return metric_of(model_with(config, weights), record, **options)


def metric_of(model: IQAModel, record: dict, **options) -> "Metric":
    """The metric for a model of either kind; see `Metric`."""
    kind = FullReferenceMetric if model.full_reference else BlindMetric
    return kind(model, record, **options)


def _unpickled(model, record: dict, options: dict) -> "Metric":
    if isinstance(model, tuple):
        return metric_of(model_with(*model), record, **options)
    return metric_of(model, record, programs=model.window_programs(), **options)


def _window_programs(model: IQAModel) -> tuple[Callable, Callable]:
    """`features(windows)` of a reference, and `scores(those or None, windows)` in MOS."""
    graph, *weights = split_model(model)

    def features(weights, windows):
        return nnx.merge(graph, *weights).project(windows)

    def scores(weights, reference, windows):
        model = nnx.merge(graph, *weights)
        projected = (() if reference is None else (reference,)) + (model.project(windows),)
        return model.denormalise(few_at_a_time(model.assess, *projected))

    return partial(jit(features), weights), partial(jit(scores), weights)


class Metric:
    """A model with its weights, applied to whole images.

    Images are (H, W, 3) or (B, H, W, 3), uint8 or float in [0, 1], of 32 pixels or more on each side;
    below the model's crop size they are mirrored up to it.  Scores are in MOS units.

    Attributes:
      model: the network, on crops.
      config: its configuration.
      crops: the protocol: "grid" (the fewest evenly spaced crops that cover the image), "ten" (the
        paper's: corners and centre, mirrored too) or "center".
      range: (worst, best) of the MOS scale.
      higher_is_better: True.
      full_reference: whether it compares with a reference.
    """

    higher_is_better = True
    full_reference: bool

    def __init__(
        self,
        model: IQAModel,
        record: dict,
        *,
        crops: str = "grid",
        batch_size: int = _BATCH_SIZE,
        programs: tuple[Callable, Callable] | None = None,
    ):
        """Wraps a model in evaluation mode.

        Args:
          record: the weights' `config.json`, with their "sha256".
          crops: the protocol.
          batch_size: how many crops go through the model at a time, at most.
          programs: in place of the model's own, see `_window_programs`.
        Raises:
          UserError: an unknown crop protocol, or a batch size below 1.
        """
        if batch_size < 1:
            raise UserError(f"batch_size {batch_size}: expected 1 or more")
        if crops not in CROPS:
            raise UserError(f"crops {crops!r}: expected one of {', '.join(CROPS)}")
        self.model, self.config, self.crops, self._record = model, model.config, crops, record
        self._size = self.config.crop_size
        self._group_sizes = [p for p in _GROUP_SIZES if p < batch_size] + [batch_size]
        self.range = (self.config.mos_low, self.config.mos_high)
        self._features, self._scores = programs or _window_programs(model)
        self._options = {"crops": crops, "batch_size": batch_size}

    def __reduce__(self):
        """For pickle: the model as arrays, without its programs."""
        if isinstance(self.model, nnx.Module):
            weights = flat_weights(nnx.state(self.model, STORED))
            model = (self.config, {name: np.asarray(array) for name, array in weights.items()})
        else:
            model = self.model
        return _unpickled, (model, self._record, self._options)

    def describe(self) -> dict:
        """What a paper must quote: model, weights' origin and hash, crop protocol, version, scale."""
        config = self.config
        return {
            "metric": config.name,
            "backbone": config.backbone,
            "weights": self._record.get("source", {}),
            "sha256": self._record["sha256"],
            "crops": self.crops,
            "crop_size": config.crop_size,
            "dtype": config.dtype,
            "range": self.range,
            "higher_is_better": self.higher_is_better,
            "version": f"iqa_jax {__version__}",
        }

    def _loss(self, *images: jax.Array) -> jax.Array:
        """() or (B,), from one or two images or batches of them."""
        single = images[0].ndim == 3
        windows = [grid_crop(as_unit_float(x[None] if single else x), self._size) for x in images]
        predicted = self.model(*(w.reshape(-1, *w.shape[2:]) for w in windows))
        score = self.model.denormalise(predicted).reshape(windows[0].shape[:2]).mean(1)
        loss = (self.range[1] - score) / self.config.mos_std
        return loss[0] if single else loss

    def _map(self, reference: Array | None, distorted: Array) -> QualityMap:
        if distorted.ndim != 3:
            raise UserError(f"distorted {distorted.shape}: expected one image, (H, W, 3), to map")
        height, width = distorted.shape[:2]
        size = self._size
        rows, columns = (_overlapping_offsets(max(side, size), size) for side in (height, width))
        offsets = [(top, left, False) for top in rows for left in columns]
        prepared = None if reference is None else Prepared(reference, self, None)
        scores = self._window_scores(prepared, distorted, offsets)
        ramp = np.minimum(np.arange(size) + 1, size - np.arange(size)).astype(np.float64)
        weight = np.outer(ramp, ramp)
        total = np.zeros((max(height, size), max(width, size)))
        weights = np.zeros_like(total)
        for (top, left, _), score in zip(offsets, scores, strict=True):
            at = np.s_[top : top + size, left : left + size]
            total[at] += score * weight
            weights[at] += weight
        windows = [(t, x, min(size, height - t), min(size, width - x)) for t, x, _ in offsets]
        values = (total / weights)[:height, :width].astype(np.float32)
        return QualityMap(values, np.array(windows), scores)

    def _score(self, reference: Prepared | None, distorted: Array) -> np.ndarray:
        scores = self._window_scores(reference, distorted, self._offsets(distorted.shape))
        return np.float32(scores.mean(dtype=np.float64))

    def _window_scores(self, reference: Prepared | None, distorted: Array, offsets: list) -> np.ndarray:
        if reference is None:
            kept = [None] * -(-len(offsets) // self._group_sizes[-1])
        elif reference.features is None:
            kept = (self._features(windows) for windows, _ in self._groups(reference.image, offsets))
        else:
            kept = reference.features
        scores = []
        for (windows, count), features in zip(self._groups(distorted, offsets), kept, strict=True):
            scores.append(np.asarray(self._scores(features, windows))[:count])
        return np.concatenate(scores)

    def _offsets(self, shape: tuple[int, ...]) -> list[tuple[int, int, bool]]:
        """Top, left and mirrored or not of each window in an image of at least the crop size."""
        size = self._size
        height, width = (max(side, size) for side in shape[:2])
        if self.crops == "grid":
            rows, columns = grid_offsets(height, size), grid_offsets(width, size)
            return [(top, left, False) for top in rows for left in columns]
        bottom, right = height - size, width - size
        center = (bottom // 2, right // 2)
        if self.crops == "center":
            return [(*center, False)]
        corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), center]
        # The mirrored image's crop at the left is this image's at the right, mirrored.
        return [(*at, False) for at in corners] + [(top, right - left, True) for top, left in corners]

    def _groups(self, image: Array, offsets: list) -> Iterator[tuple[np.ndarray, int]]:
        """Windows of an image in groups that a program takes, with how many of them count."""
        image, size = _mirrored_up(np.asarray(image), self._size), self._size
        if image.dtype != np.uint8:
            image = np.clip(image.astype(np.float32), 0, 1)  # rounding errors; more was refused
        for start in range(0, len(offsets), self._group_sizes[-1]):
            group = [
                image[top : top + size, left : left + size][:, :: -1 if mirrored else 1]
                for top, left, mirrored in offsets[start : start + self._group_sizes[-1]]
            ]
            program = next(p for p in self._group_sizes if p >= len(group))
            yield np.stack(group + group[-1:] * (program - len(group))), len(group)


class FullReferenceMetric(Metric):
    """Compares a distorted image with its reference."""

    full_reference = True

    def __call__(self, reference: Array | Prepared, distorted: Array) -> np.ndarray:
        """MOS of `distorted`, () for (H, W, 3) and (B,) for (B, H, W, 3).

        Args:
          reference: images of the same shape, or what `prepare` gave.
        Raises:
          UserError: anything else came; says what, and what is wanted.
        """
        check_images(distorted, "distorted")
        if isinstance(reference, Prepared):
            if distorted.ndim != 3 or distorted.shape != reference.image.shape:
                raise UserError(
                    f"distorted {distorted.shape}: expected {reference.image.shape}, the prepared reference's"
                )
            if reference.metric is not self:
                raise UserError("a reference that another metric prepared; prepare it with this one")
            return self._score(reference, distorted)
        _check_pair(reference, distorted)
        if distorted.ndim == 3:
            return self._score(Prepared(reference, self, None), distorted)
        pairs = zip(reference, distorted, strict=True)
        return np.stack([self._score(Prepared(r, self, None), d) for r, d in pairs])

    def prepare(self, reference: Array) -> Prepared:
        """Computes a reference's features once, to be given in its place for many distorted versions.

        Args:
          reference: (H, W, 3).
        """
        check_images(reference, "reference")
        if reference.ndim != 3:
            raise UserError(f"reference {reference.shape}: expected one image, (H, W, 3), to prepare")
        count = len(self._offsets(reference.shape))
        features = None
        if count <= _KEPT_WINDOWS:
            groups = self._groups(reference, self._offsets(reference.shape))
            features = [self._features(windows) for windows, _ in groups]
        return Prepared(reference, self, features)

    def loss(self, reference: jax.Array, distorted: jax.Array) -> jax.Array:
        """How far `distorted` is below the best score, in standard deviations of the training labels.

        Differentiable with respect to both images, finite also for identical ones; for `jax.jit`,
        `jax.vmap` and `jax.grad`.  All windows of the grid go through the model at once.

        Args:
          reference, distorted: (H, W, 3) or (B, H, W, 3), float in [0, 1]; the range is checked where
            the values are known.
        Returns:
          () or (B,).
        Raises:
          UserError: another shape, size, dtype or range.
        """
        _check_pair(reference, distorted, traced=True)
        return self._loss(reference, distorted)

    def map(self, reference: Array, distorted: Array) -> QualityMap:
        """A quality map at image size, from windows that overlap by half or more.

        Args:
          reference, distorted: (H, W, 3).
        """
        _check_pair(reference, distorted)
        return self._map(reference, distorted)


class BlindMetric(Metric):
    """Sees the distorted image alone."""

    full_reference = False

    def __call__(self, distorted: Array) -> np.ndarray:
        """MOS of `distorted`, () for (H, W, 3) and (B,) for (B, H, W, 3).

        Raises:
          UserError: anything else came; says what, and what is wanted.
        """
        check_images(distorted, "distorted")
        if distorted.ndim == 3:
            return self._score(None, distorted)
        return np.stack([self._score(None, image) for image in distorted])

    def loss(self, distorted: jax.Array) -> jax.Array:
        """How far `distorted` is below the best score, in standard deviations of the training labels.

        Differentiable and finite; for `jax.jit`, `jax.vmap` and `jax.grad`.  All windows of the grid go
        through the model at once.

        Args:
          distorted: (H, W, 3) or (B, H, W, 3), float in [0, 1]; the range is checked where the values
            are known.
        Returns:
          () or (B,).
        Raises:
          UserError: another shape, size, dtype or range.
        """
        check_images(distorted, "distorted", traced=True)
        return self._loss(distorted)

    def map(self, distorted: Array) -> QualityMap:
        """A quality map at image size, from windows that overlap by half or more.

        Args:
          distorted: (H, W, 3).
        """
        check_images(distorted, "distorted")
        return self._map(None, distorted)


def _overlapping_offsets(length: int, size: int) -> list[int]:
    """Evenly spaced windows that overlap by half or more and reach both ends."""
    count = -(-(length - size) // (size // 2)) + 1
    return [round(k * (length - size) / max(count - 1, 1)) for k in range(count)]


def _mirrored_up(image: np.ndarray, size: int) -> np.ndarray:
    """Mirrors at the bottom and on the right until each side has `size` pixels."""
    height, width = image.shape[:2]
    if min(height, width) >= size:
        return image
    missing = ((0, max(size - height, 0)), (0, max(size - width, 0)), (0, 0))
    return np.pad(image, missing, mode="symmetric")


def check_images(images: Array, name: str, *, traced: bool = False) -> None:
    """Raises UserError unless `images` are what `Metric` takes.

    Args:
      name: what to call them.
      traced: whether `jax.jit` and the like may be at work; values are then checked where they are known.
    """
    wanted = "expected a NumPy or JAX array (H, W, 3) or (B, H, W, 3), uint8 or float in [0, 1]"
    if isinstance(images, jax.core.Tracer):
        if not traced:
            raise UserError(
                f"{name}: traced by jax.jit, jax.vmap or jax.grad; a metric scores arrays whose values are "
                "known: inside a transformed function, use metric.loss"
            )
    elif not isinstance(images, np.ndarray | jax.Array):
        raise UserError(f"{name}: a {type(images).__name__}; {wanted}")
    if images.ndim not in (3, 4) or images.shape[-1] != 3:
        raise UserError(f"{name}: shape {images.shape}; {wanted}")
    if images.dtype != np.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(f"{name}: {images.dtype}; {wanted}")
    if min(images.shape) < 1 or min(images.shape[-3:-1]) < SMALLEST:
        raise UserError(f"{name}: shape {images.shape}; expected {SMALLEST} pixels or more on each side")
    if images.dtype != np.uint8 and not isinstance(images, jax.core.Tracer):
        low, high = float(images.min()), float(images.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise UserError(f"{name}: holds NaN or infinite values; {wanted}")
        if low < -_ROUNDING or high > 1 + _ROUNDING:
            hint = "; divide by 255?" if 1.5 < high <= 255 and low >= 0 else "; clip them?"
            raise UserError(f"{name}: values from {low} to {high}; expected [0, 1]{hint}")


def _check_pair(reference: Array, distorted: Array, *, traced: bool = False) -> None:
    check_images(reference, "reference", traced=traced)
    check_images(distorted, "distorted", traced=traced)
    if reference.shape != distorted.shape:
        raise UserError(f"reference {reference.shape} and distorted {distorted.shape} differ in shape")
