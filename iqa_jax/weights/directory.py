"""A weights directory: written whole or not at all, checked when read.

It holds `config.json` (the model's configuration, where the weights come from and the SHA-256 of their
content) and `weights/`, an orbax checkpoint.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np

from iqa_jax.errors import UserError, WeightsError
from iqa_jax.files import (
    failure_reason,
    local_path,
    naming,
    new_directory,
    partial_folder,
    writable_directory,
    write_whole,
)
from iqa_jax.models import ModelConfig
from iqa_jax.ops import Array
from iqa_jax.weights.flat import (
    Weights,
    check_content,
    check_finite,
    check_weights,
    content_hash,
    in_file,
    weight_shapes,
)
from iqa_jax.weights.record import FILE, config_in, made_record, read_config, text_of


def file_sums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of an orbax checkpoint that holds arrays."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "commit_success.txt"  # which orbax adds last
    }


def damage(folder: Path, expected: Mapping[str, str]) -> str | None:
    """The first file whose checksum is not the `expected` one, as a phrase; None if all are."""
    found = file_sums(folder)
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if found[name] != expected.get(name):
            return f"{name} is not what was written"
    return None


def by_itself():
    """Orbax's option that a process reads or writes without the others, if there are any."""
    from orbax.checkpoint.options import MultiprocessingOptions

    number = jax.process_index()
    return MultiprocessingOptions(
        primary_host=number, active_processes={number}, barrier_sync_key_prefix=f"process_{number}"
    )


def save_weights(directory: str | os.PathLike, config: ModelConfig, weights: Weights, source: dict) -> None:
    """Writes a weights directory; it appears complete or not at all.

    Args:
      directory: must not exist, be empty, or be a weights directory that holds nothing else; that is
        replaced.
      source: where the weights come from, kept in `config.json`.
    Raises:
      WeightsError: `directory` holds something else, or a weight is not finite.
      UserError: it cannot be written.
    """
    import orbax.checkpoint as ocp

    directory = local_path(directory).absolute()
    _check_replaceable(directory)
    check_finite(weights)
    with whole_directory(directory) as partial:
        _check_room(partial, sum(np.asarray(array).nbytes for array in weights.values()))
        try:
            with ocp.StandardCheckpointer(multiprocessing_options=by_itself()) as checkpointer:
                checkpointer.save(partial / "weights", dict(weights))
        except Exception as error:  # orbax and its storage raise many kinds
            raise UserError(
                f"{directory}: cannot be written ({failure_reason(error)}); free some space or choose "
                "another output directory"
            ) from None
        record = made_record(
            config, source, sha256=content_hash(weights), files=file_sums(partial / "weights")
        )
        write_whole(partial / FILE, text_of(record))


def _check_room(folder: Path, size: int) -> None:
    """Raises OSError if so many bytes find no room in a folder.

    Orbax writes with many threads: on a full disk each prints its own failure, after all was said.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, max(size, 1))
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):  # which cannot tell
                raise


@contextlib.contextmanager
def whole_directory(directory: Path) -> Iterator[Path]:
    """An empty directory that takes the place of `directory` when it is filled, or goes if that fails.

    What processes that were killed at it have left is put back or removed first.

    Raises:
      OSError: it cannot be written; the error names `directory`.
    """
    parent = writable_directory(new_directory(directory).parent)
    _put_back(directory)
    with naming(directory), partial_folder(parent) as partial:
        yield partial
        _put_in_place(partial, directory)


def _check_replaceable(directory: Path) -> None:
    """Raises WeightsError if there is something that no weights directory has."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    other = "it is a file" if directory.is_file() else _foreign(directory)
    if other:
        raise WeightsError(
            f"{directory}: {other}, so it is not replaced; choose another output directory, "
            "one that is not there yet"
        )


def _foreign(directory: Path) -> str | None:
    """What a directory holds beside weights that were written here, as a phrase; None if nothing."""
    surplus = sorted({path.name for path in directory.iterdir()} - {FILE, "weights"})
    if surplus:
        return f"it holds {surplus[0]}"
    try:
        files = read_config(directory)["files"]
    except (WeightsError, KeyError):
        return "it has no config.json of weights"
    surplus = sorted(file_sums(directory / "weights").keys() - files.keys())
    return f"it holds weights/{surplus[0]}" if surplus else None


def _put_in_place(new: Path, directory: Path) -> None:
    """Renames `new` to `directory`; what is there is moved aside first and removed last."""
    if not directory.exists():
        new.rename(directory)
        return
    aside = Path(tempfile.mkdtemp(prefix=_aside(directory), dir=directory.parent))
    directory.rename(aside / directory.name)
    try:
        new.rename(directory)
    except BaseException:
        (aside / directory.name).rename(directory)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _put_back(directory: Path) -> None:
    """Puts back what `_put_in_place` had moved aside when its process was killed, or removes it."""
    with os.scandir(directory.parent) as entries:
        left = [Path(entry.path) for entry in entries if entry.name.startswith(_aside(directory))]
    for aside in left:
        if (aside / directory.name).exists() and not directory.exists():
            (aside / directory.name).rename(directory)
        shutil.rmtree(aside, ignore_errors=True)


def _aside(directory: Path) -> str:
    """How the names of places begin where what was in `directory` is kept while it is replaced."""
    return f".{directory.name}-before-"


def read_weights(directory: str | os.PathLike) -> tuple[ModelConfig, dict[str, Array], dict]:
    """(configuration, weights, whole `config.json`) of a weights directory.

    Raises:
      WeightsError: something is missing, truncated or differs from what was written.
    """
    directory = local_path(directory).absolute()
    record = read_config(directory)
    config, folder = config_in(record), directory / "weights"
    problem = damage(folder, record.get("files", {}))
    if problem:
        raise WeightsError(f"{folder}: damaged ({problem}); convert the weights again")
    with in_file(folder):
        weights = _restored(folder, weight_shapes(config))
        check_content(weights, record.get("sha256"))
    return config, weights, record


def _restored(folder: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """The arrays of an orbax checkpoint, which must have these shapes."""
    try:
        import orbax.checkpoint as ocp
    except ModuleNotFoundError as error:
        raise WeightsError(
            f"an orbax checkpoint needs {error.name}, which is not installed; it comes with: "
            "pip install 'iqa_jax[train]'"
        ) from None
    with ocp.StandardCheckpointer(multiprocessing_options=by_itself()) as checkpointer:
        try:
            kept = checkpointer.metadata(folder).item_metadata
            check_weights({name: leaf.shape for name, leaf in kept.items()}, expected)
            target = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in expected.items()}
            return checkpointer.restore(folder, target)
        except WeightsError:
            raise
        except Exception as error:  # orbax and its storage raise many kinds
            raise WeightsError(f"cannot be read ({failure_reason(error)})") from None
