"""A metric in an ONNX file, run by onnxruntime; nothing here needs JAX."""

import hashlib
import json
import os
from collections.abc import Mapping

import numpy as np

from iqa_jax.errors import UserError, WeightsError, first_line
from iqa_jax.files import local_path
from iqa_jax.weights.record import config_like

FORMAT = 1
FILE = "metric.onnx"  # in a folder of weights
_EXPECTED = "expected a metric in ONNX, which `python -m iqa_jax export --format onnx` writes"
_LENGTH, _CONTENT, _SEAL = "content_bytes", "content_sha256", "metadata_sha256"


def sealed(metadata: Mapping[str, str], content: bytes) -> dict[str, str]:
    """Metadata with the checksums of the content, which stands before them in the file, and of themselves."""
    known = {_LENGTH: str(len(content)), _CONTENT: hashlib.sha256(content).hexdigest()}
    whole = {**metadata, **known}
    return {**whole, _SEAL: _checksum(whole)}


def _checksum(metadata: Mapping[str, str]) -> str:
    rest = {name: text for name, text in metadata.items() if name != _SEAL}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


class OnnxModel:
    """An ONNX file as a `WindowModel`; the "features" of a window are the window.

    Attributes:
      content: the file.
    """

    sets = 1

    def __init__(self, content: bytes, session, metadata: Mapping[str, str]):
        """Takes a file that `from_bytes` checked, and onnxruntime's session of it."""
        self.content, self._session = content, session
        self.full_reference = metadata["metric"] == "full-reference"
        self.config = config_like(json.loads(metadata["model"]))

    @classmethod
    def from_bytes(cls, content: bytes) -> "tuple[OnnxModel, dict]":
        """The model and the record of its weights ("name", "sha256", "source").

        Raises:
          ValueError: the content is damaged, or of another program; the text is a phrase.
          ModuleNotFoundError: onnxruntime is not installed.
        """
        session = _session(content)
        metadata = session.get_modelmeta().custom_metadata_map
        if "iqa_jax_format" not in metadata:
            raise ValueError("an ONNX file of another program; expected one that iqa_jax exported")
        if metadata["iqa_jax_format"] != str(FORMAT):
            raise ValueError(f"format {metadata['iqa_jax_format']}, this version reads {FORMAT}")
        if metadata.get(_SEAL) != _checksum(metadata):
            raise ValueError("damaged, its metadata are not what was written; export the metric again")
        part = content[: int(metadata[_LENGTH])]
        if hashlib.sha256(part).hexdigest() != metadata[_CONTENT]:
            raise ValueError("damaged, its checksum differs; export the metric again")
        return cls(content, session, metadata), json.loads(metadata["record"])

    def features(self, windows, count):
        return (_unit_float(windows[:count]),)

    def scores(self, reference, windows, count):
        given = {"distorted": _unit_float(windows[:count])}
        if reference:
            given["reference"] = np.asarray(reference[0][:count])
        return self._session.run(["mos"], given)[0][None]

    def predict(self, *windows):
        raise UserError(
            "an ONNX file has no gradient and cannot be traced by JAX: load the run or the weights for a loss"
        )

    def __reduce__(self):
        return _from_bytes, (self.content,)


def _from_bytes(content: bytes) -> OnnxModel:
    return OnnxModel.from_bytes(content)[0]


def _session(content: bytes):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Threads that wait in a loop for the next operation take processor time from whoever shares the machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a kind for each failure
        raise ValueError(f"onnxruntime cannot read it ({first_line(error)})") from None


def _unit_float(windows: np.ndarray) -> np.ndarray:
    """uint8 windows -> float32 in [0, 1]; float windows are in [0, 1] already."""
    values = np.asarray(windows)
    return values.astype(np.float32) / np.float32(255) if values.dtype == np.uint8 else values


def read_onnx(path: str | os.PathLike) -> tuple[OnnxModel, dict]:
    """A metric and the record of its weights from an ONNX file, or from the one in a folder of weights.

    Raises:
      WeightsError: it is missing, damaged or another program's.
      ModuleNotFoundError: onnxruntime is not installed.
    """
    path = local_path(path)
    file = path / FILE if path.is_dir() else path
    try:
        content = file.read_bytes()
    except OSError as error:
        raise WeightsError(f"{file}: {error.strerror}; {_EXPECTED}") from None
    try:
        return OnnxModel.from_bytes(content)
    except ValueError as error:
        raise WeightsError(f"{file}: {error}") from None
