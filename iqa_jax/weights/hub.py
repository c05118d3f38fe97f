"""Weights from the Hugging Face hub, cached; what is in the cache needs no connection."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from iqa_jax.errors import WeightsError, first_line

SCHEME = "hf://"
PATIENCE = 5  # seconds without an answer
_FILES = ("config.json", "model.safetensors", "README.md", "metric.onnx")

Fetched = TypeVar("Fetched")


def on_hub(path: str | os.PathLike) -> bool:
    """Whether it is `hf://OWNER/NAME`, with or without `@REVISION`."""
    return os.fspath(path).startswith(SCHEME)


def fetched_folder(address: str) -> Path:
    """The folder of `hf://OWNER/NAME[@REVISION]` in the hub's cache, fetched if it is missing.

    Raises:
      WeightsError: the address is malformed, or it cannot be fetched.
    """
    name, _, revision = address.removeprefix(SCHEME).partition("@")
    if name.count("/") != 1 or not all(name.split("/")):
        raise WeightsError(f"{address}: expected hf://OWNER/NAME or hf://OWNER/NAME@REVISION")

    def fetch():
        from huggingface_hub import snapshot_download

        return Path(
            snapshot_download(
                name, revision=revision or None, allow_patterns=list(_FILES), etag_timeout=PATIENCE
            )
        )

    return from_hub(address, fetch)


def taken_from(address: str, folder: Path) -> tuple[str, str]:
    """OWNER/NAME and the commit of a folder that `fetched_folder` returned for an address."""
    return address.removeprefix(SCHEME).partition("@")[0], folder.name


def from_hub(what: str, fetch: Callable[[], Fetched], instead: str = "") -> Fetched:
    """The result of `fetch`, whose failures become one plain error.

    Args:
      instead: a sentence on what else to do.
    Raises:
      WeightsError: it could not be fetched; gives the reason.
    """
    try:
        return fetch()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "huggingface_hub":
            raise
        raise WeightsError(
            f"{what} is on the model hub, which needs huggingface_hub; it comes with: "
            "pip install 'iqa-conformer[convert]'"
        ) from None
    except Exception as error:  # the hub's, and those of what it uses to connect
        reason = first_line(error)
        hint = f".  {instead}" if instead else ""
        raise WeightsError(f"{what} cannot be fetched from the model hub ({reason}){hint}") from None
