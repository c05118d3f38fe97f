"""What is taken as an image or a mask, what is refused, and what is said then."""

import io
import tempfile
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from iqa_jax.data.arrays import images_of, mask_of, pair_of, read_mask, traceable
from iqa_jax.data.images import read_image
from iqa_jax.errors import UserError
from tests.data.test_images import png

pytestmark = pytest.mark.quick
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
FLOAT = IMAGE / 255


@pytest.mark.parametrize(
    "given",
    [
        FLOAT,
        FLOAT.astype(">f4"),
        FLOAT.astype(">f8"),
        FLOAT.astype(np.longdouble),
        np.asfortranarray(FLOAT),
        np.broadcast_to(FLOAT[:1], FLOAT.shape),  # read-only, without strides
        jnp.asarray(FLOAT, jnp.bfloat16),
        jnp.asarray(FLOAT, jnp.float16),
        np.ma.array(FLOAT),  # of which nothing is masked
    ],
    ids=lambda x: f"{type(x).__name__} {x.dtype}",
)
def test_any_layout_and_any_float_is_taken(given):
    host = images_of(given, "image")
    np.testing.assert_allclose(host.astype(np.float32), np.float32(given), atol=1e-6)
    traced = traceable(given, "image")
    assert jnp.asarray(traced).shape == given.shape  # JAX knows its dtype


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (2 * FLOAT - 1, r"are they scaled to \[-1, 1\]\? Then give \(image \+ 1\) / 2"),
        (jnp.asarray((FLOAT - 0.45) / 0.22), r"are they normalised\? Then give image \* std \+ mean"),
        (FLOAT * 1.1 - 0.02, "clip them"),
        (FLOAT * 255, "divide by 255"),
        (jnp.asarray(FLOAT * 65535), "divide by 65535"),
        (FLOAT * 1e6, r"expected \[0, 1\]$"),
        (np.full_like(FLOAT, np.inf), "holds NaN or infinite values"),
        (IMAGE.astype(object), "image: object; expected"),
        (IMAGE.astype(np.complex64), "image: complex64; expected"),
        (np.ma.array(FLOAT, mask=IMAGE > 9), "image: a masked array"),
        (FLOAT[None][:0], "an empty batch"),
        (FLOAT[:0], "expected 32 pixels or more"),
        (FLOAT.tolist(), "image: a list; expected a NumPy or JAX array"),
        (jax.random.key(0), r"image: shape \(\)"),
    ],
)
def test_what_is_refused_says_how_it_is_mended(given, message):
    for take in (images_of, traceable):
        with pytest.raises(UserError, match=message):
            take(given, "image")


DEEP = IMAGE.astype(np.uint16) * 257 + np.uint16(100) * (IMAGE < 255)
ALPHA = np.random.default_rng(1).integers(0, 256, (40, 48, 1), np.uint8)


def with_channels(values, alpha, kind):
    values = values[..., :1] if kind in ("L", "LA") else values
    return np.concatenate([values, alpha], axis=-1) if "A" in kind else values


@pytest.mark.filterwarnings("ignore:transparent images")
@pytest.mark.parametrize("kind", ["L", "LA", "RGB", "RGBA"])
def test_arrays_are_taken_as_their_files_are(tmp_path, kind):
    values = with_channels(IMAGE, ALPHA, kind)
    Image.fromarray(values[..., 0] if kind == "L" else values, kind).save(tmp_path / "8.png")
    expected = images_of(tmp_path / "8.png", "image")
    for given in (values, jnp.asarray(values), np.asfortranarray(values)):
        np.testing.assert_array_equal(images_of(given, "image"), expected)
    np.testing.assert_array_equal(images_of(np.stack([values, values]), "images"), [expected, expected])
    np.testing.assert_allclose(images_of(values / 255, "image") * 255, expected, atol=1)
    deep = with_channels(DEEP, ALPHA.astype(np.uint16) * 257, kind)
    (tmp_path / "16.png").write_bytes(png(deep, {"L": 0, "LA": 4, "RGB": 2, "RGBA": 6}[kind]))
    expected = images_of(tmp_path / "16.png", "image")
    for given in (deep, jnp.asarray(deep), deep.astype(">u2")):
        np.testing.assert_array_equal(images_of(given, "image"), expected)


def test_grey_without_an_axis_of_channels():
    for values in (IMAGE[..., 0], DEEP[..., 0], FLOAT[..., 0]):
        np.testing.assert_array_equal(images_of(values, "image"), images_of(values[..., None], "image"))
        assert images_of(values, "image").shape == (40, 48, 3)


