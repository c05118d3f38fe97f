"""A folder of weights: `config.json` and `model.safetensors`, written whole or not at all, checked when read.

All weights have this form: converted, averaged, packed and shipped ones, and the backbone's in a run's
directory.  `config.json` holds the model's configuration, where the weights come from, the SHA-256 of the
file and that of its content.  Weights to share have a model card beside them.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path

import numpy as np

from iqa_jax.errors import WeightsError
from iqa_jax.files import (
    failure_reason,
    local_path,
    naming,
    new_directory,
    partial_folder,
    writable_directory,
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
from iqa_jax.weights.record import FILE as RECORD
from iqa_jax.weights.record import config_in, made_record, read_config, text_of
from iqa_jax.weights.tensors import tensors_of

FILE, CARD = "model.safetensors", "README.md"
ORBAX = "weights"  # a folder in the place of `FILE`, as earlier versions wrote it
_PATIENCE, _SLOWEST = 30.0, 2e6  # seconds for such a folder, and the fewest bytes a second


def save_weights(
    directory: str | os.PathLike,
    config: ModelConfig,
    weights: Weights,
    source: dict,
    *,
    card: str | None = None,
    half: bool = False,
) -> None:
    """Writes a folder of weights; it appears complete or not at all.

    Args:
      directory: must not exist, be empty or hold weights without a card and nothing else; those are replaced,
        unless a card is given.
      source: where the weights come from, kept in `config.json`.
      card: the model card, Markdown.
      half: whether to store float16; the numbers are float32 again when read.
    Raises:
      WeightsError: `directory` holds something else, or a weight is not finite.
      UserError, OSError: it cannot be written.
    """
    from safetensors.numpy import save

    directory = local_path(directory).absolute()
    dtype = np.float16 if half else np.float32
    with np.errstate(over="ignore"):  # refused below
        arrays = {name: np.asarray(array, dtype, order="C") for name, array in weights.items()}
    check_finite(arrays)
    content = save(arrays, metadata={"format": "np"})
    sha256 = content_hash({name: array.astype(np.float32, copy=False) for name, array in arrays.items()})
    record = made_record(config, source, sha256=sha256, files={FILE: hashlib.sha256(content).hexdigest()})
    files = {FILE: content, RECORD: text_of(record).encode()}
    if card is not None:
        files[CARD] = card.encode()
    if _holds(directory, files):  # an earlier call wrote it
        return
    if obstacle := _obstacle(directory, replaces=card is None):
        raise WeightsError(
            f"{directory}: {obstacle}, so it is not replaced; choose another output directory, one that does "
            "not exist yet"
        )
    with whole_directory(directory) as partial:
        for name, written in files.items():
            (partial / name).write_bytes(written)


def _holds(directory: Path, files: Mapping[str, bytes]) -> bool:
    """Whether a directory holds these files and nothing else."""
    if not directory.is_dir() or {path.name for path in directory.iterdir()} != files.keys():
        return False
    return all(
        (directory / name).is_file() and (directory / name).read_bytes() == content
        for name, content in files.items()
    )


def _obstacle(directory: Path, *, replaces: bool) -> str | None:
    """What keeps weights from being written to a directory, as a phrase; None if nothing does."""
    if not directory.exists():
        return None
    if not directory.is_dir():
        return "it is a file"
    names = {path.name for path in directory.iterdir()}
    if not names:
        return None
    if not replaces:
        return "it is there already"
    if others := sorted(names - {RECORD, FILE}):
        return f"it holds {others[0]}"
    try:
        return None if "files" in read_config(directory) else "it has no config.json of weights"
    except WeightsError:
        return "it has no config.json of weights"


@contextlib.contextmanager
def whole_directory(directory: Path) -> Iterator[Path]:
    """An empty directory to fill, which takes the place of `directory` at the end; on failure it is removed.

    First puts back or removes what killed processes left there.

    Raises:
      OSError: it cannot be written; the error names `directory`.
    """
    parent = writable_directory(new_directory(directory).parent)
    _put_back(directory)
    with naming(directory), partial_folder(parent) as partial:
        yield partial
        _put_in_place(partial, directory)


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
    """How the names begin of the places that keep the content of `directory` while it is replaced."""
    return f".{directory.name}-before-"


def read_weights(directory: str | os.PathLike) -> tuple[ModelConfig, dict[str, Array], dict]:
    """(configuration, weights as float32, whole `config.json` with the path of the "card") of a folder.

    Raises:
      WeightsError: something is missing, truncated or differs from what was written.
    """
    directory = local_path(directory).absolute()
    record = read_config(directory)
    config, card = config_in(record), directory / CARD
    path = directory / (ORBAX if _is_orbax(directory) else FILE)
    with in_file(path):
        stored = _read_orbax(path) if path.name == ORBAX else _read_file(path, record)
        weights: dict[str, Array] = {n: a.astype(np.float32, copy=False) for n, a in stored.items()}
        check_weights({name: array.shape for name, array in weights.items()}, weight_shapes(config))
        check_content(weights, record.get("sha256"))
    return config, weights, record | ({"card": str(card)} if card.is_file() else {})


def holds_weights(directory: Path) -> bool:
    """Whether a directory has a file of weights, or the folder that earlier versions wrote."""
    return (directory / FILE).is_file() or _is_orbax(directory)


def _is_orbax(directory: Path) -> bool:
    return not (directory / FILE).exists() and (directory / ORBAX).is_dir()


def _read_file(path: Path, record: Mapping) -> dict[str, np.ndarray]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(error.strerror) from None
    if hashlib.sha256(content).hexdigest() != record.get("files", {}).get(FILE):
        raise ValueError(
            "damaged, its checksum is not the one in config.json; convert or fetch the weights again"
        )
    return tensors_of(content)


def _read_orbax(folder: Path) -> dict[str, np.ndarray]:
    """What `read_arrays` gives, in a thread: where files are damaged, orbax at times waits for ever."""
    from iqa_jax.weights.checkpoints import read_arrays

    ended: Future[dict[str, np.ndarray]] = Future()

    def read() -> None:
        try:
            ended.set_result(read_arrays(folder))
        except BaseException as error:
            ended.set_exception(error)

    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    threading.Thread(target=read, daemon=True).start()
    try:
        return ended.result(timeout=_PATIENCE + size / _SLOWEST)
    except TimeoutError:
        raise ValueError("damaged (reading it does not end); convert the weights again") from None
    except ModuleNotFoundError as error:
        raise ValueError(
            f"weights of an earlier version need {error.name}, which is not installed; it comes with: pip "
            "install 'iqa-conformer[train]'"
        ) from None
    except Exception as error:  # orbax and its storage raise many kinds
        raise ValueError(f"damaged ({failure_reason(error)}); convert the weights again") from None
