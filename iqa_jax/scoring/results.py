"""Results of scoring files: tables of them, and a journal from which a second start resumes."""

import contextlib
import csv
import dataclasses
import functools
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

from iqa_jax.errors import UserError
from iqa_jax.files import Busy, fitting_name, write_whole
from iqa_jax.journal import Journal, OtherJob

FilePair = tuple[Path, Path | None]  # a target and its reference
State = tuple[int, int, int] | None  # of a file: size, time of its content, time of its last change
COLUMNS = ("target", "reference", "score", "error")
ALIGNED_COLUMNS = ("target", "reference", "score", "shift_x", "shift_y", "error")
_NUMBERS = ("score", "shift_x", "shift_y")
_WAITS = "a finished table stays until this one is whole"  # an entry of the journal


@dataclasses.dataclass(frozen=True)
class Result:
    """The score of one pair, or why there is none.

    Attributes:
      target, reference: the files; no reference for a no-reference metric.
      score: in the metric's units; None if it could not be computed.
      error: why not, or why the quality map could not be written; None without an error.
      transient: whether another try may succeed: the device was out of memory, for example, or the disk full.
      sizes_differ: whether the error is that target and reference have different sizes.
      shift: how many pixels the target lay to the right of its reference and how many below it, before they
        were aligned; None if they were not.
      states: of target, reference and mask, noted before they were read; see `state_of`.
    """

    target: Path
    reference: Path | None
    score: float | None = None
    error: str | None = None
    transient: bool = False
    sizes_differ: bool = False
    shift: tuple[float, float] | None = None
    states: tuple[State, ...] = dataclasses.field(default=(), repr=False, compare=False)

    @property
    def shift_x(self) -> float | None:
        """How far the target lay to the right."""
        return self.shift and self.shift[0]

    @property
    def shift_y(self) -> float | None:
        """How far the target lay below."""
        return self.shift and self.shift[1]


