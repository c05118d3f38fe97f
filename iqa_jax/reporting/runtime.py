"""onnxruntime-web, which runs a metric in a browser: fetched once, checked, kept in the cache directory."""

import base64
import hashlib
import io
import os
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

from iqa_jax.errors import UserError
from iqa_jax.files import failure_reason, local_path, partial_folder, writable_cache

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
# As `npm view onnxruntime-web@1.30.0 dist.integrity` prints it.
_SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
_REGISTRY = "https://registry.npmjs.org"
_PATIENCE = 30.0  # seconds without an answer
# What a page needs of the package: WebAssembly alone, without WebGPU.
FILES = (
    "dist/ort.wasm.min.mjs",
    "dist/ort-wasm-simd-threaded.mjs",
    "dist/ort-wasm-simd-threaded.wasm",
    "package.json",
)
_HOW = f"the file that `npm pack {PACKAGE}@{VERSION}` writes, or an installed node_modules/{PACKAGE}"


def runtime_files(runtime: str | os.PathLike | None = None) -> dict[str, bytes]:
    """The files of onnxruntime-web that a page needs, by their names.

    Without `runtime`, the package comes from the npm registry once (33 MB), is compared with the SHA-512 that
    is known here, and what is needed of it (14 MB) stays in the cache directory.

    Args:
      runtime: the package as a .tgz, which is compared too, or as a folder, which is taken as it is.
    Raises:
      UserError: it cannot be fetched, is damaged, or is something else.
    """
    if runtime is not None:
        path = local_path(runtime)
        if path.is_dir():
            return _of_folder(path)
        try:
            return _of_package(path.read_bytes(), str(path))
        except OSError as error:
            raise UserError(f"runtime {path}: {error.strerror}; expected {_HOW}") from None
    directory = writable_cache("runtime")
    kept = directory / f"{PACKAGE}-{VERSION}"
    if not kept.is_dir():
        files = _of_package(_fetched(), "what the registry sent")
        with partial_folder(directory) as folder:
            for name, content in files.items():
                (folder / name).write_bytes(content)
            if not kept.is_dir():  # another process may have been quicker
                folder.rename(kept)
    return {Path(name).name: (kept / Path(name).name).read_bytes() for name in FILES}


def _fetched() -> bytes:
    registry = os.environ.get("NPM_CONFIG_REGISTRY") or os.environ.get("npm_config_registry") or _REGISTRY
    address = f"{registry.rstrip('/')}/{PACKAGE}/-/{PACKAGE}-{VERSION}.tgz"
    try:
        with urllib.request.urlopen(address, timeout=_PATIENCE) as answer:
            return answer.read()
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else failure_reason(error)
        raise UserError(
            f"{PACKAGE} {VERSION} cannot be fetched from {registry} ({reason}); where there is a connection, "
            f"run `npm pack {PACKAGE}@{VERSION}`, and give the file as runtime"
        ) from None


def _of_package(content: bytes, source: str) -> dict[str, bytes]:
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != _SHA512:
        raise UserError(f"runtime {source}: not {PACKAGE} {VERSION}, or damaged; expected {_HOW}")
    files = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as package:
        for name in FILES:
            member = package.extractfile(f"package/{name}")
            assert member, name  # the checksum is that of a package that has it
            files[Path(name).name] = member.read()
    return files


def _of_folder(folder: Path) -> dict[str, bytes]:
    try:
        return {Path(name).name: (folder / name).read_bytes() for name in FILES}
    except OSError as error:
        raise UserError(f"runtime {error.filename}: {error.strerror}; expected {_HOW}") from None
