"""What Pillow does not read of JPEG 2000: more than 8 bits, exactly, and the colour profile."""

import struct
from collections.abc import Callable, Iterator

import numpy as np

from iqa_jax.errors import DataError

SIGNATURES = (b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP  \r\n\x87\n")  # of the codestream alone, and of JP2
_READ_RIGHTLY = (0, 12, 15, 16, 17, 18)  # colour spaces: bilevel, CMYK, sRGB, grey, YCC of sRGB
_RGB_OR_GREY = (16, 17)
_PROFILES = (2, 3)  # methods of naming a colour space


def _depth_of(content: bytes) -> int:
    """The bits of a channel, the most of all channels; 8 where the codestream does not say it."""
    start = content.find(SIGNATURES[0])
    try:
        (count,) = struct.unpack_from(">H", content, start + 40)
        return max((content[start + 42 + 3 * k] & 0x7F) + 1 for k in range(max(1, min(count, 4))))
    except (struct.error, IndexError):  # the reader says what is wrong
        return 8


def colours_of(content: bytes, say: Callable[[str], object]) -> bytes | None:
    """The colour profile in the header of a JP2 file; a remark on a colour space that is not converted."""
    for method, value in _colour_boxes(content):
        if method in _PROFILES:
            return value
        space = int.from_bytes(value[:4])
        if method == 1 and space not in _READ_RIGHTLY:
            say(f"colours of a rare kind ({space} of JPEG 2000): not converted, taken as sRGB's")
    return None


def deep_values(content: bytes) -> tuple[np.ndarray, int] | None:
    """(H, W, channels) integers, of grey or RGB and perhaps alpha, and the value of white; None of 8 bits.

    Raises:
      DataError: imagecodecs is not installed, or the values are signed or not RGB or grey.
    """
    depth = _depth_of(content)
    if depth <= 8:
        return None
    try:
        import imagecodecs
    except ModuleNotFoundError:
        raise DataError(
            f"JPEG 2000 of {depth} bits, of which Pillow reads 8; pip install 'iqa-conformer[tiff]' reads all"
        ) from None
    spaces = [int.from_bytes(value[:4]) for method, value in _colour_boxes(content) if method == 1]
    if set(spaces) - {*_RGB_OR_GREY}:
        raise DataError(f"JPEG 2000 of {depth} bits and a rare kind of colours; expected sRGB or grey")
    values = np.asarray(imagecodecs.jpeg2k_decode(content))
    values = values[..., None] if values.ndim == 2 else values
    if values.dtype.kind != "u" or values.itemsize > 2 or values.ndim != 3 or values.shape[-1] > 4:
        raise DataError("JPEG 2000 of signed values or of a rare kind; expected grey or RGB of up to 16 bits")
    return values, 2**depth - 1


def _colour_boxes(content: bytes) -> Iterator[tuple[int, bytes]]:
    """How a JP2 file names its colours, and the name; nothing in a codestream alone."""
    if content.startswith(SIGNATURES[0]):
        return
    for kind, inner in _boxes(content):
        for name, box in _boxes(inner) if kind == b"jp2h" else ():
            if name == b"colr" and len(box) > 3:
                yield box[0], box[3:]


def _boxes(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 0
    while place + 8 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, place)
        head = 8
        if size == 1 and place + 16 <= len(content):
            (size,), head = struct.unpack_from(">Q", content, place + 8), 16
        size = size or len(content) - place  # the last may be as long as it is
        if size < head:
            return
        yield kind, content[place + head : place + size]
        place += size