def csv_text(rows: Iterable[Sequence]) -> str:
    """Rows as CSV; lines end in LF."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _row(result: Result, columns: Sequence[str]) -> list:
    return [getattr(result, column) for column in columns]


def write_csv(path: Path, results: Sequence[Result], columns: Sequence[str] = COLUMNS) -> None:
    """A row a result, by default target, reference, score, error; a name that is no UTF-8 keeps its bytes."""
    write_whole(path, csv_text([columns, *(_row(result, columns) for result in results)]))


def write_parquet(path: Path, results: Sequence[Result], columns: Sequence[str] = COLUMNS) -> None:
    """The same as a Parquet file."""
    import pyarrow
    from pyarrow import parquet

    def text(value: Path | str | None) -> str | None:
        return None if value is None else os.fsencode(value).decode(errors="replace")

    table = {
        name: [value if name in _NUMBERS else text(value) for value in [getattr(r, name) for r in results]]
        for name in columns
    }
    sink = io.BytesIO()
    parquet.write_table(pyarrow.table(table), sink)
    write_whole(path, sink.getvalue())


def to_json(results: Sequence[Result]) -> list[dict]:
    """Objects with target, reference, score, shift and error; values that are None are left out."""
    return [
        {
            name: str(value) if isinstance(value, Path) else value
            for name in ALIGNED_COLUMNS
            if (value := getattr(result, name)) is not None
        }
        for result in results
    ]


class ScoreTable(contextlib.AbstractContextManager):
    """A CSV or Parquet file of results, and a journal beside it until all scores are known.

    Rows are appended to a new CSV file as they come; a finished one is replaced when all rows are known.  The
    journal, `NAME.journal`, holds each score with all it depends on: the metric, and the state in which each
    file was read.  A second start resumes from it.

    Attributes:
      path: of the file.
      aligned: whether its columns hold the shifts of aligned pairs.
      damaged: how many lines of the journal could not be read.
    """

    def __init__(
        self, path: Path, identity: Mapping, *, recompute: bool = False, columns: Sequence[str] = COLUMNS
    ):
        """Opens the table, for this process alone, with the scores of its journal if there is one.

        Args:
          identity: everything that all scores depend on, as JSON can hold it.
          recompute: ignore the journal.
          columns: `COLUMNS`, or `ALIGNED_COLUMNS` of pairs that were aligned.
        Raises:
          UserError: another process writes there, the journal is another metric's or damaged, or the file
            holds something other than scores.
        """
        if not _holds_scores(path):
            raise UserError(f"{path}: is there already and is no table of scores; choose another file")
        journal, hint = journal_of(path), "choose another file, or recompute to overwrite it"
        with contextlib.ExitStack() as opened:
            try:
                self._journal = opened.enter_context(Journal.locked(journal, identity, anew=recompute))
            except Busy:
                raise UserError(f"{path}: another process writes its results there") from None
            except OtherJob:
                raise UserError(
                    f"{journal}: holds scores of another metric or other settings; {hint}"
                ) from None
            except OSError as error:
                raise UserError(f"{journal}: {error.strerror}; {hint}") from None
            self.path, self.damaged = path, self._journal.damaged
            if self.damaged and not self._journal.results:
                raise UserError(f"{journal}: damaged, so that the metric of its scores is not known; {hint}")
            self._file: IO[str] | None = None
            self._columns, self.aligned = columns, "shift_x" in columns
            self._replaces = _is_finished(path, journal)
            self._open = opened.pop_all()

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def scored(self, files: Sequence[Sequence[Path | None]]) -> dict[int, float]:
        """Scores of an earlier start that still hold, by position.

        Args:
          files: those that each score depends on; a file that has changed since is another.
        """
        return {position: score for position, (score, *_) in self._known(files).items()}

    def shifts(self, files: Sequence[Sequence[Path | None]]) -> dict[int, tuple[float, float]]:
        """The shifts of the pairs that an earlier start has aligned and scored; see `scored`."""
        return {position: (x, y) for position, (_, *shift) in self._known(files).items() for x, y in [shift]}

    def _known(self, files: Sequence[Sequence[Path | None]]) -> dict[int, list[float]]:
        """Score, and the shift of an aligned pair, of an earlier start, by position."""
        results = {
            key: value if isinstance(value, list) else [value] for key, value in self._journal.results.items()
        }
        length = 1 + len(self._columns) - len(COLUMNS)
        known = {
            key: value
            for key, value in results.items()
            if len(value) == length and all(isinstance(x, float) and math.isfinite(x) for x in value)
        }
        if not known:
            return {}
        state = functools.cache(state_of)
        keys = (_key(group, [state(path) for path in group]) for group in files)
        return {position: known[key] for position, key in enumerate(keys) if key in known}

    def add(self, result: Result, files: Sequence[Path | None], states: Sequence[State] | None) -> None:
        """Writes a row; the journal keeps a score, but not a failure, which the next start tries again.

        Args:
          files, states: what the score depends on, in the state before it was read; no states for a score
            that the journal has already.
        """
        if self._file is None:
            if self._replaces or _is_parquet(self.path):  # `finish` writes it
                self._file = io.StringIO()
            else:
                self._file = open(self.path, "w", encoding="utf-8", errors="surrogateescape", newline="")
            self._open.enter_context(self._file)
            self._file.write(csv_text([self._columns]))
        self._file.write(csv_text([_row(result, self._columns)]))
        self._file.flush()
        if result.error is None and result.score is not None and states is not None:
            if self._replaces and _WAITS not in self._journal.results:
                self._journal.add(_WAITS, True)
            value = [result.score, *result.shift] if result.shift else result.score
            self._journal.add(_key(files, states), value)

    def finish(self, results: Sequence[Result]) -> None:
        """Writes all rows in their order; deletes the journal, unless another start may give more scores."""
        (write_parquet if _is_parquet(self.path) else write_csv)(self.path, results, self._columns)
        if not any(result.transient for result in results):
            self._journal.remove()


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def _is_finished(path: Path, journal: Path) -> bool:
    """Whether a table holds all results of a job, which its journal, if there is one, is about to replace."""
    try:
        return path.exists() and _WAITS.encode() in journal.read_bytes()
    except FileNotFoundError:
        return True
    except OSError:  # the journal's reader says so
        return False


def _holds_scores(path: Path) -> bool:
    """Whether a file is a table of scores, or the beginning of one, or not there."""
    known = COLUMNS, ALIGNED_COLUMNS
    if _is_parquet(path):
        import pyarrow
        from pyarrow import parquet  # before the work, not after it

        try:
            return not path.is_file() or tuple(parquet.read_schema(path).names) in known
        except (pyarrow.ArrowException, OSError) as error:
            if getattr(error, "errno", None):
                raise
            return path.stat().st_size == 0
    if not path.is_file():
        return True
    with open(path, encoding="utf-8-sig", errors="replace") as file:  # as spreadsheets may save it too
        header = file.readline(1000)
    return any(csv_text([columns]).startswith(header) for columns in known)


def journal_of(path: Path) -> Path:
    """Where the journal of a table lies."""
    return path.with_name(fitting_name(path.name, ".journal"))


def state_of(path: Path | None) -> State:
    """Size and times of a file, which change with its content; None if it does not exist."""
    try:
        known = os.stat(path) if path else None
    except OSError:
        return None
    return known and (known.st_size, known.st_mtime_ns, known.st_ctime_ns)


def _key(files: Sequence[Path | None], states: Sequence[State]) -> str:
    """The names of files and the states they were in."""
    pairs = zip(files, states, strict=True)
    return json.dumps([path and [str(path), *(state or ())] for path, state in pairs])


def scale_text(ends: tuple[float, float]) -> str:
    """The ends of a metric's scale in words; a scale of negated DMOS ends at 0, not at -0."""
    low, high = ends
    return f"from {low:z.4g} (bad) to {high:z.4g} (excellent)"
