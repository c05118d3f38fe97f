"""A weights directory: written whole or not at all, checked when read.

It holds `config.json` (the model's configuration, where the weights come from and the SHA-256 of their
content) and `weights/`, an orbax checkpoint.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np

from iqa_jax.errors import WeightsError
from iqa_jax.files import failure_reason, local_path, new_directory, writable_directory, write_whole
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
        with ocp.StandardCheckpointer(multiprocessing_options=by_itself()) as checkpointer:
            checkpointer.save(partial / "weights", dict(weights))
        write_record(partial, config, source, content_hash(weights), file_sums(partial / "weights"))


@contextlib.contextmanager
def whole_directory(directory: Path) -> Iterator[Path]:
    """An empty directory that takes the place of `directory` when it is filled, or goes if that fails."""
    writable_directory(new_directory(directory).parent)
    partial = directory.with_name(f".{directory.name}-{uuid.uuid4().hex[:8]}")
    partial.mkdir()  # with the permissions that are usual there, a group's too
    try:
        yield partial
        _put_in_place(partial, directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_record(
    directory: Path, config: ModelConfig, source: dict, sha256: str, files: Mapping[str, str]
) -> None:
    """Writes `config.json`.

    Args:
      source: where the weights come from.
      sha256: of the weights' content.
      files: checksums of the files that hold them.
    """
    write_whole(directory / FILE, text_of(made_record(config, source, sha256=sha256, files=files)))


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
    aside = Path(tempfile.mkdtemp(prefix=f".{directory.name}-before-", dir=directory.parent))
    directory.rename(aside / directory.name)
    try:
        new.rename(directory)
    except BaseException:
        (aside / directory.name).rename(directory)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


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
    import orbax.checkpoint as ocp

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
