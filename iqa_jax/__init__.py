"""Learned, perceptual image quality assessment in JAX.

    import iqa_jax

    metric = iqa_jax.load()                         # the full-reference metric that comes with the package
    blind = iqa_jax.load("blind")                   # the one that needs no reference
    own = iqa_jax.load("runs/conformer")            # a run, converted weights, an average, an exported file
    score = metric(reference, distorted)            # files, or arrays (H, W, 3) or (B, H, W, 3); in MOS units
    quality = metric.map(reference, distorted)      # where the image is good and where it is not
    loss = metric.loss(reference, distorted)        # differentiable, to train with

A metric is a `FullReferenceMetric`, which compares with a reference, or a `BlindMetric`, which does not.
`read_image` reads an image file as the metrics take it; `psnr` and `ssim` are the classical measures.  The
commands are listed by `python -m iqa_jax --help`.
"""

import importlib

__version__ = "0.1.0"

# What stands where; imported at its first use, since JAX and Flax take seconds.
_FACE = {
    "load": "iqa_jax.scoring.load",
    "Metric": "iqa_jax.scoring.metric",
    "FullReferenceMetric": "iqa_jax.scoring.metric",
    "BlindMetric": "iqa_jax.scoring.metric",
    "QualityMap": "iqa_jax.scoring.metric",
    "read_image": "iqa_jax.data.images",
    "psnr": "iqa_jax.evaluation.baselines",
    "ssim": "iqa_jax.evaluation.baselines",
}

__all__ = list(_FACE)


def __getattr__(name: str):
    if name not in _FACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_FACE[name]), name)


def __dir__() -> list[str]:
    return [*_FACE, "__version__"]
