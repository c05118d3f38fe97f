"""The orientation and the colours of a picture, from the metadata of its file."""

import re
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO

from PIL import ExifTags, Image

from iqa_jax.data import colours
from iqa_jax.data.colours import Space

# How to turn an image upright, by its orientation in EXIF.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION = ExifTags.Base.Orientation
NO_EXIF = "EXIF data that cannot be read are ignored"
_WHITE_POINT, _PRIMARIES, _TRANSFER = 318, 319, 301  # tags of TIFF


def colours_and_orientation(
    image: Image.Image, say: Callable[[str], object]
) -> tuple[bytes | Space | None, int]:
    """The colours of an image, see `colours_of`, and its orientation as EXIF numbers it: 1 is upright."""
    exif = exif_of(image, say)
    # JPEG XL has an orientation of its own, which its reader applies, unless it is a JPEG packed again.
    upright = image.format == "JXL" and not getattr(image, "jpeg", False)
    return colours_of(image, exif, say), 1 if upright else exif.get(ORIENTATION, 1)


def exif_of(image: Image.Image, say: Callable[[str], object]) -> Image.Exif:
    """The EXIF data of an image, with the orientation of its XMP where EXIF has none; empty if damaged."""
    try:
        exif = image.getexif()
    except Exception:  # Pillow raises almost anything for damaged data
        say(NO_EXIF)
        exif = Image.Exif()
    xmp = image.info.get("xmp")
    if ORIENTATION not in exif and isinstance(xmp, bytes):  # Pillow looks there, but not after damaged EXIF
        if orientation := re.search(rb'tiff:Orientation(?:="|>)([1-8])', xmp):
            exif[ORIENTATION] = int(orientation[1])
    return exif


def exif_of_tiff(file: BinaryIO, say: Callable[[str], object]) -> Image.Exif:
    """The EXIF data of a TIFF that Pillow has not opened; empty for BigTIFF, which no camera writes."""
    exif = Image.Exif()
    file.seek(0)
    if b"+" in file.read(4):
        return exif
    file.seek(0)
    try:
        exif.load_from_fp(file)
    except Exception:  # as above
        say(NO_EXIF)
    return exif


def colours_of(image: Image.Image, exif: Image.Exif, say: Callable[[str], object]) -> bytes | Space | None:
    """The colour profile or the space of an image; None for sRGB and where nothing describes them.

    Of several, PNG's code points (cICP) come first, then a profile, the code points of AVIF and HEIC, and
    numbers: gamma and primaries of PNG or TIFF.  Cameras mark Adobe RGB in EXIF alone.

    Args:
      say: called with a remark on colours that are not converted.
    """
    info = image.info
    profile = info.get("icc_profile")
    points = info.get("cicp")
    if not points and not profile:
        points = info.get("nclx") or tuple((info.get("nclx_profile") or {}).values())  # of AVIF; of HEIC
    if points:
        space = colours.named_space(*points[:2])
        if isinstance(space, Space):
            if "cicp" in info and (points[2], points[3]) != (0, 1):
                say("values of limited range are taken as of full range")
            return space
        if profile is None:
            say(f"{space}: not converted, its values are taken as sRGB's")
            return None
    if isinstance(profile, bytes):
        return profile
    if "srgb" in info or points:
        return None
    gamma, primaries = info.get("gamma"), info.get("chromaticity")
    if isinstance(gamma, float) or isinstance(primaries, tuple):  # Pillow puts a PNG's texts there too
        return _measured(1 / gamma if gamma else None, primaries, (), say)
    if tags := getattr(image, "tag_v2", {}):
        of_tags = space_of_tiff({tag: tags.get(tag) for tag in (_WHITE_POINT, _PRIMARIES, _TRANSFER)}, say)
        if of_tags is not None:
            return of_tags
    return adobe_rgb(exif)


