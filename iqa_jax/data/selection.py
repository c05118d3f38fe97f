"""Files, folders and patterns -> the image files in them, and what was passed over."""

import dataclasses
import functools
import glob
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from iqa_jax.data.images import EXTENSIONS
from iqa_jax.data.marks import PAGE, is_quality_map
from iqa_jax.errors import DataError
from iqa_jax.files import local_path

_BROKEN = "a broken link"
_BRACKETS = "; [ and ] enclose characters to choose from: write [[] for one in a name"
_NAMED = 5  # how many files a remark names


@dataclasses.dataclass(frozen=True, order=True)
class ImageFile:
    """An image file, and its folder relative to the folder or pattern that gave it.

    Attributes:
      path: of the file.
      folder: the parts of that relative path; () for the folder itself.
    """

    path: Path
    folder: tuple[str, ...] = ()


def find_images(
    patterns: Iterable[str],
    *,
    recursive: bool = True,
    leave_out: Sequence[Path] = (),
    say: Callable[[str], object] = lambda text: None,
) -> list[ImageFile]:
    """The image files, each once, in the order given; those of a directory or pattern are sorted.

    Args:
      patterns: files, whatever their names; directories, for the images in them; or patterns
        with `*`, `?`, `[…]` and `**`.
      recursive: whether directories are searched with all folders in them, but for hidden ones.
      leave_out: directories that are not searched, such as those that are written to.
      say: called for each pattern with a line that lists what was passed over: files without an image's
        ending, broken links, quality maps, directories that cannot be read.  The pictures of a page of scores
        are left out without a word.
    Raises:
      DataError: one does not exist or gives no image.
    """
    found: dict[Path, ImageFile] = {}
    single: list[Path] = []
    within: set[Path] = set()  # from a directory or a pattern, which gives their folders
    for pattern in patterns:
        path = local_path(pattern)
        broken = path.is_symlink() and not path.exists()  # its reader says so
        if path.is_file() or broken:
            single.append(path)
            found.setdefault(path, ImageFile(path))
            continue
        missing = "matches no image"
        if path.is_dir():
            missing = "no image in this directory"
            entries = _walked(path, recursive, set(map(os.path.realpath, leave_out)))
        elif path.exists():
            raise DataError(f"{pattern}: not a regular file")
        elif glob.has_magic(str(path)):
            entries = _matching(path)
        else:
            raise DataError(f"{pattern}: no such file or directory")
        images, passed = _sorted_out(entries)
        say_passed_over(pattern, passed, say)
        if not images:
            hint = _BRACKETS if "[" in str(path) and not path.is_dir() else ""
            raise DataError(f"{pattern}: {missing}; expected {', '.join(EXTENSIONS)}{hint}")
        found.update((image.path, image) for image in sorted(images))
        within.update(image.path for image in images)
    found.update((image.path, image) for image in below_shared_folder(single) if image.path not in within)
    return list(found.values())


def expand(patterns: Iterable[str], **options) -> list[Path]:
    """The paths of `find_images`, sorted."""
    return sorted(image.path for image in find_images(patterns, **options))


def say_passed_over(where: object, reasons: dict[str, str], say: Callable[[str], object]) -> None:
    """Reports how many files were passed over, the first names, and why.

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


class _Entry(NamedTuple):
    """A file, or a folder that cannot be read: its path, its folders below the root, its kind."""

    path: Path
    folder: tuple[str, ...]
    kind: str  # "file", "folder", _BROKEN or "not a regular file"

    @property
    def below(self) -> str:
        return "/".join((*self.folder, self.path.name))


def _walked(folder: Path, recursive: bool, leave_out: set[str]) -> Iterator[_Entry]:
    """All files in a folder; follows links to folders and enters each folder once."""
    try:
        entries = _in_folder(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from None
    real = RealPaths()
    entered = {real(folder)} | leave_out

    def below(folder: Path, parts: tuple[str, ...], entries: list[os.DirEntry]) -> Iterator[_Entry]:
        for entry in entries:
            path = folder / entry.name
            if not _is(entry.is_dir):
                yield _Entry(path, parts, _kind(entry))
            elif recursive and not entry.name.startswith(".") and (place := real(path)) not in entered:
                entered.add(place)
                try:
                    inner = _in_folder(path)
                except OSError:
                    yield _Entry(path, parts, "folder")  # is named among what was passed over
                    continue
                if any(one.name == PAGE for one in inner):
                    continue
                yield from below(path, (*parts, entry.name), inner)

    yield from below(folder, (), entries)


def _in_folder(folder: Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _is(kind: Callable[[], bool]) -> bool:
    """What an entry's `is_file` or `is_dir` says; of a link that leads back to itself, no."""
    try:
        return kind()
    except OSError:
        return False


