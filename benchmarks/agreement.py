"""Agreement of other measures with people, for the tables of docs/agreement.md.

    pip install '.[report]' pytorch-msssim brisque[opencv-python-headless] piq torchvision
    python benchmarks/agreement.py judged.csv --measure ms-ssim
    python benchmarks/agreement.py judged.csv --measure vsi
    python benchmarks/agreement.py judged.csv --measure brisque      # NumPy below 2.3

The table has the columns reference, distorted, mos (higher is better) and distortion; files are relative to
it.  MS-SSIM is pytorch-msssim's on luma, BRISQUE that of the package brisque, negated, PSNR this project's;
FSIM, VSI, HaarPSI, VIF (in pixels), GMSD and MDSI are piq's, the last two negated.  `evaluate` measures SSIM
and the metrics of this project.
"""

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from tables import need
from tqdm import tqdm

from iqa_jax.evaluation.agreement import srcc
from iqa_jax.evaluation.baselines import psnr
from iqa_jax.evaluation.statistics import bootstrap_intervals


def ms_ssim() -> Callable[[np.ndarray, np.ndarray], float]:
    ms_ssim = need("pytorch_msssim", "pytorch-msssim").ms_ssim
    import torch

    def measure(reference, distorted):
        lumas = (image @ np.array([0.299, 0.587, 0.114]) for image in (reference, distorted))
        return float(ms_ssim(*(torch.tensor(luma)[None, None] for luma in lumas), data_range=255))

    return measure


def brisque() -> Callable[[np.ndarray, np.ndarray], float]:
    score = need("brisque", "'brisque[opencv-python-headless]'").BRISQUE(url=False).score
    return lambda reference, distorted: -float(score(distorted))


def luma_psnr() -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda reference, distorted: float(psnr(reference, distorted))


def of_piq(name: str, sign: int) -> Callable[[np.ndarray, np.ndarray], float]:
    piq = need("piq", "piq torchvision")
    import torch

    def measure(reference, distorted):
        images = (torch.tensor(image).permute(2, 0, 1)[None] / 255 for image in (reference, distorted))
        return sign * float(getattr(piq, name)(*images))

    return measure


OF_PIQ = {"fsim": 1, "vsi": 1, "haarpsi": 1, "vif_p": 1, "gmsd": -1, "mdsi": -1}  # 1: higher is better
MEASURES = {"ms-ssim": ms_ssim, "brisque": brisque, "psnr": luma_psnr} | {
    name: partial(of_piq, name, sign) for name, sign in OF_PIQ.items()
}


def main(
    table: Annotated[Path, typer.Argument(help="The judged pairs.")],
    measure: Annotated[str, typer.Option(help=", ".join(MEASURES))] = "ms-ssim",
) -> None:
    """Print the SRCC over all, with an interval over references, and by type."""
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    score, images, values = MEASURES[measure](), {}, []
    for row in tqdm(rows, unit="pair"):
        name = row["reference"]
        images.setdefault(name, _image(table.parent / name))
        values.append(score(images[name], _image(table.parent / row["distorted"])))
    values, mos = np.array(values), np.array([float(row["mos"]) for row in rows])
    kinds, references = (np.array([row[column] for row in rows]) for column in ("distortion", "reference"))
    intervals = bootstrap_intervals(references, lambda chosen: {"srcc": srcc(values[chosen], mos[chosen])})
    low, high = intervals["srcc"]
    print(f"{measure}: SRCC {srcc(values, mos):.3f} ({low:.3f} to {high:.3f})")
    for kind in np.unique(kinds):
        print(f"  {kind}: {srcc(values[kinds == kind], mos[kinds == kind]):.3f}")


def _image(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


if __name__ == "__main__":
    typer.run(main)
