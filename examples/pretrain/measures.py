"""Classical full-reference measures of whole pictures, as published packages compute them.

piq 0.8.0 (HaarPSI, MDSI, GMSD, VSI, FSIMc, MS-SSIM, VIF in the pixel domain, PSNR; none needs weights) and
the package `ssimulacra2`.  For all of them more is better here: MDSI and GMSD are negated.
"""

import importlib
import io

import numpy as np
from PIL import Image

# Name -> function of piq and sign.
_OF_PIQ = {
    "haarpsi": ("haarpsi", 1),
    "mdsi": ("mdsi", -1),
    "gmsd": ("gmsd", -1),
    "vsi": ("vsi", 1),
    "fsim": ("fsim", 1),
    "msssim": ("multi_scale_ssim", 1),
    "vif": ("vif_p", 1),
    "psnr": ("psnr", 1),
}
NAMES = (*_OF_PIQ, "ssimulacra2")


def measured(reference: np.ndarray, distorted: np.ndarray) -> np.ndarray:
    """All of `NAMES`: two pictures (H, W, 3) uint8 -> (len(NAMES),) float32."""
    import torch

    piq, ssimulacra2 = (importlib.import_module(name) for name in ("piq", "ssimulacra2"))
    torch.set_num_threads(1)
    tensors = [torch.tensor(x).permute(2, 0, 1)[None] / 255 for x in (reference, distorted)]
    values = [sign * float(getattr(piq, name)(*tensors)) for name, sign in _OF_PIQ.values()]
    files = [_as_file(x) for x in (reference, distorted)]
    return np.array([*values, ssimulacra2.compute_ssimulacra2(*files)], np.float32)


def _as_file(image: np.ndarray) -> io.BytesIO:
    """What `compute_ssimulacra2` opens."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "BMP")
    return file
