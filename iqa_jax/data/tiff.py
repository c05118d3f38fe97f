"""TIFF files that Pillow does not read, or reads wrongly; tifffile reads them.

Tried with every combination of meaning, depth, layout, byte order, extra samples and compression that
tifffile can write: `tests/data/test_tiff.py` has those that stand for the others.
"""

import dataclasses
import logging
import math
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from iqa_jax.errors import DataError

BIG_BIG_ENDIAN = b"MM\0+"  # of which Pillow takes the header for a smaller one
SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", BIG_BIG_ENDIAN, b"II\0*", b"MM*\0")
_BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 258, 259, 262, 274  # tags
_WIDTH, _HEIGHT, _STRIPS, _ROWS, _TILE_WIDTH, _TILE_HEIGHT, _TILES = 256, 257, 273, 278, 322, 323, 324
_SAMPLES, _PLANAR, _SUBSAMPLING, _EXTRA, _FORMAT = 277, 284, 530, 338, 339
_TRANSFER, _WHITE_POINT, _PRIMARIES, _PROFILE = 301, 318, 319, 34675
# Photometric interpretations.
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_MODES = {_WHITE_IS_ZERO: "L", _BLACK_IS_ZERO: "L", _RGB: "RGB", _PALETTE: "RGB", _CMYK: "CMYK"}
_CHANNELS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4}
_UNKNOWN, _ASSOCIATED, _ALPHA = 0, 1, 2  # extra samples; colours are multiplied by an associated alpha
_WEBP = 50001  # a compression that not every libtiff has
_MOST_BEYOND = 8  # extra samples; more are measurements, not pictures
_COLOUR_TAGS = (_TRANSFER, _WHITE_POINT, _PRIMARIES)
_ROUNDING = 1e-3  # floats this far outside [0, 1] are clipped, as those of arrays are


@dataclasses.dataclass(frozen=True)
class Values:
    """The first picture of a TIFF.

    Attributes:
      mode: what the channels are: L, RGB or CMYK.
      colours: (H, W, channels), integers or floats from 0 to `white`, not multiplied by `alpha`.
      white: the largest value.
      alpha: (H, W) from 0 to 1, or None.
      tags: those of colours, by number, as Pillow gives them.
      orientation: as in EXIF.
      profile: of the colours (ICC), or None.
      frames: how many pictures the file has.
    """

    mode: str
    colours: np.ndarray
    white: float
    alpha: np.ndarray | None
    tags: dict[int, Any]
    orientation: int
    profile: bytes | None
    frames: int


def pillow_reads(image: Image.Image) -> bool:
    """Whether Pillow reads this TIFF, which it has opened, as it should."""
    tags = image.tag_v2  # type: ignore[attr-defined]  # of TIFFs alone
    photometric, extra = tags.get(_PHOTOMETRIC, _WHITE_IS_ZERO), tags.get(_EXTRA, ())
    depths, formats = set(tags.get(_BITS, (1,))), set(tags.get(_FORMAT, (1,)))
    if formats != {1} or len(depths) != 1 or max(depths) > 16:  # signed values, floats; a depth for each
        return False
    if tags.get(_COMPRESSION) == _WEBP or not _is_whole(tags, image.size):
        return False
    deep, premultiplied = max(depths) > 8, _ASSOCIATED in extra
    if photometric == _YCBCR:  # Pillow itself takes no account of halved chroma; libtiff, which unpacks, does
        compressed = tags.get(_COMPRESSION, 1) != 1
        return not deep and (compressed or tuple(tags.get(_SUBSAMPLING, (2, 2))) == (1, 1))
    if tags.get(_PLANAR, 1) == 2 and tags.get(_SAMPLES, 1) > 1:
        return not deep and not premultiplied and len(extra) <= 1 and photometric in (_RGB, _CMYK)
    return not deep or not premultiplied


def _is_whole(tags: Any, size: tuple[int, int]) -> bool:
    """Whether there are as many strips or tiles as the image takes; Pillow leaves black what is missing."""
    width, height = tags.get(_WIDTH, size[0]), tags.get(_HEIGHT, size[1])
    planes = tags.get(_SAMPLES, 1) if tags.get(_PLANAR, 1) == 2 else 1
    if strips := tags.get(_STRIPS):
        return len(strips) >= planes * math.ceil(height / max(1, tags.get(_ROWS, height)))
    across, down = (max(1, tags.get(tag, 1)) for tag in (_TILE_WIDTH, _TILE_HEIGHT))
    return len(tags.get(_TILES, ())) >= planes * math.ceil(width / across) * math.ceil(height / down)


