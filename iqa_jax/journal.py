"""What a long work has done so far, on disk, so that a second start resumes; what is damaged is not read."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from iqa_jax.files import naming, write_whole


class OtherWork(Exception):
    """A journal is of work with another identity, which the error's argument is."""


def sealed(entry: Any, identity: Mapping) -> str:
    """A line of JSON that holds `entry` and a checksum of it and of what it depends on.

    Args:
      entry: as JSON can hold it; names may have commas, line breaks and bytes that are not UTF-8.
      identity: the same for all entries of one work.
    """
    return json.dumps([_checksum(entry, identity), entry], allow_nan=False)  # ASCII, no line breaks


def unsealed(line: str, identity: Mapping) -> Any:
    """What `sealed` took.

    Raises:
      ValueError: the line is damaged, cut or of other work.
    """
    try:
        checksum, entry = json.loads(line)
        if checksum == _checksum(entry, identity):
            return entry
    except (ValueError, TypeError, RecursionError):
        pass
    raise ValueError("damaged, or of other work")


def _checksum(entry: Any, identity: Mapping) -> str:
    whole = json.dumps([identity, entry], sort_keys=True)
    return hashlib.blake2b(whole.encode(), digest_size=16).hexdigest()


def _opened_itself(path: str, flags: int) -> int:
    """Not what a link of that name points to."""
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


class Journal:
    """Entries of one work, a line each in a file that grows; one process writes it at a time.

    The file appears with the first entry.  Lines that are damaged or cut off are left out, and removed from
    the file before the next entry.

    Attributes:
      entries: those of earlier starts, in the order in which they were added.
      damaged: how many lines do not give theirs, beside one that was cut off at the end.
    """

    def __init__(self, path: Path, identity: Mapping, *, anew: bool = False):
        """Reads the file, if it is there.

        Args:
          identity: what all entries depend on, as JSON can hold it.
          anew: begin without what is there.
        Raises:
          OtherWork: it is of work with another identity.
          OSError: it cannot be read.
        """
        self._path, self._identity = path, json.loads(json.dumps(identity))
        self._file: IO[bytes] | None = None
        self.entries, self.damaged, self._whole = ([], 0, False) if anew else self._read()

    def _read(self) -> tuple[list, int, bool]:
        """The entries, how many lines are damaged, and whether the file has the entries alone."""
        try:
            content = self._path.read_bytes().decode("ascii", "replace")
        except FileNotFoundError:
            return [], 0, False
        header, *lines = content.split("\n")
        try:
            identity = unsealed(header, {})
        except ValueError:
            identity = None  # the lines tell by themselves whether they are of this work
        if identity not in (None, self._identity):
            raise OtherWork(identity)
        entries, damaged = [], int(identity is None and bool(lines))
        for line in lines[:-1]:
            try:
                entries.append(unsealed(line, self._identity))
            except ValueError:
                damaged += 1
        return entries, damaged, not damaged and lines[-1:] == [""]

    def add(self, *entries: Any) -> None:
        """Appends entries.

        Raises:
          OSError: they cannot be written; the error names the file.
        """
        with naming(self._path):
            if self._file is None:
                if not self._whole:
                    lines = [sealed(self._identity, {}), *(sealed(e, self._identity) for e in self.entries)]
                    write_whole(self._path, "".join(f"{line}\n" for line in lines))
                self._file = open(self._path, "ab", opener=_opened_itself)
            self._file.write("".join(f"{sealed(entry, self._identity)}\n" for entry in entries).encode())
            self._file.flush()

    def remove(self) -> None:
        """Removes the file, when the work is done."""
        self.close()
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()
