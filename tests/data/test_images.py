"""Every kind of image file, made on the fly, and every way to be broken."""

import io
import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from iqa_jax.data.images import from_pillow, read_image
from iqa_jax.errors import DataError
from tests.miniature import picture

pytestmark = pytest.mark.quick

PICTURE = picture(0, (40, 56))
ORIENTATION = 0x0112


def quiet(text):
    raise AssertionError(f"said {text!r}")


def read(tmp_path, image, extension="png", *, say=quiet, **options):
    path = tmp_path / f"image.{extension}"
    image.save(path, **options)
    return read_image(path, say=say)


def png(values: np.ndarray, color_type: int) -> bytes:
    """16-bit PNG; Pillow writes grey alone."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("extension", ["png", "bmp", "tiff", "TIF", "PNG", "ppm", "jp2", "J2K"])
def test_lossless_formats(tmp_path, extension):
    read_back = read(tmp_path, Image.fromarray(PICTURE), extension)
    assert read_back.dtype == np.uint8
    np.testing.assert_array_equal(read_back, PICTURE)


@pytest.mark.parametrize("extension", ["jpg", "webp", "jfif", "avif"])
def test_lossy_formats(tmp_path, extension):
    read_back = read(tmp_path, Image.fromarray(PICTURE), extension, quality=95)
    assert np.abs(read_back.astype(int) - PICTURE).mean() < 4


@pytest.mark.parametrize("extension", ["gif", "png", "webp", "tiff", "avif"])
def test_the_first_of_several_frames_is_taken_and_said(tmp_path, extension):
    frames = [Image.new("RGB", (40, 30), (level, level, level)) for level in (51, 204, 102)]
    path = tmp_path / f"moving.{extension}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    said = []
    first = read_image(path, say=said.append)
    assert first.shape == (30, 40, 3)
    assert np.abs(first.astype(int) - 51).max() <= 1
    assert said == ["of several frames, the first is taken"]


def test_heic_without_pillow_heif_is_told_by_what_it_holds(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tmp_path / "renamed.jpg"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.raises(DataError, match=r"renamed.jpg: a HEIC image; pip install 'iqa-conformer\[heic\]'"):
        read_image(path)


def test_heic_where_pillow_heif_is_installed(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    path = tmp_path / "photograph.jpg"  # a renamed one is told by what it holds
    heif.from_pillow(Image.fromarray(PICTURE)).save(path, quality=95)
    assert np.abs(read_image(path).astype(int) - PICTURE).mean() < 6


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey(tmp_path, mode):
    image = Image.fromarray(PICTURE).convert(mode)
    expected = np.asarray(image.convert("L"))
    np.testing.assert_array_equal(read(tmp_path, image), np.repeat(expected[..., None], 3, axis=-1))


def test_palette(tmp_path):
    image = Image.fromarray(PICTURE).quantize(16)
    np.testing.assert_array_equal(read(tmp_path, image), np.asarray(image.convert("RGB")))


def test_cmyk(tmp_path):
    image = Image.fromarray(PICTURE).convert("CMYK")
    np.testing.assert_allclose(read(tmp_path, image, "tiff"), PICTURE, atol=1)
    assert np.abs(read(tmp_path, image, "jpg", quality=95).astype(int) - PICTURE).mean() < 4


@pytest.mark.parametrize("extension", ["png", "tiff"])
def test_grey_of_16_bits_is_rounded(tmp_path, extension):
    values = np.linspace(0, 65535, 40 * 50).reshape(40, 50).astype(np.uint16)
    expected = np.rint(values / 257).astype(np.uint8)
    found = read(tmp_path, Image.fromarray(values), extension)
    np.testing.assert_array_equal(found, np.repeat(expected[..., None], 3, axis=-1))


@pytest.mark.parametrize(
    ("order", "bits", "photometric"), [("<", 16, 1), (">", 16, 1), ("<", 16, 0), ("<", 12, 1)]
)
def test_tiff_of_other_byte_order_scale_and_depth(tmp_path, order, bits, photometric):
    share = np.linspace(0, 1, 40 * 50).reshape(40, 50)
    values = np.rint(share * (2**bits - 1)).astype(int)
    if bits == 16:
        data = values.astype(f"{order}u2").tobytes()
    else:
        data = bytes.fromhex("".join(f"{value:03x}" for value in values.ravel()))
    fields = {
        256: 50,
        257: 40,
        258: bits,
        259: 1,
        262: photometric,
        273: 122,
        277: 1,
        278: 40,
        279: len(data),
    }
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in fields.items())
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(fields))
    path = tmp_path / "image.tiff"
    path.write_bytes(start + entries + bytes(4) + data)
    expected = np.rint(255 * (share if photometric else 1 - share))
    np.testing.assert_allclose(read_image(path)[..., 0], expected, atol=1)


@pytest.mark.parametrize(("color_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_colour_and_alpha_of_16_bits(tmp_path, color_type, channels):
    values = np.repeat(PICTURE[..., :1].astype(np.uint16) * 257, channels, axis=-1)
    values[..., 1] = 65535  # alpha of grey
    values[..., -1] = 65535
    path = tmp_path / "image.png"
    path.write_bytes(png(values, color_type))
    found = read_image(path, say=quiet)
    np.testing.assert_array_equal(found[..., 0], PICTURE[..., 0])


def test_alpha_is_composited_over_grey(tmp_path):
    alpha = np.linspace(0, 255, 40 * 56).reshape(40, 56, 1).astype(np.uint8)
    share = alpha / 255.0
    expected = np.rint(PICTURE * share + 128 * (1 - share))
    said = []
    rgba = Image.fromarray(np.concatenate([PICTURE, alpha], axis=-1))
    for extension in ("png", "tiff"):
        np.testing.assert_allclose(read(tmp_path, rgba, extension, say=said.append), expected, atol=1)
    grey = Image.fromarray(np.concatenate([PICTURE[..., :1], alpha], axis=-1))
    found = read(tmp_path, grey, say=said.append)
    np.testing.assert_allclose(found, np.repeat(expected[..., :1], 3, axis=-1), atol=1)
    assert said == ["transparent images are composited over mid-grey (128)"] * 3


def test_transparent_palette_entry(tmp_path):
    said = []
    image = Image.fromarray(np.repeat(np.uint8([[0, 1]]), 32, axis=0), "L").convert("P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    found = read(tmp_path, image, say=said.append, transparency=1)
    assert said and (found[:, 0] == (255, 0, 0)).all() and (found[:, 1] == 128).all()


def test_opaque_alpha_and_repetition_are_not_mentioned(tmp_path):
    rgba = Image.fromarray(PICTURE).convert("RGBA")
    np.testing.assert_array_equal(read(tmp_path, rgba), PICTURE)
    rgba.putalpha(100)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            read(tmp_path, rgba, say=warnings.warn)
    assert len(caught) <= 1


@pytest.mark.parametrize("extension", ["png", "tiff", "jpg", "webp"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientation_is_applied(tmp_path, extension, orientation, mode):
    turns = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]  # counter-clockwise, to what is stored
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"quality": 95} if extension in ("jpg", "webp") else {}
    upright = Image.fromarray(PICTURE).convert(mode)
    stored = Image.fromarray(np.rot90(np.asarray(upright), turns))
    found = read(tmp_path, stored, extension, exif=exif, **options)
    expected = np.asarray(upright.convert("RGB"))
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < (4 if options else 0.1)


def test_orientation_of_16_bit_grey(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image = Image.fromarray(np.zeros((40, 56), np.uint16))
    assert read(tmp_path, image, exif=exif).shape == (56, 40, 3)


def test_profiles_are_converted(tmp_path):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.createProfile("LAB")
    same = read(tmp_path, Image.fromarray(PICTURE), icc_profile=srgb)
    np.testing.assert_allclose(same, PICTURE, atol=1)
    grey = Image.fromarray(PICTURE).convert("L")
    np.testing.assert_allclose(
        read(tmp_path, grey, icc_profile=srgb)[..., 0], np.asarray(grey), atol=1
    )  # a colour profile on grey is in use
    swapped = read(tmp_path, Image.fromarray(PICTURE), icc_profile=swap_red_and_blue(srgb))
    assert swapped.shape == PICTURE.shape
    assert np.abs(swapped.astype(int) - PICTURE).mean() > 10
    said = []
    for profile in (b"nonsense", ImageCms.ImageCmsProfile(lab).tobytes()):
        found = read(tmp_path, Image.fromarray(PICTURE), icc_profile=profile, say=said.append)
        np.testing.assert_array_equal(found, PICTURE)
    assert said == ["a colour profile that is damaged or does not fit its image is ignored"] * 2


def swap_red_and_blue(profile: bytes) -> bytes:
    """An RGB profile with its red and blue primaries exchanged."""
    return profile.replace(b"rXYZ", b"tmp!").replace(b"bXYZ", b"rXYZ").replace(b"tmp!", b"bXYZ")


def encoded(image: Image.Image, format_: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_)
    return buffer.getvalue()


def no_pixels() -> bytes:
    data = bytearray(encoded(Image.fromarray(PICTURE), "PNG"))
    data[16:20] = bytes(4)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def bomb() -> bytes:
    """A header that promises 10^10 pixels."""
    data = bytearray(encoded(Image.fromarray(PICTURE), "PNG"))
    data[16:24] = struct.pack(">II", 100_000, 100_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("empty.png", lambda: b"", "empty file"),
        ("text.jpg", lambda: b"not an image", "not an image, or damaged"),
        ("bomb.png", bomb, "decompression bomb"),
        ("nothing.png", no_pixels, ""),
        ("cut.png", lambda: encoded(Image.fromarray(PICTURE), "PNG")[:400], "truncated"),
        ("cut.jpg", lambda: encoded(Image.fromarray(PICTURE), "JPEG")[:700], "truncated"),
        ("cut.bmp", lambda: encoded(Image.fromarray(PICTURE), "BMP")[:400], "truncated"),
        ("cut.tiff", lambda: encoded(Image.fromarray(PICTURE), "TIFF")[:400], ""),
        ("cut.webp", lambda: encoded(Image.fromarray(PICTURE), "WEBP")[:100], ""),
        ("header.png", lambda: encoded(Image.fromarray(PICTURE), "PNG")[:20], "Truncated"),
        ("float.tiff", lambda: encoded(Image.fromarray(np.full((40, 40), 9, np.float32)), "TIFF"), "0 to 1"),
        ("other.tga", lambda: encoded(Image.fromarray(PICTURE), "TGA"), "expected PNG"),
    ],
)
def test_bad_files_are_named(tmp_path, name, make, reason):
    path = tmp_path / name
    path.write_bytes(make())
    with pytest.raises(DataError) as error:
        read_image(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and reason in message
    assert len(message) > len(f"{path}: ") and "\n" not in message


def test_what_is_not_a_file_is_named(tmp_path):
    with pytest.raises(DataError, match="missing.png: No such file"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(DataError, match="Is a directory"):
        read_image(tmp_path)


def test_an_opened_image_whose_file_is_cut_off_is_refused():
    opened = Image.open(io.BytesIO(encoded(Image.fromarray(PICTURE), "PNG")[:400]))
    with pytest.raises(DataError, match="truncated"):
        from_pillow(opened)


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"]


@given(
    st.integers(1, 70), st.integers(1, 70), st.sampled_from(MODES), st.integers(1, 8), st.integers(0, 2**32)
)
def test_size_and_type_are_kept_up_to_rotation(tmp_path_factory, height, width, mode, orientation, seed):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)
    if mode == "I;16":
        image = Image.fromarray(values[..., 0].astype(np.uint16) * 200)
    else:
        image = Image.fromarray(values).convert(mode)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    extension = "tiff" if mode == "CMYK" else "png"
    path = tmp_path_factory.getbasetemp() / f"property.{extension}"
    image.save(path, exif=exif)
    found = read_image(path, say=lambda text: None)
    size = (height, width) if orientation < 5 else (width, height)
    assert found.shape == (*size, 3) and found.dtype == np.uint8