def test_transparency_of_arrays_is_mentioned_as_that_of_files():
    opaque, clear = np.full_like(ALPHA, 255), ALPHA
    for scale in (1, 1 / 255):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            images_of(np.concatenate([IMAGE, opaque], axis=-1) * scale if scale < 1 else IMAGE, "image")
        with pytest.warns(UserWarning, match=r"composited over mid-grey \(128\)"):
            values = np.concatenate([IMAGE, clear], axis=-1)
            images_of(values if scale == 1 else values * scale, "image")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (IMAGE.astype(np.uint16), r"uint16, and no value is above 255; of 8 bits, give image.astype"),
        (np.zeros((40, 48, 5)), r"shape \(40, 48, 5\); expected"),
        (np.zeros((1, 40, 48)), "channels come last"),
        (np.zeros((4, 40, 48)), "channels come last"),
        (np.zeros((8, 40, 48)), r"grey images of a batch are \(B, H, W, 1\)"),
        (np.zeros((31, 40)), "expected 32 pixels or more"),
        (np.full((40, 48, 4), 2.0), r"values from 2.0 to 2.0; expected \[0, 1\]"),
        (np.zeros((40, 48), np.int16), "int16; expected"),
        (np.zeros((0, 40, 48, 1), np.uint16), "an empty batch"),
    ],
)
def test_arrays_that_no_file_would_hold(given, message):
    with pytest.raises(UserError, match=message):
        images_of(given, "image")


def test_a_black_picture_of_16_bits_is_a_picture():
    assert not images_of(np.zeros((40, 48, 3), np.uint16), "image").any()


def test_a_loss_takes_rgb_alone():
    for given, message in (
        (DEEP, "uint16; .*of 16 bits, give image / 65535"),
        (
            FLOAT[..., 0],
            r"shape \(40, 48\); expected a NumPy or JAX array \(H, W, 3\) or \(B, H, W, 3\), uint8",
        ),
        (FLOAT[..., :1], r"shape \(40, 48, 1\)"),
    ):
        with pytest.raises(UserError, match=message):
            traceable(given, "image")


class Stream(io.RawIOBase):
    """Cannot go back, as what comes from a network."""

    def __init__(self, content):
        self._rest = io.BytesIO(content)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self._rest.readinto(buffer)


def test_bytes_and_open_files_are_what_their_files_are(tmp_path):
    path = saved(tmp_path, Image.fromarray(IMAGE), "image.png")
    content = path.read_bytes()
    buffer = io.BytesIO()
    Image.fromarray(IMAGE).save(buffer, "PNG")  # stands at its end
    with open(path, "rb") as file, tempfile.SpooledTemporaryFile() as spooled:
        spooled.write(content)
        for given in (content, bytearray(content), memoryview(content), file, file, buffer, spooled):
            np.testing.assert_array_equal(images_of(given, "image"), IMAGE)
            np.testing.assert_array_equal(read_image(given), IMAGE)
    np.testing.assert_array_equal(images_of(io.BufferedReader(Stream(content)), "image"), IMAGE)
    mask = io.BytesIO()
    Image.fromarray(HALF).save(mask, "PNG")
    for given in (mask, mask.getvalue()):
        np.testing.assert_array_equal(mask_of(given, np.zeros((32, 32, 3))), HALF / np.float32(255))


def test_bytes_and_open_files_are_named_in_errors(tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"no image")
    closed = open(path, "rb")
    closed.close()
    with open(path, "rb") as file, open(path, encoding="utf-8") as text, open(path, "ab") as written:
        for given, message in (
            (b"no image", "distorted: bytes: not an image, or damaged; expected PNG"),
            (b"", "distorted: bytes: empty file"),
            (io.BytesIO(b"no image"), "distorted: BytesIO: not an image"),
            (file, f"distorted: {path}: not an image"),
            (text, f'distorted: {path}: opened as text; open it in binary mode, open\\(path, "rb"\\)'),
            (written, f"distorted: {path}: cannot be read"),
            (closed, f"distorted: {path}: cannot be read .*closed"),
        ):
            with pytest.raises(UserError, match=message):
                images_of(given, "distorted")
    reader = type("Reader", (), {"seekable": lambda self: False, "read": lambda self: IMAGE})()
    with pytest.raises(UserError, match=r"distorted: Reader: its read\(\) gives a ndarray; expected bytes"):
        images_of(reader, "distorted")
    with pytest.raises(UserError, match="mask: bytes: not an image"):
        mask_of(b"no image", IMAGE)


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((2, 40, 48, 3), "both with a batch axis"),
        ((48, 40, 3), "turned by 90 degrees"),
        ((40, 50, 3), "scale one to the other's size"),
    ],
)
def test_what_to_do_about_two_shapes(shape, hint):
    with pytest.raises(UserError, match=rf"differ in shape; .*{hint}"):
        pair_of(IMAGE, np.zeros(shape, np.uint8))


