"""What people would say of each pair: KADID-10k's means of types and levels, and measures for the rest.

KADID-10k says how good a type and level is on average.  Classical measures say how much of a distortion a
photograph hides, and how good the types are that KADID-10k lacks.  Quantile matching brings each measure to
KADID-10k's scale (regression would draw everything to the middle), and the measures are averaged:

  typed      maps of one KADID-10k type: keep its place on the scale, tell photographs apart
  generic    maps of all types that add or take detail
  colour     maps of the types that change colour and light

No opinion about any other data set's images goes in.
"""

from typing import NamedTuple

import degrading
import numpy as np
from measures import NAMES

from iqa_jax.data.opinions import mean_opinion

IDENTICAL = 4.75  # MOS of no distortion; KADID-10k's levels without effect have 4.60 to 4.61
# Opinions beyond level 5, for strength 6; our guess from the levels' trend.
BEYOND = {
    "gaussian_blur": 1.1,
    "jpeg": 1.12,
    "white_noise": 1.9,
    "white_noise_ycbcr": 2.0,
    "impulse_noise": 1.75,
    "quantization": 2.1,
}
DETAIL = (
    "white_noise", "white_noise_ycbcr", "impulse_noise", "multiplicative_noise",
    "gaussian_blur", "lens_blur", "motion_blur", "denoising", "jitter", "pixelate",
    "jpeg2000", "jpeg", "quantization", "color_quantization", "high_sharpen",
)  # fmt: skip
COLOUR = (
    "color_diffusion",
    "saturation_hsv",
    "saturation_lab",
    "brighten",
    "darken",
    "mean_shift",
    "contrast dist.",
)
COLOUR_OTHERS = ("color_cast", "channel_shift", "exposure", "haze", "linear_contrast", "saturation")

# Weights of the measures, by what is done to the image.
_DETAIL_WEIGHTS = {"mdsi": 0.35, "psnr": 0.45, "haarpsi": 0.2}
_BLUR_WEIGHTS = {"psnr": 0.92, "haarpsi": 0.08}
_NOISE_WEIGHTS = {"psnr": 0.5, "psnr_hvs": 0.4, "mdsi": 0.1}
_COLOUR_WEIGHTS = {"mdsi": 0.5, "haarpsi": 0.5}
BLURS = ("gaussian_blur", "lens_blur", "motion_blur", "rescaled", "ringing")
NOISES = (
    "white_noise", "white_noise_ycbcr", "impulse_noise", "multiplicative_noise",
    "correlated_noise", "high_frequency_noise", "grey_noise", "chroma_noise", "masked_noise",
)  # fmt: skip
# Share of KADID-10k's mean of type and level in an image's label; the rest tells photographs apart.
_TOLD = dict.fromkeys(BLURS, 0.05) | {"pixelate": 0.4}
_TOLD |= dict.fromkeys(("color_block", "non_eccentricity_patch", "color_shift"), 0.7)
_TOLD |= dict.fromkeys(COLOUR, 0.4)
_TOLD_OTHERS = 0.2
_CONTENT = 0.5  # share of the measures' differences between windows that goes into the windows' labels


def opinion(kind: str, strength: float) -> float:
    """KADID-10k's mean opinion of a type, linear between the levels."""
    means = [mean_opinion(kind, level) for level in range(1, 6)]
    return float(np.interp(strength, range(7), [IDENTICAL, *means, BEYOND.get(kind, means[-1])]))


class Equated(NamedTuple):
    """A measure on the scale of opinions: equal quantiles."""

    measure: np.ndarray
    mos: np.ndarray

    @classmethod
    def of(cls, measure, mos):
        at = np.linspace(0, 1, 41)
        return cls(np.quantile(measure, at), np.quantile(mos, at))

    def __call__(self, measure):
        return np.interp(measure, self.measure, self.mos)


