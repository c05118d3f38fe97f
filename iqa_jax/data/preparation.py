"""Opens prepared data sets, and prepares them from their downloaded folders."""

import contextlib
import dataclasses
import io
import shutil
import sys
import tempfile
from pathlib import Path

import tensorflow_datasets as tfds
from tqdm import tqdm

from iqa_jax.data.datasets import DATASETS
from iqa_jax.data.datasets.base import PairBuilder
from iqa_jax.data.datasets.pairs import Pairs, TableOptions
from iqa_jax.data.datasets.prepared import (
    UNFINISHED,
    Damaged,
    damage,
    difference,
    interrupted,
    put_in_place,
    recover,
    seal,
)
from iqa_jax.errors import DataError, UserError
from iqa_jax.files import cache_dir, failure_reason, local_path, locked, writable_directory

# Not failures of the disk: a package is not installed, or a builder has a bug.
_FAULTS_OF_CODE = (ImportError, AttributeError, TypeError, NameError, LookupError, AssertionError)


def default_data_dir() -> Path:
    """Where prepared data sets are kept when no `data_dir` is given."""
    return cache_dir() / "datasets"


def find_folder(name: str, data_dir: str | Path) -> Path | None:
    """The folder of a downloaded data set in or under `data_dir`, None if it is not there."""
    return DATASETS[name].find_folder(local_path(data_dir))


@dataclasses.dataclass(frozen=True)
class _Request:
    """A requested data set, and where it is or will be prepared."""

    name: str
    kind: type[PairBuilder]
    directory: Path
    config: str | None
    options: TableOptions | None
    source: Path | None  # the downloaded folder or file, if it is there

    @property
    def place(self) -> Path:
        return self.directory / self.kind.name / (self.config or "") / str(self.kind.VERSION)

    def opened(self) -> PairBuilder:
        return self._builder(self.directory)

    def new(self, directory: Path) -> PairBuilder:
        """A builder that is to write in `directory`."""
        builder = self._builder(directory, file_format="array_record")
        builder.source, builder.place = self.source, self.place.parent
        if isinstance(builder, Pairs) and self.options:
            builder.options = self.options
        return builder

    def _builder(self, directory: Path, **form) -> PairBuilder:
        config = self.config and tfds.core.BuilderConfig(name=self.config)
        return self.kind(data_dir=directory, config=config, **form)


def prepare_dataset(
    name: str,
    *,
    data_dir: str | Path | None = None,
    manual_dir: str | Path | None = None,
    options: TableOptions | None = None,
    check: bool = False,
    force: bool = False,
) -> PairBuilder:
    """Opens a prepared data set; prepares it first if it is missing, and again if it is damaged.

    Args:
      name: a key of `DATASETS`; "pairs/STEM" for pairs that were prepared from STEM.csv.
      data_dir: the directory of prepared data, `default_data_dir()` if not given.  It must exist, unless a
        `manual_dir` is given; then it is created.
      manual_dir: the downloaded folder, searched in and under `data_dir` if not given; for "pairs" the
        table.  Giving it implies `check`.
      options: for "pairs", how to read the table.
      check: read all prepared images and compare them and their labels with the downloaded folder, if it
        exists; prepare the set again if anything has changed or is damaged.
      force: prepare again in any case.
    Raises:
      DataError: an unknown name, no such directory, no downloaded folder, files and labels that do not
        match, or pairs of this name that were prepared from another table.
      UserError: the disk is full, or the directory cannot be written.
    """
    request = _request(name, data_dir, manual_dir, options)
    check = check or manual_dir is not None
    builder, reason = (None, "") if force else _usable(request, check)
    place = request.place
    if builder and not (check and interrupted(place)):
        return builder
    if builder is None and not interrupted(place):
        _require_source(request, reason, manual_dir)
    _make_writable(place.parent, own=bool(data_dir))
    with locked(place.parent / ".lock"):  # no two processes at a time
        recover(place)
        if not force:  # another process may have done it meanwhile, from another table perhaps
            builder, reason = _usable(request, check)
        if builder is None:
            _require_source(request, reason, manual_dir)
            if reason:
                tqdm.write(f"{request.name}: {reason}; preparing it again", file=sys.stderr)
            _build(request)
            builder = request.opened()
        return builder


