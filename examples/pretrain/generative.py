"""What generative models do to pictures, made by small means of our own.

  super_resolved       reduced, enlarged, sharpened by a small network that is trained here
  invented_detail      the same with texture that was never there
  repainted_blocks     rectangles filled with what fits their borders, from elsewhere in the picture
  replaced_texture     fine detail exchanged for that of another place, as strong as before
  bled_colours         colours that left their objects, under an untouched brightness

Like those in `degrading.py`: (image (H, W, 3) uint8, strength, generator) -> distorted image.
"""

import functools
from pathlib import Path

import numpy as np
from arrays import as_image, between, write_whole
from PIL import Image
from scipy import ndimage

NETWORK = Path("superresolution.npz")  # of the working folder: `train_network` writes it
_LUMA = np.array([0.299, 0.587, 0.114])


def _enlarged(image, scale):
    """Reduced by `scale` and enlarged again, bicubic."""
    height, width = image.shape[:2]
    small = Image.fromarray(image).resize(
        (max(round(width / scale), 8), max(round(height / scale), 8)), Image.Resampling.BICUBIC
    )
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def _layers():
    """Three convolutions: features, their combination, what is missing in the enlarged picture."""
    import torch

    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 5, padding=2, padding_mode="replicate"),
        torch.nn.ReLU(),
        torch.nn.Conv2d(32, 24, 3, padding=1, padding_mode="replicate"),
        torch.nn.ReLU(),
        torch.nn.Conv2d(24, 3, 5, padding=2, padding_mode="replicate"),
    )


def train_network(pictures: list[np.ndarray], path: Path, *, steps: int = 600) -> None:
    """Trains the network on pictures (H, W, 3) uint8, on one core, and writes its weights."""
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    network, size = _layers(), 64
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 - step / steps) + 1e-5
        sharp, soft = [], []
        for index in rng.integers(len(pictures), size=16):
            image = pictures[index]
            top, left = (int(rng.integers(side - size + 1)) for side in image.shape[:2])
            crop = image[top : top + size, left : left + size]
            sharp.append(crop)
            soft.append(_enlarged(crop, rng.uniform(1.5, 4)))
        target, given = (torch.tensor(np.stack(x)).permute(0, 3, 1, 2).float() / 255 for x in (sharp, soft))
        loss = (given + network(given) - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    write_whole(path, **{name: value.numpy() for name, value in network.state_dict().items()})


@functools.cache
def _network(path: Path):
    import torch

    network = _layers()
    with np.load(path) as weights:
        network.load_state_dict({name: torch.tensor(weights[name]) for name in weights.files})
    return network.eval()


def super_resolved(image, u, rng):
    import torch

    soft = _enlarged(image, between(u, (1.15, 1.5, 2, 2.7, 3.6, 5)))
    with torch.no_grad():
        given = torch.tensor(soft).permute(2, 0, 1)[None].float() / 255
        detail = _network(NETWORK)(given)[0].permute(1, 2, 0).numpy()
    return as_image(soft + 255 * rng.uniform(0.8, 1.6) * detail)


def invented_detail(image, u, rng):
    restored = super_resolved(image, u, rng).astype(float)
    luma = image @ _LUMA
    lost = np.sqrt(ndimage.gaussian_filter((luma - restored @ _LUMA) ** 2, 4))
    noise = rng.standard_normal(luma.shape)
    noise = ndimage.gaussian_filter(noise, rng.uniform(0.5, 1)) - ndimage.gaussian_filter(noise, 2)
    return as_image(restored + rng.uniform(0.5, 1) * (noise / noise.std() * lost)[..., None])


def repainted_blocks(image, u, rng):
    result = image.astype(float)
    height, width = image.shape[:2]
    luma = image @ _LUMA
    for _ in range(round(between(u, (1, 2, 4, 7, 12, 20)))):
        rows, columns = (int(n) for n in rng.integers(24, 72, 2))
        top, left = int(rng.integers(height - rows)), int(rng.integers(width - columns))
        border = np.ones((rows, columns), bool)
        border[4:-4, 4:-4] = False
        wanted = luma[top : top + rows, left : left + columns][border]
        best, place = np.inf, (0, 0)
        for y, x in zip(
            rng.integers(height - rows, size=40), rng.integers(width - columns, size=40), strict=True
        ):
            if abs(y - top) < 12 and abs(x - left) < 12:
                continue
            error = np.abs(luma[y : y + rows, x : x + columns][border] - wanted).mean()
            if error < best:
                best, place = error, (y, x)
        y, x = place
        inside = np.zeros((rows, columns))
        inside[3:-3, 3:-3] = 1
        share = ndimage.uniform_filter(inside, 5)[..., None]
        area = np.s_[top : top + rows, left : left + columns]
        result[area] = (1 - share) * result[area] + share * image[y : y + rows, x : x + columns]
    return as_image(result)


def replaced_texture(image, u, rng):
    sigma = between(u, (0.7, 1, 1.5, 2.2, 3.2, 5))
    x = image.astype(float)
    coarse = ndimage.gaussian_filter(x, (sigma, sigma, 0))
    fine = x - coarse
    power = np.sqrt(ndimage.gaussian_filter((fine @ _LUMA) ** 2, 3 * sigma)) + 0.3
    height, width = power.shape
    moved = (int(rng.integers(height // 6, height)), int(rng.integers(width // 6, width)))
    texture = np.roll(fine / power[..., None], moved, (0, 1)) * power[..., None]
    share = np.clip((power - 1) / 4, 0, 1)[..., None]  # flat areas have no texture to replace
    return as_image(x + share * (texture - fine))


def bled_colours(image, u, rng):
    x = image.astype(float)
    luma = (x @ _LUMA)[..., None]
    colour = x - luma
    reach = between(u, (1, 3, 6, 11, 18, 30))
    flow = ndimage.gaussian_filter(rng.standard_normal((2, *luma.shape[:2])), (0, 24, 24))
    flow *= reach / max(np.abs(flow).max(), 1e-6)
    grid = np.indices(luma.shape[:2]) + flow
    planes = [ndimage.map_coordinates(c, grid, order=1, mode="nearest") for c in colour.transpose(2, 0, 1)]
    moved = np.stack(planes, axis=-1)
    return as_image(luma + ndimage.gaussian_filter(moved, (reach / 2, reach / 2, 0)))


GENERATIVE = (super_resolved, invented_detail, repainted_blocks, replaced_texture, bled_colours)
