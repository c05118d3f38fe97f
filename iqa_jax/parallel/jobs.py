"""A job that several processes share, on one host or on many that see one directory."""

import os
import time
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from iqa_jax.errors import UserError
from iqa_jax.files import Busy, writable_directory
from iqa_jax.journal import Journal, OtherJob

_POLL = 0.2  # seconds between looks at what other processes have finished


def run_shared(
    directory: Path,
    parts: int,
    work: Callable[[int], Any],
    *,
    identity: dict,
    progress: Callable[[int], object] = lambda part: None,
) -> list:
    """The results of all parts of a job; each part is computed by one of the processes that call this.

    Each part has a journal in `directory`.  A process takes the next part that is neither finished nor locked
    by another; a process that ends, however it ends, frees its lock, and another redoes its part.  Started
    again, the job resumes.  A damaged result is computed again.

    Args:
      directory: of this job alone, seen by all processes.
      parts: how many there are.
      work: computes the result of a part by its number, as JSON can hold it.
      identity: everything that the results depend on.
      progress: called with the number of each finished part, whichever process has computed it.
    Returns:
      The results in the order of their parts, the same for each process.
    Raises:
      UserError: the directory belongs to another job.
    """
    directory = writable_directory(directory)
    identity = {**identity, "parts": parts}
    for path in directory.glob("part-*.journal"):  # before any work
        _read(path, identity)
    results: dict[int, Any] = {}
    first = os.getpid() % max(1, parts)  # processes begin at different parts
    while len(results) < parts:
        before = len(results)
        for number in [(first + k) % parts for k in range(parts)]:
            if number not in results and _attempt(directory, number, work, identity, results):
                progress(number)
        if len(results) == before:
            time.sleep(_POLL)
    return [results[number] for number in range(parts)]


def _attempt(directory: Path, number: int, work, identity: dict, results: dict) -> bool:
    """Reads or computes the result of a part; False if another process works on it."""
    path, key = directory / f"part-{number}.journal", str(number)
    journal = _read(path, identity)
    if key not in journal.results:
        try:
            with Journal.locked(path, identity) as journal:
                if key not in journal.results:  # another process may have finished it meanwhile
                    journal.add(key, work(number))
        except Busy:
            return False
    results[number] = journal.results[key]
    return True


def _read(path: Path, identity: dict) -> Journal:
    try:
        return Journal(path, identity)
    except OtherJob as other:
        raise UserError(
            f"{path.parent}: belongs to another job ({other}); choose another directory or delete it"
        ) from None


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
