"""Pairs a second in training, for each place of the images and each dtype, for iqa_jax and PyTorch.

    python benchmarks/training.py --output docs/training_speed.md

The contestants take turns in training the IQA Conformer on Inception-ResNet-v2, on the built-in set's
training pairs (288 x 288), 16 a batch, with crops, flips and rotations, from the weights of the tests. All
run on the default device of JAX and PyTorch, so that the same command measures a GPU. PyTorch "eager"
decodes images in the loop as the original does, and uses autocast for bfloat16; "compiled" is
`torch.compile` on crops that are already on the device. PyTorch does not rotate. `--within` bounds the
seconds of it all: what there was no time for is said in the table.
"""

import contextlib
import dataclasses
import math
import os
import platform
import statistics
import time
from importlib.metadata import version
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import typer
from flax import nnx
from tables import Output, Small, need, put_out
from tqdm import tqdm

need("torch")

from iqa_jax.data.preparation import prepare_dataset
from iqa_jax.data.source import PairSource
from iqa_jax.errors import first_line
from iqa_jax.models import split_model
from iqa_jax.ops.augment import Cropping
from iqa_jax.ops.programs import jit, traced_for
from iqa_jax.training.batches import Examples, Order
from iqa_jax.training.feed import Feed
from iqa_jax.training.mesh import DataMesh
from iqa_jax.training.step import (
    initial_state,
    jit_step,
    jit_steps,
    make_optimizer,
    make_train_step,
)
from iqa_jax.weights.flat import iqa_model_with
from iqa_jax.weights.pytorch.convert import convert_state_dict
from tests import reference

BATCH, CROP = 16, 192
RECIPE_PAIRS = 30 * 18_560  # 30 epochs of 80 % of PIPAL's 23,200


