"""Colours that a file tells in another way than by a profile: converted, or named."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from iqa_jax.data.colours import SRGB, Space, measured_space, to_srgb
from iqa_jax.data.images import decode_image, from_pillow
from tests.miniature import picture

pytestmark = pytest.mark.quick

PICTURE = picture(0, (40, 56))
P3 = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
P3_TO_SRGB = [[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]]  # as published


def quiet(text):
    raise AssertionError(f"said {text!r}")


def light(values):
    """Linear light of sRGB values, both from 0 to 1."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def from_light(values):
    values = values.clip(0, 1)
    return np.where(values <= 0.0031308, 12.92 * values, 1.055 * values ** (1 / 2.4) - 0.055)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def gama(value):
    return chunk(b"gAMA", struct.pack(">I", value))


def chrm(*values):
    return chunk(b"cHRM", struct.pack(">8I", *values))


def png(values, *chunks, bits=8):
    """A PNG of (H, W) or (H, W, 3) values."""
    rows = values.reshape(len(values), -1)
    if bits < 8:
        packed = ["".join(f"{value:0{bits}b}" for value in row) for row in rows]
        rows = [bytes(int(row[k : k + 8], 2) for k in range(0, len(row), 8)) for row in packed]
    else:
        rows = [row.astype(f">u{bits // 8}").tobytes() for row in rows]
    kind = 2 if values.ndim == 3 else 0
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, kind, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def encoded(format_, image=PICTURE, **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, format_, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("gamma", [1.0, 1.8, 3.0])
def test_a_png_of_another_gamma_looks_as_it_is_displayed(bits, gamma):
    white = 2**bits - 1
    stored = np.rint(white * light(PICTURE / 255) ** (1 / gamma)).astype(int)
    found = decode_image(png(stored, gama(round(100000 / gamma)), bits=bits), say=quiet)
    exact = np.rint(255 * from_light((stored / white) ** gamma))
    np.testing.assert_allclose(found, exact, atol=1)
    if bits == 16:
        np.testing.assert_allclose(found, PICTURE, atol=1)
    grey = decode_image(png(stored[..., 0], gama(round(100000 / gamma)), bits=bits), say=quiet)
    np.testing.assert_array_equal(grey[..., 0], found[..., 0])


@pytest.mark.parametrize(
    "chunks",
    [
        [gama(45455)],
        [gama(45455), chrm(31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)],
        [chrm(31269, 32900, 63999, 33001, 30000, 60000, 15000, 5999)],
        [chunk(b"sRGB", b"\0"), gama(100000), chrm(*P3)],
        [chunk(b"cICP", bytes([1, 13, 0, 1])), gama(100000)],
        [chunk(b"cICP", bytes([1, 1, 0, 1]))],
    ],
)
def test_what_means_srgb_is_left_as_it_is(chunks):
    np.testing.assert_array_equal(decode_image(png(PICTURE, *chunks), say=quiet), PICTURE)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    "chunks",
    [[chunk(b"cICP", bytes([12, 13, 0, 1]))], [chrm(*P3)], [chunk(b"cICP", bytes([12, 13, 0, 1])), gama(1)]],
)
def test_display_p3_is_converted(bits, chunks):
    stored = PICTURE.astype(int) * (257 if bits == 16 else 1)
    found = decode_image(png(stored, *chunks, bits=bits), say=quiet)
    np.testing.assert_allclose(
        found, 255 * from_light(light(PICTURE / 255) @ np.transpose(P3_TO_SRGB)), atol=1.5
    )


