"""The data sets, as tensorflow-datasets builders, and `prepare` to build one from its folder."""

import contextlib
import io
import shutil
import tempfile
from pathlib import Path

import tensorflow_datasets as tfds

from iqa_jax.data.datasets.base import REFERENCES, PairBuilder, Score
from iqa_jax.data.datasets.csiq import Csiq
from iqa_jax.data.datasets.iqa_demo import IqaDemo, IqaDemoUnlabelled
from iqa_jax.data.datasets.kadid10k import Kadid10k
from iqa_jax.data.datasets.live import Live
from iqa_jax.data.datasets.overview import summary
from iqa_jax.data.datasets.pairs import Pairs, TableOptions
from iqa_jax.data.datasets.pipal import Pipal
from iqa_jax.data.datasets.tid2013 import Tid2013
from iqa_jax.errors import DataError, UserError
from iqa_jax.files import cache_dir, failure_reason, local_path, locked, writable_directory

__all__ = [
    "DATASETS",
    "REFERENCES",
    "PairBuilder",
    "Score",
    "TableOptions",
    "default_data_dir",
    "find_folder",
    "prepare",
    "summary",
]

DATASETS = {
    "iqa_demo": IqaDemo,
    "iqa_demo_unlabelled": IqaDemoUnlabelled,
    "pipal": Pipal,
    "kadid10k": Kadid10k,
    "tid2013": Tid2013,
    "csiq": Csiq,
    "live": Live,
    "pairs": Pairs,
}


# Failures that say nothing of the disk: something is not installed, or a builder has a fault.
_FAULTS_OF_CODE = (ImportError, AttributeError, TypeError, NameError, LookupError, AssertionError)


def default_data_dir() -> Path:
    """Where prepared data sets are kept when no `data_dir` is given."""
    return cache_dir() / "datasets"


def find_folder(name: str, data_dir: str | Path) -> Path | None:
    """The folder of a downloaded data set in or under `data_dir`, None if it is not there."""
    return DATASETS[name].find_folder(local_path(data_dir))


def prepare(
    name: str,
    *,
    data_dir: str | Path | None = None,
    manual_dir: str | Path | None = None,
    options: TableOptions | None = None,
) -> PairBuilder:
    """The prepared data set; prepares it first if that has not been done.

    Args:
      name: a key of `DATASETS`; "pairs/STEM" for pairs that were prepared from STEM.csv.
      data_dir: where prepared data lie and are written, an existing directory or, where a `manual_dir`
        is given, one to make; `default_data_dir()` if not given.
      manual_dir: the downloaded folder, looked for in and under `data_dir` if not given; for "pairs"
        the table.
      options: for "pairs", how the table is to be read.
    Raises:
      DataError: an unknown name, no such directory, no downloaded folder, or files and labels that do
        not fit.
      UserError: there is no room, or the directory cannot be written.
    """
    base, _, asked = name.partition("/")
    if base not in DATASETS:
        raise DataError(f"unknown data set {name!r}: expected one of {', '.join(DATASETS)}")
    kind = DATASETS[base]
    if options and kind is not Pairs:
        raise DataError(f"{name}: the scale and the handling of opinions belong to tables of pairs")
    directory = local_path(data_dir).absolute() if data_dir else default_data_dir()
    if data_dir and not directory.is_dir() and not (manual_dir and directory.parent.is_dir()):
        raise DataError(f"data directory {data_dir}: no such directory; make it, or correct the path")
    source = local_path(manual_dir) if manual_dir else None
    config = kind.configuration(asked, source)
    place_and_form = {"data_dir": directory, "config": config and tfds.core.BuilderConfig(name=config)}

    def new(**format):
        builder = kind(**place_and_form, **format)
        if isinstance(builder, Pairs) and options:
            builder.options = options
        return builder

    builder = new()
    found = (source and kind.find_folder(source)) or kind.find_folder(directory) or source
    if _is_prepared(builder):
        if found:
            builder.check_unchanged(found)
        return builder
    if kind.MANUAL_DOWNLOAD_INSTRUCTIONS and (found is None or not found.exists()):
        where = source or f"in or under {directory}"
        raise DataError(f"{name}: not found ({where}).\n{kind.MANUAL_DOWNLOAD_INSTRUCTIONS}")
    builder = new(file_format="array_record")
    builder.source = found
    place = _place(Path(builder.data_path).parent, own=bool(data_dir))
    with locked(place / ".lock"):  # no two processes at a time
        if not _is_prepared(builder):  # by another process meanwhile
            for left_over in place.glob("incomplete.*"):  # of a killed attempt
                shutil.rmtree(left_over)
            _build(builder)
    return new()


def _place(directory: Path, *, own: bool) -> Path:
    try:
        return writable_directory(directory)
    except UserError as error:
        hint = "" if own else "; set IQA_JAX_CACHE, or give a data directory (--config.data_dir in training)"
        raise UserError(f"{error}{hint}") from None


def _build(builder: PairBuilder) -> None:
    """Writes the data set; what is half-written goes when that is interrupted or fails."""
    tfds.disable_progress_bar()  # `PairBuilder` has its own
    try:
        with tempfile.TemporaryDirectory() as unused, contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_dir=unused)
    except (UserError, *_FAULTS_OF_CODE):
        raise
    except KeyboardInterrupt as interruption:
        interruption.args = (f"nothing of {builder.name} was prepared, nothing half-written stays",)
        raise
    except Exception as error:  # array_record raises its own kinds, without a path, on a full disk say
        raise UserError(
            f"{Path(builder.data_path).parent}: {builder.name} could not be written "
            f"({failure_reason(error)}); nothing half-written stays. Free some space, or give a data "
            "directory on another disk"
        ) from None


def _is_prepared(builder: PairBuilder) -> bool:
    files = ("dataset_info.json", "metadata.json")
    return all((Path(builder.data_path) / file).is_file() for file in files)