def _request(name, data_dir, manual_dir, options) -> _Request:
    base, _, asked = name.partition("/")
    if base not in DATASETS:
        raise DataError(f"unknown data set {name!r}: expected one of {', '.join(DATASETS)}")
    kind = DATASETS[base]
    if options and kind is not Pairs:
        raise DataError(f"{name}: the scale and the handling of opinions belong to tables of pairs")
    directory = local_path(data_dir).absolute() if data_dir else default_data_dir()
    if data_dir and not directory.is_dir() and not (manual_dir and directory.parent.is_dir()):
        raise DataError(f"data directory {data_dir}: no such directory; make it, or correct the path")
    given = local_path(manual_dir) if manual_dir else None
    config = kind.configuration(asked, given)
    source = (given and kind.find_folder(given)) or kind.find_folder(directory) or given
    if source and not source.exists():
        source = None
    name = f"{kind.name}/{config}" if config else kind.name
    return _Request(name, kind, directory, config, options, source)


def _require_source(request: _Request, reason: str, given: str | Path | None) -> None:
    """Raises DataError if a downloaded folder is needed and is not there."""
    instructions = request.kind.MANUAL_DOWNLOAD_INSTRUCTIONS
    if request.source is not None or not instructions:
        return
    if reason:
        raise DataError(f"{request.name}: {reason}; prepare it again from the downloaded folder or the table")
    where = given or f"in or under {request.directory}"
    raise DataError(f"{request.name}: not found ({where}).\n{instructions}")


def _usable(request: _Request, check: bool) -> tuple[PairBuilder | None, str]:
    """The prepared data set, or why it must be prepared again; "" if there is none.

    Raises:
      DataError: pairs of this name were prepared from another table.
    """
    if not request.place.exists():
        return None, ""
    if reason := damage(request.place):
        return None, f"prepared data are damaged ({reason})"
    builder = request.opened()
    if not check:
        reason = builder.lacks(request.source) if request.source else ""
        return (None, reason) if reason else (builder, "")
    with tempfile.TemporaryDirectory() as unused:
        current = request.new(Path(unused)) if request.source else None
        try:
            reason = difference(builder, current)
        except Damaged as error:
            reason = f"prepared data are damaged ({error.what})"
    table = builder.metadata.get("table")
    if reason and table and request.source and table != str(request.source.absolute()):
        raise DataError(
            f"{request.source}: {request.name} was prepared from {table}; give this table another "
            "name, or replace those pairs with force"
        )
    return (None, reason) if reason else (builder, "")


def _make_writable(directory: Path, *, own: bool) -> None:
    try:
        writable_directory(directory)
    except UserError as error:
        hint = "" if own else "; set IQA_JAX_CACHE or data_dir"
        raise UserError(f"{error}{hint}") from None


def _build(request: _Request) -> None:
    """Writes the data set in a temporary folder beside its place, then moves it there."""
    tfds.disable_progress_bar()  # `PairBuilder` has its own
    aside = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=request.place.parent))
    try:
        builder = request.new(aside)
        with tempfile.TemporaryDirectory() as unused, contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_dir=unused)
        written = Path(builder.data_path)
        seal(written)
        put_in_place(written, request.place)
    except (UserError, *_FAULTS_OF_CODE):
        raise
    except KeyboardInterrupt as interruption:
        interruption.args = (f"{request.kind.name} was not prepared; no partial data are left behind",)
        raise
    except Exception as error:  # on a full disk, array_record raises its own kinds, without a path
        raise UserError(
            f"{request.place.parent}: {request.kind.name} could not be written "
            f"({failure_reason(error)}); no partial data are left behind. Free some space, or set "
            "data_dir to a folder on another disk"
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
