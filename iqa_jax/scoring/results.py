"""Results of scoring files: tables of them, and a journal from which a second start continues."""

import contextlib
import csv
import dataclasses
import functools
import io
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from iqa_jax.errors import UserError
from iqa_jax.files import Busy, fitting_name, locked, write_whole
from iqa_jax.journal import Journal, OtherWork

Pair = tuple[Path, Path | None]  # a target and its reference
State = tuple[int, int, int] | None  # of a file: size, time of its content, time of its last change
COLUMNS = ("target", "reference", "score", "error")


@dataclasses.dataclass(frozen=True)
class Result:
    """The score of one pair, or why there is none.

    Attributes:
      target, reference: the files; no reference for a no-reference metric.
      score: in the metric's units; None if it could not be computed.
      error: why not, or why the heat map could not be written; None if all went well.
      passing: whether another try may succeed: the device was out of memory, say, or the disk full.
      differ: whether the error is that target and reference have different sizes.
      states: of target, reference and mask, noted before they were read; see `state_of`.
    """

    target: Path
    reference: Path | None
    score: float | None = None
    error: str | None = None
    passing: bool = False
    differ: bool = False
    states: tuple[State, ...] = dataclasses.field(default=(), repr=False, compare=False)


def csv_text(results: Iterable[Result], *, header: bool = True) -> str:
    """Rows with the columns target, reference, score, error; lines end in LF."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(COLUMNS)
    writer.writerows([getattr(result, column) for column in COLUMNS] for result in results)
    return text.getvalue()


def write_csv(path: Path, results: Sequence[Result]) -> None:
    """Columns target, reference, score, error; a row for each result.

    A name that is not UTF-8 stands there with its own bytes.
    """
    write_whole(path, csv_text(results))


def write_parquet(path: Path, results: Sequence[Result]) -> None:
    """The same as a Parquet file."""
    import pyarrow
    from pyarrow import parquet

    def text(value: Path | str | None) -> str | None:
        return None if value is None else os.fsencode(value).decode(errors="replace")

    columns = {
        "target": [text(result.target) for result in results],
        "reference": [text(result.reference) for result in results],
        "score": [result.score for result in results],
        "error": [text(result.error) for result in results],
    }
    sink = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), sink)
    write_whole(path, sink.getvalue())


def to_json(results: Sequence[Result]) -> list[dict]:
    """Objects with target, reference, and score or error; what a result does not have is left out."""
    return [
        {
            name: str(value) if isinstance(value, Path) else value
            for name in COLUMNS
            if (value := getattr(result, name)) is not None
        }
        for result in results
    ]


class Growing:
    """A CSV file of results that grows as they come, and a journal beside it until all are there.

    The journal, `NAME.journal`, knows what the scores depend on: the metric, and the state in which each file
    was read.  A second start takes over what it holds.  Nothing is touched before the first result.

    Attributes:
      path: of the CSV file.
      damaged: how many lines of the journal could not be used.
    """

    def __init__(self, path: Path, journal: Journal):
        self.path, self.damaged = path, journal.damaged
        self._journal = journal
        self._kept = {entry[0]: entry[1] for entry in journal.entries if _is_score(entry)}
        self._open = contextlib.ExitStack()
        self._file: IO[str] | None = None

    @classmethod
    @contextlib.contextmanager
    def at(cls, path: Path, identity: Mapping, *, anew: bool = False) -> Iterator["Growing"]:
        """Takes the file; its journal, if there is one, is continued.

        A hidden lock file, `.NAME.lock`, stays beside it: to remove it would let two processes in at a time.

        Args:
          identity: what all scores depend on, as JSON can hold it.
          anew: ignore the journal.
        Raises:
          UserError: another process writes there, or the journal is another metric's or damaged.
        """
        lock = fitting_name(f".{path.name}", ".lock.soft").removesuffix(".soft")  # see `locked`
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(path.with_name(lock), wait=False))
            except Busy:
                raise UserError(f"{path}: another process writes its results there") from None
            if _as_parquet(path):
                import pyarrow.parquet  # noqa: F401  before the work, not after it
            growing = cls(path, held.enter_context(_journal(path, identity, anew)))
            held.enter_context(growing._open)
            yield growing

    def _opened(self) -> IO[str]:
        """The file, begun with the first result."""
        if self._file is None:
            self._file = self._open.enter_context(_growing_file(self.path))
            _put(self._file, csv_text([]))
        return self._file

    def done(self, files: Sequence[Sequence[Path | None]]) -> dict[int, float]:
        """Scores that are there already, by the position of the files they depend on, as these are now."""
        if not self._kept:
            return {}
        state = functools.cache(state_of)
        keys = (_key(group, [state(path) for path in group]) for group in files)
        return {position: self._kept[key] for position, key in enumerate(keys) if key in self._kept}

    def add(self, result: Result, files: Sequence[Path | None], states: Sequence[State] | None) -> None:
        """Writes a row; a score stands in the journal too, a failure is tried again by the next start.

        Args:
          files, states: what the score depends on, as it was when it was read; no states for a score that
            the journal has already.
        """
        _put(self._opened(), csv_text([result], header=False))
        if result.error is None and result.score is not None and states is not None:
            self._journal.add([_key(files, states), result.score])

    def finish(self, results: Sequence[Result]) -> None:
        """Puts the rows in order; the journal goes, unless another start may bring more."""
        (write_parquet if _as_parquet(self.path) else write_csv)(self.path, results)
        if not any(result.passing for result in results):
            self._journal.remove()


def _growing_file(path: Path) -> IO[str]:
    """Where rows are written as they come; a Parquet file is written at the end, its journal grows."""
    if _as_parquet(path):
        return io.StringIO()
    return path.open("w", encoding="utf-8", errors="surrogateescape", newline="")


def _as_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def journal_of(path: Path) -> Path:
    return path.with_name(fitting_name(path.name, ".journal"))


def _put(file: IO[str], text: str) -> None:
    file.write(text)
    file.flush()


def state_of(path: Path | None) -> State:
    """Size and times of a file, by which one that has changed is another; None if it is not there."""
    try:
        known = os.stat(path) if path else None
    except OSError:
        return None
    return known and (known.st_size, known.st_mtime_ns, known.st_ctime_ns)


def _key(files: Sequence[Path | None], states: Sequence[State]) -> str:
    """Names files and the states they were in."""
    pairs = zip(files, states, strict=True)
    return json.dumps([path and [str(path), *(state or ())] for path, state in pairs])


def _journal(path: Path, identity: Mapping, anew: bool) -> Journal:
    """The journal of a CSV file.

    Raises:
      UserError: it cannot be read, was begun with another identity, or does not tell any more with which.
    """
    try:
        journal = Journal(journal_of(path), identity, anew=anew)
    except OtherWork:
        raise UserError(
            f"{path}: was begun with another metric or other settings; choose another file, or recompute to "
            "begin anew"
        ) from None
    except OSError as error:
        raise UserError(f"{journal_of(path)}: {error.strerror}; choose another file, or recompute") from None
    if journal.damaged and not journal.entries:
        raise UserError(
            f"{journal_of(path)}: damaged, so that the metric of its scores is not known; choose another "
            "file, or recompute to begin anew"
        )
    return journal


def _is_score(entry: object) -> bool:
    """Whether an entry of the journal is the name of a pair's files and a finite number."""
    return (
        isinstance(entry, list) and [type(part) for part in entry] == [str, float] and math.isfinite(entry[1])
    )
