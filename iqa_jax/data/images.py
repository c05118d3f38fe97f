"""Image files as the metrics take them: 8-bit sRGB arrays."""

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import IO, Any, BinaryIO, NamedTuple, cast

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from iqa_jax.data import jpeg2000, jpegxl, metadata, netpbm, png, tiff
from iqa_jax.data.colours import Space, space_of_profile, to_srgb
from iqa_jax.errors import DataError
from iqa_jax.files import open_regular

# Endings of the files that are taken from a folder.
EXTENSIONS = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".avif",
    ".heic", ".heif", ".jxl", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm",
)  # fmt: skip
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "AVIF", "JPEG2000", "PPM")
_EXPECTED = "expected PNG, JPEG, BMP, TIFF, WebP, GIF, AVIF, JPEG 2000, JPEG XL or PPM"
BACKGROUND = 128
COMPOSITED = f"transparent images are composited over mid-grey ({BACKGROUND})"
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF
_SEVERAL = "of several frames, the first is taken"
# How Pillow takes the upper bytes of 16-bit channels out of a file, by its byte order, and so the lower ones.
_LOWER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}

Say = Callable[[str], object]
Encoded = bytes | bytearray | memoryview | IO[bytes]  # the content of a file, or an open one


class _Picture(NamedTuple):
    """An image of 8 bits in any mode, and what is still to be applied to it."""

    image: Image.Image
    alpha: Image.Image | None  # where the mode has none
    colours: bytes | Space | None
    orientation: int


def read_image(
    path: str | os.PathLike | Encoded, *, say: Say = warnings.warn, background: int = BACKGROUND
) -> np.ndarray:
    """Reads an image file as (H, W, 3) uint8, sRGB.

    Formats are PNG, JPEG, BMP, TIFF, WebP, GIF, AVIF, JPEG 2000 and PPM, PGM or PBM; HEIC with pillow-heif,
    JPEG XL with pillow-jxl-plugin.

    It reads the first of several frames.  The EXIF orientation is applied.  Colours become sRGB, however the
    file describes them: a colour profile; cICP, gAMA and cHRM of PNG; nclx of AVIF and HEIC; TIFF tags; the
    mark of Adobe RGB in EXIF.  A gamma of 2.2 is taken as sRGB's curve.  More than 8 bits are rounded to 8,
    after the conversion, but for profiles of tables.  What is transparent is composited over mid-grey (128).
    tifffile and imagecodecs, where installed, read the TIFF and JPEG 2000 files that Pillow does not.

    Args:
      path: of a file, or its content: bytes, or a file that is open in binary mode, which is read from its
        beginning where it can be.
      say: called with a remark when transparency was composited, colours could not be converted (HDR, a
        damaged profile), EXIF data could not be read, or an image has more frames.
      background: the grey under transparency; a remark is made for the default alone.
    Raises:
      DataError: names the file and why it cannot be read: missing, empty, truncated, of another
        format, too large (a decompression bomb by Pillow's limit), or of a kind that another package reads.
    """
    if not isinstance(path, str | os.PathLike):
        return _read_encoded(path, say=say, background=background)
    try:
        # Given the path, Pillow would map uncompressed TIFF into memory, wrongly if it is to be rotated.
        with open_regular(path) as file:
            return decode_image(file, say=say, background=background)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _read_encoded(encoded: Encoded, **options) -> np.ndarray:
    """An image from bytes or from an open file, by whose name its errors call it."""
    if isinstance(encoded, bytes | bytearray | memoryview):
        name, content = "bytes", bytes(encoded)
    else:
        named = getattr(encoded, "name", None)
        name = str(named) if isinstance(named, str | os.PathLike) else type(encoded).__name__
        try:
            if encoded.seekable():  # what was just written there stands at its end
                encoded.seek(0)
            content = encoded.read()
        except (OSError, ValueError, AttributeError) as error:  # closed, written only, no file after all
            raise DataError(f"{name}: cannot be read ({error})") from None
        if isinstance(content, str):
            raise DataError(f'{name}: opened as text; open it in binary mode, open(path, "rb")')
        if not isinstance(content, bytes):
            raise DataError(f"{name}: its read() gives a {type(content).__name__}; expected bytes")
    try:
        return decode_image(content, **options)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None


