"""What the values of a picture mean as colours, and the same colours in sRGB."""

import dataclasses
import struct
from collections.abc import Sequence
from functools import cached_property

import numpy as np

# x and y of white, red, green and blue, by the numbers of ITU-T H.273, which PNG's cICP and AVIF's nclx use.
_D65, _C = (0.3127, 0.3290), (0.310, 0.316)
SRGB = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
ADOBE_RGB = (*_D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
_PRIMARIES = {
    1: SRGB,
    2: SRGB,  # not specified
    4: (*_C, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    8: (*_C, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
# The curves of video are shown as sRGB's is: by a display of about 2.2.
_GAMMA = {1: None, 2: None, 4: 2.2, 5: 2.8, 6: None, 7: None, 8: 1.0, 13: None, 14: None, 15: None}
_HDR = {16: "PQ", 18: "HLG"}

_D50 = np.array([0.9642, 1, 0.8249])  # XYZ, the white of profiles
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_SAME_PRIMARIES = 0.005  # primaries this close differ by rounding alone
_SAME_GAMMA = 0.05  # relative; libpng's threshold
_BLOCK = 1 << 21  # values that are converted at a time, for the memory


@dataclasses.dataclass(frozen=True)
class Space:
    """How RGB values become light, and the colours of its red, green and blue.

    Attributes:
      primaries: x and y of white, red, green and blue (CIE 1931).
      gamma: light is the value to this power; None for the curve of sRGB.
      curves: instead of `gamma`, light from 0 to 1 at equal steps of the value; one curve, or one a channel.
    """

    primaries: tuple[float, ...] = SRGB
    gamma: float | None = None
    curves: tuple[tuple[float, ...], ...] = ()

    @property
    def is_srgb(self) -> bool:
        """Whether values are left as they are: a gamma of 2.2 is how software without curves writes sRGB."""
        same = self.gamma is None or abs(self.gamma / 2.2 - 1) <= _SAME_GAMMA
        return same and self.has_srgb_primaries and not self.curves

    @property
    def has_srgb_primaries(self) -> bool:
        return bool(np.abs(np.subtract(self.primaries, SRGB)).max() <= _SAME_PRIMARIES)

    @cached_property
    def to_linear_srgb(self) -> np.ndarray:
        """(3, 3): from this space's light to that of sRGB, white to white."""
        return (np.linalg.inv(_to_xyz(SRGB)) @ _to_xyz(self.primaries)).astype(np.float32)

    def light(self, values: np.ndarray, channel: int = 0) -> np.ndarray:
        """Linear light of values, both from 0 to 1."""
        if self.curves:
            curve = self.curves[min(channel, len(self.curves) - 1)]
            return np.interp(values, np.linspace(0, 1, len(curve)), curve).astype(values.dtype)
        if self.gamma is not None:
            return values**self.gamma
        return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def named_space(primaries: int, transfer: int) -> "Space | str":
    """The space of two code points of ITU-T H.273, or, where there is none, what the values are."""
    if transfer in _HDR:
        return f"HDR ({_HDR[transfer]})"
    if transfer not in _GAMMA or primaries not in _PRIMARIES:
        return f"colours of a rare kind (primaries {primaries}, transfer {transfer} of ITU-T H.273)"
    return Space(_PRIMARIES[primaries], _GAMMA[transfer])


def measured_space(
    gamma: float | None, primaries: Sequence[float] | None, curves: Sequence[Sequence[float]] = ()
) -> Space | None:
    """The space of a file that gives numbers; None if they cannot be those of colours."""
    primaries = tuple(map(float, primaries or SRGB))
    if len(primaries) != 8 or not (gamma is None or 0.1 <= gamma <= 10):
        return None
    corners = np.array(primaries).reshape(4, 2)
    if not (np.isfinite(corners).all() and (corners[:, 1] > 1e-3).all() and np.abs(corners).max() <= 2):
        return None
    if abs(np.linalg.det(np.c_[corners[1:], np.ones(3)])) < 1e-3:  # three on a line
        return None
    return Space(primaries, gamma, tuple(tuple(curve) for curve in curves))


def space_of_profile(profile: bytes, mode: str) -> Space | None:
    """The space of a colour profile (ICC.1) that has primaries and curves, not tables; None for any other.

    LittleCMS converts profiles, but Pillow lets it have 8 bits alone, which are too few for linear light.

    Args:
      mode: of the image, L or RGB; an RGB profile also fits a grey image.
    """
    kind = profile[16:20]
    try:
        tags = _tags_of_profile(profile)
        if profile[20:24] != b"XYZ " or any(name[:3] in (b"A2B", b"D2B") for name in tags):
            return None
        if (kind, mode) == (b"GRAY", "L"):
            return measured_space(None, None, [_curve(tags[b"kTRC"])])
        if kind != b"RGB ":
            return None
        curves = [_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")]
        corners = [_fixed(tags[name][8:20]) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
    except (KeyError, struct.error, ValueError):  # of a damaged one
        return None
    if mode == "L" and not curves[0] == curves[1] == curves[2]:
        return None
    primaries = [part / xyz.sum() for xyz in (_D50, *corners) if xyz.sum() for part in xyz[:2]]
    return measured_space(None, primaries, curves)


def _tags_of_profile(profile: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack_from(">I", profile, 128)
    places = [struct.unpack_from(">4sII", profile, 132 + 12 * k) for k in range(min(count, 100))]
    return {name: profile[start : start + size] for name, start, size in places}


def _curve(tag: bytes) -> list[float]:
    """Light at equal steps of the value, both from 0 to 1."""
    values = np.linspace(0, 1, 4096)
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        steps = np.frombuffer(tag, ">u2", count, 12)
        if count > 1:
            return (steps / 65535).tolist()
        return (values ** (steps[0] / 256) if count else values).tolist()
    if tag[:4] != b"para":
        raise ValueError("neither kind of curve")
    (kind,) = struct.unpack_from(">H", tag, 8)
    g, a, b, c, d, e, f = np.pad(_fixed(tag[12 : 12 + 4 * (1, 3, 4, 5, 7)[min(kind, 4)]]), (0, 7))[:7]
    if kind == 0:
        return (values**g).tolist()
    if a == 0:
        raise ValueError("not a curve")
    if kind < 3:  # constant, c, below the power's root
        e, f, d, c = c, c, -b / a, 0
    return np.where(values >= d, np.maximum(a * values + b, 0) ** g + e, c * values + f).clip(0, 1).tolist()


def _fixed(data: bytes) -> np.ndarray:
    """Numbers with 16 bits behind the point."""
    return np.frombuffer(data, ">i4") / 65536


def to_srgb(values: np.ndarray, white: float, space: Space | None = None) -> np.ndarray:
    """Values of any depth as 8-bit sRGB, rounded once.

    Args:
      values: (H, W, 1) or (H, W, 3), integers or floats from 0 to `white`.
      space: what they mean; sRGB if not given.
    Returns:
      uint8, of the same shape.
    """
    if space is not None and space.is_srgb:
        space = None
    mixed = values.shape[-1] == 3 and not (space is None or space.has_srgb_primaries)
    if values.dtype.kind in "ui" and white <= 65535 and not mixed:
        levels = np.arange(np.iinfo(values.dtype).max + 1, dtype=np.float64) / white
        tables = [_encoded(levels.clip(0, 1), space, channel) for channel in range(values.shape[-1])]
        return np.stack([table[values[..., c]] for c, table in enumerate(tables)], axis=-1)
    result = np.empty(values.shape, np.uint8)
    rows = max(1, _BLOCK // max(1, values[0].size))
    for start in range(0, len(values), rows):
        part = (values[start : start + rows] / np.float64(white)).astype(np.float32).clip(0, 1)
        if space is not None and mixed:
            light = np.stack([space.light(part[..., c], c) for c in range(3)], axis=-1)
            result[start : start + rows] = _bytes(_encode(light @ space.to_linear_srgb.T))
        else:
            for c in range(values.shape[-1]):
                result[start : start + rows, :, c] = _encoded(part[..., c], space, c)
    return result


def _encoded(values: np.ndarray, space: Space | None, channel: int) -> np.ndarray:
    return _bytes(values if space is None else _encode(space.light(values, channel)))


def _encode(light: np.ndarray) -> np.ndarray:
    light = light.clip(0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(255 * values).astype(np.uint8)


def _to_xyz(primaries: tuple[float, ...]) -> np.ndarray:
    """(3, 3): from linear RGB to XYZ, with its white adapted to D65 (Bradford)."""
    white, *corners = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in np.reshape(primaries, (4, 2)))
    matrix = np.stack(corners, axis=1)
    matrix = matrix * np.linalg.solve(matrix, white)
    d65 = np.array([_D65[0] / _D65[1], 1, (1 - sum(_D65)) / _D65[1]])
    cones = np.diag((_BRADFORD @ d65) / (_BRADFORD @ white))
    return np.linalg.inv(_BRADFORD) @ cones @ _BRADFORD @ matrix
