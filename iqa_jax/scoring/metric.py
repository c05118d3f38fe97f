"""Quality scores for whole images of any size, with a reference or without."""

import abc
import dataclasses
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from iqa_jax import __version__
from iqa_jax.data.arrays import Given, check_one_shape, image_of, images_of, mask_of, pair_of, traceable
from iqa_jax.errors import UserError, extra_named
from iqa_jax.ops import Array
from iqa_jax.ops.windows import CROPS, Place, places, places_of_part, weighted_mean
from iqa_jax.scoring.engine import BATCH_SIZE, KEPT_WINDOWS, Engine, Reference, WindowModel
from iqa_jax.scoring.given import Item, Prepared, Several, items_of, items_of_list, own_copy
from iqa_jax.weights.record import identity_of, title_of

if TYPE_CHECKING:
    import jax


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


class Metric(abc.ABC):
    """A model with its weights, applied to whole images: a `FullReferenceMetric` or a `BlindMetric`.

    A full-reference metric takes (reference, distorted), in this order or by these keywords; a blind one,
    (distorted).

    Images are (H, W, 3) or (B, H, W, 3), uint8, uint16 or float in [0, 1], grey or with alpha too, of 32
    pixels or more on each side; below the model's crop size they are mirrored up to it.  A file's name or
    path, its content as bytes, an open file and an image of Pillow's are taken too, as `read_image` reads
    them; and lists of any of these, of any sizes.  Scores are in MOS units.

    A mask, (H, W) or (B, H, W), bool or from 0 to 1, asks for the score of the part that it shows: of the
    windows of the protocol in the box around it, each by its share of the part, or of those of the grid where
    the protocol's have none.

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
        if not isinstance(batch_size, int | np.integer) or isinstance(batch_size, bool) or batch_size < 1:
            raise UserError(f"batch_size {batch_size!r}: expected a whole number, 1 or more")
        if not isinstance(crops, str) or crops not in CROPS:
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
        """What a paper must quote; `record` holds all that is known of the weights.

        Two metrics that may score differently have another "identity".
        """
        config = self.config
        return {
            "metric": config.name,
            "backbone": config.backbone,
            "weights": self.record.get("name", "without a name"),
            "sha256": self.record["sha256"],
            "trained_on": _trained_on(self.record),
            "identity": self.identity,
            "crops": self.crops,
            "crop_size": config.crop_size,
            "dtype": config.dtype,
            "range": self.range,
            "higher_is_better": self.higher_is_better,
            "version": f"iqa_jax {__version__}",
        }

    # Both kinds have these methods, with one image or two.

    @abc.abstractmethod
    def __call__(self, *images: Any, **options: Any) -> np.ndarray:
        """MOS of the distorted images, () for (H, W, 3) and (B,) for (B, H, W, 3) or a list of B."""

    @abc.abstractmethod
    def check(self, *images: Any, **options: Any) -> None:
        """Raises UserError unless the metric takes these images."""

    @abc.abstractmethod
    def stream(self, items: Iterable[tuple[Given, ...]], /) -> Iterator[np.floating]:
        """MOS of single images, of any sizes, in their order."""

    @abc.abstractmethod
    def loss(self, *images: Any, **options: Any) -> "jax.Array":
        """How far the distorted images are below the best score; differentiable."""

    @abc.abstractmethod
    def map(self, *images: Any, **options: Any) -> QualityMap:
        """A quality map at image size."""

    def _places(self, image: Array) -> list[Place]:
        height, width = image.shape[-3:-1]
        return places(self.crops, height, width, self._size)

    def _stream(self, items: Iterable[Item]) -> Iterator[np.floating]:
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

    def _scores(self, references: Iterable[Reference | None], distorted: np.ndarray, mask) -> np.ndarray:
        """() or (B,)."""
        single = distorted.ndim == 3
        images = [distorted] if single else list(distorted)
        masks = [None] * len(images)
        if mask is not None:
            mask = mask_of(mask, distorted)
            masks = [mask] if single else list(mask)
        scores = np.stack(list(self._stream(zip(references, images, masks, strict=True))))
        return scores[0] if single else scores

    def _loss(self, *images: Array, windows: int | None, key: "jax.Array | None") -> "jax.Array":
        """() or (B,), from one or two images or batches of them."""
        with extra_named("a loss", "jax", "jax", "jaxlib"):
            from iqa_jax.scoring.loss import mean_mos

        mos = mean_mos(self.model, *images, windows=windows, key=key)
        return (self.range[1] - mos) / self.config.mos_std

    def _map(self, reference: Reference | None, distorted: Array) -> QualityMap:
        height, width = distorted.shape[:2]
        size = self._size
        where = places("overlapping", height, width, size)
        ((scores,),) = self._engine.scores([(reference, distorted, where)])
        clipped = [(top, left, min(size, height - top), min(size, width - left)) for top, left, _ in where]
        values = weighted_mean(scores, where, height, width, size)
        return QualityMap(values, np.array(clipped), scores)


def _trained_on(record: dict) -> str:
    """The data that weights were trained on, or what is known instead, in a line."""
    source = record.get("source", {})
    data = record.get("data") or source.get("data") or {}
    part = data.get("training", {})
    known = (data.get("dataset"), part.get("split"), "pairs" in part and f"{part['pairs']} pairs")
    named = source.get("file")
    return ", ".join(map(str, filter(None, known))) or (f"not known, from {named}" if named else "not known")


def _unpickled(kind: type[Metric], model: WindowModel, record: dict, options: dict) -> Metric:
    return kind(model, record, **options)


class FullReferenceMetric(Metric):
    """Compares a distorted image with its reference.

    The reference comes first.  Swapped images give another score and no error; where the order is easy to
    forget, `metric(reference=…, distorted=…)` is safe.
    """

    full_reference = True

    def __call__(
        self,
        reference: Given | Several | Prepared,
        distorted: Given | Several,
        *,
        mask: Given | Several | None = None,
    ) -> np.ndarray:
        """MOS of `distorted`, () for (H, W, 3) and (B,) for (B, H, W, 3) or for a list of B images.

        Args:
          reference: images of the same shape, or what `prepare` gave; for a list of distorted images a list
            of as many, or the one reference of all.
          distorted: an image, a batch, or a list or tuple of images of any sizes.
          mask: of the part that is asked for, if not for the whole; for a list a list, or one for all.
        Raises:
          UserError: anything else came; says what, and what is wanted.
        """
        if isinstance(distorted, list | tuple):
            return np.stack(list(self._stream(self._items(reference, distorted, mask))))
        references, images = self._references(reference, distorted)
        return self._scores(references, images, mask)

    def check(
        self,
        reference: Given | Several | Prepared,
        distorted: Given | Several,
        mask: Given | Several | None = None,
    ) -> None:
        """Raises UserError unless the metric takes these images."""
        if isinstance(distorted, list | tuple):
            for _ in self._items(reference, distorted, mask):
                pass
            return
        _, images = self._references(reference, distorted)
        if mask is not None:
            mask_of(mask, images)

    def stream(self, pairs: Iterable[tuple[Given, ...]]) -> Iterator[np.floating]:
        """MOS of (reference, distorted) pairs of single images, of any sizes, in their order.

        A mask may stand third.  The pairs are taken as they are needed, and windows of several go through the
        model together.  Where pairs that follow one another have the very same reference object, its features
        are computed once.  An array may be filled anew for each pair, as decoders of video do.

        Raises:
          UserError: see `__call__`; earlier pairs have been scored.
        """
        return self._stream(items_of(pairs, self._keeps))

    def prepare(self, reference: Given | Several) -> Prepared:
        """Computes references' features once, to be given in their place for many distorted versions.

        Args:
          reference: an image, a batch, or a list or tuple of images of any sizes.
        """
        if isinstance(reference, list | tuple):
            shape, images = None, [image_of(x, f"reference[{k}]", "prepare") for k, x in enumerate(reference)]
        else:
            whole = images_of(reference, "reference")
            shape, images = whole.shape, list(whole) if whole.ndim == 4 else [whole]
        references = tuple(Reference(own_copy(image), keep=self._keeps(image)) for image in images)
        self._engine.features([one for one in references if one.keep], self._places)
        return Prepared(shape, self, references)

    def loss(
        self,
        reference: "jax.Array",
        distorted: "jax.Array",
        *,
        windows: int | None = None,
        key: "jax.Array | None" = None,
    ) -> "jax.Array":
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
        images = traceable(reference, "reference"), traceable(distorted, "distorted")
        check_one_shape(*images)
        return self._loss(*images, windows=windows, key=key)

    def map(self, reference: Given | Prepared, distorted: Given) -> QualityMap:
        """A quality map at image size, from windows that overlap by half or more.

        Args:
          reference: an image, or what `prepare` gave of one.
          distorted: an image.
        """
        image = image_of(distorted, "distorted", "map")
        (one,), _ = self._references(reference, image)
        return self._map(Reference(one.image, keep=False), image)

    def _items(self, reference: Any, distorted: Any, mask: Any) -> Iterator[Item]:
        """The pictures of a list, with their references."""
        if isinstance(reference, Prepared):
            reference.check_metric(self)
            reference = reference.of_each()
        return items_of_list(distorted, mask, reference=reference, keeps=self._keeps)

    def _keeps(self, image: Array) -> bool:
        """Whether the features of all its windows are to be kept."""
        return len(self._places(image)) <= KEPT_WINDOWS

    def _references(self, reference: Any, given: Any) -> tuple[list[Reference], np.ndarray]:
        """Of each of the distorted images that are given, and these, checked against them."""
        if not isinstance(reference, Prepared):
            images, distorted = pair_of(reference, given)
            return [Reference(x, keep=False) for x in (images if images.ndim == 4 else [images])], distorted
        distorted = images_of(given, "distorted")
        if distorted.shape != reference.shape:
            expected = reference.shape or f"a list of {len(reference.references)} images"
            raise UserError(f"distorted {distorted.shape}: expected {expected}, the prepared reference's")
        reference.check_metric(self)
        return list(reference.references), distorted


class BlindMetric(Metric):
    """Sees the distorted image alone."""

    full_reference = False

    def __call__(self, distorted: Given | Several, *, mask: Given | Several | None = None) -> np.ndarray:
        """MOS of `distorted`, () for (H, W, 3) and (B,) for (B, H, W, 3) or for a list of B images.

        Args:
          distorted: an image, a batch, or a list or tuple of images of any sizes.
          mask: of the part that is asked for, if not for the whole; for a list a list, or one for all.
        Raises:
          UserError: anything else came; says what, and what is wanted.
        """
        if isinstance(distorted, list | tuple):
            return np.stack(list(self._stream(items_of_list(distorted, mask))))
        images = images_of(distorted, "distorted")
        return self._scores([None] * (1 if images.ndim == 3 else len(images)), images, mask)

    def check(self, distorted: Given | Several, mask: Given | Several | None = None) -> None:
        """Raises UserError unless the metric takes this image."""
        if isinstance(distorted, list | tuple):
            for _ in items_of_list(distorted, mask):
                pass
            return
        images = images_of(distorted, "distorted")
        if mask is not None:
            mask_of(mask, images)

    def stream(self, images: Iterable[tuple[Given, ...]]) -> Iterator[np.floating]:
        """MOS of single images, each a tuple of one, of any sizes, in their order; as they are needed.

        A mask may stand second.

        Raises:
          UserError: see `__call__`; earlier images have been scored.
        """

        return self._stream(items_of(images, None))

    def loss(
        self, distorted: "jax.Array", *, windows: int | None = None, key: "jax.Array | None" = None
    ) -> "jax.Array":
        """How far `distorted` is below the best score, as `FullReferenceMetric.loss` says it; () or (B,)."""
        return self._loss(traceable(distorted, "distorted"), windows=windows, key=key)

    def map(self, distorted: Given) -> QualityMap:
        """A quality map at the size of `distorted`, (H, W, 3), from windows that overlap by half or more."""
        return self._map(None, image_of(distorted, "distorted", "map"))
