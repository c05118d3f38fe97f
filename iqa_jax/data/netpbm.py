"""PGM and PPM of other depths than 8 bits, which Pillow reads pixel by pixel."""

import math
from typing import BinaryIO

import numpy as np
from PIL import Image

from iqa_jax.errors import DataError

_DIGITS = (b"P2", b"P3")  # values are written out


def deep_values(image: Image.Image, file: BinaryIO) -> tuple[np.ndarray, int] | None:
    """(H, W, channels) integers and the value of white; None of 8 bits, which Pillow reads rightly.

    Raises:
      DataError: the file ends early.
    """
    if image.mode in ("1", "F"):
        return None
    file.seek(0)
    if file.read(2) in _DIGITS:  # of which Pillow makes 16 bits of grey and 8 of colours
        return (np.asarray(image)[..., None].astype(np.uint16), 65535) if image.mode == "I" else None
    part = image.tile[0]  # type: ignore[attr-defined]  # of opened files alone
    white = part.args[1] if isinstance(part.args, tuple) else 65535 if part.args == "I;16B" else 255
    if white == 255:
        return None
    shape = image.height, image.width, 1 if image.mode in ("L", "I") else 3
    kind = np.dtype(np.uint8 if white < 256 else ">u2")
    file.seek(part.offset)
    size = math.prod(shape) * kind.itemsize
    content = file.read(size)
    if len(content) < size:
        raise DataError("truncated")
    return np.frombuffer(content, kind).astype(kind.newbyteorder("=")).reshape(shape), white
