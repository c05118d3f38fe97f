"""Text, EXIF, XMP and profiles that are long or damaged: the pixels are fine, and they are read."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from iqa_jax.data import png
from iqa_jax.data.images import decode_image
from iqa_jax.errors import DataError
from tests.miniature import picture

pytestmark = pytest.mark.quick

PICTURE = picture(0, (40, 56))
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
NO_EXIF = ["EXIF data that cannot be read are ignored"]
SIX = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"


def quiet(text):
    raise AssertionError(f"said {text!r}")


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def encoded(format_, **options):
    if format_ != "PNG":
        options["quality"] = 95
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, format_, **options)
    return buffer.getvalue()


def with_chunks(*chunks, after=()):
    """A PNG with further chunks before and after its pixels."""
    plain = encoded("PNG")
    return plain[:33] + b"".join(chunks) + plain[33:-12] + b"".join(after) + plain[-12:]


TOO_LONG_FOR_PILLOW = zlib.compress(bytes(2_000_000))


@pytest.mark.parametrize(
    "start", [b"zTXtComment\0\0", b"iTXtComment\0\1\0\0\0", b"iTXtXML:com.adobe.xmp\0\1\0\0\0"]
)
def test_long_texts_of_png(monkeypatch, start):
    text = chunk(start[:4], start[4:] + TOO_LONG_FOR_PILLOW)
    for limit in (png._LARGEST, 1000):
        monkeypatch.setattr(png, "_LARGEST", limit)
        np.testing.assert_array_equal(decode_image(with_chunks(text), say=quiet), PICTURE)
        np.testing.assert_array_equal(decode_image(with_chunks(after=[text]), say=quiet), PICTURE)


def test_many_texts_of_png(monkeypatch):
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 10_000)
    texts = [chunk(b"tEXt", b"a\0" + b"y" * 1000)] * 20
    np.testing.assert_array_equal(decode_image(with_chunks(*texts), say=quiet), PICTURE)


def test_texts_named_as_what_pillow_keeps_beside_them():
    names = (
        b"icc_profile",
        b"gamma",
        b"chromaticity",
        b"transparency",
        b"exif",
        b"xmp",
        b"interlace",
        b"srgb",
    )
    texts = [chunk(b"tEXt", name + b"\0hello") for name in names]
    np.testing.assert_array_equal(decode_image(with_chunks(*texts), say=quiet), PICTURE)


def test_a_text_with_a_wrong_checksum():
    damaged = chunk(b"tEXt", b"a\0hello").replace(b"hello", b"hallo")
    np.testing.assert_array_equal(decode_image(with_chunks(damaged), say=quiet), PICTURE)


def test_a_large_profile():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + bytes(3_000_000)
    profile = struct.pack(">I", len(profile)) + profile[4:]
    with_profile = with_chunks(chunk(b"iCCP", b"x\0\0" + zlib.compress(profile)))
    np.testing.assert_allclose(decode_image(with_profile, say=quiet), PICTURE, atol=1)
    for content in (b"nonsense", zlib.compress(profile)[:90], zlib.compress(bytes(1000))):
        said = []
        found = decode_image(with_chunks(chunk(b"iCCP", b"x\0\0" + content)), say=said.append)
        np.testing.assert_array_equal(found, PICTURE)
        assert said == ["a colour profile that is damaged or does not fit its image is ignored"]


def test_the_pixels_of_a_bomb_are_refused():
    plain = encoded("PNG")
    header = chunk(b"IHDR", struct.pack(">II", 100_000, 100_000) + plain[24:29])
    with pytest.raises(DataError, match="decompression bomb"):
        decode_image(plain[:8] + header + chunk(b"tEXt", b"a\0b") + plain[33:], say=quiet)
    with pytest.raises(DataError, match="truncated"):
        decode_image(with_chunks(chunk(b"tEXt", b"a\0b"))[:300], say=quiet)


@pytest.mark.parametrize("exif", [b"XXXXXXXXXXXX", b"II", b"", b"II*\0\xff\xff\xff\xff"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_of_png(exif):
    said = []
    np.testing.assert_array_equal(decode_image(with_chunks(chunk(b"eXIf", exif)), say=said.append), PICTURE)
    assert said in (NO_EXIF, [])


def test_exif_of_png_wherever_it_stands():
    turned = np.rot90(PICTURE, -1)
    for content in (with_chunks(chunk(b"eXIf", SIX)), with_chunks(after=[chunk(b"eXIf", SIX)])):
        np.testing.assert_array_equal(decode_image(content, say=quiet), turned)
    as_text = f"\nexif\n{len(SIX):8}\n{SIX.hex()}\n".encode()
    by_text = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(as_text))
    np.testing.assert_array_equal(decode_image(with_chunks(by_text), say=quiet), turned)
    said = []
    broken = chunk(b"tEXt", b"Raw profile type exif\0\nexif\n   5\nzzzz\n")
    np.testing.assert_array_equal(decode_image(with_chunks(broken), say=said.append), PICTURE)
    assert said == NO_EXIF


@pytest.mark.parametrize("format_", ["JPEG", "WEBP"])
def test_damaged_exif(format_):
    plain = decode_image(encoded(format_), say=quiet)
    damaged = b"Exif\0\0XXXXXXXXXXXXX"
    options = {"dpi": (72, 72)} if format_ == "JPEG" else {}  # without it, Pillow hides the damage
    said = []
    found = decode_image(encoded(format_, exif=damaged, **options), say=said.append)
    np.testing.assert_array_equal(found, plain)
    turned = decode_image(encoded(format_, exif=damaged, xmp=XMP, **options), say=said.append)
    np.testing.assert_array_equal(turned, np.rot90(plain, -1))
    assert said == 2 * NO_EXIF


def test_damaged_exif_of_avif():
    exif = Image.Exif()
    exif[0x010F] = "Z" * 40
    content = encoded("AVIF", exif=exif)
    place = content.find(b"Z" * 40)
    place = max(content.rfind(b"MM\0*", 0, place), content.rfind(b"II*\0", 0, place))
    said = []
    found = decode_image(content[:place] + b"XXXX" + content[place + 4 :], say=said.append)
    np.testing.assert_array_equal(found, decode_image(content, say=quiet))
    assert said == NO_EXIF


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_a_picture_turned_by_xmp_alone(format_):
    if format_ == "PNG":
        by_xmp = with_chunks(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)))
    else:
        by_xmp = encoded(format_, xmp=XMP)
    plain = decode_image(encoded(format_), say=quiet)
    np.testing.assert_array_equal(decode_image(by_xmp, say=quiet), np.rot90(plain, -1))


def test_sixteen_bits_turned_by_xmp_alone():
    buffer = io.BytesIO()
    Image.fromarray(PICTURE[..., 0].astype(np.uint16) * 257).save(buffer, "PNG")
    grey = buffer.getvalue()
    by_xmp = grey[:33] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP) + grey[33:]
    np.testing.assert_array_equal(decode_image(by_xmp, say=quiet)[..., 0], np.rot90(PICTURE[..., 0], -1))
