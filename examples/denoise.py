"""Trains a small denoiser with a metric as its loss, and shows what that changes.

    python examples/denoise.py --weights runs/conformer --judge runs/transformer

Adds Gaussian noise to crops of the built-in set's training photographs. A network of five convolutions
learns to remove it, once by mean squared error alone and once with `metric.loss` added. The table shows the
three held-out photographs, noisy and restored by each network. A second metric, with which no network was
trained, judges whether a network only learned to fool the first.
"""

import sys
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import optax
import typer
from flax import nnx
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a clone need not be installed

import iqa_jax
from iqa_jax.data.datasets.iqa_demo import PHOTOGRAPHS, VALIDATION, photograph
from iqa_jax.evaluation.baselines import psnr, ssim
from iqa_jax.ops.programs import jit

NOISE = 25 / 255


class Denoiser(nnx.Module):
    """Five 3 x 3 convolutions that predict the noise: (B, H, W, 3) -> (B, H, W, 3), in [0, 1]."""

    def __init__(self, width: int = 24, *, rngs: nnx.Rngs):
        channels = [3, width, width, width, width, 3]
        pairs = zip(channels, channels[1:], strict=False)
        self.convolutions = nnx.List([nnx.Conv(a, b, (3, 3), rngs=rngs) for a, b in pairs])

    def __call__(self, noisy: jax.Array) -> jax.Array:
        x = noisy
        for convolution in self.convolutions[:-1]:
            x = jax.nn.relu(convolution(x))
        return jnp.clip(noisy - self.convolutions[-1](x), 0.0, 1.0)


def train(metric, photographs: np.ndarray, *, share: float, steps: int, batch_size: int = 2) -> Denoiser:
    """A denoiser trained on mean squared error plus `share` times the metric's loss."""
    size = metric.config.crop_size
    model = Denoiser(rngs=nnx.Rngs(0))
    graph, parameters = nnx.split(model)
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))

    def step(parameters, state, key):
        photo_key, place_key, noise_key = jax.random.split(key, 3)
        which = jax.random.randint(photo_key, (batch_size,), 0, len(photographs))
        places = jax.random.randint(place_key, (batch_size, 2), 0, photographs.shape[1] - size + 1)

        def cut(n, place):
            return jax.lax.dynamic_slice(pixels[n], (*place, 0), (size, size, 3))

        clean = jax.vmap(cut)(which, places)
        noisy = clean + NOISE * jax.random.normal(noise_key, clean.shape)

        def loss(parameters):
            restored = nnx.merge(graph, parameters)(noisy)
            error = jnp.square(restored - clean).mean()
            return error + (share * metric.loss(clean, restored).mean() if share else 0.0)

        gradient = jax.grad(loss)(parameters)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(parameters, updates), state

    step = jit(step)  # jax.jit, with what makes convolutions fast on CPUs
    pixels = jnp.asarray(photographs)
    state = optimizer.init(parameters)
    for key in tqdm(jax.random.split(jax.random.key(0), steps), desc=f"share {share:g}", unit="step"):
        parameters, state = step(parameters, state, key)
    return nnx.merge(graph, parameters)


def main(
    weights: Annotated[str, typer.Option(help="What `iqa_jax.load` takes.")] = "full-reference",
    judge: Annotated[Path | None, typer.Option(help="A second metric that only judges.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each training.")] = 300,
    share: Annotated[
        float, typer.Option(help="Weight of the metric's loss beside the squared error.")
    ] = 3e-4,
) -> None:
    """Train a denoiser without and with a perceptual loss and compare them."""
    metric = iqa_jax.load(weights)
    training = np.stack([photograph(name) for name in PHOTOGRAPHS if name not in VALIDATION])
    held_out = [photograph(name) for name in VALIDATION]
    rng = np.random.default_rng(0)
    noisy = [x / 255 + NOISE * rng.standard_normal(x.shape) for x in held_out]
    rows = {"noisy": noisy}
    for name, part in (("squared error", 0.0), ("with the metric", share)):
        model = train(metric, (training / 255).astype(np.float32), share=part, steps=steps)
        rows[name] = [np.asarray(model(jnp.float32(x[None])))[0] for x in noisy]
    scores = {"metric": metric} | ({"judge": iqa_jax.load(judge)} if judge else {})
    scores |= {"PSNR": psnr, "SSIM": ssim}
    print(" " * 16, *(f"{name:>7s}" for name in scores))  # means of the three
    for name, images in rows.items():
        images = [np.rint(255 * np.clip(x, 0, 1)).astype(np.uint8) for x in images]
        means = [
            np.mean([float(score(r, d)) for r, d in zip(held_out, images, strict=True)])
            for score in scores.values()
        ]
        print(f"{name:16s}", *(f"{mean:7.3f}" for mean in means))


if __name__ == "__main__":
    typer.run(main)