class Ours:
    """Our step, with the images kept in one of the three places."""

    def __init__(self, kept: str, dtype: str, at_once: int, source: PairSource):
        converted = convert_state_dict(reference.fill_rule("iqa_conformer"))
        config = dataclasses.replace(converted.config, dtype=dtype)
        model = iqa_model_with(config, converted.weights)
        model.train()
        graph, trained, frozen = split_model(model)
        optimizer = make_optimizer(1e-4)
        self._placement = DataMesh.of(jax.devices())
        examples = Examples([source])
        order = Order(examples.lengths, [BATCH], seed=0)
        cropping = Cropping(0, CROP)
        self._feed = Feed(examples, order, cropping, self._placement, kept=kept)
        self._train_step = make_train_step(graph, optimizer, seed=0)
        self._frozen = self._placement.replicate(frozen)
        self._state = self._placement.replicate(initial_state(trained, optimizer, ema=False))
        make = jit_step if at_once == 1 else jit_steps
        self._program: Any = make(self._train_step, self._placement, self._feed.batch)
        self._at_once, self._number, self._graph = at_once, 0, graph

    def flops(self) -> tuple[float, float]:
        """Of a step and of its backbone, as XLA counts them in the programs before they are optimised.

        They are the programs for GPUs: what CPUs do in loops over examples XLA counts once.
        """

        def step(state, frozen, store, inputs):
            return self._train_step(state, frozen, self._feed.batch(store, inputs))

        def backbone(state, frozen, store, inputs):
            return self._features(state.trained, frozen, store, inputs)

        def counted(function):
            given = self._state, self._frozen, self._feed.store, self._feed.take(self._number)
            lowered: Any = jax.jit(traced_for("other", function)).trace(*given)
            return float(lowered.lower(lowering_platforms=("cuda",)).cost_analysis()["flops"])

        return counted(step), counted(backbone)

    def _features(self, trained, frozen, store, inputs) -> jax.Array:
        """A mean of the features of a batch, and nothing else of a step."""
        batch = self._feed.batch(store, inputs)
        images = jnp.concatenate([jnp.asarray(batch.reference), jnp.asarray(batch.distorted)])
        return nnx.merge(self._graph, trained, frozen).features(images).mean((1, 2))

    def bytes(self) -> float:
        """What a step has to move at least: each weight and image once, Adam's state read and written."""
        sizes = [sum(x.nbytes for x in jax.tree.leaves(tree)) for tree in (self._state, self._frozen)]
        return 2 * sizes[0] + sizes[1] + 2 * BATCH * CROP * CROP * 3

    def share_of_backbone(self, rounds: int) -> float:
        """How much of a step the frozen backbone takes, which runs forward alone; both take turns."""
        program = jit(self._features)

        def backbone():
            inputs = self._feed.take(self._number)
            arguments = self._state.trained, self._frozen, self._feed.store, inputs
            jax.block_until_ready(program(*arguments))

        def seconds(function):
            start = time.perf_counter()
            function()
            return time.perf_counter() - start

        backbone()  # compiles
        taken = [(seconds(backbone), seconds(lambda: self.run(1))) for _ in range(rounds)]
        return statistics.median(one / whole for one, whole in taken)

    def run(self, steps: int) -> None:
        loss = None
        for _ in range(max(steps // self._at_once, 1)):
            take = self._feed.take if self._at_once == 1 else lambda n: self._feed.several(n, self._at_once)
            inputs = take(self._number)
            self._number += self._at_once
            self._state, loss = self._program(self._state, self._frozen, self._feed.store, inputs)
        jax.block_until_ready(loss)


class PyTorch:
    """The tests' implementation: as the original trains it, or compiled, on crops that are on the device."""

    def __init__(self, compiled: bool, dtype: str, source: PairSource):
        import torch

        from tests import torch_reference

        self._torch, self._reference, self._source = torch, torch_reference, source
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        model = torch_reference.IQAConformer()
        weights = reference.fill_rule("iqa_conformer")
        model.load_state_dict({k: torch.as_tensor(v) for k, v in weights.items()})
        self._model = model.to(self._device).train()
        if compiled:
            self._model = torch.compile(self._model)
        parameters = [p for p in model.parameters() if p.requires_grad]
        self._adam = torch.optim.Adam(parameters, lr=1e-4)
        self._autocast, self._rng = dtype == "bfloat16", np.random.default_rng(0)
        self._crops = self._loaded() if compiled else None

    def _loaded(self):
        positions = self._rng.choice(len(self._source), BATCH, replace=False)
        pairs = [self._source[int(position)] for position in positions]
        crops = [[], []]
        for pair in pairs:
            top, left = self._rng.integers(0, pair.reference.shape[0] - CROP + 1, 2)
            flip = -1 if self._rng.random() < 0.5 else 1
            for image, cut in zip((pair.reference, pair.distorted), crops, strict=True):
                cut.append(image[top : top + CROP, left : left + CROP][:, ::flip])
        mos = self._torch.as_tensor([[pair.mos] for pair in pairs], dtype=self._torch.float32) - 3.0
        inputs = (self._reference.network_input(np.stack(cut)) for cut in crops)
        return [x.to(self._device) for x in (*inputs, mos)]

    def run(self, steps: int) -> None:
        loss = self._torch.zeros(())
        for _ in range(steps):
            crops = self._crops or self._loaded()
            context = contextlib.nullcontext()
            if self._autocast:
                context = self._torch.autocast(self._device, dtype=self._torch.bfloat16)
            with context:
                loss = self._reference.train_step(self._model, self._adam, *crops)
        loss.item()


def peaks(dtype: str) -> tuple[float, float]:
    """Arithmetic and bytes a second that matrix products and copies reach on this device."""

    def rate(function, x, amount):
        program = jit(function)
        jax.block_until_ready(program(x))
        taken = []
        for _ in range(5):
            start = time.perf_counter()
            jax.block_until_ready(program(x))
            taken.append(time.perf_counter() - start)
        return amount / min(taken)

    side = 2048 if jax.default_backend() == "cpu" else 8192
    x = jnp.ones((side, side), dtype)
    y = jnp.ones((side * side * 4,), jnp.float32)
    return rate(lambda x: x @ x, x, 2 * side**3), rate(lambda y: y + 1, y, 2 * y.nbytes)


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often each contestant is measured.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Steps of a measurement.")] = 4,
    within: Annotated[float, typer.Option(help="Seconds that it may take, about.")] = math.inf,
    small: Small = False,
    output: Output = None,
) -> None:
    """Measure training with iqa_jax and PyTorch on the default device."""
    began = time.perf_counter()
    source = PairSource(prepare_dataset("iqa_demo"), "train")
    rounds, steps, dtypes = (1, 1, ["float32"]) if small else (rounds, steps, ["float32", "bfloat16"])
    makers = {}
    for dtype in dtypes:
        for kept in ("stream", "host", "device"):
            makers[f"iqa_jax, {kept}", dtype] = lambda k=kept, d=dtype: Ours(k, d, 1, source)
        makers[f"iqa_jax, device, {steps} steps at once", dtype] = lambda d=dtype: Ours(
            "device", d, steps, source
        )
        makers["PyTorch eager, decoding in the loop", dtype] = lambda d=dtype: PyTorch(False, d, source)
        makers["PyTorch compiled, crops on the device", dtype] = lambda d=dtype: PyTorch(True, d, source)
    contestants, first, memory, failed = {}, {}, {}, {}
    with tqdm(total=len(makers) + rounds * len(makers), unit="round") as bar:
        for name, make in makers.items():
            start = time.perf_counter()
            try:
                if start - began > 0.7 * within:  # the rest is for the rounds
                    raise TimeoutError("no time was left")
                contestants[name] = make()
                contestants[name].run(1)
            except Exception as error:  # a compiler that this machine lacks, say
                contestants.pop(name, None)
                failed[name] = first_line(error)
            first[name] = time.perf_counter() - start
            stats = jax.devices()[0].memory_stats() or {}
            memory[name] = stats.get("peak_bytes_in_use")
            bar.update()
        seconds = {name: [] for name in contestants}
        for number in range(rounds):
            if number and time.perf_counter() - began > within * number / (number + 1):
                rounds = number
                break
            for name, contestant in contestants.items():
                start = time.perf_counter()
                contestant.run(steps)
                seconds[name].append((time.perf_counter() - start) / steps)
                bar.update()
    if ("iqa_jax, device", "float32") not in contestants:
        raise SystemExit(f"iqa_jax did not run: {failed['iqa_jax, device', 'float32']}")
    ours = contestants["iqa_jax, device", "float32"]
    (flops, of_backbone), moved = ours.flops(), ours.bytes()
    share = ours.share_of_backbone(rounds)
    lines = [
        "| | dtype | steps a second | pairs a second | first step, s | of the roofline | memory |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    rates = {dtype: peaks(dtype) for dtype in dtypes}
    for name in makers:
        who, dtype = name
        if name in failed:
            lines.append(f"| {who} | {dtype} | did not run: {failed[name]} | | | | |")
            continue
        median = statistics.median(seconds[name])
        floor = max(flops / rates[dtype][0], moved / rates[dtype][1])
        used = f"{memory[name] / 2**20:,.0f} MiB" if memory[name] and who.startswith("iqa") else "–"
        lines.append(
            f"| {who} | {dtype} | {1 / median:.2f} | {BATCH / median:.1f} | {first[name]:.1f} | "
            f"{floor / median:.0%} | {used} |"
        )
    best = min(statistics.median(taken) for name, taken in seconds.items() if name[0].startswith("iqa"))
    versions = ", ".join(f"{package} {version(package)}" for package in ("jax", "flax", "torch"))
    lines += [
        "",
        f"Medians of {rounds} rounds of {steps} steps of {BATCH} pairs on {jax.devices()[0].device_kind} "
        f"({os.cpu_count()} {platform.machine()} cores), Python {platform.python_version()}, {versions}.",
        "",
        f"A step computes {flops / 1e9:.0f} GFLOP and moves at least {moved / 2**20:.0f} MiB. The roofline "
        "is the shortest time that this could take at the rates that matrix products and copies reach on "
        "this machine ("
        + "; ".join(f"{d}: {r[0] / 1e9:,.0f} GFLOP/s, {r[1] / 1e9:.0f} GB/s" for d, r in rates.items())
        + f"). The backbone, which runs forward alone, has {of_backbone / flops:.0%} of the arithmetic and "
        f"takes {share:.0%} of a step in float32. "
        f"At the best measured rate, the paper's recipe ({RECIPE_PAIRS:,} pairs) takes "
        f"{RECIPE_PAIRS / BATCH * best / 3600:.1f} hours on this machine.",
    ]
    put_out("\n".join(lines) + "\n", output)


if __name__ == "__main__":
    typer.run(main)