def read_values(file: BinaryIO, say: Callable[[str], object]) -> Values:
    """The first picture of a TIFF, whatever its layout.

    Args:
      say: called with a remark on floats, whose meaning no tag gives.
    Raises:
      DataError: tifffile or imagecodecs is not installed; the values are signed, complex or floats outside
        of [0, 1]; or no tag says what its channels mean.
      Image.DecompressionBombError: it has more pixels than Pillow allows.
    """
    try:
        import imagecodecs  # noqa: F401  # by which tifffile unpacks
        import tifffile
    except ModuleNotFoundError:
        raise DataError(
            "a TIFF that Pillow does not read, or damaged; pip install 'iqa-conformer[tiff]' reads all kinds"
        ) from None
    log = logging.getLogger("tifffile")
    if not log.handlers:  # the error reports what it logs of damaged files
        log.addHandler(logging.NullHandler())
    with tifffile.TiffFile(file) as tiff:
        page: Any = tiff.pages[0]
        photometric, extra = _checked(page)
        values = page.asarray(maxworkers=1)
        if page.planarconfig == 2 and page.samplesperpixel > 1:
            values = np.moveaxis(values, 0, -1)
        tags = {tag.code: _as_pillow(tag) for tag in page.tags if tag.code in _COLOUR_TAGS}
        profile = page.tags.valueof(_PROFILE)
        orientation, frames = page.tags.valueof(_ORIENTATION, 1), len(tiff.pages)
    values = values.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)
    white = 2 ** _depth(page) - 1
    if values.dtype.kind == "f":
        white, values = 1, _unit(values)
        if not profile:
            say("floating-point values are taken as sRGB from 0 to 1")
    elif values.dtype.kind == "b":
        values = values.astype(np.uint8)
    count = _CHANNELS[photometric]
    colours = values[..., :count]
    alpha = values[..., count] / np.float64(white) if extra in (_ASSOCIATED, _ALPHA) else None
    if photometric == _PALETTE:
        colours, white = np.moveaxis(page.colormap, 0, -1)[colours[..., 0]] // 256, 255
    elif photometric == _WHITE_IS_ZERO:
        colours = colours.dtype.type(white) - colours
    if extra == _ASSOCIATED and alpha is not None:
        visible = alpha[..., None] > 0
        colours = np.divide(colours, alpha[..., None], where=visible, out=np.zeros(colours.shape))
    return Values(
        mode=_MODES[photometric],
        colours=colours,
        white=white,
        alpha=alpha,
        tags=tags,
        orientation=orientation,
        profile=bytes(profile) if profile else None,
        frames=frames,
    )


def _checked(page: Any) -> tuple[int, int]:
    """What the channels of a page mean, and what the one after the colours is.

    Raises:
      DataError, Image.DecompressionBombError: see `read_values`.
    """
    pixels, most = page.imagewidth * page.imagelength * page.imagedepth, Image.MAX_IMAGE_PIXELS
    if most is not None and pixels > 2 * most:
        raise Image.DecompressionBombError(f"{pixels} pixels, of {2 * most} allowed")
    photometric, extra = int(page.photometric), tuple(map(int, page.extrasamples))
    if photometric == _YCBCR and page.compression == 7:
        photometric = _RGB  # as JPEG is unpacked
    if photometric not in _CHANNELS:
        raise DataError(
            f"a TIFF of photometric interpretation {photometric}; expected grey, RGB, palette or CMYK"
        )
    if {*np.ravel(page.sampleformat)} - {1, 3} or page.dtype is None or page.dtype.kind not in "buf":
        raise DataError("signed or complex values in a TIFF; expected unsigned ones, or floats from 0 to 1")
    if 0 in page.databytecounts or len(page.databytecounts) < math.prod(page.chunked):
        raise DataError("a TIFF of which parts are missing")
    if len({*np.ravel(page.bitspersample)}) != 1 or page.imagedepth != 1:
        raise DataError("a TIFF whose channels differ in depth, or of a volume; expected a picture")
    beyond = page.samplesperpixel - _CHANNELS[photometric]
    if photometric == _RGB and beyond == 1 and not extra:
        extra = (_ALPHA,)  # the tag is often forgotten
    first = extra[0] if extra else _UNKNOWN
    # Pillow's own reading: one channel beyond grey, or any beyond colours, may be left out.
    unclear = photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _PALETTE) and first == _UNKNOWN and beyond > 1
    premultiplied_otherwise = first == _ASSOCIATED and photometric not in (_BLACK_IS_ZERO, _RGB)
    if not 0 <= beyond <= _MOST_BEYOND or unclear or premultiplied_otherwise:
        raise DataError(f"a TIFF of {page.samplesperpixel} channels, and no tag says which are to be shown")
    return photometric, first if beyond else _UNKNOWN


def _depth(page: Any) -> int:
    """Bits of each channel."""
    return int(np.ravel(page.bitspersample)[0])


def _unit(values: np.ndarray) -> np.ndarray:
    """Floats, clipped to [0, 1] where they are off by rounding."""
    low, high = values.min(), values.max()
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # NaN is neither
        raise DataError(f"floating-point values from {low:.4g} to {high:.4g} in a TIFF; expected 0 to 1")
    return values.clip(0, 1)


def _as_pillow(tag: Any) -> tuple[float, ...]:
    """A tag's numbers; tifffile alternates numerators and denominators of fractions."""
    values = tuple(np.ravel(tag.value).tolist())
    if tag.dtype not in (5, 10):
        return values
    return tuple(
        top / bottom if bottom else 0.0 for top, bottom in zip(values[::2], values[1::2], strict=True)
    )
