"""Quality scores for whole images of any size, with a reference or without."""

import dataclasses
import os
from collections import deque
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from iqa_jax import __version__
from iqa_jax.errors import UserError
from iqa_jax.models.base import as_unit_float
from iqa_jax.ops import Array
from iqa_jax.ops.windows import CROPS, Place, places, places_of_part, weighted_mean
from iqa_jax.ops.windows import windows as cut_windows
from iqa_jax.scoring.checks import check_images, check_one, check_pair, image_of, mask_of
from iqa_jax.scoring.engine import BATCH_SIZE, KEPT_WINDOWS, Engine, Reference, WindowModel
from iqa_jax.weights.record import identity_of, title_of

LOSS_WINDOWS = 8  # that a loss, and its gradient, look at together
Given = Array | str | os.PathLike | Image.Image  # what is taken as an image


@dataclasses.dataclass(frozen=True)
class Prepared:
    """References whose features serve several distorted versions; made by `FullReferenceMetric.prepare`.

    Attributes:
      shape: (H, W, 3), or (B, H, W, 3) of a batch.
      metric: the one that prepared them.
      references: of each image.
    """

    shape: tuple[int, ...]
    metric: "Metric"
    references: tuple[Reference, ...]


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


class Metric:
    """A model with its weights, applied to whole images.

    Images are (H, W, 3) or (B, H, W, 3), uint8 or float in [0, 1], of 32 pixels or more on each side;
    below the model's crop size they are mirrored up to it.  A file's name or path and an image of Pillow's
    are taken too, as `read_image` reads them.  Scores are in MOS units.

    A mask, (H, W) or (B, H, W), bool or from 0 to 1, asks for the score of the part that it shows: of the
    windows of the protocol in the box around it, each by its share of the part.

    Attributes:
      model: the network with its weights, or an exported program, on windows.
      config: its configuration.
      crops: the protocol: "grid" (the fewest evenly spaced crops that cover the image), "ten" (the
        paper's: corners and centre, mirrored too) or "center".
      range: (worst, best) of the MOS scale.
      higher_is_better: True.
      full_reference: whether it compares with a reference.
      record: the weights' `config.json`, with their "sha256" and "name".
    """

    higher_is_better = True
    full_reference: bool

    def __init__(
        self, model: WindowModel, record: dict, *, crops: str = "grid", batch_size: int = BATCH_SIZE
    ):
        """Wraps a model.

        Args:
          record: the weights' `config.json`, with their "sha256".
          crops: the protocol.
          batch_size: how many crops go through the model at a time, at most.
        Raises:
          UserError: an unknown crop protocol, or a batch size below 1.
        """
        if batch_size < 1:
            raise UserError(f"batch_size {batch_size}: expected 1 or more")
        if crops not in CROPS:
            raise UserError(f"crops {crops!r}: expected one of {', '.join(CROPS)}")
        self.model, self.config, self.crops = model, model.config, crops
        self.record, self._size, self._batch_size = record, self.config.crop_size, batch_size
        self.range = (self.config.mos_low, self.config.mos_high)
        self._engine = Engine(model, batch_size=batch_size)

    def __reduce__(self):
        options = {"crops": self.crops, "batch_size": self._batch_size}
        return _unpickled, (type(self), self.model, self.record, options)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {self.config.name} on {self.config.backbone}, weights "
            f"{title_of(self.record)}, {self.crops} crops>"
        )

    @property
    def identity(self) -> str:
        """What scores depend on beside images and crops: SHA-256 of weights, scale and configuration."""
        return identity_of(self.config, self.record["sha256"])

    def describe(self) -> dict:
        """What a paper must quote: model, weights' origin and hash, crop protocol, version, scale."""
        config = self.config
        return {
            "metric": config.name,
            "backbone": config.backbone,
            **({"name": self.record["name"]} if "name" in self.record else {}),
            "weights": self.record.get("source", {}),
            "sha256": self.record["sha256"],
            **({"card": self.record["card"]} if "card" in self.record else {}),
            "crops": self.crops,
            "crop_size": config.crop_size,
            "dtype": config.dtype,
            "range": self.range,
            "higher_is_better": self.higher_is_better,
            "version": f"iqa_jax {__version__}",
        }

    def _places(self, image: Array) -> list[Place]:
        height, width = image.shape[-3:-1]
        return places(self.crops, height, width, self._size)

    def _stream(
        self, items: Iterable[tuple[Reference | None, Array, np.ndarray | None]]
    ) -> Iterator[np.floating]:
        """Scores of images of any sizes, in their order; windows of several go through together."""
        weights: deque[np.ndarray | None] = deque()

        def tasks():
            for reference, image, mask in items:
                where, weight = self._places(image), None
                if mask is not None:
                    where, weight = places_of_part(self.crops, mask, self._size)
                weights.append(weight)
                yield reference, image, where

        for scores in self._engine.scores(tasks()):
            yield np.float32(np.average(scores[0].astype(np.float64), weights=weights.popleft()))

    def _scores(self, references: Iterable[Reference | None], distorted: Array, mask) -> np.ndarray:
        """() or (B,)."""
        single = distorted.ndim == 3
        images = [distorted] if single else list(distorted)
        masks = [None] * len(images)
        if mask is not None:
            mask = mask_of(mask, distorted)
            masks = [mask] if single else list(mask)
        found = np.stack(list(self._stream(zip(references, images, masks, strict=True))))
        return found[0] if single else found

    def _loss(self, *images: jax.Array, windows: int | None, key: jax.Array | None) -> jax.Array:
        """() or (B,), from one or two images or batches of them."""
        if windows is not None and windows < 1:
            raise UserError(f"windows={windows}: expected 1 or more")
        single = images[0].ndim == 3
        cut = [cut_windows(as_unit_float(x[None] if single else x), "grid", self._size) for x in images]
        count = cut[0].shape[1]
        if windows is not None and windows < count:
            if key is None:
                raise UserError(f"windows={windows}: expected a key, jax.random.key(0), to draw them with")
            chosen = jax.random.choice(key, count, (windows,), replace=False)
            cut = [x[:, chosen] for x in cut]
        mos = _few_at_a_time(self.model.predict, *(x.reshape(-1, *x.shape[2:]) for x in cut))
        loss = (self.range[1] - mos.reshape(cut[0].shape[:2]).mean(1)) / self.config.mos_std
        return loss[0] if single else loss

    def _map(self, reference: Reference | None, distorted: Array) -> QualityMap:
        height, width = distorted.shape[:2]
        size = self._size
        where = places("overlapping", height, width, size)
        ((scores,),) = self._engine.scores([(reference, distorted, where)])
        clipped = [(top, left, min(size, height - top), min(size, width - left)) for top, left, _ in where]
        values = weighted_mean(scores, where, height, width, size)
        return QualityMap(values, np.array(clipped), scores)


