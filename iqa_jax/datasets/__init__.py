"""The data sets, as tensorflow-datasets builders, and `prepare` to build one from its folder."""

import contextlib
import io
import tempfile
from pathlib import Path

import tensorflow_datasets as tfds

from iqa_jax import cache
from iqa_jax.datasets import pipal
from iqa_jax.datasets.base import REFERENCES, PairBuilder, Score
from iqa_jax.datasets.iqa_demo import IqaDemo
from iqa_jax.datasets.pipal import Pipal
from iqa_jax.errors import DataError, writable_directory

__all__ = ["DATASETS", "REFERENCES", "PairBuilder", "Score", "default_data_dir", "find_folder", "prepare"]

DATASETS = {"iqa_demo": IqaDemo, "pipal": Pipal}
_FIND_FOLDER = {"pipal": pipal.find_folder}


def default_data_dir() -> Path:
    """Where prepared data sets are kept when no `data_dir` is given."""
    return cache.cache_dir() / "datasets"


def find_folder(name: str, data_dir: str | Path | None) -> Path | None:
    """The folder of a downloaded data set in or under `data_dir`, None if it is not there."""
    return _FIND_FOLDER[name](Path(data_dir).expanduser()) if data_dir and name in _FIND_FOLDER else None


def prepare(
    name: str, *, data_dir: str | Path | None = None, manual_dir: str | Path | None = None
) -> PairBuilder:
    """The prepared data set; prepares it first if that has not been done.

    Args:
      name: a key of `DATASETS`.
      data_dir: where prepared data lie and are written; `default_data_dir()` if not given.
      manual_dir: the downloaded folder; looked for in and under `data_dir` if not given.
    Raises:
      DataError: an unknown name, no downloaded folder, or files and labels that do not fit.
    """
    if name not in DATASETS:
        raise DataError(f"unknown data set {name!r}: expected one of {', '.join(DATASETS)}")
    directory = Path(data_dir).expanduser() if data_dir else default_data_dir()
    kind = DATASETS[name]
    if _is_prepared(directory / name / str(kind.VERSION)):
        return kind(data_dir=directory)
    if name != "iqa_demo":
        manual_dir = Path(manual_dir).expanduser() if manual_dir else find_folder(name, data_dir)
        if manual_dir is None or not manual_dir.is_dir():
            where = manual_dir or f"in or under data_dir={directory}"
            raise DataError(f"{name}: not found ({where}).\n{kind.MANUAL_DOWNLOAD_INSTRUCTIONS}")
    builder = kind(data_dir=writable_directory(directory), file_format="array_record")
    tfds.disable_progress_bar()  # `PairBuilder` has its own
    with tempfile.TemporaryDirectory() as unused, contextlib.redirect_stdout(io.StringIO()):
        config = tfds.download.DownloadConfig(manual_dir=manual_dir or unused)
        builder.download_and_prepare(download_dir=unused, download_config=config)
    return kind(data_dir=directory)


def _is_prepared(directory: Path) -> bool:
    return (directory / "dataset_info.json").is_file() and (directory / "metadata.json").is_file()