def is_encoded(given: object) -> bool:
    """Whether it is the content of a file, or an open one."""
    return isinstance(given, bytes | bytearray | memoryview) or hasattr(given, "read")


def decode_image(
    encoded: bytes | BinaryIO, *, say: Say = warnings.warn, background: int = BACKGROUND
) -> np.ndarray:
    """The same from the content of an image file; what it raises names no file."""
    with _damage_named():
        picture = _decoded(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded, say)
        return _finished(picture, say, background)


def from_values(values: np.ndarray, *, say: Say = warnings.warn, background: int = BACKGROUND) -> np.ndarray:
    """An array as the file of these values would be read: (H, W, 3) uint8.

    Args:
      values: (H, W, channels) uint8 or uint16: grey or RGB, and alpha as the last of 2 or 4 channels.
      say, background: see `read_image`.
    """
    white = np.iinfo(values.dtype).max
    alpha = None if values.shape[-1] in (1, 3) else values[..., -1] / np.float32(white)
    colours = values if alpha is None else values[..., :-1]
    mode = "L" if colours.shape[-1] == 1 else "RGB"
    return _finished(_rounded(mode, colours, white, alpha, None, 1), say, background)


def from_pillow(image: Image.Image, *, say: Say = warnings.warn, background: int = BACKGROUND) -> np.ndarray:
    """One of Pillow's images as (H, W, 3) uint8, sRGB; see `read_image`.

    Of 16-bit colour, Pillow gives the upper 8 bits, and of a PNG's colours not the code points (cICP): of a
    file's path, `read_image` gives all.

    Raises:
      DataError: 32 bits or signed values in a channel, a TIFF that Pillow reads wrongly, or an image whose
        file is damaged or closed.
    """
    with _damage_named():
        return _finished(_of_pillow(image, say), say, background)


@contextlib.contextmanager
def _damage_named() -> Iterator[None]:
    """Turns what the readers raise into a DataError of one line."""
    try:
        yield
        return
    except DataError:
        raise
    except UnidentifiedImageError:
        reason: str | Exception = f"not an image, or damaged; {_EXPECTED}"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = f"refused as a decompression bomb ({error})"
    except OSError as error:
        reason = error.strerror or error
    except Exception as error:  # Pillow raises almost anything for damaged files
        reason = error
    raise DataError(" ".join(str(reason).split()) or type(reason).__name__)


def _of_pillow(image: Image.Image, say: Say) -> _Picture:
    if hasattr(image, "tag_v2") and not tiff.pillow_reads(image):
        raise DataError("a TIFF of a kind that Pillow reads wrongly; give its path instead of the image")
    if image.mode in ("I", "F"):
        raise DataError("32 bits or signed values in a channel; expected 8 or 16 bits")
    image.load()
    colours, orientation = metadata.colours_and_orientation(image, say)
    if not image.mode.startswith("I;16"):
        return _Picture(image, None, colours, orientation)
    values, tags = np.asarray(image), getattr(image, "tag_v2", {})
    white = 2 ** tags.get(_BITS_PER_SAMPLE, (16,))[0] - 1
    clear = image.info.get("transparency")
    alpha = None if clear is None else values != clear
    if tags.get(_PHOTOMETRIC) == 0:  # of TIFF: zero is white
        values = white - values
    return _rounded("L", values[..., None], white, alpha, colours, orientation)


def _decoded(file: BinaryIO, say: Say) -> _Picture:
    start = file.read(32)
    file.seek(0)
    if not start:
        raise DataError("empty file")
    info: dict = {}
    if start.startswith(png.SIGNATURE):
        content, info = png.pixels_of(file.read(), say)
        file = io.BytesIO(content)
    image = _opened(file, start, say)
    if image is None:
        return _other_tiff(file, say)
    if 0 in image.size:
        raise DataError("an image without pixels")
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        say(_SEVERAL)
        image.seek(0)
    image.info.update(info or _profile_besides(image, file, say))
    if image.format == "PNG" and start[24] in (2, 4) and start[25] == 0 and "transparency" in image.info:
        image.info["transparency"] *= 255 // (2 ** start[24] - 1)  # Pillow scales the greys, but not this one
    if deep := _other_depth(image, file):
        return _rounded(*deep, image.info.get("icc_profile"), 1)
    values = _sixteen_bits(image, file)
    if values is None:
        return _of_pillow(image, say)
    colours, orientation = metadata.colours_and_orientation(image, say)
    alpha, clear = None, image.info.get("transparency")
    if image.mode in ("RGBA", "LA"):
        values, alpha = values[..., :-1], values[..., -1] / np.float32(65535)
    elif clear is not None:
        alpha = np.any(values != np.uint16(clear), axis=-1)
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[values.shape[-1]]
    return _rounded(mode, values, 65535, alpha, colours, orientation)