def _few_at_a_time(predict, *windows: jax.Array) -> jax.Array:
    """MOS (N,) of windows (N, S, S, 3); what a gradient needs of them is computed again for few at a time."""
    count = windows[0].shape[0]
    parts = -(-count // LOSS_WINDOWS)
    if parts == 1:
        return predict(*windows)
    padded = [
        jnp.pad(x, ((0, parts * LOSS_WINDOWS - count), *[(0, 0)] * (x.ndim - 1)), "edge") for x in windows
    ]
    grouped = tuple(x.reshape(parts, LOSS_WINDOWS, *x.shape[1:]) for x in padded)
    return jax.lax.map(jax.checkpoint(lambda part: predict(*part)), grouped).reshape(-1)[:count]


def _unpickled(kind: type[Metric], model: WindowModel, record: dict, options: dict) -> Metric:
    return kind(model, record, **options)


class FullReferenceMetric(Metric):
    """Compares a distorted image with its reference."""

    full_reference = True

    def __call__(
        self, reference: Given | Prepared, distorted: Given, *, mask: Given | None = None
    ) -> np.ndarray:
        """MOS of `distorted`, () for (H, W, 3) and (B,) for (B, H, W, 3).

        Args:
          reference: images of the same shape, or what `prepare` gave.
          mask: of the part that is asked for, if not for the whole.
        Raises:
          UserError: anything else came; says what, and what is wanted.
        """
        distorted = image_of(distorted)
        return self._scores(self._references(reference, distorted), distorted, mask)

    def check(self, reference: Array, distorted: Array, mask: Array | None = None) -> None:
        """Raises UserError unless the metric takes these images."""
        check_pair(reference, distorted)
        if mask is not None:
            mask_of(mask, distorted)

    def stream(self, pairs: Iterable[tuple[Array, ...]]) -> Iterator[np.floating]:
        """MOS of (reference, distorted) pairs of single images, of any sizes, in their order.

        A mask may stand third.  The pairs are taken as they are needed, and windows of several go through the
        model together.  Where pairs that follow one another have the very same reference array, its features
        are computed once.

        Raises:
          UserError: see `__call__`; earlier pairs have been scored.
        """

        def items():
            image, one = None, None
            for reference, distorted, *mask in pairs:
                check_one(distorted, "distorted", "stream")
                self.check(reference, distorted)
                if one is None or reference is not image:
                    image, one = reference, Reference(reference, keep=self._keeps(reference))
                yield one, distorted, mask_of(*mask, distorted) if mask else None

        return self._stream(items())

    def prepare(self, reference: Given) -> Prepared:
        """Computes references' features once, to be given in their place for many distorted versions.

        Args:
          reference: (H, W, 3) or (B, H, W, 3).
        """
        reference = image_of(reference)
        check_images(reference, "reference")
        keep = self._keeps(reference)
        images = [reference] if reference.ndim == 3 else list(reference)
        references = tuple(Reference(image, keep=keep) for image in images)
        if keep:
            self._engine.features(references, self._places)
        return Prepared(reference.shape, self, references)

    def loss(
        self,
        reference: jax.Array,
        distorted: jax.Array,
        *,
        windows: int | None = None,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """How far `distorted` is below the best score, in standard deviations of the training labels.

        Differentiable with respect to both images, finite also for identical ones; for `jax.jit`,
        `jax.vmap` and `jax.grad`.  The windows of the grid go through the model a few at a time.

        Args:
          reference, distorted: (H, W, 3) or (B, H, W, 3), float in [0, 1]; the range is checked where
            the values are known.
          windows, key: so many of the grid's windows, drawn anew with each key; all if not given.
        Returns:
          () or (B,).
        Raises:
          UserError: another shape, size, dtype or range.
        """
        check_pair(reference, distorted, traced=True)
        return self._loss(reference, distorted, windows=windows, key=key)

    def map(self, reference: Given | Prepared, distorted: Given) -> QualityMap:
        """A quality map at image size, from windows that overlap by half or more.

        Args:
          reference: (H, W, 3), or what `prepare` gave of one.
          distorted: (H, W, 3).
        """
        distorted = image_of(distorted)
        check_one(distorted, "distorted", "map")
        (one,) = self._references(reference, distorted)
        return self._map(Reference(one.image, keep=False), distorted)

    def _keeps(self, image: Array) -> bool:
        """Whether the features of all its windows are to be kept."""
        return len(self._places(image)) <= KEPT_WINDOWS

    def _references(self, reference: Given | Prepared, distorted: Array) -> list[Reference]:
        """Of each image of `distorted`, checked against it."""
        if not isinstance(reference, Prepared):
            reference = image_of(reference)
            check_pair(reference, distorted)
            images = [reference] if reference.ndim == 3 else reference
            return [Reference(image, keep=False) for image in images]
        check_images(distorted, "distorted")
        if distorted.shape != reference.shape:
            raise UserError(
                f"distorted {distorted.shape}: expected {reference.shape}, the prepared reference's"
            )
        if reference.metric is not self:
            raise UserError("a reference that another metric prepared; prepare it with this one")
        return list(reference.references)


class BlindMetric(Metric):
    """Sees the distorted image alone."""

    full_reference = False

    def __call__(self, distorted: Given, *, mask: Given | None = None) -> np.ndarray:
        """MOS of `distorted`, () for (H, W, 3) and (B,) for (B, H, W, 3).

        Args:
          mask: of the part that is asked for, if not for the whole.
        Raises:
          UserError: anything else came; says what, and what is wanted.
        """
        distorted = image_of(distorted)
        check_images(distorted, "distorted")
        count = 1 if distorted.ndim == 3 else len(distorted)
        return self._scores([None] * count, distorted, mask)

    def check(self, distorted: Array, mask: Array | None = None) -> None:
        """Raises UserError unless the metric takes this image."""
        check_images(distorted, "distorted")
        if mask is not None:
            mask_of(mask, distorted)

    def stream(self, images: Iterable[tuple[Array, ...]]) -> Iterator[np.floating]:
        """MOS of single images, each a tuple of one, of any sizes, in their order; as they are needed.

        A mask may stand second.

        Raises:
          UserError: see `__call__`; earlier images have been scored.
        """

        def items():
            for distorted, *mask in images:
                check_one(distorted, "distorted", "stream")
                yield None, distorted, mask_of(*mask, distorted) if mask else None

        return self._stream(items())

    def loss(
        self, distorted: jax.Array, *, windows: int | None = None, key: jax.Array | None = None
    ) -> jax.Array:
        """How far `distorted` is below the best score, in standard deviations of the training labels.

        Differentiable and finite; for `jax.jit`, `jax.vmap` and `jax.grad`.  The windows of the grid go
        through the model a few at a time.

        Args:
          distorted: (H, W, 3) or (B, H, W, 3), float in [0, 1]; the range is checked where the values
            are known.
          windows, key: so many of the grid's windows, drawn anew with each key; all if not given.
        Returns:
          () or (B,).
        Raises:
          UserError: another shape, size, dtype or range.
        """
        check_images(distorted, "distorted", traced=True)
        return self._loss(distorted, windows=windows, key=key)

    def map(self, distorted: Given) -> QualityMap:
        """A quality map at image size, from windows that overlap by half or more.

        Args:
          distorted: (H, W, 3).
        """
        distorted = image_of(distorted)
        check_one(distorted, "distorted", "map")
        return self._map(None, distorted)
