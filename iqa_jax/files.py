"""Files and directories: whole writes, places that can be written, the cache, locks."""

import contextlib
import errno
import io
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # not a Unix
    fcntl = None  # type: ignore[assignment]  # its type is that of the module

from iqa_jax.errors import UserError, first_line

# gs://bucket/run, which pathlib shortens to gs:/bucket/run; one letter is a drive of Windows.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
# Of files that commands write or read: nobody names a new directory like this on purpose.
_FILE_ENDINGS = {
    *(".csv", ".tsv", ".xlsx", ".parquet", ".json", ".txt", ".md", ".html", ".zip", ".jaxexport"),
    *(".png", ".jpg", ".jpeg", ".webp", ".pth", ".pt", ".bin", ".npz", ".safetensors", ".msgpack"),
}
_LONGEST_NAME = 255  # bytes, of a file's name on the usual file systems
_WRITE_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES)
# Names of files and folders that are being written: random, so that nobody can plant a link in advance.
_PARTIAL = re.compile(r"\.iqa_jax-[0-9a-f]{16}\.partial")
_ABANDONED = 24 * 3600.0  # seconds without a change, where locks do not tell
_REMOVALS = 20  # tries
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


def local_path(path: str | os.PathLike) -> Path:
    """`path` with `~` written out.

    Raises:
      UserError: it has a scheme (`gs://…`), or there is no home directory.
    """
    if _SCHEME.match(os.fspath(path)):
        raise UserError(f"{path}: not a path of this machine's file system; expected a local or mounted one")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: the home directory is not known; give the path without ~") from None


def open_regular(path: str | os.PathLike) -> io.BufferedReader:
    """Opens a file for reading, in bytes; a pipe, a socket or a device, which could block, is an OSError."""

    def opener(name, flags: int) -> int:
        mode = os.stat(name).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a directory has an error of its own
            raise OSError(errno.EINVAL, "not a regular file", name)
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    return open(path, "rb", opener=opener)


def file_sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's content, as hexadecimal digits."""
    import hashlib

    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shortest_unique_names(paths: Iterable[Path]) -> dict[Path, str]:
    """The ends of paths, each of the fewest parts that keep all of them different."""
    paths = list(dict.fromkeys(paths))
    for count in range(1, max((len(path.parts) for path in paths), default=0)):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(paths):
            return dict(zip(paths, names, strict=True))
    return {path: str(path) for path in paths}


def fitting_name(name: str, ending: str = "") -> str:
    """`name` and `ending` as one file name; where it is too long, a digest stands for the rest of `name`."""
    import hashlib

    if len(os.fsencode(name + ending)) <= _LONGEST_NAME:
        return name + ending
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:12]
    room = _LONGEST_NAME - len(os.fsencode(f"-{digest}{ending}"))
    beginning = os.fsencode(name)[:room].decode(errors="ignore")  # no half character at the end
    return f"{beginning}-{digest}{ending}"


def new_directory(path: str | os.PathLike) -> Path:
    """An absolute path for a directory, which may exist.

    Raises:
      UserError: it has a scheme, or there is none and the name is one of a file.
    """
    path = local_path(path).absolute()
    if path.suffix.lower() in _FILE_ENDINGS and not path.is_dir():
        raise UserError(f"{path}: looks like a file; expected a directory, such as {path.with_suffix('')}")
    return path


def writable_directory(path: str | os.PathLike) -> Path:
    """Creates `path` if need be and makes sure that files can be written there.

    Removes what a killed process left half-written there.

    Raises:
      UserError: it has a scheme, is a file or named like one, cannot be created or is not writable.
    """
    import tempfile

    new_directory(path)
    path = local_path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as probe:  # without a name where the system can
            probe.write(b"x" * 4096)
    except OSError as error:
        raise UserError(
            f"{path}: cannot write there ({error.strerror}); choose another directory or free some space"
        ) from None
    remove_leftovers(path)
    return path


def output_file(path: str | os.PathLike, *endings: str) -> Path:
    """An absolute path whose directory exists and can be written.

    Args:
      endings: that its name may have, ".png"; any if none is given.
    Raises:
      UserError: see `writable_directory`; or `path` is a directory, or has another ending.
    """
    path = local_path(path).absolute()
    if path.is_dir():
        raise UserError(f"{path}: a directory; expected the name of a file to write")
    if endings and path.suffix.lower() not in endings:
        raise UserError(f"{path}: expected a file's name that ends in {' or '.join(endings)}")
    if path.is_symlink():  # what it points to is written, and the link stays
        try:
            path = path.resolve(strict=path.exists())
        except (OSError, RuntimeError):
            raise UserError(f"{path}: a link that leads back to itself; choose another file") from None
    return writable_directory(path.parent) / path.name


