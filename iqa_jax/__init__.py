"""Learned, perceptual image quality assessment in JAX.

    import iqa_jax

    metric = iqa_jax.load()                         # the full-reference metric that the package ships with
    blind = iqa_jax.load("blind")                   # the one that needs no reference
    mine = iqa_jax.load("runs/conformer")           # a run, converted weights, an average, an exported file
    score = metric(reference, distorted)            # files, or arrays (H, W, 3) or (B, H, W, 3); in MOS units
    quality = metric.map(reference, distorted)      # where the image is good and where it is not
    loss = metric.loss(reference, distorted)        # differentiable, to train with

The reference comes first, everywhere in Python (pyiqa takes the distorted image first).  Swapped images give
another score and no error; keywords cannot be swapped: `metric(distorted=restored, reference=original)`.

A metric is a `FullReferenceMetric`, which compares with a reference, or a `BlindMetric`, which does not.
`iqa_jax.torch.Loss` is such a loss for PyTorch.
`read_image` reads an image file as the metrics take it; `align` undoes a shift of a picture against its
reference; `psnr` and `ssim` are the classical measures.
`python -m iqa_jax --help` lists the commands.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from iqa_jax.data.images import read_image
    from iqa_jax.evaluation.baselines import psnr, ssim
    from iqa_jax.scoring.alignment import align
    from iqa_jax.scoring.load import load
    from iqa_jax.scoring.metric import BlindMetric, FullReferenceMetric, Metric, QualityMap

__version__ = "0.1.0"
__all__ = [
    "BlindMetric",
    "FullReferenceMetric",
    "Metric",
    "QualityMap",
    "align",
    "load",
    "psnr",
    "read_image",
    "ssim",
]

_MODULES = {
    "read_image": "iqa_jax.data.images",
    "psnr": "iqa_jax.evaluation.baselines",
    "ssim": "iqa_jax.evaluation.baselines",
    "align": "iqa_jax.scoring.alignment",
    "load": "iqa_jax.scoring.load",
}

if not TYPE_CHECKING:

    def __getattr__(name: str):
        """Imports a public name at its first use, since JAX and Flax take seconds; and `torch`, a module."""
        if name == "torch":  # not in __all__: it needs PyTorch
            return importlib.import_module("iqa_jax.torch")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from iqa_jax.errors import extra_named

        with extra_named(f"iqa_jax.{name}", "jax", "jax", "jaxlib", "flax"):
            return getattr(importlib.import_module(_MODULES.get(name, "iqa_jax.scoring.metric")), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