def _formats(start: bytes) -> list[str]:
    """The formats that a file which starts so may have.

    Raises:
      DataError: it is HEIC or JPEG XL, whatever its name, and the package that reads it is not installed.
    """
    Image.init()
    if start.startswith(jpegxl.SIGNATURES):
        jpegxl.register()
        return ["JXL"]
    known = [name for name in _FORMATS if name in Image.OPEN]  # older versions of Pillow have no AVIF
    brands = start[8:] if start[4:8] == b"ftyp" else b""
    if b"avi" in brands or brands[:3] not in (b"hei", b"hev", b"mif", b"msf"):
        return known
    try:
        import pillow_heif
    except ModuleNotFoundError:
        raise DataError("a HEIC image; pip install 'iqa-conformer[heic]' to read it") from None
    pillow_heif.register_heif_opener()
    return [*known, "HEIF"]


def _opened(file: BinaryIO, start: bytes, say: Say) -> Image.Image | None:
    """Pillow's image of a file that starts so, its pixels not read yet; None for TIFF that it cannot."""
    if start.startswith(tiff.BIG_BIG_ENDIAN):
        return None
    if start.startswith(tiff.SIGNATURES):
        try:
            image = Image.open(file, formats=("TIFF",))
        except (UnidentifiedImageError, KeyError):  # a layout, or a compression, that it does not know
            return None
        return image if tiff.pillow_reads(image) else None
    formats = _formats(start)
    if formats == ["JXL"]:
        jpegxl.check_header(file.read())
        file.seek(0)
    try:
        return Image.open(file, formats=formats)
    except ValueError as error:
        if "Exif" not in str(error):  # of AVIF
            raise
    say(metadata.NO_EXIF)
    file.seek(0)
    return Image.open(io.BytesIO(metadata.without_exif(file.read())), formats=formats)


def _profile_besides(image: Image.Image, file: BinaryIO, say: Say) -> dict:
    """The colour information that Pillow does not read, as further entries of `Image.info`."""
    if image.format == "AVIF":
        file.seek(0)
        return {"nclx": metadata.code_points(file.read())}
    if image.format == "GIF":
        profile = metadata.profile_of_gif(image, file)
    elif image.format == "BMP":
        profile = metadata.profile_of_bmp(file)
    elif image.format == "JPEG2000":
        file.seek(0)
        profile = jpeg2000.colours_of(file.read(), say)
    else:
        return {}
    return {"icc_profile": profile} if profile else {}


def _other_tiff(file: BinaryIO, say: Say) -> _Picture:
    """A TIFF that Pillow does not read rightly."""
    file.seek(0)
    try:
        values = tiff.read_values(file, say)
    except (DataError, Image.DecompressionBombError):
        raise
    except Exception as error:  # of tifffile, imagecodecs and what they use
        raise DataError(
            f"a TIFF that is damaged or of a rare kind ({error or type(error).__name__})"
        ) from None
    if values.frames > 1:
        say(_SEVERAL)
    exif = metadata.exif_of_tiff(file, say)
    colours = values.profile or metadata.space_of_tiff(values.tags, say) or metadata.adobe_rgb(exif)
    return _rounded(values.mode, values.colours, values.white, values.alpha, colours, values.orientation)


def _other_depth(image: Image.Image, file: BinaryIO) -> tuple[str, np.ndarray, int, np.ndarray | None] | None:
    """Mode, values, white and alpha of JPEG 2000 and PPM whose channels do not have 8 bits; else None."""
    deep = None
    if image.format == "JPEG2000":
        file.seek(0)
        deep = jpeg2000.deep_values(file.read())
    elif image.format == "PPM":
        deep = netpbm.deep_values(image, file)
    if deep is None:
        return None
    values, white = deep
    alpha = values[..., -1] / np.float32(white) if values.shape[-1] in (2, 4) else None
    colours = values if alpha is None else values[..., :-1]
    return "L" if colours.shape[-1] == 1 else "RGB", colours, white, alpha


