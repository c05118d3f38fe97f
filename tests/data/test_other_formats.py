"""PPM, JPEG 2000 and JPEG XL: every depth and kind, and what cannot be read."""

import io
import sys

import numpy as np
import pytest
from PIL import Image, ImageCms

from iqa_jax.data.colours import Space, to_srgb
from iqa_jax.data.images import decode_image
from iqa_jax.data.selection import find_images
from iqa_jax.errors import DataError
from tests.miniature import picture

pytestmark = pytest.mark.quick
PICTURE = picture(0, (40, 56))
DEEP = PICTURE.astype(np.uint16) * 257 + np.uint16(90) * (PICTURE < 255)


def quiet(text):
    raise AssertionError(f"said {text!r}")


def encoded(image, format_, **options):
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def netpbm(values, white, digits=False):
    """PGM or PPM, as bytes or in digits."""
    colour = values.ndim == 3
    magic = {(False, False): 5, (True, False): 6, (False, True): 2, (True, True): 3}[colour, digits]
    header = b"P%d # a remark\n%d %d\n%d\n" % (magic, values.shape[1], values.shape[0], white)
    if digits:
        return header + b" ".join(b"%d" % value for value in values.ravel()) + b"\n"
    return header + values.astype(np.uint8 if white < 256 else ">u2").tobytes()


@pytest.mark.parametrize("digits", [False, True])
@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("white", [100, 255, 1023, 65535])
def test_netpbm_of_any_depth(white, colour, digits):
    values = np.rint(DEEP / 65535 * white).astype(np.uint16)
    values = values if colour else values[..., 0]
    found = decode_image(netpbm(values, white, digits), say=quiet)
    expected = values / white * 255
    assert np.abs(found - (expected if colour else expected[..., None])).max() < 0.51


