"""Which reference belongs to which target: by name and folder, or by a table."""

import functools
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from iqa_jax.data.layouts import read_pair_table
from iqa_jax.data.selection import ImageFile, RealPaths, below_shared_folder, find_images, say_passed_over
from iqa_jax.data.tables import TABLES
from iqa_jax.errors import DataError, UserError
from iqa_jax.files import local_path, shortest_unique_names

_ADDRESS = re.compile("[A-Za-z][A-Za-z0-9+.-]*://")
_LISTED = 20  # problems that an error message shows
_SHOWN = 3  # files that fit a target equally, which it shows
_WAYS_OUT = {
    "reference": "leave out, rename, or give a CSV file of pairs",
    "mask": "leave out, rename, or add masks",
}

FilePair = tuple[Path, Path | None]  # a target and its reference


def find_pairs(
    targets: Sequence[str],
    references: Sequence[str] = (),
    *,
    recursive: bool = True,
    leave_out: Sequence[Path] = (),
    say: Callable[[str], object] = lambda text: None,
) -> list[FilePair]:
    """(target, reference) files for a command line, the reference None where none is given.

    Args:
      targets: files, directories or patterns, see `iqa_jax.data.selection.find_images`; or tables of
        files, with or without references.
      references: one file, the reference of every target; files, directories or patterns, paired by
        `pair_files`; or one table of pairs, of which those of the targets are taken, all of them if there
        is no target.
      recursive, leave_out, say: see `find_images`; `say` also lists what only the table or only the targets
        have.
    Raises:
      DataError: nothing there, or a target without a reference.
    """
    search = functools.partial(find_images, recursive=recursive, leave_out=leave_out, say=say)
    if len(references) == 1 and is_table(references[0]):
        table = local_path(references[0])
        pairs = pairs_from_table(table, say=say)
        return _of_targets(pairs, search(targets), table, say) if targets else pairs
    if targets and all(map(is_table, targets)):
        listed = [pairs_from_table(local_path(name), with_references=False, say=say) for name in targets]
        if not references:
            return list(dict.fromkeys(itertools.chain(*listed)))
        named = [image for pairs in listed for image in below_shared_folder([target for target, _ in pairs])]
    else:
        named = search(targets)
    if not references:
        return [(target.path, None) for target in named]
    if len(references) == 1 and local_path(references[0]).is_file():
        return [(target.path, local_path(references[0])) for target in named]
    return pair_files(named, search(references))


def masks_of(
    targets: Sequence[Path],
    patterns: Sequence[str],
    masks: Sequence[str],
    *,
    recursive: bool = True,
    say: Callable[[str], object] = lambda text: None,
) -> dict[Path, Path]:
    """The mask of each target: the only one, or the one that fits by name and folder.

    Args:
      targets: as `find_pairs` gave them.
      patterns: where they came from; a table, or no pattern, gives no folders.
      masks: files, directories or patterns.
    Raises:
      DataError: nothing there, or a target without a mask.
    """
    files = find_images(masks, recursive=recursive, say=say)
    if len(masks) == 1 and local_path(masks[0]).is_file():
        return {target: files[0].path for target in targets}
    by_file, real = {}, RealPaths()
    if not any(map(is_table, patterns)):
        by_file = {real(image.path): image.folder for image in find_images(patterns, recursive=recursive)}
    named = [
        ImageFile(image.path, by_file.get(real(image.path), image.folder))
        for image in below_shared_folder([*dict.fromkeys(targets)])
    ]
    return {target: mask for target, mask in pair_files(named, files, what="mask") if mask}


def is_table(path: str) -> bool:
    """Whether a file is a table, by its ending."""
    return Path(path).suffix.lower() in TABLES


