"""The metadata of a PNG, read apart from the pixels, so that their size never makes the picture unreadable.

Pillow refuses a picture with a long text or with a colour profile of more than a mebibyte.  Here it gets the
pixels' chunks alone; this module reads EXIF, XMP, the colour profile and the code points of the colours.
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from iqa_jax.data.metadata import NO_EXIF

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# What Pillow reads well: the pixels, their colours and their frames.
_KEPT = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"acTL", b"fcTL", b"fdAT"}
_KEPT |= {b"pHYs", b"bKGD", b"sBIT", b"tIME", b"hIST"}  # have no effect here, but nearly every file has some
_LARGEST = 64 << 20  # bytes of a profile or of XMP, unpacked; profiles of printers have up to ten million


def pixels_of(content: bytes, say: Callable[[str], object]) -> tuple[bytes, dict]:
    """A PNG with nothing but its pixels, and what else it carries.

    Args:
      content: of the file, which may be cut off or damaged; Pillow reports that.
      say: called with a remark on damaged metadata, which are ignored.
    Returns:
      The content for Pillow; and what it has of `exif`, `xmp`, `icc_profile` (bytes) and `cicp` (four
      numbers), called as in Pillow's `Image.info`.
    """
    chunks, others = [], False
    for name, start, end in _chunks(content):
        chunks.append((name, start, end))
        others = others or name not in _KEPT
    if not others:
        return content, {}
    info: dict = {}
    for name, start, end in chunks:
        if name not in _KEPT:
            _read(name, content[start + 8 : end - 4], info, say)
    kept = [memoryview(content)[start:end] for name, start, end in chunks if name in _KEPT]
    rest = memoryview(content)[chunks[-1][2] :]  # of a chunk that is cut off
    return b"".join([SIGNATURE, *kept, rest]), info


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of the chunks that are there whole."""
    start = len(SIGNATURE)
    while start + 12 <= len(content):
        length, name = struct.unpack_from(">I4s", content, start)
        end = start + 12 + length
        if end > len(content):
            return
        yield name, start, end
        if name == b"IEND":
            return
        start = end


def _read(name: bytes, data: bytes, info: dict, say: Callable[[str], object]) -> None:
    if name == b"cICP" and len(data) == 4:
        info["cicp"] = tuple(data)
    elif name == b"eXIf":
        info["exif"] = b"Exif\0\0" + data
    elif name == b"iCCP":
        profile = _unpacked(data.partition(b"\0")[2][1:])
        info["icc_profile"] = profile or b""  # damaged; the conversion of the colours reports it
    elif name == b"iTXt":
        keyword, _, rest = data.partition(b"\0")
        parts = rest[2:].split(b"\0", 2)  # language, translated keyword, text
        if keyword == b"XML:com.adobe.xmp" and len(parts) == 3:
            info["xmp"] = (_unpacked(parts[2]) or b"") if rest[0] else parts[2]
    elif name in (b"zTXt", b"tEXt"):
        keyword, _, text = data.partition(b"\0")
        if keyword == b"Raw profile type exif" and "exif" not in info:  # ImageMagick's way
            text = text if name == b"tEXt" else _unpacked(text[1:]) or b""
            try:
                info["exif"] = bytes.fromhex("".join(text.decode("ascii").split("\n")[3:]))
            except ValueError:
                say(NO_EXIF)


def _unpacked(data: bytes) -> bytes | None:
    """None if it is damaged or too long."""
    stream = zlib.decompressobj()
    try:
        unpacked = stream.decompress(data, _LARGEST)
    except zlib.error:
        return None
    return unpacked if stream.eof else None


def png_bytes(image: np.ndarray | Image.Image, *, compress_level: int = 6, mark: str = "") -> bytes:
    """The bytes of a PNG file of an image of Pillow's or of pixels, (H, W, 3) uint8.

    Args:
      compress_level: 0 to 9; 1 writes large images several times faster, as files a third larger.
      mark: what wrote it, see `iqa_jax.data.marks`, near the beginning of the file.
    """
    file = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    info = PngInfo()
    if mark:
        info.add_text("Software", mark)
    image.save(file, "PNG", compress_level=compress_level, pnginfo=info)
    return file.getvalue()
