"""Image files as the metrics take them: 8-bit sRGB arrays."""

import io
import os
import warnings
from collections.abc import Callable
from typing import BinaryIO, cast

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from iqa_jax.errors import DataError
from iqa_jax.files import open_regular

# Endings of the files that are taken from a folder.
EXTENSIONS = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".avif",
    ".heic", ".heif",
)  # fmt: skip
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "AVIF")
_EXPECTED = "expected PNG, JPEG, BMP, TIFF, WebP, GIF or AVIF"
_BACKGROUND = (128, 128, 128)
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF


def read_image(path: str | os.PathLike, *, say: Callable[[str], object] = warnings.warn) -> np.ndarray:
    """Reads PNG, JPEG, BMP, TIFF, WebP, GIF or AVIF as (H, W, 3) uint8, sRGB; HEIC where pillow-heif is.

    Of several frames it is the first.  The EXIF orientation is applied and an embedded colour profile
    converted to sRGB.  16-bit grey is rounded to 8 bits; of 16-bit colour, Pillow gives the upper 8.  What is
    transparent is composited over mid-grey (128).

    Args:
      say: is told when transparency was composited, a colour profile could not be used, or an image has
        more frames.
    Raises:
      DataError: names the file and why it cannot be read: missing, empty, truncated, of another
        format, too large (a decompression bomb by Pillow's limit), or of 32 bits per channel.
    """
    try:
        # Given the path, Pillow would map uncompressed TIFF into memory, wrongly if it is to be rotated.
        with open_regular(path) as file:
            return decode_image(file, say=say)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def decode_image(encoded: bytes | BinaryIO, *, say: Callable[[str], object] = warnings.warn) -> np.ndarray:
    """The same from the content of an image file; what it raises names no file."""
    try:
        file = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded
        if not file.read(1):
            raise DataError("empty file")
        file.seek(0)
        image: Image.Image = Image.open(file, formats=_formats(file))
        if 0 in image.size:
            raise DataError("an image without pixels")
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
            say("of several frames, the first is taken")
            image.seek(0)
        image.load()
        return from_pillow(image, say=say)
    except UnidentifiedImageError:
        reason: str | Exception = f"not an image, or damaged; {_EXPECTED}"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = f"refused as a decompression bomb ({error})"
    except OSError as error:
        reason = error.strerror or error
    except Exception as error:  # Pillow raises almost anything for damaged files
        reason = error
    raise DataError(" ".join(str(reason).split()) or type(reason).__name__)


def from_pillow(image: Image.Image, *, say: Callable[[str], object] = warnings.warn) -> np.ndarray:
    """One of Pillow's images as (H, W, 3) uint8, sRGB; see `read_image`.

    Raises:
      DataError: 32 bits per channel.
    """
    image = _eight_bits(image)
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    return np.asarray(_srgb(image, say))


def _formats(file: BinaryIO) -> tuple[str, ...]:
    """The formats that a file may have.

    Raises:
      DataError: it is HEIC, whatever its name says, and pillow-heif is not installed.
    """
    start = file.read(32)
    file.seek(0)
    Image.init()
    known = tuple(name for name in _FORMATS if name in Image.OPEN)  # older versions of Pillow have no AVIF
    brands = start[8:] if start[4:8] == b"ftyp" else b""
    if b"avi" in brands or brands[:3] not in (b"hei", b"hev", b"mif", b"msf"):
        return known
    try:
        import pillow_heif
    except ModuleNotFoundError:
        raise DataError("a HEIC image; pip install 'iqa_jax[heic]' to read it") from None
    pillow_heif.register_heif_opener()
    return (*known, "HEIF")


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image with 8 bits per channel or fewer."""
    if image.mode in ("I", "F"):
        raise DataError("32 bits or signed values in a channel; expected 8 or 16 bits")
    if not image.mode.startswith("I;16"):
        return image
    tags = getattr(image, "tag_v2", {})
    white = 2 ** tags.get(_BITS_PER_SAMPLE, (16,))[0] - 1
    values = np.asarray(image) / np.float32(white)
    if tags.get(_PHOTOMETRIC) == 0:  # of TIFF: zero is white
        values = 1 - values
    eight = Image.fromarray(np.rint(255 * values).astype(np.uint8))
    eight.info = {key: image.info[key] for key in ("icc_profile", "exif") if key in image.info}
    return eight


def _srgb(image: Image.Image, say: Callable[[str], object]) -> Image.Image:
    """RGB from any mode of 8 bits, without alpha."""
    profile, alpha = image.info.get("icc_profile"), None
    kind = {"1": "L", "L": "L", "LA": "L", "CMYK": "CMYK"}.get(image.mode, "RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
    image = _in_mode(image, kind)
    image = _in_mode(_converted(image, profile, say) if profile else image, "RGB")
    if alpha is not None and alpha.getextrema()[0] != 255:
        say("transparent images are composited over mid-grey (128)")
        image = Image.composite(image, Image.new("RGB", image.size, _BACKGROUND), alpha)
    return image


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Converts only what is not in that mode: Pillow would copy the rest, 400 MB of 100 megapixels."""
    return image if image.mode == mode else image.convert(mode)


def _converted(image: Image.Image, profile: bytes, say: Callable[[str], object]) -> Image.Image:
    """From the profile's colours to sRGB; the same image where the profile is damaged or of another kind."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if image.mode == "L" and opened.profile.xcolor_space.strip() == "RGB":
            image = image.convert("RGB")
        srgb = ImageCms.createProfile("sRGB")
        # Gives None only where it is to change the image in place.
        return cast(Image.Image, ImageCms.profileToProfile(image, opened, srgb, outputMode="RGB"))
    except (ImageCms.PyCMSError, OSError):
        say("a colour profile that is damaged or does not fit its image is ignored")
        return image
