"""A folder that is a page: drop pictures, see their scores.  Metrics run in the browser; nothing is sent."""

import errno
import functools
import hashlib
import http.server
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

import iqa_jax.data
from iqa_jax.errors import UserError
from iqa_jax.files import partial_folder, writable_directory, write_whole
from iqa_jax.reporting.runtime import PACKAGE, VERSION, runtime_files
from iqa_jax.reporting.templates import WEB
from iqa_jax.scoring.metric import Metric
from iqa_jax.scoring.onnx_model import OnnxModel

DATA = "demo.json"  # it also marks a folder that may be written again
PAGE = "index.html"
_PAGE = "demo.html"  # as it is called here
_PARTS = (
    "base.css",
    "stage.css",
    "demo.css",
    "stage.js",
    "windows.js",
    "colours.js",
    "demo.js",
    "demo_worker.js",
)
_RUNTIME = "runtime"
PHOTOGRAPH = Path(iqa_jax.data.__file__).parent / "photographs" / "china.jpg"
_CREDIT = "Photograph by danielbuechele, CC BY 2.0; the result is compressed once more"
_EXAMPLE_QUALITY = 12  # of JPEG


def write_demo(
    metrics: Sequence[Metric], directory: str | os.PathLike, *, runtime: str | os.PathLike | None = None
) -> Path:
    """Writes a folder with the page, the metrics as ONNX files and onnxruntime-web; any server can serve it.

    A metric whose file in the folder is still what was written stays as it is.

    Args:
      metrics: one with reference, one without, or both; in ONNX already, or to be exported.
      directory: a new one, or one that this function wrote.
      runtime: see `iqa_jax.reporting.runtime.runtime_files`.
    Returns:
      The page.
    Raises:
      UserError: two metrics of one kind, crops other than the grid's, another folder, or no runtime.
    """
    if len({metric.full_reference for metric in metrics}) < len(metrics) or not metrics:
        raise UserError("a page takes one metric with reference, one without reference, or one of each")
    for metric in metrics:
        if metric.crops != "grid":
            raise UserError(f"crops {metric.crops!r}: a page scores the windows of the grid; load with those")
    directory = writable_directory(directory)
    written = _written_before(directory)
    if any(directory.iterdir()) and written is None:
        raise UserError(f"{directory}: no demo has made this folder; choose another directory")
    files = runtime_files(runtime)
    if written is None:  # so that a start that is stopped can be repeated
        written = {}
        write_whole(directory / DATA, json.dumps({"metrics": []}))
    described = [_metric(directory, metric, written) for metric in metrics]
    for name in _PARTS:
        write_whole(directory / name, (WEB / name).read_bytes())
    (directory / _RUNTIME).mkdir(exist_ok=True)
    for name, content in files.items():
        write_whole(directory / _RUNTIME / name, content)
    about = {
        "metrics": described,
        "runtime": f"{PACKAGE} {json.loads(files['package.json']).get('version', VERSION)}",
        "example": _example(directory),
    }
    write_whole(directory / DATA, json.dumps(about, indent=2) + "\n")
    write_whole(directory / PAGE, (WEB / _PAGE).read_bytes())
    return directory / PAGE


def _written_before(directory: Path) -> dict[str, dict] | None:
    """The metrics that a page in the folder has, by their files; None of another folder."""
    try:
        metrics = json.loads((directory / DATA).read_text(encoding="utf-8"))["metrics"]
        return {metric["file"]: metric for metric in metrics}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _metric(directory: Path, metric: Metric, written: dict[str, dict]) -> dict:
    """What the page must know of a metric, whose file is written if it is not there."""
    kind = "full-reference" if metric.full_reference else "blind"
    path = directory / f"{kind}.onnx"
    about = metric.describe()
    known = {
        "file": path.name,
        "compares": metric.full_reference,
        "title": f"{about['metric']}, {about['weights']}",
        "trainedOn": about["trained_on"],
        "size": metric.config.crop_size,
        "range": list(metric.range),
        "identity": metric.identity,
        "version": about["version"],
    }
    before = written.get(path.name, {})
    if isinstance(metric.model, OnnxModel):
        write_whole(path, metric.model.content)
    elif before != {**known, "sha256": _sha256(path)}:
        from iqa_jax.scoring.to_onnx import export_onnx

        with partial_folder(directory) as folder:
            export_onnx(metric, folder / path.name).replace(path)
    return {**known, "sha256": _sha256(path)}


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _example(directory: Path) -> dict[str, str]:
    """Two pictures to try the page with."""
    names = {"reference": "example-reference.jpg", "result": "example-result.jpg"}
    write_whole(directory / names["reference"], PHOTOGRAPH.read_bytes())
    compressed = io.BytesIO()
    with Image.open(PHOTOGRAPH) as image:
        image.save(compressed, "JPEG", quality=_EXAMPLE_QUALITY)
    write_whole(directory / names["result"], compressed.getvalue())
    return {**names, "credit": _CREDIT}


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder to this machine, isolated, so that the page may use several threads."""

    extensions_map = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".onnx": "application/octet-stream",
    }

    def end_headers(self):
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format, *args):
        """Says nothing of each request."""


class _Server(http.server.ThreadingHTTPServer):
    """Says nothing of a browser that closes a connection early."""

    def handle_error(self, request, client_address):
        """Shows other errors."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def server_of(directory: Path, port: int) -> http.server.ThreadingHTTPServer:
    """A server of a folder for this machine alone; `serve_forever` starts it.

    Args:
      port: 0 for any that is free.
    Raises:
      UserError: the port is taken, or may not be used.
    """
    handler = functools.partial(_Handler, directory=str(directory))
    try:
        return _Server(("127.0.0.1", port), handler)
    except OverflowError:
        raise UserError(f"port {port}: expected a number from 0 to 65535") from None
    except OSError as error:
        reason = "in use" if error.errno == errno.EADDRINUSE else error.strerror
        raise UserError(f"port {port}: {reason}; choose another one") from None