def _kind(entry: os.DirEntry | Path) -> str:
    """Its kind; a folder's entry knows it without asking the disk, unless it is a link."""
    if _is(entry.is_file):
        return "file"
    if _is(entry.is_dir):
        return "folder"
    return _BROKEN if entry.is_symlink() and not os.path.exists(entry) else "not a regular file"


def _matching(pattern: Path) -> Iterator[_Entry]:
    """What a pattern matches; if nothing, what it does where the brackets of folders that exist are plain.

    Each file once: links to folders lead to some again, and `**` follows them in circles.
    """
    paths = list(glob.iglob(str(pattern), recursive=True))
    root = fixed_part(pattern)
    if not paths and (plain := _with_plain_brackets(pattern)):
        paths = list(glob.iglob(plain[0], recursive=True))
        root = plain[1]
    real = RealPaths()
    seen = set()
    of_page = functools.cache(lambda folder: (folder / PAGE).exists())
    for path in map(Path, paths):
        place = real.of_folder(path.parent), path.name
        if place not in seen and not of_page(path.parent):
            seen.add(place)
            yield _Entry(path, path.parts[len(root.parts) : -1], _kind(path))


def _with_plain_brackets(pattern: Path) -> tuple[str, Path] | None:
    """The pattern with the longest beginning that is a folder taken by its name, and that folder."""
    parts = pattern.parts
    count = next((count for count in range(len(parts) - 1, 0, -1) if Path(*parts[:count]).is_dir()), 0)
    folder = Path(*parts[:count])
    if not glob.has_magic(str(folder)):
        return None
    return os.path.join(glob.escape(str(folder)), *parts[count:]), folder


def _sorted_out(entries: Iterable[_Entry]) -> tuple[list[ImageFile], dict[str, str]]:
    """The images, and why the other files were passed over; hidden files are not mentioned unless images."""
    images, passed = [], {}
    for entry in entries:
        name = entry.path.name
        named_so = os.path.splitext(name)[1].lower() in EXTENSIONS
        reason = ""
        if entry.kind == "folder":
            reason = "" if os.access(entry.path, os.R_OK | os.X_OK) else "cannot be read"
        elif name.startswith("."):
            reason = "hidden" if named_so else ""
        elif entry.kind == _BROKEN:
            reason = _BROKEN
        elif not named_so:
            reason = "no image, by its name"
        elif entry.kind != "file":
            reason = entry.kind
        elif is_quality_map(entry.path):
            reason = "a quality map"
        else:
            images.append(ImageFile(entry.path, entry.folder))
        if reason:
            passed[entry.below] = reason
    return images, passed


def below_shared_folder(files: Sequence[Path]) -> list[ImageFile]:
    """Files given one by one, as a shell expands a pattern, relative to the folder that they share."""
    if not files:
        return []
    parents = [Path(os.path.abspath(file)).parent for file in files]
    shared = Path(os.path.commonpath(parents))
    return [
        ImageFile(file, parent.relative_to(shared).parts) for file, parent in zip(files, parents, strict=True)
    ]


def fixed_part(pattern: Path) -> Path:
    """The folder above the first part of a pattern that has magic in it."""
    return Path(*itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts[:-1]))


class RealPaths:
    """Paths without links, for many files of few folders: each folder is looked up once."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def of_folder(self, folder: Path) -> str:
        key = os.fspath(folder)
        if key not in self._folders:
            top = folder.parent == folder
            self._folders[key] = os.path.realpath(key) if top else self(folder)
        return self._folders[key]

    def __call__(self, path: Path) -> str:
        real = os.path.join(self.of_folder(path.parent), path.name)
        return os.path.realpath(real) if path.name == ".." or os.path.islink(real) else real