def test_checking_compiles_nothing_for_each_size(caplog):
    with jax.log_compiles():
        for side in range(41, 44):
            batch = jax.device_put(np.zeros((2, side, 40, 3), np.float32))
            images_of(batch, "image")
            traceable(batch, "image")
        assert not caplog.text
        batch.min().block_until_ready()
    assert "ompiling" in caplog.text


def saved(tmp_path, image, name="mask.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


GREY = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (32, 1))  # (32, 32)
HALF = np.repeat([[0, 255]], 16, axis=1).repeat(32, axis=0).astype(np.uint8)
WHITE = Image.new("L", (32, 32), 255)


def with_alpha(mode, colour, alpha):
    image = Image.fromarray(colour).convert(mode.rstrip("A"))
    image.putalpha(Image.fromarray(alpha))
    return image


def palette():
    image = Image.fromarray((HALF > 0).astype(np.uint8), "P")
    image.putpalette([255, 255, 255, 255, 255, 255])
    return image


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (with_alpha("RGBA", np.full_like(GREY, 255), HALF), {}, HALF),
        (with_alpha("LA", GREY, HALF), {}, np.where(HALF > 0, GREY, 0)),
        (with_alpha("LA", np.full_like(GREY, 255), GREY), {}, GREY),
        (palette(), {"transparency": 0}, HALF),
        (Image.fromarray(HALF).convert("1"), {}, HALF),
        (Image.fromarray(GREY.astype(np.uint16) * 257), {}, GREY),
        (Image.fromarray(GREY), {}, GREY),
        (Image.fromarray(np.stack([HALF, HALF * 0, HALF * 0], -1)), {}, HALF // 3),
    ],
    ids=["RGBA", "LA", "alpha in steps", "palette", "1 bit", "16 bit", "grey", "red"],
)
def test_a_mask_file_shows_what_is_bright_and_opaque(tmp_path, image, options, expected):
    for given in (saved(tmp_path, image, **options), Image.open(saved(tmp_path, image, "b.png", **options))):
        mask = read_mask(given)
        assert mask.dtype == np.uint8 and mask.shape == (32, 32)
        np.testing.assert_array_equal(mask, expected)


def test_a_mask_that_a_camera_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned to the right
    path = saved(tmp_path, Image.fromarray(HALF[:, 8:]), exif=exif.tobytes())
    np.testing.assert_array_equal(read_mask(path), np.rot90(HALF[:, 8:], -1))


def test_a_mask_with_transparency_is_the_grey_one(tmp_path):
    image = np.zeros((32, 32, 3), np.uint8)
    transparent = saved(tmp_path, with_alpha("RGBA", np.full_like(GREY, 255), HALF))
    masked = np.ma.array(np.ones((32, 32)), mask=HALF == 0)
    for given in (transparent, str(transparent), Image.fromarray(HALF), HALF, HALF > 0, masked):
        np.testing.assert_array_equal(mask_of(given, image), HALF / np.float32(255))
    np.testing.assert_array_equal(mask_of(jnp.asarray(HALF > 0), image), HALF / np.float32(255))
    np.testing.assert_array_equal(mask_of(jnp.asarray(HALF > 0, jnp.bfloat16), image), HALF > 0)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((3, 40, 48)), r"mask: shape \(3, 40, 48\); expected \(40, 48\) or \(2, 40, 48\)"),
        (np.ones((40, 48, 1)), r"mask: shape \(40, 48, 1\)"),
        (np.ones((40, 48), int), "mask: int64; .*of labels, give mask == label"),
        (np.full((40, 48), np.nan), r"mask: values from nan to nan; expected \[0, 1\]"),
        (np.ma.array(np.ones((40, 48)), mask=True), "mask: 0 everywhere"),
        (np.ones((40, 48)).tolist(), "mask: a list; expected"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask, message):
    with pytest.raises(UserError, match=message):
        mask_of(mask, np.stack([IMAGE, IMAGE]))


def test_a_traced_mask_is_refused():
    with pytest.raises(UserError, match="mask: traced by jax.jit"):
        jax.jit(lambda mask: mask_of(mask, IMAGE).sum())(np.ones((40, 48)))
