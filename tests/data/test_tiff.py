"""TIFF of every layout, against the array that was written: right or refused, never wrong."""

import io
import itertools
import struct
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from iqa_jax.data.images import decode_image, from_pillow
from iqa_jax.errors import DataError
from tests.miniature import picture

pytestmark = pytest.mark.quick

# Values from 0 to 1 of up to six channels; the sides fill no whole tile or strip.
SHARES = np.dstack([picture(0, (38, 53)), picture(1, (38, 53))]) / 255
PICTURE = picture(0, (40, 56))
CHANNELS = {"minisblack": 1, "miniswhite": 1, "rgb": 3, "palette": 1, "separated": 4}
EXTRA = [(), ("unassalpha",), ("assocalpha",), ("unspecified",)]
LAYOUTS = [  # byte order, tile, compression, predictor
    ("<", None, None, False),
    (">", (16, 32), "zlib", True),
    (">", None, None, False),
    ("<", (16, 32), "lzw", True),
    ("<", (32, 16), None, False),
    (">", None, "packbits", False),
    ("<", None, "zstd", False),
]


def quiet(text):
    raise AssertionError(f"said {text!r}")


def stored(photometric, bits, extra):
    """The values of a file, and those values from 0 to 1."""
    shares = SHARES[..., : CHANNELS[photometric] + len(extra)].copy()
    if "assocalpha" in extra:
        shares[..., :-1] *= shares[..., -1:]
    if bits.startswith("f"):
        values = shares.astype(bits)
        return values, values.astype(float)
    white = 2 ** int(bits) - 1
    values = np.rint(shares * white).astype(f"u{max(1, int(bits) // 8)}")
    return values, values / white


def shown(photometric, shares, extra, colormap):
    """The colours from 0 to 255 that a file of these values shows over mid-grey."""
    count = CHANNELS[photometric]
    colours, rest = shares[..., :count], shares[..., count:]
    if photometric == "miniswhite":
        colours = 1 - colours
    elif photometric == "palette":
        colours = colormap.T[np.rint(colours[..., 0] * (colormap.shape[1] - 1)).astype(int)] / 65535
    elif photometric == "separated":
        colours = (1 - colours[..., :3]) * (1 - colours[..., 3:])
    if extra and extra[0] != "unspecified":
        colours = (colours if extra == ("assocalpha",) else colours * rest) * 255 + 128 * (1 - rest)
    else:
        colours = colours * 255
    return np.broadcast_to(colours, (*colours.shape[:2], 3))


def written(photometric, bits, planar="contig", extra=(), layout=LAYOUTS[0], **options):
    order, tile, compression, predictor = layout
    values, shares = stored(photometric, bits, extra)
    colormap = np.random.default_rng(0).integers(0, 256, (3, 2**16 if bits == "16" else 256), np.uint16) * 257
    if photometric == "palette":
        options["colormap"] = colormap
    if planar == "separate":
        values = np.moveaxis(values, -1, 0)
    elif values.shape[-1] == 1:
        values = values[..., 0]
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        values,
        photometric=photometric,
        planarconfig=planar if values.ndim == 3 else None,
        byteorder=order,
        extrasamples=extra or None,
        tile=tile,
        rowsperstrip=None if tile else 16,
        compression=compression,
        predictor=predictor,
        metadata=None,
        **options,
    )
    return buffer.getvalue(), shown(photometric, shares, extra, colormap)


def cases():
    layouts = itertools.cycle(LAYOUTS)
    for photometric, bits, planar, extra in itertools.product(
        CHANNELS, ("8", "16", "32", "f2", "f4"), ("contig", "separate"), EXTRA
    ):
        if photometric == "palette" and (bits not in ("8", "16") or extra):
            continue
        if planar == "separate" and CHANNELS[photometric] + len(extra) == 1:
            continue
        yield photometric, bits, planar, extra, next(layouts)