def test_white_stays_white_whatever_the_primaries():
    white = np.full((4, 4, 3), 255, np.uint8)
    for primaries in ((0.3457, 0.3585, 0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001 + 0.002), SRGB):
        np.testing.assert_array_equal(to_srgb(white, 255, Space(primaries, 1.8)), white)
    assert np.ptp(decode_image(png(white // 2, chunk(b"cICP", bytes([9, 14, 0, 1]))), say=quiet)) == 0


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        ((9, 16, 0, 1), "HDR (PQ)"),
        ((9, 18, 0, 1), "HDR (HLG)"),
        ((10, 13, 0, 1), "primaries 10"),
        ((1, 9, 0, 1), "transfer 9"),
        ((1, 13, 0, 0), "limited range"),
    ],
)
def test_what_is_not_converted_is_named(points, reason):
    said = []
    found = decode_image(png(PICTURE, chunk(b"cICP", bytes(points))), say=said.append)
    np.testing.assert_array_equal(found, PICTURE)
    assert len(said) == 1 and reason in said[0]


def test_impossible_numbers_are_named():
    for chunks in ([chrm(*[0] * 8)], [chrm(*[31270, 32900] * 4)], [gama(1)]):
        said = []
        np.testing.assert_array_equal(decode_image(png(PICTURE, *chunks), say=said.append), PICTURE)
        assert said == ["a gamma or primaries that cannot be those of colours are ignored"]
    assert measured_space(None, (0.3, 0.3)) is None


def test_a_profile_goes_before_numbers_and_code_points_before_a_profile():
    profile = swapped_profile()
    iccp = chunk(b"iCCP", b"x\0\0" + zlib.compress(profile))
    by_profile = decode_image(png(PICTURE, iccp), say=quiet)
    np.testing.assert_array_equal(decode_image(png(PICTURE, iccp, gama(100000)), say=quiet), by_profile)
    by_points = decode_image(png(PICTURE, chunk(b"cICP", bytes([1, 13, 0, 1])), iccp), say=quiet)
    np.testing.assert_array_equal(by_points, PICTURE)
    unusable = decode_image(png(PICTURE, chunk(b"cICP", bytes([9, 16, 0, 1])), iccp), say=quiet)
    np.testing.assert_array_equal(unusable, by_profile)


def swapped_profile():
    """Of colours whose red and blue are exchanged."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"tmp!").replace(b"bXYZ", b"rXYZ").replace(b"tmp!", b"bXYZ")


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_a_transparent_grey_of_any_depth(bits):
    white = 2**bits - 1
    values = np.rint(np.linspace(0, 1, 32 * 32).reshape(32, 32) * white).astype(int)
    clear = int(values[16, 0])
    said = []
    found = decode_image(png(values, chunk(b"tRNS", struct.pack(">H", clear)), bits=bits), say=said.append)
    expected = np.where(values == clear, 128, np.rint(255 * values / white))
    np.testing.assert_array_equal(found[..., 0], expected)
    assert said == ["transparent images are composited over mid-grey (128)"]


def test_a_transparent_colour_of_16_bits():
    values = PICTURE.astype(int) * 256 + np.arange(56)[:, None]  # the lower bytes tell them apart
    clear = values[20, 30]
    found = decode_image(
        png(values, chunk(b"tRNS", struct.pack(">3H", *clear)), bits=16), say=lambda text: None
    )
    expected = np.where((values == clear).all(axis=-1, keepdims=True), 128, np.rint(values / 257))
    np.testing.assert_array_equal(found, expected)


def test_a_palette_has_a_gamma_too():
    palette = Image.fromarray(PICTURE).quantize(32)
    content = encoded("PNG", palette)
    found = decode_image(content[:33] + gama(100000) + content[33:], say=quiet)
    expected = np.rint(255 * from_light(np.asarray(palette.convert("RGB")) / 255))
    np.testing.assert_array_equal(found, expected)


def test_an_opened_image_has_the_gamma_of_its_file():
    content = png(PICTURE, gama(100000))
    np.testing.assert_array_equal(from_pillow(Image.open(io.BytesIO(content))), decode_image(content))


@pytest.mark.parametrize("format_", ["AVIF", "HEIF"])
def test_code_points_of_avif_and_heic(format_):
    if format_ == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    content = encoded(format_, quality=95)
    place = content.find(b"nclx") + 4
    plain = decode_image(content, say=quiet)

    def of_points(*points):
        return content[:place] + struct.pack(">HH", *points) + content[place + 4 :]

    wide = 255 * from_light(light(plain / 255) @ np.transpose(P3_TO_SRGB))
    np.testing.assert_allclose(decode_image(of_points(12, 13), say=quiet), wide, atol=1.5)
    for points in ((1, 1), (2, 2)):
        np.testing.assert_array_equal(decode_image(of_points(*points), say=quiet), plain)
    said = []
    np.testing.assert_array_equal(decode_image(of_points(9, 16), say=said.append), plain)
    assert said == ["HDR (PQ): not converted, its values are taken as sRGB's"]


@pytest.mark.parametrize("format_", ["JPEG", "WEBP", "PNG"])
def test_adobe_rgb_as_cameras_mark_it(format_):
    def of_camera(color_space, index):
        exif = Image.Exif()
        exif[0x0131] = "camera"
        fields = exif.get_ifd(0x8769)
        fields[0xA001], fields[0xA005] = color_space, {1: index}
        options = {} if format_ == "PNG" else {"quality": 95}
        return decode_image(encoded(format_, exif=exif, **options), say=quiet)

    plain, marked = of_camera(1, "R98"), of_camera(65535, "R03")
    linear = (plain / 255) ** (563 / 256) @ np.transpose(
        [[1.3984, -0.3984, 0], [0, 1, 0], [0, -0.0429, 1.0429]]  # as published
    )
    np.testing.assert_allclose(marked, 255 * from_light(linear), atol=1.5)
    np.testing.assert_array_equal(of_camera(65535, "R98"), plain)
    np.testing.assert_array_equal(of_camera(1, "R03"), plain)


def test_profiles_that_pillow_does_not_give():
    profile = swapped_profile()
    picture_ = Image.fromarray(PICTURE).quantize(32)
    by_profile = decode_image(encoded("PNG", picture_, icc_profile=profile), say=quiet)
    gif = encoded("GIF", picture_)
    place = 13 + 3 * 2 ** ((gif[10] & 7) + 1)
    parts = [profile[k : k + 255] for k in range(0, len(profile), 255)]
    extension = b"!\xff\x0bICCRGBG1012" + b"".join(bytes([len(part)]) + part for part in parts) + b"\0"
    np.testing.assert_array_equal(decode_image(gif[:place] + extension + gif[place:], say=quiet), by_profile)
    plain = decode_image(gif, say=quiet)
    pixels = encoded("BMP", plain)[54:]
    size = 124 + len(pixels)
    header = struct.pack("<IiiHHIIiiII", 124, 56, 40, 1, 24, 0, len(pixels), 0, 0, 0, 0) + bytes(16)
    header += b"DEBM" + bytes(48) + struct.pack("<IIII", 4, size, len(profile), 0)
    start = b"BM" + struct.pack("<IHHI", 14 + size + len(profile), 0, 0, 138)
    np.testing.assert_array_equal(decode_image(start + header + pixels + profile, say=quiet), by_profile)


def profile_of(curve, kind=b"RGB "):
    """sRGB's primaries with another curve."""
    tags = {b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)}
    columns = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
    if kind == b"GRAY":
        tags[b"kTRC"] = curve
    for name, column in zip("rgb", columns if kind == b"RGB " else (), strict=False):
        numbers = (round(65536 * value) for value in column)
        tags[f"{name}XYZ".encode()] = b"XYZ \0\0\0\0" + struct.pack(">3i", *numbers)
        tags[f"{name}TRC".encode()] = curve
    place, table, data = 132 + 12 * len(tags), b"", b""
    for name, tag in tags.items():
        tag += bytes(-len(tag) % 4)
        table += struct.pack(">4sII", name, place + len(data), len(tag))
        data += tag
    header = bytearray(128)
    header[0:4] = struct.pack(">I", place + len(data))
    header[8:12], header[12:16], header[16:20], header[20:24] = b"\x04\x30\0\0", b"mntr", kind, b"XYZ "
    header[36:40], header[68:80] = b"acsp", struct.pack(">3i", 63190, 65536, 54061)
    return bytes(header) + struct.pack(">I", len(tags)) + table + data


