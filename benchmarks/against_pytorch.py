"""Seconds of a training step and of a ten-crop pair on a CPU, for iqa_jax and PyTorch.

    python benchmarks/against_pytorch.py --output docs/against_pytorch.md

The contestants take turns. A step is the one that `train.py` takes, without the rotation: forward,
backward, Adam, dropout. PyTorch runs the same models from `tests/torch_reference.py` on the same weights.
"Eager" runs them as written; "channels last" stores images and weights in that memory format. Scoring runs
under `torch.inference_mode`.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"  # before jax is imported: PyTorch's CPU build stands beside it

import platform
import statistics
import time
from importlib.metadata import version
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import typer
from flax import nnx
from tables import Output, Small, need, put_out
from tqdm import tqdm

need("torch")

import torch

from iqa_jax.models import split_model
from iqa_jax.ops.programs import few_at_a_time, jit
from iqa_jax.ops.windows import windows
from iqa_jax.training.batches import Batch
from iqa_jax.training.mesh import DataMesh
from iqa_jax.training.step import initial_state, jit_step, make_optimizer, make_train_step
from iqa_jax.weights.flat import iqa_model_with
from iqa_jax.weights.pytorch.convert import convert_state_dict
from tests import reference, torch_reference

MODELS = {
    "iqa_conformer": ("IQA Conformer", torch_reference.IQAConformer),
    "iqa_transformer": ("IQA Transformer", torch_reference.IQATransformer),
}


def our_runs(name, crops, targets, images):
    """{task: function to time} of our model."""
    converted = convert_state_dict(reference.fill_rule(name))
    model = iqa_model_with(converted.config, converted.weights)
    graph, trained, frozen = split_model(model)

    def score(trained, frozen, images):
        model = nnx.merge(graph, trained, frozen)
        reference_crops, distorted_crops = (windows(x[None], "ten", 192)[0] for x in images)
        projected = (model.project(crops) for crops in (reference_crops, distorted_crops))
        return model.denormalise(few_at_a_time(model.assess, *projected)).mean()

    score = jit(score)
    model.train()
    optimizer = make_optimizer(1e-4)
    placement = DataMesh.of(jax.devices())
    train_step = make_train_step(split_model(model)[0], optimizer, seed=0, rotation=0.0)
    take_step = jit_step(train_step, placement)
    batch = Batch(
        index=np.arange(len(targets), dtype=np.int32),
        epoch=np.zeros(len(targets), np.int32),
        reference=crops[0],
        distorted=crops[1],
        mos=(targets[:, 0] * model.config.mos_std + model.config.mos_mean).astype(np.float32),
        pseudo=np.zeros(len(targets), bool),
    )
    batch = jax.device_put(batch, placement.split)
    images = jax.device_put(images)
    state = initial_state(jax.tree.map(jnp.copy, trained), optimizer, ema=False)
    state = jax.device_put(state, placement.replicated)

    def step():
        nonlocal state
        state, loss = take_step(state, frozen, None, batch)
        return float(loss)

    return {"step": step, "pair": lambda: float(score(trained, frozen, images))}


def torch_runs(name, crops, targets, images, memory_format):
    """{task: function to time} of the PyTorch model."""
    torch.manual_seed(0)
    model = MODELS[name][1]()
    model.load_state_dict({k: torch.as_tensor(v) for k, v in reference.fill_rule(name).items()})
    model.to(memory_format=memory_format)
    trainable = [p for p in model.parameters() if p.requires_grad]
    adam = torch.optim.Adam(trainable, lr=1e-4)
    crops = [torch_reference.network_input(x).contiguous(memory_format=memory_format) for x in crops]
    images = [torch_reference.network_input(x[None])[0] for x in images]
    targets = torch.as_tensor(targets)

    def step():
        model.train()
        return float(torch_reference.train_step(model, adam, crops[0], crops[1], targets))

    def pair():
        model.eval()
        with torch.inference_mode():
            ref, dis = (torch_reference.ten_crop(x).contiguous(memory_format=memory_format) for x in images)
            return float(model(ref, dis).mean() * torch_reference.MOS_STD + torch_reference.MOS_MEAN)

    return {"step": step, "pair": pair}


def measure(name: str, rounds: int, batch: int, bar: tqdm) -> dict[str, dict[str, float]]:
    """{task: {who: median seconds}} of one model."""
    targets = np.random.default_rng(0).standard_normal((batch, 1)).astype(np.float32)
    crops = reference.pair(0, 192, batch)
    images = [x[0] for x in reference.pair(1000, 288, 1)]
    contestants = {
        "iqa_jax": our_runs(name, crops, targets, images),
        "PyTorch eager": torch_runs(name, crops, targets, images, torch.contiguous_format),
        "PyTorch channels last": torch_runs(name, crops, targets, images, torch.channels_last),
    }
    medians = {}
    for task in ("pair", "step"):  # in this order: a step changes the weights
        scores = [runs[task]() for runs in contestants.values()]  # compiles, warms up
        if task == "pair" and np.ptp(scores) > 0.01:
            raise SystemExit(f"{name}: the implementations disagree: {scores}")
        seconds = {who: [] for who in contestants}
        for _ in range(rounds):
            for who, runs in contestants.items():
                start = time.perf_counter()
                runs[task]()
                seconds[who].append(time.perf_counter() - start)
            bar.update()
        medians[task] = {who: statistics.median(taken) for who, taken in seconds.items()}
    return medians


def table(results: dict[str, dict[str, dict[str, float]]], batch: int) -> str:
    """The medians as a Markdown table, and what they were measured with."""
    who = list(next(iter(results.values()))["step"])
    lines = [f"| model | task | {' | '.join(who)} |", f"|---|---|{'---:|' * len(who)}"]
    for name, medians in results.items():
        for task, label in (("step", f"training step of {batch} pairs"), ("pair", "ten-crop pair")):
            seconds = " | ".join(f"{medians[task][w]:.3f}" for w in who)
            lines.append(f"| {MODELS[name][0]} | {label} | {seconds} |")
    versions = ", ".join(f"{package} {version(package)}" for package in ("jax", "flax", "torch"))
    cores = f"{os.cpu_count()} {platform.machine()} cores, Python {platform.python_version()}"
    lines += ["", f"Median seconds on {cores}, {versions}."]
    return "\n".join(lines) + "\n"


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often each contestant is measured.")] = 9,
    small: Small = False,
    output: Output = None,
) -> None:
    """Measure a training step and a ten-crop pair of iqa_jax and PyTorch."""
    names, rounds, batch = (["iqa_transformer"], 1, 2) if small else ([*MODELS], rounds, 16)
    with tqdm(total=2 * rounds * len(names), unit="round") as bar:
        text = table({name: measure(name, rounds, batch, bar) for name in names}, batch)
    put_out(text, output)


if __name__ == "__main__":
    typer.run(main)
