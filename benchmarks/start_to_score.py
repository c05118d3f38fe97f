"""From the start of a process to a score: CPU seconds, seconds and memory, beside other measures.

    python benchmarks/start_to_score.py --output docs/scoring_speed.md

The contestants take turns: `score` on JAX and on onnxruntime, `butteraugli_main` of libjxl (Debian's
libjxl-devtools) and the package ssimulacra2; one that is not installed is left out with a line.  The first
round, which compiles, is not counted.  Then a process on JAX and one on onnxruntime score pairs in memory.
"""

import json
import multiprocessing
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from typing import Annotated, NamedTuple

import numpy as np
import typer
from PIL import Image
from scoring import PHOTOGRAPH, SMALL_PHOTOGRAPH, example_images
from tables import ROOT, Output, Small, put_out
from tqdm import tqdm

HEADING = "## From start to score"
_MAXRSS = 2**20 if sys.platform == "darwin" else 2**10  # of its units in a MiB
ENGINES = {"jax": "iqa_jax on JAX", "onnx": "iqa_jax on onnxruntime"}


class Cost(NamedTuple):
    """What a process took: CPU seconds of all its threads, seconds, MiB of memory at the peak."""

    cpu: float
    wall: float
    memory: float


def commands() -> dict[str, list[str]]:
    """The command of each contestant that is installed; reference and distorted file follow."""
    packages = {"jax": "jax", "onnx": "onnxruntime"}
    score = [sys.executable, "-m", "iqa_jax", "score", "--engine"]
    found = {
        title: [*score, engine, "-r", "{reference}", "-t", "{distorted}"]
        for engine, title in ENGINES.items()
        if find_spec(packages[engine])
    }
    if binary := shutil.which("butteraugli_main"):
        found["butteraugli_main"] = [binary, "{reference}", "{distorted}"]
    if find_spec("ssimulacra2"):
        run = "from ssimulacra2.cli import main; main()"
        found["ssimulacra2"] = [sys.executable, "-c", run, "{reference}", "{distorted}"]
    for title in (*ENGINES.values(), "butteraugli_main", "ssimulacra2"):
        if title not in found:
            print(f"{title}: not installed, left out")
    return found


def cost_of(command: list[str]) -> Cost:
    """What a command takes; its process is waited for by its id, so that its own use is known."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path}
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment, cwd=ROOT)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            sys.exit(f"{' '.join(command)}: {said.read().decode(errors='replace').strip()}")
    return Cost(used.ru_utime + used.ru_stime, wall, used.ru_maxrss / _MAXRSS)


def serve(engine: str) -> None:
    """Scores the pair of arrays that each line names, and prints what it took."""
    sys.path.insert(0, str(ROOT))
    import iqa_jax

    metric = iqa_jax.load(engine=engine)
    for line in sys.stdin:
        pair = [np.load(path) for path in json.loads(line)]
        start, before = time.perf_counter(), time.process_time()
        score = float(metric(*pair))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MAXRSS
        taken = [time.process_time() - before, time.perf_counter() - start, memory]
        print(json.dumps({"cost": taken, "score": score}), flush=True)


def in_one_process(pairs: dict[str, list[str]], rounds: int) -> dict[tuple[str, str], Cost]:
    """The costs of each pair on each engine, in turns; the first round compiles and is not counted."""
    this = [sys.executable, __file__, "--serve"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    servers = {engine: subprocess.Popen([*this, engine], **pipes) for engine in ENGINES}
    costs: dict[tuple[str, str], list[Cost]] = {}
    scores: dict[str, list[float]] = {}
    for name, files in pairs.items():
        for number in tqdm(range(rounds + 1), unit="round", desc=name):
            for engine, server in servers.items():
                assert server.stdin and server.stdout  # both are pipes
                server.stdin.write(json.dumps(files) + "\n")
                server.stdin.flush()
                answer = json.loads(server.stdout.readline())
                scores.setdefault(name, []).append(answer["score"])
                if number:
                    costs.setdefault((engine, name), []).append(Cost(*answer["cost"]))
    for server in servers.values():
        server.communicate()  # closes its input, at which it ends
    apart = max(max(found) - min(found) for found in scores.values())
    assert apart < 1e-4, f"the engines' scores differ by {apart}"
    return {key: median(found) for key, found in costs.items()}


def make(sizes: dict[str, tuple[int, int]], arrays: dict[str, list[str]]) -> None:
    """Writes the pictures, as arrays and as PNG files."""
    for name, size in sizes.items():
        reference, (distorted,) = example_images(*size, 1)
        for path, image in zip(arrays[name], (reference, distorted), strict=True):
            np.save(path, image)
            Image.fromarray(image).save(path.replace(".npy", ".png"))


def median(costs: list[Cost]) -> Cost:
    return Cost(*(statistics.median(values) for values in zip(*costs, strict=True)))


def cells(cost: Cost) -> str:
    return f"{cost.cpu:.2f} | {cost.wall:.2f} | {cost.memory:.0f}"


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often each contestant is measured.")] = 5,
    small: Small = False,
    output: Output = None,
    serving: Annotated[str, typer.Option("--serve", hidden=True)] = "",
) -> None:
    """Measure the time from start to score."""
    if serving:
        serve(serving)
        return
    rounds, large = (1, SMALL_PHOTOGRAPH) if small else (rounds, PHOTOGRAPH)
    sizes = {"a pair of 288 x 288": (288, 288), "a pair of 12 megapixels": large}
    found = commands()
    costs: dict[str, list[Cost]] = {title: [] for title in found}
    with tempfile.TemporaryDirectory() as directory:
        arrays = {
            name: [f"{directory}/{height}-{part}.npy" for part in ("reference", "distorted")]
            for name, (height, _) in sizes.items()
        }
        # In a process of its own: those that are started later would count this one's peak as theirs.
        maker = multiprocessing.get_context("spawn").Process(target=make, args=(sizes, arrays))
        maker.start()
        maker.join()
        first = [path.replace(".npy", ".png") for path in arrays["a pair of 288 x 288"]]
        files = dict(zip(("reference", "distorted"), first, strict=True))
        for number in tqdm(range(rounds + 1), unit="round", desc="from start to score"):
            for title, command in found.items():
                cost = cost_of([word.format(**files) for word in command])
                if number:
                    costs[title].append(cost)
        engines = in_one_process(arrays, rounds) if all(t in found for t in ENGINES.values()) else {}
    columns = "CPU seconds | seconds | MiB at the peak |\n|---|---:|---:|---:|\n"
    text = f"| from start to score, 288 x 288 | {columns}"
    text += "".join(f"| {title} | {cells(median(taken))} |\n" for title, taken in costs.items())
    if engines:
        text += f"\n| in one process that has loaded the metric | {columns}"
        text += "".join(f"| {name}, {ENGINES[e]} | {cells(cost)} |\n" for (e, name), cost in engines.items())
    text += f"\nMedians of {rounds} rounds in turns, on {os.cpu_count()} cores ({platform.machine()}).\n"
    put_out(text, output, heading=HEADING)


if __name__ == "__main__":
    typer.run(main)
