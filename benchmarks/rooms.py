"""Counts the files of the package that a picture, a training step and a configuration pass through.

    python benchmarks/rooms.py

Each line is counted in a new process, so that it holds what is done once: loading, tracing, decoding.  A file
counts when one of its functions is entered.  A change is a function that is entered in another file than the
one before it.
"""

import contextlib
import dataclasses
import io
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Annotated

import typer
from tables import ROOT, Small

PACKAGE = f"{ROOT / 'iqa_jax'}/"
DEMO = ("num_steps=1", "eval_every=1", "batch_size=4", "taps=stage1", "stride=32", "dim=16")


class Route:
    """The files whose functions are entered, one entry for each change of file.

    Args:
      first: the file at whose first function the route begins; at once if it is empty.
      end: the file at whose first function it ends.
    """

    def __init__(self, first: str = "", end: str = ""):
        self.files: list[str] = []
        self._first, self._end = first, end
        threading.setprofile(self._follow)
        sys.setprofile(self._follow)

    def stop(self) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _follow(self, frame, event, _) -> None:
        code = frame.f_code
        in_function = code.co_flags & 1  # CO_OPTIMIZED; bodies of modules and classes lack it
        if event != "call" or not in_function or not code.co_filename.startswith(PACKAGE):
            return
        file = code.co_filename.removeprefix(PACKAGE)
        if self.files and file == self._end:
            self.stop()
        elif (self.files or file == self._first or not self._first) and self.files[-1:] != [file]:
            self.files.append(file)

    def __str__(self) -> str:
        return f"{len(set(self.files))} files, {len(self.files)} changes"


def picture(scratch: Path) -> str:
    """From two picture files to their score."""
    import numpy as np
    from PIL import Image

    import iqa_jax

    rng = np.random.default_rng(0)
    clean = np.kron(rng.uniform(0, 255, (9, 9, 3)), np.ones((32, 32, 1)))
    for name, pixels in (("reference", clean), ("distorted", clean + rng.normal(0, 12, clean.shape))):
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(scratch / f"{name}.png")
    route = Route()
    iqa_jax.load()(reference=scratch / "reference.png", distorted=scratch / "distorted.png")
    route.stop()
    return str(route)


def training_step(scratch: Path) -> str:
    """From the examples of a run to the loss of its first step."""
    from iqa_jax.cli.train_arguments import parse
    from iqa_jax.training.loop import train

    config = parse(["--config=conformer:demo", *(f"--config.{field}" for field in DEMO)]).config
    route = Route(first="training/feed.py", end="training/validation.py")
    train(config, scratch / "run")
    route.stop()
    return str(route)


def configuration(scratch: Path) -> str:
    """The files that read a field of the configuration, from the command line to the end of a run."""
    from iqa_jax.cli.train_arguments import parse
    from iqa_jax.training.config import TrainConfig
    from iqa_jax.training.loop import train

    names = {field.name for field in dataclasses.fields(TrainConfig)}
    readers = set()
    plain = TrainConfig.__getattribute__

    def read(self, name: str):
        file = sys._getframe(1).f_code.co_filename
        if name in names and file.startswith(PACKAGE):
            readers.add(file)
        return plain(self, name)

    TrainConfig.__getattribute__ = read  # type: ignore[method-assign]  # counted here alone
    command = parse(["--config=conformer:demo", *(f"--config.{field}" for field in DEMO)])
    train(command.config, scratch / "run", reason=command.reason)
    return f"{len(readers)} files"


ROUTES = {"picture": picture, "training step": training_step, "configuration": configuration}


def main(
    route: Annotated[str, typer.Option(help=f"One alone: {', '.join(ROUTES)}.")] = "",
    small: Small = False,
) -> None:
    """Counts the files that a picture, a training step and a configuration pass through."""
    if not route:
        for name in ROUTES:
            subprocess.run([sys.executable, __file__, "--route", name], check=True)
        return
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(io.StringIO()):
        counted = ROUTES[route](Path(scratch))
    print(f"{route}: {counted}")


if __name__ == "__main__":
    typer.run(main)