@pytest.mark.parametrize("photometric", CHANNELS)
def test_every_layout_is_right_or_refused(photometric):
    wrong, refused = [], 0
    for case in cases():
        if case[0] != photometric:
            continue
        content, expected = written(*case)
        try:
            found = decode_image(content, say=lambda text: None)
        except DataError as error:
            assert "no tag says which" in str(error) and case[3] == ("assocalpha",), (case, error)
            refused += 1
            continue
        off = np.abs(found - expected).max()
        rounded_once = photometric != "separated" and case[3] in ((), ("unspecified",))
        if off > (0.52 if rounded_once else 1.25):
            wrong.append((case, off))
    assert not wrong
    assert refused == (10 if photometric in ("miniswhite", "separated") else 0)


def test_what_was_wrong_or_refused():
    white = written("rgb", "16", "separate")
    np.testing.assert_allclose(decode_image(white[0], say=quiet), white[1], atol=0.51)
    with_alpha = written("minisblack", "16", "contig", ("unassalpha",))
    np.testing.assert_allclose(decode_image(with_alpha[0], say=lambda text: None), with_alpha[1], atol=1.1)
    zero_is_white = written("miniswhite", "16", layout=LAYOUTS[2])
    np.testing.assert_allclose(decode_image(zero_is_white[0], say=quiet), zero_is_white[1], atol=0.51)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib"])
@pytest.mark.parametrize("photometric", ["rgb", "separated"])
def test_sixteen_bits_are_rounded_without_the_extra(monkeypatch, photometric, compression):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    for order in "<>":
        content, expected = written(photometric, "16", layout=(order, (16, 32), compression, False))
        assert np.abs(decode_image(content, say=quiet) - expected).max() < (
            0.51 if photometric == "rgb" else 1.01
        )


@pytest.mark.parametrize(
    ("photometric", "bits", "planar", "extra"),
    [
        ("rgb", "16", "separate", ()),
        ("minisblack", "16", "contig", ("unassalpha",)),
        ("rgb", "f4", "contig", ()),
        ("rgb", "16", "contig", ("assocalpha",)),
    ],
)
def test_without_the_extra_it_is_named(monkeypatch, photometric, bits, planar, extra):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(DataError, match=r"pip install 'iqa-conformer\[tiff\]'"):
        decode_image(written(photometric, bits, planar, extra)[0], say=quiet)


def test_orientation_profile_and_frames_of_what_pillow_does_not_read():
    swapped = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for old, new in ((b"rXYZ", b"tmp!"), (b"bXYZ", b"rXYZ"), (b"tmp!", b"bXYZ")):
        swapped = swapped.replace(old, new)
    orientation, profile = (274, 3, 1, 6, True), (34675, 7, len(swapped), swapped, True)
    plain = decode_image(written("rgb", "16", "separate")[0], say=quiet)
    turned = decode_image(written("rgb", "16", "separate", extratags=[orientation])[0], say=quiet)
    np.testing.assert_array_equal(turned, np.rot90(plain, -1))
    converted = decode_image(written("rgb", "16", "separate", extratags=[profile])[0], say=quiet)
    eight_bits = io.BytesIO()
    Image.fromarray(plain).save(eight_bits, "PNG", icc_profile=swapped)
    np.testing.assert_allclose(converted, decode_image(eight_bits.getvalue(), say=quiet), atol=1)
    buffer, said = io.BytesIO(), []
    pages = np.stack([np.moveaxis(SHARES[..., :3], -1, 0)] * 2).astype(np.float32)
    tifffile.imwrite(buffer, pages, photometric="rgb", planarconfig="separate", metadata=None)
    decode_image(buffer.getvalue(), say=said.append)
    assert sorted(said) == [
        "floating-point values are taken as sRGB from 0 to 1",
        "of several frames, the first is taken",
    ]


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_a_file_of_which_strips_are_missing_is_refused(planar):
    content = written("rgb", "8", planar)[0]
    strips = 3 * (3 if planar == "separate" else 1)
    for tag, kind in ((273, 4), (279, 3)):
        entry = struct.pack("<HHI", tag, kind, strips)
        assert content.count(entry) == 1
        content = content.replace(entry, struct.pack("<HHI", tag, kind, strips - 1))
    with pytest.raises(DataError, match="parts are missing"):
        decode_image(content, say=quiet)


def test_big_tiff_of_either_byte_order():
    for order, planar in itertools.product("<>", ("contig", "separate")):
        content, expected = written("rgb", "16", planar, layout=(order, None, None, False), bigtiff=True)
        np.testing.assert_allclose(decode_image(content, say=quiet), expected, atol=0.51)


