"""Results of a long job, kept on disk as they come, so that a second start resumes it."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from iqa_jax.files import fitting_name, locked, naming, write_whole


class OtherJob(Exception):
    """A journal belongs to a job with another identity, which is the error's argument."""


def sealed(entry: Any, identity: Mapping) -> str:
    """A line of JSON, ASCII, with `entry` and a checksum of it and of the job's identity."""
    return json.dumps([_checksum(entry, identity), entry], allow_nan=False)


def unsealed(line: str, identity: Mapping) -> Any:
    """The entry of a line that `sealed` made; ValueError if it is damaged, cut off or of another job."""
    try:
        checksum, entry = json.loads(line)
        if checksum == _checksum(entry, identity):
            return entry
    except (ValueError, TypeError, RecursionError):
        pass
    raise ValueError("damaged, or of another job")


def _checksum(entry: Any, identity: Mapping) -> str:
    whole = json.dumps([identity, entry], sort_keys=True)
    return hashlib.blake2b(whole.encode(), digest_size=16).hexdigest()


def _opened_itself(path: str, flags: int) -> int:
    """Opens a file, but follows no link."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


class Journal(contextlib.AbstractContextManager):
    """Results of one job by their keys, a line each in a file that grows.

    The file appears with the first result.  Damaged lines are ignored, and removed from the file before the
    next result is added.

    Attributes:
      results: by key, as JSON gives them back, in the order in which they were added.
      damaged: how many lines could not be read, not counting one that was cut off at the end.
    """

    def __init__(self, path: Path, identity: Mapping, *, anew: bool = False):
        """Reads the file, if it exists.

        Args:
          identity: everything that all results depend on, as JSON can hold it.
          anew: ignore the file, which the first result then overwrites.
        Raises:
          OtherJob: the file belongs to a job with another identity.
          OSError: the file cannot be read.
        """
        self._path, self._identity = path, json.loads(json.dumps(identity))
        self._file: IO[bytes] | None = None
        self.results: dict[str, Any] = {}
        self.damaged, self._intact = (0, False) if anew else self._read()

    @classmethod
    @contextlib.contextmanager
    def locked(cls, path: Path, identity: Mapping, *, anew: bool = False) -> Iterator["Journal"]:
        """The journal in a file, for this process alone until the block ends.

        A hidden lock file, `.NAME.lock`, stays beside it: removing it could let two processes in at a time.

        Raises:
          Busy: another process has it.
          OtherJob, OSError: see `Journal`.
        """
        lock = fitting_name(f".{path.name}", ".lock.soft").removesuffix(".soft")  # see `files.locked`
        with locked(path.with_name(lock), wait=False), cls(path, identity, anew=anew) as journal:
            yield journal

    def _read(self) -> tuple[int, bool]:
        """Fills the results; returns how many lines are damaged, and whether the file can be appended to."""
        try:
            content = self._path.read_bytes().decode("ascii", "replace")
        except FileNotFoundError:
            return 0, False
        header, *lines = content.split("\n")
        try:
            identity = unsealed(header, {})
        except ValueError:
            identity = None  # each line's checksum shows whether it is of this job
        if identity not in (None, self._identity):
            raise OtherJob(identity)
        damaged = int(identity is None and bool(lines))
        for line in lines[:-1]:
            try:
                key, result = unsealed(line, self._identity)
                self.results[str(key)] = result
            except (ValueError, TypeError):
                damaged += 1
        return damaged, not damaged and lines[-1:] == [""]

    def add(self, key: str, result: Any) -> None:
        """Appends a result.

        Raises:
          OSError: it cannot be written; the error names the file.
        """
        line = sealed([key, result], self._identity)
        with naming(self._path):
            if self._file is None:
                if not self._intact:
                    kept = [sealed(list(entry), self._identity) for entry in self.results.items()]
                    write_whole(self._path, "".join(f"{x}\n" for x in (sealed(self._identity, {}), *kept)))
                self._file = open(self._path, "ab", opener=_opened_itself)
            self._file.write(f"{line}\n".encode())
            self._file.flush()
        self.results[key] = json.loads(line)[1][1]

    def remove(self) -> None:
        """Deletes the file when the job is done."""
        self.close()
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __exit__(self, *_: object) -> None:
        self.close()
