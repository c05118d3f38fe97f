"""Trains a small denoiser in PyTorch by L1 alone and by L1 and a metric's loss, and compares both.

    pip install '.[torch]'
    python examples/denoise_torch.py
    python examples/denoise_torch.py --photographs pictures --steps 2000

A network of five convolutions learns to remove Gaussian noise from crops of photographs: of the two that ship
with the package, or of a folder of yours.  The right third of each photograph is held out.  Both trainings
start from the same weights and see the same crops with the same noise.  The table shows means over the
held-out crops.  The blind metric took no part in the training.
"""

import sys
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import typer
from tqdm import trange

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a clone need not be installed

import iqa_jax
from iqa_jax.torch import Loss

SHIPPED = Path(iqa_jax.__file__).parent / "data" / "photographs"
SIDE = 192  # of the crops: what the metric sees at a time
NOISE = 25 / 255


class Photographs(NamedTuple):
    """What is trained on, (3, H, W) each, and the held-out crops, (N, 3, SIDE, SIDE); float32 in [0, 1]."""

    training: list[torch.Tensor]
    held_out: torch.Tensor


class Denoiser(torch.nn.Sequential):
    """Five 3 x 3 convolutions that predict the noise: (N, 3, H, W) -> (N, 3, H, W), in [0, 1]."""

    def __init__(self, width: int = 24):
        channels = [3, width, width, width, width, 3]
        layers: list[torch.nn.Module] = []
        for inner, outer in zip(channels, channels[1:], strict=False):
            layers += [torch.nn.Conv2d(inner, outer, 3, padding=1), torch.nn.ReLU()]
        super().__init__(*layers[:-1])

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The noisy images without their noise."""
        return (input - super().forward(input)).clamp(0, 1)


def read(folder: Path) -> Photographs:
    """The photographs of a folder, each split into its left two thirds and crops of its right third."""
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    training, held_out = [], []
    for path in files:
        pixels = torch.tensor(iqa_jax.read_image(path)).permute(2, 0, 1) / 255
        split = pixels.shape[2] * 2 // 3
        left, right = pixels[..., :split], pixels[..., split:]
        if min(*left.shape[1:], *right.shape[1:]) < SIDE:
            sys.exit(f"{path}: expected {3 * SIDE} pixels or more of width and {SIDE} of height")
        training.append(left)
        for top in range(0, right.shape[1] - SIDE + 1, SIDE):
            held_out += [
                right[:, top : top + SIDE, x : x + SIDE] for x in range(0, right.shape[2] - SIDE + 1, SIDE)
            ]
    if not files:
        sys.exit(f"{folder}: no JPEG or PNG files")
    return Photographs(training, torch.stack(held_out))


def train(
    perceptual: Loss | None,
    images: list[torch.Tensor],
    *,
    steps: int,
    share: float,
    seed: int,
    batch_size: int = 2,
) -> Denoiser:
    """A denoiser trained by L1, plus `share` times the perceptual loss if there is one."""
    torch.manual_seed(seed)
    model = Denoiser()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in trange(steps, desc=f"L1 + {share:g} of the metric" if perceptual else "L1", unit="step"):
        clean = torch.stack([crop(images[torch.randint(len(images), ())]) for _ in range(batch_size)])
        noisy = clean + NOISE * torch.randn_like(clean)
        restored = model(noisy)
        loss = torch.nn.functional.l1_loss(restored, clean)
        if perceptual:
            loss = loss + share * perceptual(reference=clean, distorted=restored)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def crop(image: torch.Tensor) -> torch.Tensor:
    """A random one, (3, SIDE, SIDE)."""
    top, left = (int(torch.randint(length - SIDE + 1, ())) for length in image.shape[1:])
    return image[:, top : top + SIDE, left : left + SIDE]


def as_arrays(images: torch.Tensor) -> np.ndarray:
    """(N, H, W, 3) uint8, as files hold them."""
    return (255 * images.clamp(0, 1)).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def main(
    photographs: Annotated[
        Path, typer.Option(help="A folder of JPEG and PNG files, 576 pixels wide or more.")
    ] = SHIPPED,
    weights: Annotated[
        str, typer.Option(help="What `iqa_jax.load` takes; with a reference.")
    ] = "full-reference",
    steps: Annotated[int, typer.Option(min=1, help="Steps of each training.")] = 200,
    share: Annotated[float, typer.Option(help="Weight of the metric's loss beside L1.")] = 0.005,
    seed: int = 0,
) -> None:
    """Train a denoiser without and with a perceptual loss and compare them."""
    perceptual = Loss(weights)
    images = read(photographs)
    noisy = images.held_out + NOISE * torch.randn(
        images.held_out.shape, generator=torch.Generator().manual_seed(seed)
    )
    rows = {"nothing (noisy)": noisy}
    for name, loss in {
        "a network trained by L1": None,
        "a network trained by L1 and the metric": perceptual,
    }.items():
        model = train(loss, images.training, steps=steps, share=share, seed=seed)
        with torch.no_grad():
            rows[name] = model(noisy)
    blind = iqa_jax.load("blind")
    measures = {
        "full-reference score": perceptual.metric,
        "blind score": lambda reference, distorted: blind(distorted),
        "PSNR": iqa_jax.psnr,
        "SSIM": iqa_jax.ssim,
    }
    print(f"| restored by | {' | '.join(measures)} |\n|---|{'---:|' * len(measures)}")
    for name, restored in rows.items():
        pair = as_arrays(images.held_out), as_arrays(restored)
        means = (f"{np.mean(measure(*pair)):.3f}" for measure in measures.values())
        print(f"| {name} | {' | '.join(means)} |")


if __name__ == "__main__":
    typer.run(main)