LINEAR = b"curv" + bytes(8)
GAMMA_1_8 = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(1.8 * 256))
TABLE = b"curv\0\0\0\0" + struct.pack(">I1024H", 1024, *(round(65535 * (k / 1023) ** 3) for k in range(1024)))
POWER = b"para\0\0\0\0" + struct.pack(">HHi", 0, 0, round(2.2 * 65536))
SRGB_CURVE = b"para\0\0\0\0" + struct.pack(
    ">HH5i", 3, 0, *(round(65536 * value) for value in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
)


@pytest.mark.parametrize("curve", [LINEAR, GAMMA_1_8, TABLE, POWER, SRGB_CURVE])
@pytest.mark.parametrize("kind", [b"RGB ", b"GRAY"])
def test_sixteen_bits_are_converted_by_a_profile_before_they_are_eight(curve, kind):
    exact = {LINEAR: lambda x: x, GAMMA_1_8: lambda x: x**1.8, TABLE: lambda x: x**3, POWER: lambda x: x**2.2}
    stored = np.rint(np.linspace(0, 65535, 40 * 60)).astype(int).reshape(40, 60)
    if kind == b"RGB ":
        stored = np.repeat(stored[..., None], 3, axis=-1)
    iccp = chunk(b"iCCP", b"x\0\0" + zlib.compress(profile_of(curve, kind)))
    found = decode_image(png(stored, iccp, bits=16), say=quiet)
    expected = 255 * from_light(exact.get(curve, light)(stored / 65535)).reshape(40, 60, -1)
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=0.75)
    if kind == b"RGB ":  # LittleCMS is off by ten levels in dark greys of linear light
        of_eight_bits = decode_image(png(stored // 257, iccp), say=quiet)
        again = decode_image(png(stored // 257 * 257, iccp, bits=16), say=quiet)
        np.testing.assert_allclose(again, of_eight_bits, atol=1.5)
