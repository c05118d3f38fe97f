"""A job that several processes do together, on one host or on many that see one directory."""

import json
import os
import time
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path

import numpy as np

from iqa_jax.errors import UserError
from iqa_jax.files import Busy, locked, writable_directory, write_whole

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
    the job goes on; when it is done, its results are read.

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
    _check_identity(directory, {**identity, "parts": parts})
    results: dict[int, object] = {}
    first = os.getpid() % parts  # not all at the same one
    while len(results) < parts:
        before = len(results)
        for number in [(first + k) % parts for k in range(parts)]:
            if number not in results and _attempt(directory, number, work, results):
                progress(number)
        if len(results) == before:
            time.sleep(_POLL)
    return [results[number] for number in range(parts)]


def _attempt(directory: Path, number: int, work, results: dict) -> bool:
    """Reads or works out a part, unless another process is at it."""
    path = directory / f"part-{number}.json"
    if not path.exists():
        try:
            with locked(directory / f"part-{number}.lock", wait=False):
                if not path.exists():  # it may have been finished meanwhile
                    write_whole(path, json.dumps(work(number)))
        except Busy:
            return False
    results[number] = json.loads(path.read_text())
    return True


def _check_identity(directory: Path, identity: dict) -> None:
    path = directory / "job.json"
    with locked(directory / "job.lock"):
        if not path.exists():
            write_whole(path, json.dumps(identity))
        elif json.loads(path.read_text()) != json.loads(json.dumps(identity)):
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