def test_a_bitmap_and_what_is_cut_off():
    bitmap = Image.fromarray(PICTURE).convert("1")
    np.testing.assert_array_equal(
        decode_image(encoded(bitmap, "PPM"), say=quiet), np.asarray(bitmap.convert("RGB"))
    )
    for white in (255, 1023):
        with pytest.raises(DataError, match="truncated"):
            decode_image(netpbm(DEEP // 257, white)[:-9], say=quiet)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_jpeg_2000_of_8_bits(mode):
    image = Image.fromarray(PICTURE).convert(mode.rstrip("A"))
    expected = np.asarray(image.convert("RGB"))
    if "A" in mode:
        image.putalpha(255)
    for options in ({}, {"no_jp2": True}):
        content = encoded(image, "JPEG2000", irreversible=False, **options)
        np.testing.assert_array_equal(decode_image(content, say=quiet), expected)
        with pytest.raises(DataError):
            decode_image(content[: len(content) // 3], say=quiet)


@pytest.mark.parametrize("bits", [10, 12, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_2000_of_more_bits(monkeypatch, bits, channels):
    codecs = pytest.importorskip("imagecodecs")
    values = DEEP[..., :channels] >> (16 - bits)
    content = codecs.jpeg2k_encode(
        values[..., 0] if channels == 1 else values, level=0, reversible=True, bitspersample=bits
    )
    found = decode_image(content, say=quiet)
    assert np.abs(found - values / (2**bits - 1) * 255).max() < 0.51
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(DataError, match=rf"JPEG 2000 of {bits} bits, .*'iqa-conformer\[tiff\]'"):
        decode_image(content, say=quiet)


def with_colours(content, colours):
    """A JP2 file whose colours are named otherwise."""
    header = content.index(b"jp2h") - 4
    place = content.index(b"colr") - 4
    old, box = int.from_bytes(content[place : place + 4]), len(colours) + 8
    whole = int.from_bytes(content[header : header + 4]) + box - old
    start = content[:header] + whole.to_bytes(4) + content[header + 4 : place]
    return start + box.to_bytes(4) + b"colr" + colours + content[place + old :]


def test_colours_of_jpeg_2000_are_converted():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    places = [profile.index(tag, 128) for tag in (b"rXYZ", b"bXYZ")]
    swapped = bytearray(profile)  # red and blue change their places
    for place, tag in zip(places, (b"bXYZ", b"rXYZ"), strict=True):
        swapped[place : place + 4] = tag
    content = encoded(Image.fromarray(PICTURE), "JPEG2000", irreversible=False)
    found = decode_image(with_colours(content, b"\2\0\0" + bytes(swapped)), say=quiet)
    assert np.abs(found.astype(int) - PICTURE[..., ::-1]).max() <= 3
    said: list[str] = []
    found = decode_image(with_colours(content, b"\1\0\0" + (14).to_bytes(4)), say=said.append)
    np.testing.assert_array_equal(found, PICTURE)
    assert said == ["colours of a rare kind (14 of JPEG 2000): not converted, taken as sRGB's"]


@pytest.mark.parametrize("start", [b"\xff\n\x89A$\x08", b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl "])
def test_jpeg_xl_without_its_package_is_told_by_what_it_holds(monkeypatch, start):
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    with pytest.raises(DataError, match=r"^a JPEG XL image; pip install 'iqa-conformer\[jxl\]' to read it$"):
        decode_image(start + bytes(99), say=quiet)


@pytest.mark.filterwarnings("ignore:Using JPEG reconstruction")
def test_jpeg_xl_where_its_package_is_installed(tmp_path):
    pytest.importorskip("pillow_jxl")
    for image in (Image.fromarray(PICTURE), Image.fromarray(PICTURE[..., 0])):
        for options in ({}, {"use_container": True}):
            content = encoded(image, "JXL", lossless=True, **options)
            expected = decode_image(encoded(image, "PNG"), say=quiet)
            np.testing.assert_array_equal(decode_image(content, say=quiet), expected)
            with pytest.raises(DataError):
                decode_image(content[: len(content) // 2], say=quiet)
    deep = encoded(Image.fromarray(DEEP[..., 0]), "JXL", lossless=True)  # which is written as linear light
    linear = to_srgb(DEEP[..., :1], 65535, Space(gamma=1.0))
    assert np.abs(decode_image(deep, say=quiet) - linear.astype(int)).max() <= 1
    exif = Image.Exif()
    exif[0x0112] = 6
    # The orientation of the format counts, which the reader applies, and not that of EXIF.
    turned = encoded(Image.fromarray(PICTURE), "JXL", lossless=True, exif=exif.tobytes())
    np.testing.assert_array_equal(decode_image(turned, say=quiet), PICTURE)
    Image.fromarray(PICTURE).save(tmp_path / "a.jpg", exif=exif.tobytes())
    with Image.open(tmp_path / "a.jpg") as image:
        packed = encoded(image, "JXL")  # the JPEG itself
    expected = decode_image((tmp_path / "a.jpg").read_bytes(), say=quiet)
    np.testing.assert_array_equal(decode_image(packed, say=quiet), expected)


def test_jpeg_xl_that_moves_or_is_too_large_is_refused(monkeypatch):
    pytest.importorskip("pillow_jxl")
    still = encoded(Image.fromarray(PICTURE), "JXL", lossless=True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 999)
    with pytest.raises(DataError, match="decompression bomb .*2240 pixels, of 1998 allowed"):
        decode_image(still, say=quiet)
    monkeypatch.undo()
    codecs = pytest.importorskip("imagecodecs")
    frames = codecs.jpegxl_encode(np.stack([PICTURE, PICTURE[::-1]]), lossless=True)
    with pytest.raises(DataError, match="an animation in JPEG XL; expected a single picture"):
        decode_image(frames, say=quiet)


def test_folders_are_searched_for_all_of_them(tmp_path):
    names = ["a.ppm", "b.PGM", "c.jp2", "d.j2k", "e.jxl", "f.pbm", "g.pnm", "h.jpx"]
    for name in names:
        (tmp_path / name).touch()
    assert [image.path.name for image in find_images([str(tmp_path)])] == names