class Combined:
    """A weighted mean of equated measures, equated again."""

    def __init__(self, weights: dict[str, float], measures: np.ndarray, mos: np.ndarray):
        self._parts = [
            (weight, NAMES.index(name), Equated.of(measures[:, NAMES.index(name)], mos))
            for name, weight in weights.items()
        ]
        self._last = Equated.of(self._mean(measures), mos)

    def _mean(self, measures):
        return sum(weight * part(measures[..., column]) for weight, column, part in self._parts)

    def __call__(self, measures: np.ndarray) -> np.ndarray:
        """(…, M) -> (…)."""
        return self._last(self._mean(measures))


def _weights(kind):
    return _BLUR_WEIGHTS if kind in BLURS else _NOISE_WEIGHTS if kind in NOISES else _DETAIL_WEIGHTS


class Labeller:
    """Fitted to the KADID-10k types of the training photographs; `without` leaves types out."""

    def __init__(self, parts: list[dict], *, without: tuple[str, ...] = ()):
        rows = [
            (kind, opinion(kind, strength) if kind != "identical" else IDENTICAL, measures.mean(0))
            for part in parts
            for kind, strength, measures in zip(part["kind"], part["strength"], part["measures"], strict=True)
            if (kind in degrading.KADID or kind == "identical") and kind not in without
        ]
        kinds, mos = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
        measures = np.stack([r[2] for r in rows])

        def fitted(names, weights):
            of = np.isin(kinds, names)
            return Combined(weights, measures[of], mos[of])

        self._colour = fitted((*COLOUR, "identical"), _COLOUR_WEIGHTS)
        self._detail = fitted((*DETAIL, "identical"), _DETAIL_WEIGHTS)
        self._blur = fitted((*DETAIL, "identical"), _BLUR_WEIGHTS)
        self._noise = fitted((*DETAIL, "identical"), _NOISE_WEIGHTS)
        known = [kind for kind in np.unique(kinds) if kind in degrading.KADID]
        self._typed = {kind: fitted((kind,), _weights(kind)) for kind in known}

    def _generic(self, kind: str):
        """The map that fits what is done to the image."""
        if kind in (*COLOUR, *COLOUR_OTHERS):
            return self._colour
        return self._blur if kind in BLURS else self._noise if kind in NOISES else self._detail

    def image(self, kind: str, strength: float, measures: np.ndarray) -> float:
        """MOS of a whole image from its windows' measures (6, M)."""
        mean, generic = measures.mean(0), self._generic(kind)
        if kind in self._typed:
            typed, told = self._typed[kind](mean), opinion(kind, strength)
            share = _TOLD.get(kind, _TOLD_OTHERS)
            if kind in DETAIL:
                typed = 0.45 * typed + 0.55 * generic(mean)
            return float(share * told + (1 - share) * typed)
        kinds = {*kind.split("+")}
        if kind == "chromatic_aberration" or (len(kinds) > 1 and kinds & {*COLOUR, *COLOUR_OTHERS}):
            return 0.5 * float(self._colour(mean) + self._detail(mean))
        if kind in degrading.KINDS and degrading.KINDS[kind].local:
            return float(self._detail(measures).mean())
        return float(generic(mean))

    def windows(self, kind: str, strength: float, measures: np.ndarray, changed: np.ndarray) -> np.ndarray:
        """MOS (6,) of the windows: those of a distorted image that it does not touch are as good as new."""
        same = changed < 2e-4
        if kind == "identical" or same.all():
            return np.full(len(measures), IDENTICAL)
        whole = self.image(kind, strength, measures)
        local = self._generic(kind)(measures)
        labels = whole + _CONTENT * (local - local.mean())
        if same.any():
            wanted = (len(same) * whole - IDENTICAL * same.sum()) / (~same).sum()
            labels += max(wanted, 1.25) - labels[~same].mean()
            labels[same] = IDENTICAL
        return np.clip(labels, 1, IDENTICAL)