def space_of_tiff(tags: dict, say: Callable[[str], object]) -> Space | None:
    """The space in the tags WhitePoint, PrimaryChromaticities and TransferFunction of a TIFF."""
    primaries, transfer = tags.get(_PRIMARIES), tags.get(_TRANSFER)
    if not primaries and not transfer:
        return None
    if primaries:
        primaries = (*(tags.get(_WHITE_POINT) or colours.SRGB[:2]), *primaries)
    steps = [value / 65535 for value in transfer or ()]
    channels = 3 if len(steps) % 3 == 0 else 1  # 2 ** bits of steps, or three times as many
    size = len(steps) // channels
    return _measured(
        None, primaries, [steps[k * size : (k + 1) * size] for k in range(channels) if size], say
    )


def _measured(gamma, primaries, curves, say) -> Space | None:
    space = colours.measured_space(gamma, primaries, curves)
    if space is None:
        say("a gamma or primaries that cannot be those of colours are ignored")
    return space


def adobe_rgb(exif: Image.Exif) -> Space | None:
    """Adobe RGB where EXIF marks it as cameras do (DCF 2.0), by an interoperability index of R03."""
    if ExifTags.IFD.Exif not in exif:
        return None
    try:
        color_space = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace)
        index = exif.get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex)
    except Exception:  # as above; the orientation, which stands before them, was read
        return None
    marked = color_space == 2 or (color_space != 1 and str(index).startswith("R03"))
    return Space(colours.ADOBE_RGB, 563 / 256) if marked else None


def code_points(content: bytes) -> tuple[int, int, int, int] | None:
    """Those of the colours of an AVIF (the first `colr` box of kind `nclx`): see `colours.named_space`.

    Returns:
      Primaries, transfer, matrix and whether of full range; None if it has none.
    """
    boxes = dict(_boxes(content, 0, len(content)))
    for name, skipped in ((b"meta", 4), (b"iprp", 0), (b"ipco", 0)):
        if name not in boxes:
            return None
        start, end = boxes[name]
        children = list(_boxes(content, start + skipped, end))
        boxes = dict(children)
    for name, (start, end) in children:
        if name == b"colr" and content[start : start + 4] == b"nclx" and end - start >= 11:
            return (*struct.unpack_from(">HHH", content, start + 4), content[start + 10] >> 7)
    return None


def without_exif(content: bytes) -> bytes:
    """An AVIF whose EXIF data are called something else, which no reader looks at."""
    hidden = bytearray(content)
    for name, (start, end) in _boxes(content, 0, len(content)):
        for inner, (first, last) in _boxes(content, start + 4, end) if name == b"meta" else ():
            count_size = 2 if content[first] == 0 else 4  # by the version of the list of items
            for _, (item, _) in _boxes(content, first + 4 + count_size, last) if inner == b"iinf" else ():
                if content[item + 8 : item + 12] == b"Exif":
                    hidden[item + 8 : item + 12] = b"skip"
    return bytes(hidden)


def _boxes(content: bytes, start: int, end: int) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """Name, and start and end of the content, of the boxes of an ISO base media file."""
    while start + 8 <= end:
        size, name = struct.unpack_from(">I4s", content, start)
        header = 8
        if size == 1 and start + 16 <= end:
            (size,) = struct.unpack_from(">Q", content, start + 8)
            header = 16
        size = size or end - start
        if size < header or start + size > end:
            return
        yield name, (start + header, start + size)
        start += size


def profile_of_bmp(file: BinaryIO) -> bytes | None:
    """The colour profile of a BMP with a header of version 5, if it carries one."""
    file.seek(0)
    header = file.read(138)
    if len(header) < 138 or struct.unpack_from("<I", header, 14)[0] < 124 or header[70:74] != b"DEBM":
        return None
    offset, size = struct.unpack_from("<II", header, 126)
    file.seek(14 + offset)
    return file.read(size)


def profile_of_gif(image: Image.Image, file: BinaryIO) -> bytes | None:
    """The colour profile of a GIF, if the extension before its picture is one."""
    name, place = image.info.get("extension", (b"", 0))
    if not name.startswith(b"ICCRGBG1012"):
        return None
    file.seek(place)
    parts = []
    while length := (file.read(1) or b"\0")[0]:
        parts.append(file.read(length))
    return b"".join(parts)
