"""JPEG XL files, which the package pillow-jxl-plugin reads into Pillow."""

import importlib

from PIL import Image

from iqa_jax.errors import DataError

SIGNATURES = (b"\xff\n", b"\x00\x00\x00\x0cJXL \r\n\x87\n")  # of the codestream alone, and of a container
_LENGTHS = (9, 13, 18, 30)  # bits of a side of the image


def register() -> None:
    """Lets Pillow read the format "JXL".

    Raises:
      DataError: pillow-jxl-plugin is not installed.
    """
    try:
        importlib.import_module("pillow_jxl")  # registers itself
    except ModuleNotFoundError:
        raise DataError("a JPEG XL image; pip install 'iqa-conformer[jxl]' to read it") from None


def check_header(content: bytes) -> None:
    """Checks what the plugin does not: it decodes whatever the size is, and the last of several frames.

    Raises:
      DataError: an animation.
      Image.DecompressionBombError: it has more pixels than Pillow allows.
    """
    bits = _Bits(_codestream(content)[2:])
    width, height = bits.size()
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and width * height > 2 * most:
        raise Image.DecompressionBombError(f"{width * height} pixels, of {2 * most} allowed")
    if bits.take(1) or not bits.take(1):  # all fields by default, or no further ones
        return
    bits.take(3)  # the orientation, which the decoder applies
    if bits.take(1):
        bits.size()  # to be shown at
    if not bits.take(1) and bits.take(1):  # behind a preview, which is rare, nothing is looked for
        raise DataError("an animation in JPEG XL; expected a single picture")


def _codestream(content: bytes) -> bytes:
    """The beginning of the codestream, which may lie in boxes of a container."""
    if content.startswith(SIGNATURES[0]):
        return content[:64]
    place = 0
    while place + 8 <= len(content):
        size, kind = int.from_bytes(content[place : place + 4]), content[place + 4 : place + 8]
        head = 8
        if size == 1:
            size, head = int.from_bytes(content[place + 8 : place + 16]), 16
        if kind in (b"jxlc", b"jxlp"):
            start = place + head + 4 * (kind == b"jxlp")  # a part has its number first
            return content[start : start + 64]
        if size < head:
            break
        place += size
    raise DataError("a JPEG XL file without a picture")


class _Bits:
    """Numbers of a few bits each, the lowest bits first (ISO/IEC 18181-1)."""

    def __init__(self, content: bytes):
        self._rest = int.from_bytes(content, "little")

    def take(self, count: int) -> int:
        value = self._rest & ((1 << count) - 1)
        self._rest >>= count
        return value

    def size(self) -> tuple[int, int]:
        """Width and height."""
        eighths = self.take(1)
        height = self._side(eighths)
        ratio = self.take(3)
        if not ratio:
            return self._side(eighths), height
        up, down = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
        return height * up // down, height

    def _side(self, eighths: int) -> int:
        return 8 * (1 + self.take(5)) if eighths else 1 + self.take(_LENGTHS[self.take(2)])
