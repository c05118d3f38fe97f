"""Which files to score, and against which reference."""

import glob
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from iqa_jax.data.images import EXTENSIONS
from iqa_jax.data.tables import PAIR_ALIASES, csv_rows, listed_path
from iqa_jax.errors import DataError
from iqa_jax.files import local_path

_LISTED = 20  # problems that an error message shows


def find_pairs(target_patterns: Sequence[str], reference: str) -> list[tuple[Path, Path]]:
    """(target, reference) files for a command line.

    Args:
      target_patterns: see `expand`.
      reference: a file, the reference of every target; a directory or pattern, paired by name; or a CSV
        file, of which the pairs of the targets are taken, all of them without any target.
    Raises:
      DataError: nothing there, or a target without a reference.
    """
    path = local_path(reference)
    if path.suffix.lower() == ".csv":
        pairs = pairs_from_csv(path)
        return _of_targets(pairs, expand(target_patterns), path) if target_patterns else pairs
    targets = expand(target_patterns)
    if path.is_file():
        return [(target, path) for target in targets]
    return pair_files(targets, expand([reference]))


def pair_files(targets: Sequence[Path], references: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Finds each target's reference by name.

    That is the one of the same stem, else the one whose whole stem begins the target's, up to a separator
    (`_`, `-`, `.` or a space): `A0001_00_03` goes with `A0001`, not with `A0002` nor with `A000`.  Of several
    the longest fits.  No file is its own reference.

    Raises:
      DataError: lists the targets that have no reference or several equally good ones.
    """
    by_stem: dict[str, list[Path]] = {}
    for reference in references:
        by_stem.setdefault(reference.stem, []).append(reference)
    pairs, problems = [], []
    for target in targets:
        found: list[Path] = []
        for beginning in _beginnings(target.stem):
            found = [r for r in by_stem.get(beginning, ()) if not _same_file(r, target)]
            if found:
                break
        if len(found) == 1:
            pairs.append((target, found[0]))
        else:
            names = ", ".join(reference.name for reference in found[:3]) + ", …" * (len(found) > 3)
            problems.append(f"{target}: " + (f"{names} fit equally" if found else "no reference fits"))
    _raise_for("cannot be paired by name; leave out, rename, or give a CSV file of pairs", problems)
    return pairs


def _same_file(a: Path, b: Path) -> bool:
    return a == b or a.resolve() == b.resolve()


def _beginnings(stem: str) -> Iterator[str]:
    """The stem, then its parts up to each separator, longest first."""
    yield stem
    ends = [match.start() for match in re.finditer(r"[_\-. ]", stem)]
    yield from (stem[:end] for end in reversed(ends) if end)


def pairs_from_csv(path: Path) -> list[tuple[Path, Path]]:
    """(target, reference) of each row of a table with these columns, under any of their usual names.

    The files' paths are relative to the table; whether they exist is not checked.

    Raises:
      DataError: no such file, a column or a value is missing, or there is no row.
    """
    problems: list[str] = []
    rows = csv_rows(path, ("distorted", "reference"), problems, aliases=PAIR_ALIASES)
    problems += [
        f"{path.name}, line {number}: expected a target and a reference"
        for number, row in rows
        if not (row["distorted"] and row["reference"])
    ]
    if problems:
        raise DataError(f"{path}: {'; '.join(problems[:_LISTED])}")
    if not rows:
        raise DataError(f"{path}: lists no pair")
    folder = path.parent
    return [
        (folder / listed_path(folder, row["distorted"]), folder / listed_path(folder, row["reference"]))
        for _, row in rows
    ]


def _of_targets(pairs: list[tuple[Path, Path]], targets: list[Path], path: Path) -> list[tuple[Path, Path]]:
    wanted = {target.resolve(): target for target in targets}
    found = [pair for pair in pairs if pair[0].resolve() in wanted]
    listed = {target.resolve() for target, _ in found}
    _raise_for(f"not in {path}", [str(t) for key, t in wanted.items() if key not in listed])
    return found


def expand(patterns: Iterable[str]) -> list[Path]:
    """The image files that are meant, sorted, each once.

    Args:
      patterns: files, taken whatever they are called; directories, for the images directly in them; or
        patterns with `*`, `?`, `[…]` and `**`.
    Raises:
      DataError: one is not there or gives no image.
    """
    files = set()
    found: Iterable[Path]
    for pattern in patterns:
        path = local_path(pattern)
        if path.is_file():
            files.add(path)
            continue
        if path.is_dir():
            found, missing = path.iterdir(), "no image in this directory"
        elif glob.has_magic(str(path)):
            found, missing = map(Path, glob.iglob(str(path), recursive=True)), "matches no image"
        else:
            raise DataError(f"{pattern}: no such file or directory")
        images = {file for file in found if _is_image(file)}
        if not images:
            raise DataError(f"{pattern}: {missing}; expected {', '.join(EXTENSIONS)}")
        files |= images
    return sorted(files)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()


def _raise_for(what: str, problems: list[str]) -> None:
    """Raises DataError with the problems listed, if there are any."""
    if problems:
        more = [f"… and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
        count = "1 target" if len(problems) == 1 else f"{len(problems)} targets"
        raise DataError("\n  ".join([f"{count} {what}:", *problems[:_LISTED], *more]))