def methods_in_tables(tables: Sequence[Path]) -> dict[Path, str]:
    """The method of each target that tables list.

    It is what the column method says, or else, of several tables, the table's name.

    Raises:
      DataError: see `pairs_from_table`; or a target is listed for two methods.
    """
    names = shortest_unique_names([table.with_suffix("") for table in tables])
    whose: dict[Path, str] = {}
    for table in tables:
        name = names[table.with_suffix("")] if len(tables) > 1 else ""
        for target, _, method in _listed(table, ("distorted",)):
            if whose.setdefault(target, method or name) != (method or name):
                raise DataError(
                    f"{table}: {target} is listed for {whose[target]} and for {method or name}; "
                    "a picture belongs to one method"
                )
    return whose


def pair_files(
    targets: Sequence[ImageFile], references: Sequence[ImageFile], *, what: str = "reference"
) -> list[FilePair]:
    """Finds each target's reference by its name, in the folder that corresponds to the target's.

    The name that fits is the one of the same stem, else the one whose whole stem begins the target's, up to a
    separator (`_`, `-`, `.` or a space): `A0001_00_03` goes with `A0001`, not with `A0002` nor with `A000`.
    Of several the longest fits.  The folders that correspond are, in this order, the one with the same path
    below its root, with the end of that path or with its beginning, and one whose path ends with it:
    `blurred/park/1.png` goes with `park/1.png`, not with `street/1.png`.  No file is its own reference.

    Args:
      what: to call the references, in errors.
    Raises:
      DataError: lists the targets that have no reference or several equally good ones.
    """
    names = _Names(references)
    pairs: list[FilePair] = []
    problems = []
    for target in targets:
        fitting = next(filter(None, names.candidates(target)), [])
        if len(fitting) == 1:
            pairs.append((target.path, fitting[0].path))
        else:
            shown = ", ".join("/".join((*r.folder, r.path.name)) for r in fitting[:_SHOWN]) + ", …" * (
                len(fitting) > _SHOWN
            )
            itself = " but itself" if names.has(target) else ""
            problems.append(
                f"{target.path}: " + (f"{shown} fit equally" if fitting else f"no {what} fits{itself}")
            )
    if problems:
        more = [f"… and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
        count = "1 target" if len(problems) == 1 else f"{len(problems)} targets"
        alike = ""
        if all(names.has(target) for target in targets):
            alike = f"the targets are the {what}s themselves, of which none is its own: give others, "
        first = f"{count} cannot be paired by name; {alike}{_WAYS_OUT[what]}:"
        raise DataError("\n  ".join([first, *problems[:_LISTED], *more]))
    return pairs


class _Names:
    """References by folder and stem, whose accents are composed alike."""

    def __init__(self, references: Sequence[ImageFile]):
        self._real = RealPaths()
        self._references = references
        self._in_folder: dict[tuple[tuple[str, ...], str], list[ImageFile]] = {}
        self._below: dict[tuple[tuple[str, ...], str], list[ImageFile]] = {}
        for reference in references:
            folder, stem = _composed(reference)
            self._in_folder.setdefault((folder, stem), []).append(reference)
            for start in range(len(folder) + 1):
                self._below.setdefault((folder[start:], stem), []).append(reference)

    def candidates(self, target: ImageFile) -> Iterator[list[ImageFile]]:
        """Those that fit equally, the best first: the first few of each kind, if any."""
        folder, stem = _composed(target)
        beginnings = list(_beginnings(stem))
        ends = [folder[start:] for start in range(len(folder))]
        starts = [folder[:end] for end in range(len(folder) - 1, -1, -1)]
        for nearby in dict.fromkeys((folder, *ends, *starts)):
            for beginning in beginnings:
                yield self._others(self._in_folder.get((nearby, beginning), []), target)
        for beginning in beginnings:
            yield self._others(self._below.get((folder, beginning), []), target)

    def has(self, target: ImageFile) -> bool:
        """Whether the target's own file is a reference."""
        return self._real(target.path) in self._files

    @functools.cached_property
    def _files(self) -> set[str]:
        return {self._real(reference.path) for reference in self._references}

    def _others(self, references: list[ImageFile], target: ImageFile) -> list[ImageFile]:
        """The first few without the target's own file."""
        if not references:
            return references
        own = self._real(target.path)
        others = (r for r in references if self._real(r.path) != own)
        return list(itertools.islice(others, _SHOWN + 1))


def _composed(image: ImageFile) -> tuple[tuple[str, ...], str]:
    """Folder and stem; an accent may be part of its letter or a character of its own (NFC and NFD)."""
    return tuple(_nfc(part) for part in image.folder), _nfc(image.path.stem)


_nfc = functools.partial(unicodedata.normalize, "NFC")


def _beginnings(stem: str) -> Iterator[str]:
    """The stem, then its parts up to each separator, longest first."""
    yield stem
    ends = [match.start() for match in re.finditer(r"[_\-. ]", stem)]
    yield from (stem[:end] for end in reversed(ends) if end)


def pairs_from_table(
    path: Path, *, with_references: bool = True, say: Callable[[str], object] = lambda text: None
) -> list[FilePair]:
    """(target, reference) of each row of a table, see `iqa_jax.data.layouts.read_pair_table`.

    The files' paths are relative to the table; whether they exist is not checked.

    Args:
      with_references: whether there must be any; without the column, or where its cell is empty, the
        reference is None.
      say: see `read_pair_table`.
    Raises:
      DataError: no such file, a column or a value is missing, or there is no row.
    """
    columns = ("distorted", "reference") if with_references else ("distorted",)
    return list(dict.fromkeys((target, reference) for target, reference, _ in _listed(path, columns, say)))


def _listed(
    path: Path, columns: Sequence[str], say: Callable[[str], object] = lambda text: None
) -> list[tuple[Path, Path | None, str]]:
    """Target, reference and method of each row; those of which there is no column are None and ""."""
    problems: list[str] = []
    table = read_pair_table(path, columns, problems, say)
    rows = table.rows
    expected = "a target and a reference" if "reference" in columns else "a target"
    problems += [
        f"{path.name}, line {number}: expected {expected}"
        for number, row in rows
        if not all(row[column] for column in columns)
    ]
    if problems:
        text = "; ".join(problems[:_LISTED]).removeprefix(f"{path.parent.name}/")
        raise DataError(text.replace(path.name, str(path), 1))
    if not rows:
        raise DataError(f"{path}: lists no pair")
    folder = path.parent

    def file(name: str) -> Path:
        if _ADDRESS.match(name):
            raise DataError(
                f"{path}: {name} is an address, nothing is fetched from it; download the pictures and list "
                "their files"
            )
        try:
            return folder / table.path(folder, str(local_path(name)) if name.startswith("~") else name)
        except UserError as error:
            raise DataError(f"{path}: {error}") from None

    return [
        (
            file(row["distorted"]),
            file(row["reference"]) if row.get("reference") else None,
            row.get("method", ""),
        )
        for _, row in rows
    ]


def _of_targets(pairs: list[FilePair], targets: list[ImageFile], table: Path, say) -> list[FilePair]:
    """The table's pairs of these targets; `say` lists what only the table or only the targets have."""
    real = RealPaths()
    wanted = {real(target.path): str(target.path) for target in targets}
    listed_there = [real(target) for target, _ in pairs]
    wanted_pairs = [pair for pair, target in zip(pairs, listed_there, strict=True) if target in wanted]
    has = set(listed_there)
    say_passed_over(
        table.name, {name: "not listed there" for key, name in wanted.items() if key not in has}, say
    )
    others = [target for (target, _), file in zip(pairs, listed_there, strict=True) if file not in wanted]
    say_passed_over(table.name, {str(target): "listed, but no target" for target in others}, say)
    if not wanted_pairs:
        raise DataError(f"{table}: lists none of the {len(targets)} targets; it begins with {pairs[0][0]}")
    return wanted_pairs
