"""What people would say of each pair: KADID-10k's means of types and levels, and an ensemble of measures.

KADID-10k says how good a type and level is on average.  Classical measures say how much of a distortion a
photograph hides, and how good the types are that KADID-10k lacks.  Quantile matching brings each measure to
KADID-10k's scale (regression would draw everything to the middle), and the measures are averaged, as MILO's
pseudo-opinions are (arXiv 2509.01411):

  typed      maps of one KADID-10k type: keep its place on the scale, tell photographs apart
  generic    maps of all types that add or take detail
  colour     maps of the types that change colour and light

No opinion about any other data set's images goes in, but for five factors that were chosen on the development
pairs, see `_HARSHER`.
"""

from typing import NamedTuple

import degrading
import numpy as np
from measures import NAMES

from iqa_jax.data.opinions import mean_opinion

BEST = 5.0  # of an identical pair
# KADID-10k's levels without any effect have means of 4.60 to 4.61.  The scale is stretched to make them 5.
_IMPERCEPTIBLE = 4.61
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
_BOTH = ("chromatic_aberration", "bled_colours")  # colour and detail
COLOUR_OTHERS = ("color_cast", "channel_shift", "exposure", "haze", "linear_contrast", "saturation")

# Weights of the measures, by what is done to the image.
_DETAIL_WEIGHTS = {"mdsi": 1.5, "haarpsi": 0.5, "fsim": 0.5, "vsi": 0.5}
_DETAIL_WEIGHTS |= {"vif": 1.5, "ssimulacra2": 1.5, "psnr": 2.5}
_BLUR_WEIGHTS = {"vif": 3, "haarpsi": 1, "fsim": 0.5, "ssimulacra2": 1, "msssim": 1}
_NOISE_WEIGHTS = {"mdsi": 1, "haarpsi": 0.5, "vsi": 0.5, "ssimulacra2": 1.5, "psnr": 2.5}
_QUANTIZED_WEIGHTS = {"haarpsi": 1.5, "gmsd": 1.5, "mdsi": 1, "vsi": 1}
_COLOUR_WEIGHTS = {"haarpsi": 1, "mdsi": 1, "vsi": 0.5}
BLURS = ("gaussian_blur", "lens_blur", "motion_blur", "rescaled", "super_resolved")
NOISES = (
    "white_noise", "white_noise_ycbcr", "impulse_noise", "multiplicative_noise",
    "correlated_noise", "high_frequency_noise", "grey_noise", "chroma_noise", "masked_noise",
)  # fmt: skip
QUANTIZED = ("color_quantization", "channel_quantization", "dithered_palette")
# Share of KADID-10k's mean of type and level in an image's label; the rest tells photographs apart.
_TOLD = dict.fromkeys(BLURS, 0.05) | {"pixelate": 0.4}
_TOLD |= dict.fromkeys(("color_block", "non_eccentricity_patch", "color_shift"), 0.7)
_TOLD |= dict.fromkeys(COLOUR, 0.4)
_TOLD_OTHERS = 0.2
# Share of the maps of many types in the label of one that adds or takes detail; the rest is its own map's.
_GENERIC = {"gaussian_blur": 0.7, "lens_blur": 0.7, "motion_blur": 0.7, "jpeg2000": 0.7}
_GENERIC_OTHERS = 0.35
# How much worse a type is than these maps say, chosen on development pairs: TID2013's observers were milder
# on JPEG and white noise than KADID-10k's, and measures of gradients are too mild on noise of high frequency.
_HARSHER = {"jpeg": 0.89, "jpeg_full_chroma": 0.89, "white_noise": 0.93}
_HARSHER |= {"impulse_noise": 1.08, "high_frequency_noise": 1.2}


def opinion(kind: str, strength: float) -> float:
    """KADID-10k's mean opinion of a type, linear between the levels, on the stretched scale."""
    means = [mean_opinion(kind, level) for level in range(1, 6)]
    levels = [_IMPERCEPTIBLE, *means, BEYOND.get(kind, means[-1])]
    mean = float(np.interp(strength, range(7), levels))
    return min(1 + (mean - 1) * (BEST - 1) / (_IMPERCEPTIBLE - 1), BEST)


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
        total = sum(weights.values())
        columns = {name: NAMES.index(name) for name in weights}
        self._parts = [
            (weight / total, columns[name], Equated.of(measures[:, columns[name]], mos))
            for name, weight in weights.items()
        ]
        self._last = Equated.of(self._mean(measures), mos)

    def _mean(self, measures):
        return sum(weight * part(measures[..., column]) for weight, column, part in self._parts)

    def __call__(self, measures: np.ndarray) -> np.ndarray:
        """(…, M) -> (…)."""
        return self._last(self._mean(measures))


def _weights(kind):
    """The measures that fit what is done to the image."""
    for kinds, weights in (
        (BLURS, _BLUR_WEIGHTS),
        (NOISES, _NOISE_WEIGHTS),
        (QUANTIZED, _QUANTIZED_WEIGHTS),
        ((*COLOUR, *COLOUR_OTHERS), _COLOUR_WEIGHTS),
    ):
        if kind in kinds:
            return weights
    return _DETAIL_WEIGHTS


class Labeller:
    """Fitted to the KADID-10k types of the training photographs; `without` leaves types out."""

    def __init__(self, parts: list[dict], *, without: tuple[str, ...] = ()):
        rows = [
            (kind, opinion(kind, strength) if kind != "identical" else BEST, measures)
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
        self._fitted = [(_COLOUR_WEIGHTS, self._colour), (_DETAIL_WEIGHTS, self._detail)]
        for weights in (_BLUR_WEIGHTS, _NOISE_WEIGHTS, _QUANTIZED_WEIGHTS):
            self._fitted.append((weights, fitted((*DETAIL, "identical"), weights)))
        known = [kind for kind in np.unique(kinds) if kind in degrading.KADID]
        self._typed = {kind: fitted((kind,), _weights(kind)) for kind in known}

    def _generic(self, kind: str) -> Combined:
        """The map of many types that fits what is done to the image."""
        return next(combined for weights, combined in self._fitted if weights is _weights(kind))

    def __call__(self, kind: str, strength: float, measures: np.ndarray) -> float:
        """MOS of a picture from its measures (M,)."""
        below = _HARSHER.get(kind, 1.0) * (BEST - self._mapped(kind, strength, measures))
        return float(np.clip(BEST - below, 1, BEST))

    def _mapped(self, kind: str, strength: float, measures: np.ndarray) -> float:
        if kind == "identical":
            return BEST
        generic = self._generic(kind)
        if kind in self._typed:
            typed, told = self._typed[kind](measures), opinion(kind, strength)
            share = _TOLD.get(kind, _TOLD_OTHERS)
            if kind in DETAIL:
                generic_share = _GENERIC.get(kind, _GENERIC_OTHERS)
                typed = (1 - generic_share) * typed + generic_share * generic(measures)
            return float(share * told + (1 - share) * typed)
        kinds = {*kind.split("+")}
        if kind in _BOTH or (len(kinds) > 1 and kinds & {*COLOUR, *COLOUR_OTHERS}):
            return 0.5 * float(self._colour(measures) + self._detail(measures))
        return float(generic(measures))
