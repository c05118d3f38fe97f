"""Several methods on the same pictures: their means, their wins, and the differences between them."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from iqa_jax.errors import UserError
from iqa_jax.evaluation.statistics import bootstrap_intervals

_ALL_PAIRS = 4  # up to so many methods are all compared with one another, more with the best alone


@dataclasses.dataclass(frozen=True)
class Difference:
    """Two methods on the same pictures.

    Attributes:
      better, other: the methods; `better` has the higher mean.
      pictures: how many both have.
      better_on, worse_on: on how many `better` scores higher and lower; the rest are equal.
      mean: of the differences of their scores, 0 or more.
      interval: 95 % interval of that mean, from a bootstrap over references; None with a single reference.
      decimals: of the numbers in the sentence.
    """

    better: str
    other: str
    pictures: int
    better_on: int
    worse_on: int
    mean: float
    interval: tuple[float, float] | None
    decimals: int = 2

    @property
    def shown(self) -> bool:
        """Whether the interval leaves out 0: other references would hardly turn the order round."""
        return self.interval is not None and self.interval[0] > 0

    @property
    def sentence(self) -> str:
        """The difference in words."""
        on = f"on {self.better_on} of {self.pictures} pictures"
        if self.interval is None:
            if not self.mean:
                return (
                    f"{self.better} and {self.other}: equal means, {self.better} is better {on} and worse on "
                    f"{self.worse_on}"
                )
            return (
                f"{self.better} is better than {self.other} {on}, mean difference {self._text(self.mean)}; "
                "a single reference gives no interval"
            )
        spread = f"mean difference {self._text(self.mean)} ({' to '.join(map(self._text, self.interval))})"
        if self.shown:
            return f"{self.better} is better than {self.other} {on}, {spread}"
        return (
            f"{self.better} and {self.other}: no difference shown, {spread}; {self.better} is better {on} "
            f"and worse on {self.worse_on}"
        )

    def _text(self, value: float) -> str:
        """A number, with so many decimals that the end of an interval that leaves out 0 is not shown as 0."""
        decimals = self.decimals
        while self.shown and self.interval and decimals < 6 and not round(self.interval[0], decimals):
            decimals += 1
        return f"{value:z.{decimals}f}"

    def report(self) -> dict:
        """For JSON."""
        content = dataclasses.asdict(self)
        del content["decimals"]
        interval = content.pop("interval")
        return {
            **content,
            "interval_95": interval and list(interval),
            "shown": self.shown,
            "sentence": self.sentence,
        }


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Methods on the pictures that all of them have.

    Attributes:
      methods: their names, in the order given.
      means: of each method's scores.
      wins: on how many pictures each scores higher than every other method.
      pictures, references: how many pictures all methods have, and of how many references.
      left_out: how many scored pictures have no counterpart in some method, or none that was scored.
      differences: of all pairs of up to four methods; of more, of the best and each other one.
    """

    methods: tuple[str, ...]
    means: tuple[float, ...]
    wins: tuple[int, ...]
    pictures: int
    references: int
    left_out: int
    differences: tuple[Difference, ...]

    def report(self) -> dict:
        """For JSON."""
        of_each = zip(self.methods, self.means, self.wins, strict=True)
        return {
            "pictures": self.pictures,
            "references": self.references,
            "left_out": self.left_out,
            "methods": [{"method": name, "mean": mean, "wins": wins} for name, mean, wins in of_each],
            "differences": [difference.report() for difference in self.differences],
        }


def compare(
    scores: Mapping[str, Sequence[float]],
    contents: Sequence[str],
    *,
    left_out: int = 0,
    decimals: int = 2,
    resamples: int = 1000,
) -> Comparison:
    """Compares methods by their scores on the same pictures; higher is better.

    Args:
      scores: (N,) of each method, N of 1 or more.
      contents: (N,) the reference of each picture.
      left_out, decimals: see `Comparison` and `Difference`.
      resamples: of the bootstrap.
    Raises:
      UserError: no methods, not one score for each picture in each, or one that is not finite.
    """
    methods = tuple(scores)
    for name in methods:
        if len(scores[name]) != len(contents) or not len(contents):
            raise UserError(
                f"{name}: scores: {len(scores[name])}, pictures: {len(contents)}; expected a score of each"
            )
        if not np.isfinite(scores[name]).all():
            raise UserError(f"{name}: a score is not finite; leave its picture out of all methods")
    if not methods:
        raise UserError("no methods to compare; expected the scores of one or more")
    values = np.array([scores[name] for name in methods], np.float64)  # (methods, N)
    means = values.mean(axis=1)
    order = sorted(range(len(methods)), key=lambda k: -means[k])
    few = len(methods) <= _ALL_PAIRS
    pairs = list(itertools.combinations(order, 2)) if few else [(order[0], k) for k in order[1:]]
    gaps = {f"{a} {b}": values[a] - values[b] for a, b in pairs}
    intervals = bootstrap_intervals(
        np.asarray(contents),
        lambda chosen: {name: float(gap[chosen].mean()) for name, gap in gaps.items()},
        resamples=resamples,
    )

    def difference(a: int, b: int) -> Difference:
        gap, (low, high) = gaps[f"{a} {b}"], intervals[f"{a} {b}"]
        return Difference(
            better=methods[a],
            other=methods[b],
            pictures=gap.size,
            better_on=int((gap > 0).sum()),
            worse_on=int((gap < 0).sum()),
            mean=float(gap.mean()),
            interval=None if math.isnan(low) else (low, high),
            decimals=decimals,
        )

    highest = values == values.max(axis=0)
    return Comparison(
        methods=methods,
        means=tuple(means.tolist()),
        wins=tuple((highest & (highest.sum(axis=0) == 1)).sum(axis=1).tolist()),
        pictures=values.shape[1],
        references=len(set(contents)),
        left_out=left_out,
        differences=tuple(difference(a, b) for a, b in pairs),
    )