def _sixteen_bits(image: Image.Image, file: BinaryIO) -> np.ndarray | None:
    """(H, W, channels) uint16 where Pillow would give the upper 8 bits of colours; loads the image.

    Pillow has no such mode, but decodes the bytes that its raw mode names.
    """
    tiles = getattr(image, "tile", None)
    arguments = tiles[0].args if tiles else ""
    raw = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    if not isinstance(raw, str) or ";16" not in raw or image.mode.startswith("I"):
        return None

    def bytes_of(opened: Image.Image, raw: str) -> np.ndarray:
        opened.tile = [  # type: ignore[attr-defined]  # of opened files alone
            part._replace(args=raw if isinstance(part.args, str) else (raw, *part.args[1:]))
            for part in opened.tile  # type: ignore[attr-defined]  # as above
        ]
        opened.load()
        return np.asarray(opened)

    if raw == "LA;16B":  # two bytes of grey and two of alpha, as if they were four channels
        return bytes_of(image, "RGBA").view(">u2").astype(np.uint16)
    upper = bytes_of(image, raw).astype(np.uint16)
    again = Image.open(file, formats=(cast(str, image.format),))
    return upper << 8 | bytes_of(again, raw[:-1] + _LOWER[raw[-1]])


def _rounded(mode, values, white, alpha, colours, orientation) -> _Picture:
    """An image of more bits: its colours are converted before it has 8, where it is done by numbers."""
    space = space_of_profile(colours, mode) if isinstance(colours, bytes) else colours
    if mode == "CMYK":
        space = None
    height, width = values.shape[:2]
    image = Image.frombytes(mode, (width, height), to_srgb(values, white, space).tobytes())
    if alpha is not None:
        alpha = Image.fromarray(np.rint(255 * np.asarray(alpha, np.float32)).astype(np.uint8))
    return _Picture(image, alpha, None if space else colours, orientation)


def _finished(picture: _Picture, say: Say, background: int) -> np.ndarray:
    """(H, W, 3) uint8, sRGB, upright."""
    image, alpha, colours, orientation = picture
    kind = {"1": "L", "L": "L", "LA": "L", "La": "L", "CMYK": "CMYK"}.get(image.mode, "RGB")
    if image.mode in ("La", "RGBa"):  # multiplied by alpha
        image = image.convert(image.mode.upper())
    if alpha is None and image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    image = _in_mode(image, kind)
    if isinstance(colours, bytes):
        image = _converted(image, colours, say)
    elif colours is not None and not colours.is_srgb and kind != "CMYK":
        values = np.asarray(image)
        image = Image.fromarray(to_srgb(np.atleast_3d(values), 255, colours).reshape(values.shape))
    image = _in_mode(image, "RGB")
    if alpha is not None and alpha.getextrema()[0] != 255:
        if background == BACKGROUND:
            say(COMPOSITED)
        image = Image.composite(image, Image.new("RGB", image.size, (background,) * 3), alpha)
    turn = metadata.TURNS.get(orientation)
    return np.asarray(image if turn is None else image.transpose(turn))


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Converts only what is not in that mode: Pillow would copy the rest, 400 MB of 100 megapixels."""
    return image if image.mode == mode else image.convert(mode)


def _converted(image: Image.Image, profile: bytes, say: Say) -> Image.Image:
    """From the profile's colours to sRGB; the same image where the profile is damaged or of another kind."""
    try:
        opened: Any = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if image.mode == "L" and opened.profile.xcolor_space.strip() == "RGB":
            image = image.convert("RGB")
        srgb = ImageCms.createProfile("sRGB")
        # Gives None only where it is to change the image in place.
        return cast(Image.Image, ImageCms.profileToProfile(image, opened, srgb, outputMode="RGB"))
    except (ImageCms.PyCMSError, OSError):
        say("a colour profile that is damaged or does not fit its image is ignored")
        return image
