"""A job that several processes do together, on one host or on many that see one directory."""

import json
import os
import time
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path

import numpy as np

from iqa_jax.errors import UserError
from iqa_jax.files import Busy, locked, writable_directory, write_whole
from iqa_jax.journal import sealed, unsealed

_POLL = 0.2  # seconds between looks at what the others are doing


def do_together(
    directory: Path,
    parts: int,
    work: Callable[[int], object],
    *,
    identity: dict,
    progress: Callable[[int], object] = lambda part: None,
) -> list:
    """Results of all parts of a job, each worked out by one of the processes that were given it.

    A process takes the next part that nobody has; results are files in `directory`, locks say who is at
    work.  The lock of a process that has ended is free, and its part is done by another.  Started again,
    the job resumes; when it is done, its results are read.  Each has a checksum: one that is damaged or of
    another job is worked out again.

    Args:
      directory: seen by all processes, of this job alone.
      parts: how many there are.
      work: gives the result of a part by its number, as JSON can hold it.
      identity: what the results depend on.
      progress: is called with the number of each finished part, whichever process did it.
    Returns:
      What `work` has given for part 0, 1 and so on, to each of the processes.
    Raises:
      UserError: the directory has another job.
    """
    directory = writable_directory(directory)
    identity = {**identity, "parts": parts}
    _check_identity(directory, identity)
    results: dict[int, object] = {}
    first = os.getpid() % parts  # not all at the same one
    while len(results) < parts:
        before = len(results)
        for number in [(first + k) % parts for k in range(parts)]:
            if number not in results and _attempt(directory, number, work, identity, results):
                progress(number)
        if len(results) == before:
            time.sleep(_POLL)
    return [results[number] for number in range(parts)]


def _attempt(directory: Path, number: int, work, identity: dict, results: dict) -> bool:
    """Reads or works out a part, unless another process is at it."""
    path, of_part = directory / f"part-{number}.json", {**identity, "part": number}
    result = _read(path, of_part)
    if result is None:
        try:
            with locked(directory / f"part-{number}.lock", wait=False):
                result = _read(path, of_part)  # it may have been finished meanwhile
                if result is None:
                    result = (json.loads(json.dumps(work(number))),)
                    write_whole(path, sealed(result[0], of_part))
        except Busy:
            return False
    results[number] = result[0]
    return True


def _read(path: Path, identity: dict) -> tuple[object] | None:
    """The result in a file, None if there is none that is whole."""
    try:
        return (unsealed(path.read_text(encoding="ascii", errors="replace"), identity),)
    except (FileNotFoundError, ValueError):
        return None


def _check_identity(directory: Path, identity: dict) -> None:
    path = directory / "job.json"
    identity = json.loads(json.dumps(identity))
    with locked(directory / "job.lock"):
        begun = _read(path, {})
        if begun is None:  # where it is damaged, the parts tell whether they are of this job
            write_whole(path, sealed(identity, {}))
        elif begun != (identity,):
            raise UserError(f"{directory}: has another job; choose another directory or delete it")


def grouped(keys: Iterable[Hashable], largest: int) -> list[np.ndarray]:
    """Positions in parts: those of equal keys stay together, a part has about `largest` positions."""
    parts: list[np.ndarray] = []
    current: list[int] = []
    positions: dict[Hashable, list[int]] = {}
    for position, key in enumerate(keys):
        positions.setdefault(key, []).append(position)
    for group in positions.values():
        if current and len(current) + len(group) > largest:
            parts.append(np.array(current))
            current = []
        current += group
    return [*parts, np.array(current)] if current else parts