def check_replaceable(path: Path, mark: bytes, what: str, *, within: int = -1) -> None:
    """Raises UserError if a file is there that is not one of ours, which all hold `mark`.

    Args:
      what: ours are, "page of scores".
      within: so many bytes from the beginning; anywhere if not given.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        content = file.read(within)
    if content and mark not in content:
        raise UserError(
            f"{path}: is there already and is no {what} of iqa_jax; choose another file or directory"
        )


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file or replaces one; nobody ever sees half of it.

    Text becomes UTF-8; the bytes of a file name that is not UTF-8 stay as they are.

    Raises:
      OSError: it cannot be written; the error names `path`.
    """
    with whole_file(path) as file:
        file.write(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which replaces `path` when the block ends; on failure it is removed.

    Until then it has a random name, however long that of `path` is.

    Raises:
      OSError: it cannot be written; the error names `path`.
    """
    with naming(path):
        partial, descriptor = _new_partial(path.parent)
        try:
            with open(descriptor, "wb") as file:  # holds its lock until it is in place
                yield file
                file.flush()
                partial.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise


@contextlib.contextmanager
def partial_folder(parent: Path) -> Iterator[Path]:
    """An empty folder in `parent` to fill, which the block renames when it is whole; else it is removed.

    It has the usual permissions.  `remove_leftovers` removes that of a killed process.
    """
    import shutil

    folder = parent / _partial_name()
    with naming(parent):
        folder.mkdir()  # fails if the name is taken, by a link too
    descriptor = None
    try:
        descriptor = _opened_and_held(folder)
        yield folder
    finally:
        for _ in range(_REMOVALS):  # a thread of a library may still write there
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                break
            time.sleep(0.05)
        if descriptor is not None:
            os.close(descriptor)


def remove_leftovers(directory: Path) -> None:
    """Removes the files and folders in `directory` that processes of this user were writing when killed.

    A process that still writes holds a lock; on a file system without locks they are removed after a day.
    """
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in [entry for entry in entries if _PARTIAL.fullmatch(entry.name)]:
            with contextlib.suppress(OSError):
                _remove_abandoned(Path(entry.path))


def _partial_name() -> str:
    return f".iqa_jax-{os.urandom(8).hex()}.partial"


def _new_partial(directory: Path) -> tuple[Path, int]:
    """A new, empty file and its descriptor, which holds its lock."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    while True:
        path = directory / _partial_name()
        descriptor = os.open(path, flags, 0o666)  # the usual permissions: the umask takes its part
        try:
            if _held(descriptor) is not False and os.fstat(descriptor).st_nlink:
                return path, descriptor
        except BaseException:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        os.close(descriptor)  # between the two lines above another process took it for a leftover


def _held(descriptor: int) -> bool | None:
    """Locks an open file or folder; False if another has it, None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # NFS, for one, locks no folders
        return None
    return True


def _opened_and_held(path: Path) -> int | None:
    """A descriptor of a folder with its lock, None where folders cannot be opened."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return None
    _held(descriptor)
    return descriptor


def _remove_abandoned(path: Path) -> None:
    import shutil

    known = path.lstat()
    folder = stat.S_ISDIR(known.st_mode)
    if not (folder or stat.S_ISREG(known.st_mode)) or known.st_uid != getattr(os, "geteuid", lambda: 0)():
        return
    flags = (os.O_RDONLY if folder else os.O_RDWR) | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags)
    try:
        held = _held(descriptor)
        if held or (held is None and time.time() - known.st_mtime > _ABANDONED):
            shutil.rmtree(path) if folder else path.unlink()
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Lets errors of the file system in the block name `path`, where they name no file or a temporary one.

    A full disk, for example, names none.
    """
    try:
        yield
    except OSError as error:
        named = error.filename if isinstance(error.filename, str | bytes) else ""
        if error.errno and (not named or _PARTIAL.search(os.fsdecode(named))):
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise


def cache_dir() -> Path:
    """`$IQA_JAX_CACHE`, else `$XDG_CACHE_HOME/iqa_jax`, else `~/.cache/iqa_jax`.

    Raises:
      UserError: neither is set and there is no home directory.
    """
    if own := os.environ.get("IQA_JAX_CACHE"):
        return local_path(own)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "iqa_jax"
    except RuntimeError:
        raise UserError(
            "no home directory is known: set IQA_JAX_CACHE to a directory in which things can be kept"
        ) from None


def writable_cache(*parts: str, instead: str = "") -> Path:
    """A directory in `cache_dir()`, created if need be.

    Args:
      parts: of the path below the cache directory.
      instead: what else the user can set, for the error's text.
    Raises:
      UserError: it cannot be written.
    """
    directory = cache_dir().joinpath(*parts)
    try:
        return writable_directory(directory)
    except UserError as error:
        other = f" or {instead}" if instead else ""
        raise UserError(f"{error}: set IQA_JAX_CACHE{other} to a directory that can be written") from None


def failure_reason(error: BaseException) -> str:
    """The system's reason for a failed write, wherever the error has it; else the error's first line.

    Libraries put the reason into the text or among the causes of their errors.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return full_disk(error) or first_line(error)[:200]


def full_disk(error: BaseException) -> str | None:
    """The system's text for a full or failing disk, if a library's error contains it."""
    text = str(error)
    return next((reason for number in _WRITE_FAILURES if (reason := os.strerror(number)) in text), None)


class Busy(Exception):
    """Another process has the lock."""


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds a lock file, which the end of a process releases however it comes.

    Where the file system has no locks, the file itself marks the lock, with the host and the process that
    holds it; a process of the same host that has ended holds none.

    Args:
      wait: for the process that has it.
    Raises:
      Busy: another process has it, and `wait` is False.
    """
    from filelock import FileLock, SoftFileLock, Timeout

    timeout = -1 if wait else 0
    try:
        lock = FileLock(path).acquire(timeout)
    except Timeout:
        raise Busy from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        try:
            lock = SoftFileLock(path.with_name(f"{path.name}.soft")).acquire(timeout)
        except Timeout:
            raise Busy from None
    with lock:
        yield