@pytest.mark.filterwarnings("error")
def test_chroma_at_half_resolution_is_right_or_refused():
    planes = np.asarray(Image.fromarray(PICTURE).convert("YCbCr"))
    halved = b"".join(
        planes[y : y + 2, x : x + 2, 0].tobytes() + planes[y, x, 1:].tobytes()
        for y in range(0, 40, 2)
        for x in range(0, 56, 2)
    )
    fields = [(256, 4, 1, 56), (257, 4, 1, 40), (258, 3, 3, 134), (259, 3, 1, 1), (262, 3, 1, 6)]
    fields += [
        (273, 4, 1, 142),
        (277, 3, 1, 3),
        (278, 4, 1, 40),
        (279, 4, 1, len(halved)),
        (530, 3, 2, 2 | 2 << 16),
    ]
    entries = b"".join(struct.pack("<HHII", *field) for field in fields)
    start = b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + bytes(4)
    with pytest.raises(DataError, match="interpretation 6"):
        decode_image(start + struct.pack("<HHHxx", 8, 8, 8) + halved, say=quiet)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_what_is_cut_off_is_refused(compression, capfd):
    content = written("rgb", "16", "separate", layout=("<", (16, 32), compression, False))[0]
    for share in (0.05, 0.5, 0.98):
        with pytest.raises(DataError, match="TIFF"):
            decode_image(content[: int(share * len(content))], say=quiet)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("values", "options", "reason"),
    [
        (np.full((20, 20), 300, np.int16), {}, "signed or complex"),
        (np.full((20, 20, 3), -3, np.int8), {"photometric": "rgb"}, "signed or complex"),
        (np.full((20, 20), 1j, np.complex64), {}, "signed or complex"),
        (np.full((20, 20, 3), 255, np.float32), {"photometric": "rgb"}, "from 255 to 255 .* expected 0 to 1"),
        (np.full((20, 20), np.nan, np.float32), {}, "expected 0 to 1"),
        (
            np.zeros((20, 20, 3), np.uint8),
            {"photometric": "minisblack", "planarconfig": "contig"},
            "3 channels",
        ),
        (np.zeros((20, 20, 40), np.uint16), {"photometric": "minisblack", "planarconfig": "contig"}, "40 ch"),
        (np.zeros((20, 20, 3), np.uint16), {"photometric": "cielab"}, "interpretation 8"),
    ],
)
def test_what_is_no_picture_is_refused(values, options, reason):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, metadata=None, **{"photometric": "minisblack", **options})
    with pytest.raises(DataError, match=reason):
        decode_image(buffer.getvalue(), say=quiet)


def test_a_bomb_is_refused(monkeypatch):
    content = written("rgb", "16", "separate")[0]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match="decompression bomb"):
        decode_image(content, say=quiet)


def test_a_picture_that_pillow_opened_wrongly_is_refused():
    with pytest.raises(DataError, match="give its path"):
        from_pillow(Image.open(io.BytesIO(written("rgb", "16", "separate")[0])))
    right = written("rgb", "8", "separate")
    np.testing.assert_array_equal(from_pillow(Image.open(io.BytesIO(right[0]))), np.rint(right[1]))


def test_primaries_and_transfer_curves_are_converted():
    linear = tuple(np.round(np.linspace(0, 65535, 65536)).astype(int).tolist()) * 3
    adobe = (64, 100, 33, 100, 21, 100, 71, 100, 15, 100, 6, 100)
    for planar in ("contig", "separate"):
        lit = written("rgb", "16", planar, extratags=[(301, 3, 3 * 65536, linear, True)])
        light = lit[1] / 255
        srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
        np.testing.assert_allclose(decode_image(lit[0], say=quiet), 255 * srgb, atol=0.52)
        plain, wide = (
            decode_image(written("rgb", "16", planar, extratags=tags)[0], say=quiet).astype(int)
            for tags in ([], [(319, 5, 6, adobe, True)])
        )
        saturation, wider = (np.ptp(picture, axis=-1).mean() for picture in (plain, wide))
        assert wider > 1.05 * saturation
