"""Seconds and memory of scoring on a CPU, for iqa_jax and PyTorch.

    python benchmarks/scoring.py --output docs/scoring_speed.md

The contestants take turns in three tasks on the IQA Conformer with Inception-ResNet-v2: a ten-crop pair; one
reference with 66 distorted versions, as in PIPAL's test set, ten crops each; a folder of 12-megapixel JPEG
files and their references, in the windows of the grid.  PyTorch runs `tests/torch_reference.py`.  "Eager"
does what the original does, one pair at a time.  "Careful" uses channels-last images and weights,
`torch.inference_mode` and `torch.compile`, and computes a reference's features once.  Each contestant runs in
its own process, so that its memory can be measured.
"""

import contextlib
import multiprocessing
import os
import platform
import re
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from tables import Output, Small, need, put_out
from tqdm import tqdm

_MODEL = "iqa_conformer"
_PHOTOGRAPHS = 2
PHOTOGRAPH, SMALL_PHOTOGRAPH = (3000, 4000), (240, 320)  # height and width


def example_images(height: int, width: int, count: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """A reference and its distorted versions, uint8."""
    rng = np.random.default_rng(0)
    reference = np.kron(rng.integers(0, 256, (height // 8, width // 8, 3)), np.ones((8, 8, 1), int))
    noise = rng.normal(0, 10, (height, width, 3))
    versions = [np.clip(reference + 5.0 * k + noise, 0, 255).astype(np.uint8) for k in range(count)]
    return reference.astype(np.uint8), versions


def write_folder(folder: Path, size: tuple[int, int]) -> None:
    """Photographs' size and format, in pairs that `folder_pairs` finds."""
    reference, distorted = example_images(*size, _PHOTOGRAPHS)
    for number, image in enumerate(distorted):
        Image.fromarray(reference).save(folder / f"reference-{number}.jpg", quality=95)
        Image.fromarray(image).save(folder / f"distorted-{number}.jpg", quality=95)


def folder_pairs(folder: Path) -> list[tuple[Path, Path]]:
    return [
        (p, p.with_name(p.name.replace("distorted", "reference"))) for p in sorted(folder.glob("distorted-*"))
    ]


def ours():
    """`(score(reference, distorted versions), score_folder(pairs of files))` by iqa_jax."""
    from iqa_jax.scoring.files import score_files
    from iqa_jax.scoring.metric import FullReferenceMetric
    from iqa_jax.scoring.network import Network
    from iqa_jax.weights.flat import iqa_model_with
    from iqa_jax.weights.pytorch.convert import convert_state_dict
    from tests import reference as figures

    converted = convert_state_dict(figures.fill_rule(_MODEL))
    model = iqa_model_with(converted.config, converted.weights)
    network = Network.from_model(model)
    ten, grid = (FullReferenceMetric(network, {"sha256": ""}, crops=crops) for crops in ("ten", "grid"))

    def score(reference, distorted):
        reference = ten.prepare(reference) if len(distorted) > 1 else reference
        return [float(ten(reference, image)) for image in distorted]

    return score, lambda pairs: [result.score for _, result in score_files(grid, pairs)]


def pytorch(careful: bool):
    """The same two functions by PyTorch."""
    import torch

    from iqa_jax.ops.windows import covering
    from tests import reference as figures
    from tests import torch_reference

    model = torch_reference.IQAConformer()
    model.load_state_dict({k: torch.as_tensor(v) for k, v in figures.fill_rule(_MODEL).items()})
    model.eval()
    features, compare = model.features, model.compare
    memory = torch.channels_last if careful else torch.contiguous_format
    guard = torch.inference_mode if careful else torch.no_grad
    if careful:
        model.to(memory_format=memory)  # pyright: ignore[reportCallIssue]  # its stub asks for a device too
        features, compare = torch.compile(features, dynamic=False), torch.compile(compare, dynamic=False)

    def ten(image):
        x = torch_reference.network_input(image[None])[0]
        return [torch_reference.ten_crop(x).contiguous(memory_format=memory)]

    def grid(image):
        offsets = [(t, x) for t in covering(image.shape[0], 192) for x in covering(image.shape[1], 192)]
        for start in range(0, len(offsets), 16):
            windows = [image[t : t + 192, x : x + 192] for t, x in offsets[start : start + 16]]
            yield torch_reference.network_input(np.stack(windows)).contiguous(memory_format=memory)

    def of_pair(f_reference, crops):
        scores = []
        for f_ref, x in zip(f_reference, crops, strict=True):
            scores.append(compare(model.conv_proj(f_ref), model.conv_proj(f_ref - features(x)))[:, 0])
        return float(torch.cat(scores).mean() * torch_reference.MOS_STD + torch_reference.MOS_MEAN)

    def score(reference, distorted):
        with guard():
            if careful:
                kept = [features(x) for x in ten(reference)]
                return [of_pair(kept, ten(image)) for image in distorted]
            return [of_pair([features(x) for x in ten(reference)], ten(image)) for image in distorted]

    def score_folder(pairs):
        with guard():
            images = ((np.asarray(Image.open(path)) for path in pair) for pair in pairs)
            return [of_pair((features(x) for x in grid(r)), grid(d)) for d, r in images]

    return score, score_folder


CONTESTANTS = {
    "iqa_jax": ours,
    "PyTorch eager": lambda: pytorch(careful=False),
    "PyTorch careful": lambda: pytorch(careful=True),
}


def peak_memory() -> float:
    """Of this process, MiB.  Linux' `ru_maxrss` would count the process that started this one too."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def serve(who: str, folder: Path, pipe) -> None:
    """A contestant's process: gets (task, count), answers (scores, seconds, peak memory in MiB)."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    score, score_folder = CONTESTANTS[who]()
    while (asked := pipe.recv()) is not None:
        task, count = asked
        images = None if task == "folder" else example_images(288, 288, count)
        start = time.perf_counter()
        scores = score_folder(folder_pairs(folder)[:count]) if images is None else score(*images)
        seconds = time.perf_counter() - start
        pipe.send((scores, seconds, peak_memory()))


def _processor() -> str:
    told = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return told[1] if told else platform.machine()


def table(results: dict, titles: dict[str, str]) -> str:
    """Markdown: medians, how many times as long as ours, and the largest memory so far."""
    who = list(next(iter(results.values())))
    lines = [f"| task | {' | '.join(who)} |", f"|---|{'---:|' * len(who)}"]
    for task, by_contestant in results.items():
        base = statistics.median(s for s, _ in by_contestant["iqa_jax"])
        cells = []
        for name in who:
            seconds = statistics.median(s for s, _ in by_contestant[name])
            memory = max(m for _, m in by_contestant[name])
            cells.append(f"{seconds:.2f} s ({seconds / base:.2f} ×), {memory:,.0f} MiB")
        lines.append(f"| {titles[task]} | {' | '.join(cells)} |")
    versions = ", ".join(f"{package} {version(package)}" for package in ("jax", "torch"))
    lines += [
        "",
        "Median seconds (as a multiple of ours) and the process's peak memory up to the end of the task, on "
        f"{os.cpu_count()} cores of {_processor()} ({platform.machine()}), Python "
        f"{platform.python_version()}, {versions}. "
        "Compilation is not counted.",
    ]
    return "\n".join(lines) + "\n"


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often each contestant is measured.")] = 9,
    small: Small = False,
    output: Output = None,
) -> None:
    """Measure seconds and memory of scoring with iqa_jax and PyTorch."""
    need("torch")
    contestants = [who for who in CONTESTANTS if not small or "careful" not in who]  # nothing to compile
    size, versions, rounds = (SMALL_PHOTOGRAPH, 2, 1) if small else (PHOTOGRAPH, 66, rounds)
    titles = {
        "pair": "ten-crop pair, 288 x 288",
        "pipal": f"1 reference, {versions} distorted, ten crops",
        "folder": f"{_PHOTOGRAPHS} files of {size[1]} x {size[0]} and their references",
    }
    context = multiprocessing.get_context("spawn")
    results = {task: {who: [] for who in contestants} for task in titles}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_folder(folder, size)
        pipes = {}
        for who in contestants:
            pipes[who], theirs = context.Pipe()
            process = context.Process(target=serve, args=(who, folder, theirs), daemon=True)
            process.start()
            theirs.close()  # so that a contestant that dies is noticed
            stack.callback(process.terminate)

        def ask(who, task, count):
            pipes[who].send((task, count))
            return pipes[who].recv()

        times = {task: rounds if task == "pair" else max(rounds // 3, 1) for task in titles}
        bar = stack.enter_context(tqdm(total=sum(times.values()) + len(titles), unit="round"))
        for task, count in (("pair", 1), ("pipal", versions), ("folder", _PHOTOGRAPHS)):
            warm = [ask(who, task, min(count, 2))[0] for who in contestants]  # compiles
            if np.ptp(warm, axis=0).max() > 0.05:
                raise SystemExit(f"{task}: the implementations disagree: {warm}")
            bar.update()
            for _ in range(times[task]):
                for who in contestants:
                    results[task][who].append(ask(who, task, count)[1:])
                bar.update()
    put_out(table(results, titles), output)


if __name__ == "__main__":
    typer.run(main)
