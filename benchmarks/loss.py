"""Seconds and peak memory of a gradient through `metric.loss`, by the size of the image.

    python benchmarks/loss.py

Measures the shipped metric, and an IQA Conformer on Inception-ResNet-v2 with random weights, which change
neither time nor memory.  Each case runs in its own process, so that its memory can be measured.
"""

import multiprocessing
import resource
import time
from typing import Annotated, cast

import typer
from tables import Output, Small, put_out

METRICS = {"package": "shipped full-reference metric", "inception": "IQA Conformer on Inception-ResNet-v2"}


def measured(name: str, side: int, windows: int | None) -> tuple[float, float]:
    """Seconds of a second call and MiB at the peak."""
    import jax
    import jax.numpy as jnp

    import iqa_jax
    from iqa_jax.ops.programs import jit
    from iqa_jax.scoring.metric import FullReferenceMetric

    metric = cast(FullReferenceMetric, iqa_jax.load() if name == "package" else _drawn())
    reference = jax.random.uniform(jax.random.key(0), (side, side, 3))
    distorted = jnp.clip(reference + 0.1 * jax.random.normal(jax.random.key(1), reference.shape), 0, 1)
    key = jax.random.key(2)
    gradient = jit(jax.grad(lambda image: metric.loss(reference, image, windows=windows, key=key)))
    gradient(distorted).block_until_ready()
    start = time.perf_counter()
    gradient(distorted).block_until_ready()
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _drawn():
    from flax import nnx

    from iqa_jax.models import IQAModel, ModelConfig, build
    from iqa_jax.scoring.load import metric_of
    from iqa_jax.scoring.network import Network

    config = ModelConfig(name="iqa_conformer", backbone="inception_resnet_v2")
    model = cast(IQAModel, build(config, rngs=nnx.Rngs(0)))
    model.eval()
    return metric_of(Network.from_model(model), {"sha256": "0" * 64})


def main(
    sides: Annotated[str, typer.Option(help="Sides of square images, pixels.")] = "256,1024,2048",
    small: Small = False,
    output: Output = None,
) -> None:
    """Measure gradients through the loss."""
    names, sides = (["package"], "192") if small else ([*METRICS], sides)
    context = multiprocessing.get_context("spawn")
    rows = []
    for name in names:
        for side in map(int, sides.split(",")):
            for windows in (None, 4):
                with context.Pool(1) as pool:
                    seconds, memory = pool.apply(measured, (name, side, windows))
                rows.append(
                    [METRICS[name], f"{side} x {side}", windows or "all", f"{seconds:.2f}", f"{memory:,.0f}"]
                )
                print(*rows[-1], sep=", ", flush=True)
    header = ["metric", "image", "windows", "seconds", "MiB at the peak"]
    lines = [header, ["---", "---", "---", "---:", "---:"], *rows]
    put_out("".join(f"| {' | '.join(map(str, line))} |\n" for line in lines), output)


if __name__ == "__main__":
    typer.run(main)
