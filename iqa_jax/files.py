"""Files and directories: whole writes, places that can be written, the cache, locks."""

import contextlib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from iqa_jax.errors import UserError

# gs://bucket/run, which pathlib shortens to gs:/bucket/run; one letter is a drive of Windows.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
# Of files that commands write or read: a directory that is to be made is not called so on purpose.
_FILE_ENDINGS = {
    *(".csv", ".tsv", ".xlsx", ".parquet", ".json", ".txt", ".md", ".html", ".zip", ".jaxexport"),
    *(".png", ".jpg", ".jpeg", ".webp", ".pth", ".pt", ".bin", ".npz", ".safetensors", ".msgpack"),
}
_WRITE_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES)
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


def told_apart(paths: Iterable[Path]) -> dict[Path, str]:
    """The ends of paths, of as many parts as it takes to tell them apart."""
    paths = list(dict.fromkeys(paths))
    for count in range(1, max((len(path.parts) for path in paths), default=0)):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(paths):
            return dict(zip(paths, names, strict=True))
    return {path: str(path) for path in paths}


def new_directory(path: str | os.PathLike) -> Path:
    """An absolute path for a directory, which may be there already.

    Raises:
      UserError: it has a scheme, or there is none and the name is one of a file.
    """
    path = local_path(path).absolute()
    if path.suffix.lower() in _FILE_ENDINGS and not path.is_dir():
        raise UserError(f"{path}: looks like a file; expected a directory, such as {path.with_suffix('')}")
    return path


def writable_directory(path: str | os.PathLike) -> Path:
    """Creates `path` if need be and makes sure that files can be written there.

    Raises:
      UserError: it has a scheme, is a file or named like one, cannot be created or is not writable.
    """
    new_directory(path)
    path = local_path(path)
    probe = path / f".write-test-{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        with contextlib.suppress(OSError):
            probe.unlink()
        raise UserError(
            f"{path}: cannot write there ({error.strerror}); choose another directory or free some space"
        ) from None
    return path


def output_file(path: str | os.PathLike, *endings: str) -> Path:
    """An absolute path whose directory is there and can be written.

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
    return writable_directory(path.parent) / path.name


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file in the place of what was there; half of it is never seen.

    Text becomes UTF-8; the bytes of a file name that is not UTF-8 stay as they are.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(
            content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
        )
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
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
      instead: what else the user can set, said in the error.
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
    """What the system said of a failed write, wherever it stands; else the first line of the error.

    Libraries that write in their own ways put it into a text or among the causes of their errors.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    reasons = [os.strerror(number) for number in _WRITE_FAILURES]
    text = str(error)
    reason = next((reason for reason in reasons if reason in text), None)
    return reason or (text.strip() or type(error).__name__).splitlines()[0][:200]


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
