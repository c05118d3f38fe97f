"""Programs of a network that were traced before: a later start needs neither Flax nor tracing.

They lie beside the compiled programs that JAX keeps, exported with the weights as their arguments, under a
key of all that they depend on.
"""

import functools
import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from iqa_jax import __version__
from iqa_jax.errors import UserError
from iqa_jax.files import writable_directory, write_whole
from iqa_jax.ops.programs import cores, jit, traced_for
from iqa_jax.weights.record import FILE as RECORD
from iqa_jax.weights.record import config_like, parsed
from iqa_jax.weights.tensors import tensors_of

if TYPE_CHECKING:
    from iqa_jax.models.config import ModelConfig
    from iqa_jax.scoring.network import Network

_WEIGHTS = "model.safetensors"
_ABOUT = "about.json"  # where it lies, the weights and the record of its key were read and checked once
_KEPT = 16  # keys; those that were written first are removed
_PACKAGE = Path(__file__).resolve().parent.parent


def store() -> Path | None:
    """Where traced programs are kept; None where none are."""
    options: Any = jax.config  # JAX adds its options at run time
    place = options.jax_enable_compilation_cache and options.jax_compilation_cache_dir
    usable = (
        place
        and "://" not in place
        and jax.default_backend() == "cpu"
        and importlib.util.find_spec("flatbuffers")
    )
    return Path(place) / "traced" if usable else None


def _key_of(record: bytes, weights: bytes) -> str:
    """The key of a folder's network: both files, this code, JAX, the machine's cores."""
    parts = [record, weights, _code(), f"{_versions()} {cores()}".encode()]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def _versions() -> str:
    return " ".join([__version__, *map(version, ("jax", "jaxlib", "flax"))])


@functools.cache
def _code() -> bytes:
    """The source that networks are traced and checked by."""
    files = [*(_PACKAGE / "models").rglob("*.py"), *(_PACKAGE / "ops").glob("*.py")]
    files += [*(_PACKAGE / "weights").glob("*.py"), *(_PACKAGE / "scoring").glob("*.py")]
    return b"".join(path.read_bytes() for path in sorted(files))


class TracedNetwork:
    """The network of a folder as a `WindowModel`; its programs are traced where none were kept.

    Attributes:
      network: the network itself, which is read when it is asked for.
    """

    sets = 1

    def __init__(
        self,
        place: Path,
        config: "ModelConfig",
        weights: Mapping,
        read: Callable[[], "Network"],
        *,
        full_reference: bool,
    ):
        """Takes the place of its programs, the weights by name, and what reads the network."""
        self.config, self.full_reference = config, full_reference
        self._place, self._read = place, read
        self._weights = jax.device_put(dict(weights))
        self._programs: dict[str, Callable] = {}

    @functools.cached_property
    def network(self) -> "Network":
        with jax.ensure_compile_time_eval():  # a loss asks for it while it is traced
            return self._read()

    @property
    def model(self):
        """The network's own model."""
        return self.network.model

    def features(self, windows, count):
        return tuple(map(np.asarray, self._program("features", windows)(self._weights, windows, count)))

    def scores(self, reference, windows, count):
        program = self._program("scores", windows, *(reference or ()))
        return program(self._weights, windows, count, *(reference or ()))

    def predict(self, *windows):
        return self.network.predict(*windows)

    def __reduce__(self):
        return self.network.__reduce__()

    def _program(self, kind: str, windows: np.ndarray, *reference: Any) -> Callable:
        name = f"{kind}-{len(windows)}-{windows.dtype}"
        if name not in self._programs:
            file = self._place / name
            exported = _read_program(file)
            if exported is None:
                exported = self._traced(kind, windows, *reference)
                _write(file, bytes(exported.serialize()))
            self._programs[name] = jit(exported.call)
        return self._programs[name]

    def _traced(self, kind: str, windows: np.ndarray, *reference: Any) -> jax.export.Exported:
        function = jax.jit(traced_for("cpu", self.network.with_weights(kind)))
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (windows, *reference))
        count = jax.ShapeDtypeStruct((), np.int32)
        weights = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self._weights)
        return jax.export.export(function, platforms=["cpu"])(weights, shapes[0], count, *shapes[1:])


def _read_program(file: Path) -> jax.export.Exported | None:
    """A kept program; None if there is none, or it is damaged."""
    try:
        content = file.read_bytes()
        if hashlib.sha256(content[32:]).digest() == content[:32]:
            return jax.export.deserialize(bytearray(content[32:]))
    except Exception:  # the file system's; jax's and flatbuffers' many kinds
        pass
    return None


def _write(file: Path, content: bytes) -> None:
    """Keeps a program with its checksum, if it can be written."""
    try:
        write_whole(file, hashlib.sha256(content).digest() + content)
    except (OSError, UserError):
        pass


def kept(folder: Path, read: Callable[[], "Network"]) -> "tuple[TracedNetwork, dict] | None":
    """The network and the record of a folder that an earlier start has checked; None without one."""
    try:
        files = _files(folder)
        if files is None:
            return None
        place, text, content = files
        about = json.loads((place / _ABOUT).read_text(encoding="utf-8"))
        record, tensors = parsed(text.decode("utf-8")), tensors_of(content)
    except (OSError, ValueError):
        return None
    weights = {name: array.astype(np.float32, copy=False) for name, array in tensors.items()}
    if (card := folder / "README.md").is_file():
        record["card"] = str(card.absolute())
    model = TracedNetwork(
        place, config_like(record["model"]), weights, read, full_reference=about["full_reference"]
    )
    return model, record


def keeping(folder: Path, network: "Network", weights: Mapping) -> "TracedNetwork | Network":
    """A network that was read from a folder, whose programs are kept for the next start where they can be."""
    about = {"full_reference": network.full_reference}
    try:
        files = _files(folder)
        if files is None:
            return network
        place = files[0]
        writable_directory(place)
        write_whole(place / _ABOUT, json.dumps(about))
        _remove_oldest(place.parent)
    except (OSError, UserError):
        return network
    return TracedNetwork(place, network.config, weights, lambda: network, **about)


def _files(folder: Path) -> tuple[Path, bytes, bytes] | None:
    """The place of a folder's programs, its record and its weights; None where no programs are kept."""
    root = store()
    if root is None:
        return None
    record, weights = (folder / RECORD).read_bytes(), (folder / _WEIGHTS).read_bytes()
    return root / _key_of(record, weights), record, weights


def _remove_oldest(root: Path) -> None:
    places = sorted((path for path in root.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for place in places[:-_KEPT]:
        shutil.rmtree(place, ignore_errors=True)
