"""Reading what `torch.save` wrote, without torch: tensors become NumPy arrays, nothing else is built.

Both of its formats: the zip archive, and the older one that newer archives of old models still have.  A
file names the classes and functions that build its content; those below stand in for the harmless ones, any
other is refused by its name.
"""

import collections
import dataclasses
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import ml_dtypes
import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C  # that the older format begins with
_STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class RefusedObject(Exception):
    """The file would build something that is no tensor, number, text or collection of these."""


class NotThisFormat(Exception):
    """Neither of the two formats."""


@dataclasses.dataclass
class _Storage:
    """The numbers that tensors share; `content` comes after the objects in the older format."""

    dtype: np.dtype
    count: int
    content: bytes | None = None


@dataclasses.dataclass
class _Tensor:
    """A view of a storage, not read yet."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self) -> np.ndarray:
        """The numbers, copied.

        Raises:
          ValueError: the view reaches beyond its storage, or the storage is short.
        """
        storage = self.storage
        flat = np.frombuffer(storage.content or b"", storage.dtype)
        if len(flat) < storage.count:
            raise ValueError("a tensor's numbers are missing")
        steps = [(length - 1) * step for length, step in zip(self.size, self.stride, strict=True)]
        if 0 in self.size:
            return np.zeros(self.size, storage.dtype)
        if self.offset < 0 or min(steps, default=0) < 0 or self.offset + sum(steps) >= len(flat):
            raise ValueError("a tensor reaches beyond its numbers")
        strides = [step * flat.itemsize for step in self.stride]
        view = np.lib.stride_tricks.as_strided(flat[self.offset :], self.size, strides, writeable=False)
        return view.copy()


def _tensor(storage, offset, size, stride, *unused) -> _Tensor:
    return _Tensor(storage, int(offset), tuple(size), tuple(stride))


def _parameter(tensor, *unused) -> _Tensor:
    return tensor


def _scalar(dtype: np.dtype, content: bytes) -> object:
    return np.frombuffer(content, dtype)[0].item()


def _latin1(text: str, encoding: str) -> bytes:
    return text.encode("latin1")


_HARMLESS: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): collections.defaultdict,
    ("collections", "Counter"): collections.Counter,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch", "device"): lambda *name: None,
    ("_codecs", "encode"): _latin1,
    ("numpy", "dtype"): np.dtype,
    **{("torch", name): np.dtype(kind) for name, kind in _STORAGES.items()},
    **{("torch", np.dtype(kind).name): np.dtype(kind) for kind in _STORAGES.values()},
    **{
        ("builtins", kind.__name__): kind for kind in (dict, list, tuple, set, int, float, complex, bool, str)
    },
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    """Builds what is harmless; storages come from `storage(key, dtype, count)`."""

    def __init__(self, file: IO[bytes], storage: Callable[[str, np.dtype, int], _Storage]):
        super().__init__(file, encoding="utf-8")
        self._storage = storage

    def find_class(self, module, name):
        module = {"__builtin__": "builtins"}.get(module, module)  # as Python 2 and old pickles call it
        found = _HARMLESS.get((module, name))
        if found is None:
            raise RefusedObject(f"{module}.{name}")
        return found

    def persistent_load(self, identity):
        if len(identity) < 5 or identity[0] != "storage" or not isinstance(identity[1], np.dtype):
            raise NotThisFormat
        _, dtype, key, _, count = identity[:5]
        if len(identity) > 5 and identity[5] is not None:
            raise NotThisFormat  # a view of a storage, of the oldest versions
        return self._storage(str(key), dtype, int(count))


def read(path: Path) -> object:
    """The object that was saved, with NumPy arrays in the place of tensors.

    Raises:
      RefusedObject: names what it would have built.
      NotThisFormat: the file is no checkpoint of PyTorch's.
      Exception: of many kinds, where it is truncated or damaged.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return _resolved(_read_archive(archive))
    with open(path, "rb") as file:
        return _resolved(_read_older(file))


def _read_archive(archive: zipfile.ZipFile) -> object:
    names = archive.namelist()
    pickled = next((name for name in names if name.endswith("/data.pkl") or name == "data.pkl"), None)
    if pickled is None:
        raise NotThisFormat
    folder = pickled.removesuffix("data.pkl")
    if folder + "byteorder" in names and archive.read(folder + "byteorder").strip() == b"big":
        raise NotThisFormat
    storages: dict[str, _Storage] = {}

    def storage(key, dtype, count):
        if key not in storages:
            storages[key] = _Storage(dtype, count, archive.read(f"{folder}data/{key}"))
        return storages[key]

    with archive.open(pickled) as file:
        return _Unpickler(file, storage).load()


def _read_older(file: IO[bytes]) -> object:
    def nothing(*_):
        raise NotThisFormat

    try:
        if _Unpickler(file, nothing).load() != _MAGIC:
            raise NotThisFormat
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, AttributeError):
        raise NotThisFormat from None
    _Unpickler(file, nothing).load()  # the version of the format
    if not _Unpickler(file, nothing).load().get("little_endian", True):
        raise NotThisFormat
    storages: dict[str, _Storage] = {}

    def storage(key, dtype, count):
        return storages.setdefault(key, _Storage(dtype, count))

    content = _Unpickler(file, storage).load()
    for key in _Unpickler(file, nothing).load():
        (count,) = struct.unpack("<q", file.read(8))
        length = count * storages[str(key)].dtype.itemsize
        storages[str(key)].content = file.read(length)
    return content


def _resolved(value: object) -> object:
    """The same with arrays in the place of tensors, at every depth of dicts and lists."""
    if isinstance(value, _Tensor):
        return value.array()
    if isinstance(value, dict):
        return {key: _resolved(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_resolved(inner) for inner in value]
    return value
