"""Reading what `torch.save` wrote, without torch: tensors become NumPy arrays, nothing else is built.

Both of its formats: the zip archive, and the older one that newer archives of old models still have.  A
file names the classes and functions that build its content; those below stand in for the harmless ones, any
other is refused by its name.  A small file cannot ask for much time or memory: what it puts into one another
again and again is walked through once, keys are texts and numbers, and all tensors together are little more
than the file.
"""

import dataclasses
import functools
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C  # starts the older format
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
    "ComplexFloatStorage": np.complex64,
    "ComplexDoubleStorage": np.complex128,
}
_BYTES = np.dtype(np.uint8)
# Those without a storage of their own.
_DTYPES = {"float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2}
_DTYPES |= {"uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64}
_DEEPEST = 64  # dicts in one another, dimensions of a tensor
_MOST_COPIED = 10**6  # elements that a file may have put into another container
_MOST_SHARED = 16  # times that the tensors together may be longer than the file, by sharing their numbers


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
    dtype: np.dtype

    def array(self) -> np.ndarray:
        """The numbers, copied.

        Raises:
          ValueError: the view reaches beyond its storage, or the storage is short.
        """
        storage = self.storage
        flat = np.frombuffer(storage.content or b"", self.dtype)
        if len(storage.content or b"") < storage.count * storage.dtype.itemsize:
            raise ValueError("a tensor's numbers are missing")
        if math.prod(self.size) > len(flat):
            raise ValueError("a tensor is larger than its numbers")
        steps = [(length - 1) * step for length, step in zip(self.size, self.stride, strict=True)]
        if 0 in self.size:
            return np.zeros(self.size, self.dtype)
        if self.offset < 0 or min(steps, default=0) < 0 or self.offset + sum(steps) >= len(flat):
            raise ValueError("a tensor reaches beyond its numbers")
        strides = [step * flat.itemsize for step in self.stride]
        view: np.ndarray = np.ndarray(self.size, self.dtype, flat, self.offset * flat.itemsize, strides)
        return view.copy()


def _tensor(storage, offset, size, stride, *unused) -> _Tensor:
    return _tensor_of(storage, offset, size, stride, storage.dtype)


def _tensor_with_dtype(storage, offset, size, stride, requires_grad, hooks, dtype, *unused) -> _Tensor:
    return _tensor_of(storage, offset, size, stride, dtype)


def _tensor_of(storage, offset, size, stride, dtype) -> _Tensor:
    if not isinstance(storage, _Storage) or not isinstance(dtype, np.dtype) or len(size) > _DEEPEST:
        raise NotThisFormat
    return _Tensor(storage, int(offset), tuple(map(int, size)), tuple(map(int, stride)), dtype)


def _parameter(tensor, *unused) -> _Tensor:
    return tensor


class _ScalarKind:
    """In place of `numpy.dtype` for the numbers that stand beside tensors."""

    def __init__(self, name: str, *unused):
        self.dtype = np.dtype(name) if isinstance(name, str) else _BYTES

    def __setstate__(self, state):
        """Takes the byte order; the rest is of kinds that are no numbers."""
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


def _scalar(kind: _ScalarKind, content: bytes) -> object:
    return np.frombuffer(content, kind.dtype)[0].item()


def _latin1(text: str, encoding: str) -> bytes:
    return text.encode("latin1")


def _dict(items=()) -> dict:
    pairs = items.items() if isinstance(items, dict) else items
    return {_plain(key): value for key, value in pairs}


def _text(value: object = "", *unused) -> str:
    return str(_plain(value))


def _plain(key: object) -> object:
    """A key or a number; the hash, and the text, of tuples in one another takes as long as a file wants."""
    if not isinstance(key, str | int | float | bytes | bool | None):
        raise NotThisFormat
    return key


_COPYING: dict[tuple[str, str], Callable] = {
    ("collections", "OrderedDict"): _dict,
    ("collections", "Counter"): _dict,
    ("torch", "Size"): tuple,
    ("builtins", "dict"): _dict,
    ("builtins", "list"): list,
    ("builtins", "set"): list,
    ("builtins", "frozenset"): list,
    ("builtins", "tuple"): tuple,
}
_HARMLESS: dict[tuple[str, str], object] = {
    ("collections", "defaultdict"): lambda *kind: {},
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_with_dtype,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch", "device"): lambda *name: None,
    ("torch.storage", "UntypedStorage"): _BYTES,
    ("_codecs", "encode"): _latin1,
    ("numpy", "dtype"): _ScalarKind,
    **{("torch", name): np.dtype(kind) for name, kind in _STORAGES.items()},
    **{("torch", np.dtype(kind).name): np.dtype(kind) for kind in _STORAGES.values()},
    **{("torch", name): np.dtype(kind) for name, kind in _DTYPES.items()},
    ("builtins", "str"): _text,
    ("builtins", "unicode"): _text,  # Python 2's
    ("builtins", "long"): int,
    **{("builtins", kind.__name__): kind for kind in (int, float, complex, bool)},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
}


_PythonUnpickler: Any = pickle._Unpickler  # the standard library's types leave out its methods


class _Unpickler(_PythonUnpickler):
    """Builds what is harmless; storages come from `storage(key, dtype, count)`.

    The one in Python, which lets every key be looked at before it is hashed.
    """

    def __init__(self, file: IO[bytes], storage: Callable[[str, np.dtype, int], _Storage]):
        super().__init__(file, encoding="utf-8")
        self._storage = storage
        self._copied = 0

    def find_class(self, module, name):
        module = "builtins" if module == "__builtin__" else module  # as Python 2 and old pickles call it
        if copying := _COPYING.get((module, name)):
            return functools.partial(self._copy, copying)
        harmless = _HARMLESS.get((module, name))
        if harmless is None:
            raise RefusedObject(f"{module}.{name}")
        return harmless

    def _copy(self, kind, items=()):
        self._copied += len(items)
        if self._copied > _MOST_COPIED:
            raise NotThisFormat
        return kind(items)

    def persistent_load(self, identity):
        if len(identity) < 5 or identity[0] != "storage" or not isinstance(identity[1], np.dtype):
            raise NotThisFormat
        _, dtype, key, _, count = identity[:5]
        if len(identity) > 5 and identity[5] is not None:
            raise NotThisFormat  # a view of a storage, of the oldest versions
        return self._storage(_text(key), dtype, int(count))

    def _load_dict(self):
        items = self.pop_mark()
        self.append(_dict(zip(items[::2], items[1::2], strict=True)))

    def _load_setitem(self):
        _plain(self.stack[-2])
        super().load_setitem()

    def _load_setitems(self):
        for key in self.stack[::2]:
            _plain(key)
        super().load_setitems()

    def _load_empty_set(self):
        self.append([])  # a list will do

    def _load_additems(self):
        items = self.pop_mark()
        self.stack[-1].extend(items)

    def _load_frozenset(self):
        self.append(self.pop_mark())

    def _load_build(self):
        state, built = self.stack.pop(), self.stack[-1]
        if isinstance(built, _ScalarKind):  # what others keep beside their content is not needed
            built.__setstate__(state)

    dispatch = _PythonUnpickler.dispatch | {
        pickle.DICT[0]: _load_dict,
        pickle.SETITEM[0]: _load_setitem,
        pickle.SETITEMS[0]: _load_setitems,
        pickle.EMPTY_SET[0]: _load_empty_set,
        pickle.ADDITEMS[0]: _load_additems,
        pickle.FROZENSET[0]: _load_frozenset,
        pickle.BUILD[0]: _load_build,
    }


def read(path: Path) -> object:
    """The object that was saved, with NumPy arrays in the place of tensors.

    Raises:
      RefusedObject: names what it would have built.
      NotThisFormat: the file is no checkpoint of PyTorch's.
      Exception: of many kinds, where it is truncated or damaged.
    """
    most_bytes = _MOST_SHARED * path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return _resolved(_read_archive(archive), most_bytes)
    with open(path, "rb") as file:
        return _resolved(_read_older(file), most_bytes)


def _read_archive(archive: zipfile.ZipFile) -> object:
    names = archive.namelist()
    pickled = next((name for name in names if name.endswith("/data.pkl") or name == "data.pkl"), None)
    if pickled is None:
        raise NotThisFormat
    folder = pickled.removesuffix("data.pkl")
    if folder + "byteorder" in names and archive.read(folder + "byteorder").strip() == b"big":
        raise NotThisFormat
    storages: dict[str, _Storage] = {}
    left = os.fstat(archive.fp.fileno()).st_size if archive.fp else 0  # torch compresses nothing
    if archive.getinfo(pickled).file_size > left:
        raise NotThisFormat

    def storage(key, dtype, count):
        nonlocal left
        if key not in storages:
            name = f"{folder}data/{key}"
            left -= archive.getinfo(name).file_size
            if left < 0:
                raise ValueError("more numbers than the file is long")
            storages[key] = _Storage(dtype, count, archive.read(name))
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
        if not 0 <= length <= os.fstat(file.fileno()).st_size:
            raise ValueError("more numbers than the file is long")
        storages[str(key)].content = file.read(length)
    return content


def _resolved(content: object, most_bytes: int) -> object:
    """The same with arrays in the place of tensors, in dicts at every depth; lists stay as they are.

    Raises:
      ValueError: more dicts in one another, or more numbers, than a model's file has.
    """
    done: dict[int, object] = {}  # by identity: what stands in several places is one
    left = most_bytes

    def resolve(value: object, depth: int) -> object:
        nonlocal left
        if id(value) in done:
            return done[id(value)]
        if isinstance(value, _Tensor):
            left -= math.prod(value.size) * value.dtype.itemsize
            if left < 0:
                raise ValueError("tensors that are longer than the file")
            done[id(value)] = value.array()
        elif isinstance(value, dict):
            if depth > _DEEPEST:
                raise ValueError("dicts that are too deep in one another")
            done[id(value)] = resolved = {}
            resolved.update({key: resolve(inner, depth + 1) for key, inner in value.items()})
        else:
            return value
        return done[id(value)]

    return resolve(content, 0)
