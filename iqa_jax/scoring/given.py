"""What a metric is given -> single pictures, each with its reference and its mask, checked as they come."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from iqa_jax.data.arrays import check_one_shape, image_of, mask_of
from iqa_jax.errors import UserError
from iqa_jax.ops import Array
from iqa_jax.scoring.engine import Reference

Item = tuple[Reference | None, Array, np.ndarray | None]  # a reference, the picture, the mask of its part
# Pictures of any sizes; a checker would not take a list of names for a list of all that a picture may be.
Several = list[Any] | tuple[Any, ...]
Keeps = Callable[[Array], bool]  # whether the features of all windows of a reference are to be kept


@dataclasses.dataclass(frozen=True)
class Prepared:
    """References whose features serve several distorted versions; made by `FullReferenceMetric.prepare`.

    Attributes:
      shape: (H, W, 3), or (B, H, W, 3) of a batch; None of a list, whose images may differ in size.
      metric: the one that prepared them.
      references: of each image.
    """

    shape: tuple[int, ...] | None
    metric: object
    references: tuple[Reference, ...]

    def check_metric(self, metric: object) -> None:
        """Raises UserError unless this metric prepared them."""
        if self.metric is not metric:
            raise UserError("a reference that another metric prepared; prepare it with this one")

    def of_each(self) -> Reference | list[Reference]:
        """The one of an image, those of a batch or a list."""
        return self.references[0] if self.shape and len(self.shape) == 3 else list(self.references)


def items_of(
    rows: Iterable[tuple],
    keeps: Keeps | None,
    called: Callable[[str, int], str] = lambda name, position: name,
) -> Iterator[Item]:
    """Single pictures, of any sizes.

    Args:
      rows: (reference, distorted) or (reference, distorted, mask); without the reference for a blind metric.
      keeps: see `Keeps`; None for a blind metric.
      called: gives the name of an argument at a position, for errors.
    Raises:
      UserError: one is not taken by a metric.
    """
    latest, copy, one = None, None, None
    for position, row in enumerate(rows):
        given, *masks = row[1:] if keeps else row
        name = called("distorted", position)
        distorted = image_of(given, name, "score by itself")
        if keeps:
            if one is None or row[0] is not latest or not _unchanged(latest, copy):
                latest, copy = row[0], own_copy(row[0])
                one = _reference(copy, keeps, called("reference", position))
            check_one_shape(one.image, distorted, name)
        mask = masks[0] if masks else None
        yield one, distorted, None if mask is None else mask_of(mask, distorted, called("mask", position))


def own_copy(given: Any) -> Any:
    """A copy of an array that its owner may change; all else as it is."""
    return given.copy() if isinstance(given, np.ndarray) and given.flags.writeable else given


def _unchanged(given: Any, copy: Any) -> bool:
    """Whether what was given holds what it held when `own_copy` copied it."""
    return copy is given or np.array_equal(copy, given)


def _reference(given: Any, keeps: Keeps, name: str) -> Reference:
    if isinstance(given, Reference):  # prepared
        return given
    image = image_of(given, name, "compare with")
    return Reference(image, keep=keeps(image))


def items_of_list(
    distorted: Several, mask: Any, *, reference: Any = None, keeps: Keeps | None = None
) -> Iterator[Item]:
    """The pictures of a list, with their references and masks; errors number them from 0.

    Args:
      mask, reference: a list of as many, or one for all.
      keeps: see `items_of`.
    Raises:
      UserError: an empty list, or one of another length; or see `items_of`.
    """
    if not distorted:
        raise UserError("distorted: an empty list; expected one image or more")
    given = {"reference": reference, "distorted": distorted, "mask": mask}
    for name, several in given.items():
        if isinstance(several, list | tuple) and len(several) != len(distorted):
            raise UserError(
                f"{name}: a list of {len(several)}, and distorted one of {len(distorted)}; expected as many, "
                "or one for all"
            )
    columns = [its if isinstance(its, list | tuple) else [its] * len(distorted) for its in given.values()]
    rows = zip(*(columns if keeps else columns[1:]), strict=True)

    def called(name: str, position: int) -> str:
        return f"{name}[{position}]" if isinstance(given[name], list | tuple) else name

    return items_of(rows, keeps, called)
