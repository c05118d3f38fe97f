"""Results of several methods, matched by picture and compared."""

import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from iqa_jax.data.pairing import is_table, methods_in_tables
from iqa_jax.data.selection import RealPaths
from iqa_jax.evaluation.comparison import Comparison, compare
from iqa_jax.files import local_path
from iqa_jax.reporting.maps import below_roots
from iqa_jax.scoring.results import Result


class Methods(NamedTuple):
    """The methods that targets belong to.

    Attributes:
      names: distinct, in the order in which they were given; empty unless there are several.
      whose: the method of each target; "" of one that belongs to none.
      below: the path of each target below the folder of its method.
    """

    names: list[str]
    whose: list[str]
    below: list[Path]


def methods_of(targets: Sequence[Path], named: Sequence[str]) -> Methods:
    """The method of each target: one of several directories, patterns or tables that it was found by.

    A single table may tell methods apart too, by its column method.

    Args:
      named: what the targets were found by, see `iqa_jax.reporting.maps.below_roots`.
    Raises:
      DataError: two tables list one target.
    """
    tables = [local_path(name) for name in named if is_table(name) and local_path(name).is_file()]
    placed, folders = below_roots(targets, named)
    if not tables:
        names = list(folders.values())
        whose = [folders.get(root, "") if root else "" for root, _ in placed]
        return Methods(names, whose, [below for _, below in placed])
    listed = methods_in_tables(tables)
    whose = [listed.get(target, "") for target in targets]
    names = [name for name in dict.fromkeys(whose) if name]
    if len(names) < 2:
        return Methods([], [""] * len(targets), [below for _, below in placed])
    parents: dict[str, list[str]] = {name: [] for name in whose}
    for target, name in zip(targets, whose, strict=True):
        parents[name].append(os.path.abspath(target.parent))
    shared = {name: os.path.commonpath(of_method) for name, of_method in parents.items()}
    below = [Path(os.path.relpath(path, shared[name])) for path, name in zip(targets, whose, strict=True)]
    return Methods(names, whose, below)


def compare_results(
    results: Sequence[Result],
    methods: Methods,
    scale: tuple[float, float],
    say: Callable[[str], object] = lambda text: None,
) -> Comparison | None:
    """Compares methods on the pictures that all of them have and that were scored.

    Pictures belong together if they have one reference and, where a method has several of it, one name, the
    path below the folder of the method without the ending.  Without references the name alone counts.

    Args:
      scale: the ends of the metric's.
      say: called with a remark if no picture is everywhere.
    Returns:
      None where there are no two methods, or where no picture is in all of them.
    """
    if len(methods.names) < 2:
        return None
    scored: dict[tuple[str, str], dict[str, float]] = {}
    for position, key in enumerate(_keys(results, methods)):
        score, method = results[position].score, methods.whose[position]
        if score is not None and method:
            scored.setdefault(key, {})[method] = score
    common = sorted(key for key, of_method in scored.items() if len(of_method) == len(methods.names))
    if not common:
        say(f"{', '.join(methods.names)}: not compared, since no picture was scored in all of them")
        return None
    return compare(
        {name: [scored[key][name] for key in common] for name in methods.names},
        [reference or name for reference, name in common],
        left_out=len(results) - len(common) * len(methods.names),
        decimals=max(0, 2 - math.floor(math.log10((scale[1] - scale[0]) / 4))),
    )


def _keys(results: Sequence[Result], methods: Methods) -> list[tuple[str, str]]:
    """The reference of each result, and what tells pictures of one reference apart within a method."""
    real = RealPaths()  # tables in two folders spell the path of one file differently
    references = [real(result.reference) if result.reference else "" for result in results]
    stems = [below.with_suffix("").as_posix() for below in methods.below]
    of_reference = Counter(zip(references, methods.whose, strict=True))
    of_stem = Counter(zip(references, methods.whose, stems, strict=True))
    several = {reference for (reference, _), count in of_reference.items() if count > 1 or not reference}
    alike = {(reference, stem) for (reference, _, stem), count in of_stem.items() if count > 1}

    def name(position: int) -> str:
        reference, stem = references[position], stems[position]
        if reference not in several:
            return ""
        return methods.below[position].as_posix() if (reference, stem) in alike else stem

    return [(reference, name(position)) for position, reference in enumerate(references)]
