"""Results of scoring files: tables of them, and a journal from which a second start continues."""

import contextlib
import csv
import dataclasses
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from iqa_jax.errors import UserError
from iqa_jax.files import Busy, locked, write_whole

Pair = tuple[Path, Path | None]  # a target and its reference
COLUMNS = ("target", "reference", "score", "error")


@dataclasses.dataclass(frozen=True)
class Result:
    """The score of one pair, or why there is none.

    Attributes:
      target, reference: the files; no reference for a no-reference metric.
      score: in the metric's units; None if it could not be computed.
      error: why not, or why the heat map could not be written; None if all went well.
      passing: whether another try may succeed: the device was out of memory, say, or the disk full.
    """

    target: Path
    reference: Path | None
    score: float | None = None
    error: str | None = None
    passing: bool = False


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

    The journal, `NAME.journal`, knows what the scores depend on: the metric, and of each file its size and
    time.  A second start takes over what it holds.  Nothing is touched before the first result.
    """

    def __init__(self, path: Path, identity: Mapping, scores: dict[str, float]):
        self._path, self._identity, self._kept = path, identity, scores
        self._open = contextlib.ExitStack()
        self._files: tuple[IO[str], IO[str]] | None = None

    @classmethod
    @contextlib.contextmanager
    def at(cls, path: Path, identity: Mapping, *, anew: bool = False) -> Iterator["Growing"]:
        """Takes the file; its journal, if there is one, is continued.

        Args:
          identity: what all scores depend on, as JSON can hold it.
          anew: ignore the journal.
        Raises:
          UserError: another process writes there, or the journal is another metric's.
        """
        try:
            with locked(path.with_name(f".{path.name}.lock"), wait=False):
                growing = cls(path, identity, {} if anew else _kept(journal_of(path), identity, path))
                if _as_parquet(path):
                    import pyarrow.parquet  # noqa: F401  before the work, not after it
                with growing._open:
                    yield growing
        except Busy:
            raise UserError(f"{path}: another process writes its results there") from None
        with contextlib.suppress(OSError):
            path.with_name(f".{path.name}.lock").unlink()

    def _opened(self) -> tuple[IO[str], IO[str]]:
        """The file and the journal, begun with the first result."""
        if self._files is None:
            journal = self._open.enter_context(
                journal_of(self._path).open("a" if self._kept else "w", encoding="utf-8")
            )
            if not self._kept:
                _put(journal, json.dumps({"identity": self._identity}) + "\n")
            file = self._open.enter_context(_growing_file(self._path))
            _put(file, csv_text([]))
            self._files = file, journal
        return self._files

    def done(self, pairs: Sequence[Sequence[Path | None]]) -> dict[int, float]:
        """Scores that are there already, by the position of the files they are of."""
        found = {}
        for position, files in enumerate(pairs):
            if self._kept and (score := self._kept.get(_key(files))) is not None:
                found[position] = score
        return found

    def add(self, files: Sequence[Path | None], result: Result, *, known: bool = False) -> None:
        """Writes a row; a score stands in the journal too, a failure is tried again by the next start."""
        file, journal = self._opened()
        _put(file, csv_text([result], header=False))
        if result.error is None and result.score is not None and not known:
            _put(journal, json.dumps([_key(files), result.score]) + "\n")

    def finish(self, results: Sequence[Result]) -> None:
        """Puts the rows in order; the journal goes, unless another start may bring more."""
        (write_parquet if _as_parquet(self._path) else write_csv)(self._path, results)
        if not any(result.passing for result in results):
            journal_of(self._path).unlink(missing_ok=True)


def _growing_file(path: Path) -> IO[str]:
    """Where rows are written as they come; a Parquet file is written at the end, its journal grows."""
    if _as_parquet(path):
        return io.StringIO()
    return path.open("w", encoding="utf-8", errors="surrogateescape", newline="")


def _as_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def journal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.journal")


def _put(file: IO[str], text: str) -> None:
    file.write(text)
    file.flush()


def _key(files: Sequence[Path | None]) -> str:
    """Names the files and their state, so that a file that has changed is another."""

    def state(path: Path | None) -> list | None:
        if path is None:
            return None
        try:
            known = os.stat(path)
        except OSError:
            return [str(path)]
        return [str(path), known.st_size, known.st_mtime_ns]

    return json.dumps([state(path) for path in files])


def _kept(journal: Path, identity: Mapping, path: Path) -> dict[str, float]:
    """The scores in a journal; a line that was cut off is ignored."""
    try:
        lines = journal.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{journal}: cannot be read ({error}); --recompute begins anew") from None
    found: dict[str, float] = {}
    for number, line in enumerate(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if number == 0:
            begun_with = entry.get("identity") if isinstance(entry, dict) else None
            if begun_with != json.loads(json.dumps(identity)):
                raise UserError(
                    f"{path}: was begun with another metric or other settings; give another --csv, or "
                    "--recompute to begin anew"
                )
        elif isinstance(entry, list) and len(entry) == 2:
            found[entry[0]] = entry[1]
    return found
