"""Counts the files that a picture, a training step and a configuration pass through.

    python benchmarks/rooms.py

"files" are those of the package in which a function is entered; "changes" counts how often the next function
entered stands in another file than the last one.  Imports are not counted, and neither is what is entered for
the first time alone: compiled programs are ready before the count begins.  Each line counts one thing:

- score: from two picture files to the score of the full-reference metric, `metric(reference, distorted)`.
- train: what a run of the demo recipe does for one more step, from its batch to its new state.
- configuration: from the arguments of `train` to the start of the run, files alone.
"""

import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
from PIL import Image

PACKAGE = str(ROOT / "iqa_jax") + "/"


def rooms(work: Callable[[], object]) -> tuple[list[str], int]:
    """The files of the package that `work` enters, in their order, and how often it changes between them."""
    entered: list[str] = []

    def follow(frame, event, _):
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(PACKAGE) and frame.f_code.co_name != "<module>":
            if not entered or entered[-1] != file:
                entered.append(file)

    threading.setprofile(follow)
    sys.setprofile(follow)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return [file.removeprefix(PACKAGE) for file in dict.fromkeys(entered)], len(entered)


def pictures(folder: Path) -> tuple[Path, Path]:
    """Two picture files of 288 x 288: smooth colours, and the same with noise."""
    rng = np.random.default_rng(0)
    clean = np.kron(rng.uniform(0, 255, (9, 9, 3)), np.ones((32, 32, 1)))
    files = folder / "reference.png", folder / "distorted.png"
    for file, pixels in zip(files, (clean, clean + rng.normal(0, 12, clean.shape)), strict=True):
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)
    return files


def main() -> None:
    import iqa_jax

    with tempfile.TemporaryDirectory() as scratch:
        reference, distorted = pictures(Path(scratch))
        metric = iqa_jax.load()
        metric(reference, distorted)
        files, changes = rooms(lambda: metric(reference, distorted))
        print(len(files), changes, files)
        files, changes = rooms(lambda: iqa_jax.load()(reference, distorted))
        print(len(files), changes, files)


main()
