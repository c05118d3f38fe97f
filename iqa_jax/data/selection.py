"""Which image files are meant: files, folders and patterns -> paths, and what of them was passed over."""

import dataclasses
import glob
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePath

from iqa_jax.data.images import EXTENSIONS
from iqa_jax.errors import DataError
from iqa_jax.files import local_path

_BROKEN = "a broken link"
_NAMED = 5  # files that a remark names


@dataclasses.dataclass(frozen=True, order=True)
class Listed:
    """An image file, and the folder it lies in, below the folder or pattern that it was found by.

    Attributes:
      path: of the file.
      folder: its parts; () in the folder itself.
    """

    path: Path
    folder: tuple[str, ...] = ()


def listed(
    patterns: Iterable[str],
    *,
    recursive: bool = True,
    leave_out: Sequence[Path] = (),
    say: Callable[[str], object] = lambda text: None,
) -> list[Listed]:
    """The image files that are meant, each once, in the order given; those of a directory or pattern sorted.

    Args:
      patterns: files, taken whatever they are called; directories, for the images in them; or patterns
        with `*`, `?`, `[…]` and `**`.
      recursive: whether directories are searched with all folders in them, but for hidden ones.
      leave_out: directories that are not searched, such as those that are written to.
      say: is told, in a line for each pattern, what was found and passed over: files that are no images
        by their names, broken links, directories that cannot be read.
    Raises:
      DataError: one is not there or gives no image.
    """
    found: dict[Path, Listed] = {}
    single: list[Path] = []
    within: set[Path] = set()  # found in a directory or by a pattern, which tells their folders
    for pattern in patterns:
        path = local_path(pattern)
        if path.is_file():
            single.append(path)
            found.setdefault(path, Listed(path))
            continue
        if path.is_symlink() and not path.exists():
            say_passed_over(pattern, {path.name: _BROKEN}, say)
            continue
        if path.is_dir():
            root, missing = path, "no image in this directory"
            entries = _walked(path, recursive, {_real(directory) for directory in leave_out})
        elif glob.has_magic(str(path)):
            root, missing = fixed_part(path), "matches no image"
            entries = _each_once(map(Path, glob.iglob(str(path), recursive=True)))
        else:
            raise DataError(f"{pattern}: no such file or directory")
        images, passed = _sorted_out(entries, root)
        say_passed_over(pattern, passed, say)
        if not images:
            raise DataError(f"{pattern}: {missing}; expected {', '.join(EXTENSIONS)}")
        found.update((image.path, image) for image in sorted(images))
        within.update(image.path for image in images)
    found.update((image.path, image) for image in together(single) if image.path not in within)
    return list(found.values())


def expand(patterns: Iterable[str], **options) -> list[Path]:
    """The paths of `listed`, sorted."""
    return sorted(image.path for image in listed(patterns, **options))


def say_passed_over(where: object, reasons: dict[str, str], say: Callable[[str], object]) -> None:
    """Tells what was passed over, with its reasons: how many, and the first names.

    Args:
      reasons: by name.
    """
    if not reasons:
        return
    groups = []
    for reason in dict.fromkeys(reasons.values()):
        names = [name for name, its in reasons.items() if its == reason]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        groups.append(f"{', '.join(names[:_NAMED])}{more} ({reason})")
    count = "1 file" if len(reasons) == 1 else f"{len(reasons)} files"
    say(f"{where}: passed over {count}: {'; '.join(groups)}")


def _walked(folder: Path, recursive: bool, leave_out: set[str]) -> Iterator[Path]:
    """All that lies in a folder; links to folders are followed, each folder is entered once."""
    entered = {_real(folder)} | leave_out
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from None
    for entry in entries:
        if not entry.is_dir():
            yield entry
        elif recursive and not entry.name.startswith("."):
            yield from _below(entry, entered)


def _below(folder: Path, entered: set[str]) -> Iterator[Path]:
    if _real(folder) in entered:
        return
    entered.add(_real(folder))
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        yield folder  # is named among what was passed over
        return
    for entry in entries:
        if not entry.is_dir():
            yield entry
        elif not entry.name.startswith("."):
            yield from _below(entry, entered)


def _each_once(paths: Iterable[Path]) -> Iterator[Path]:
    """Without those that links to folders lead to once more; `**` follows them in circles."""
    seen = set()
    for path in paths:
        place = _real(path.parent), path.name
        if place not in seen:
            seen.add(place)
            yield path


def _sorted_out(entries: Iterable[Path], root: Path) -> tuple[list[Listed], dict[str, str]]:
    """The images, and why the other files were passed over; hidden files are not mentioned unless images."""
    images, passed = [], {}
    for path in entries:
        below = PurePath(os.path.relpath(path, root))
        named_so = path.suffix.lower() in EXTENSIONS
        reason = ""
        if path.is_dir():
            reason = "" if os.access(path, os.R_OK | os.X_OK) else "cannot be read"
        elif path.name.startswith("."):
            reason = "hidden" if named_so else ""
        elif path.is_symlink() and not path.exists():
            reason = _BROKEN
        elif not named_so:
            reason = "no image, by its name"
        elif not path.is_file():
            reason = "not a file"
        else:
            images.append(Listed(path, below.parts[:-1]))
        if reason:
            passed[str(below)] = reason
    return images, passed


def together(files: Sequence[Path]) -> list[Listed]:
    """Files that are named one by one, as a shell's pattern names them, below the folder they share."""
    if not files:
        return []
    parents = [Path(os.path.abspath(file)).parent for file in files]
    shared = Path(os.path.commonpath(parents))
    return [
        Listed(file, parent.relative_to(shared).parts) for file, parent in zip(files, parents, strict=True)
    ]


def fixed_part(pattern: Path) -> Path:
    """The folder above the first part of a pattern that has magic in it."""
    return Path(*itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts[:-1]))


def _real(path: Path) -> str:
    return os.path.realpath(path)
