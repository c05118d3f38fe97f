"""Makes the pairs: parts of photographs, distorted and measured.

Writes one file for each part, `pairs/NNN_W.npz`, so that the same command resumes:

  reference   (H, W, 3) uint8, 512 x 384 or 384 x 512
  distorted   (N, H, W, 3) uint8
  measures    (N, M) float32, see `measures.py`, of the whole pictures
  kind, strength   (N,) see `degrading.py`; kind "identical" is the reference itself
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import degrading
import generative
import measures
import numpy as np
from arrays import write_whole
from photographs import Photograph, part
from tqdm import tqdm

PARTS = 2  # of a photograph, at most
_TWICE = ("gaussian_blur", "jpeg", "jpeg2000", "white_noise")  # the most frequent in use
_MILD = ("jpeg_full_chroma", "webp", "gaussian_blur", "white_noise", "jpeg", "rescaled", "grey_noise")


def plan(photograph: Photograph, which: int) -> list[tuple[str, float]]:
    """Kinds and strengths of a part's distorted versions, "a+b" for two together.

    Of each of KADID-10k's types one part has the weaker half of the strengths, the other the stronger half.
    """
    rng = np.random.default_rng((photograph.number, which, 1))

    def drawn(name, share):
        low, high = degrading.KINDS[name].range
        return name, float(low + (high - low) * share)

    half = (which + photograph.number) % PARTS
    made = [("identical", 0.0)]
    made += [drawn(name, (half + rng.random()) / 2) for name in degrading.KADID]
    made += [drawn(name, (1 - half + rng.random()) / 2) for name in _TWICE]
    made += [drawn(name, rng.random()) for name in rng.choice([*degrading.OTHERS], 12, replace=False)]
    made += [drawn(name, rng.random()) for name in rng.choice([*degrading.GENERATIVE], 3, replace=False)]
    made += [drawn(name, 0.2 * rng.random()) for name in rng.choice(_MILD, 3, replace=False)]
    names = [n for n in degrading.KINDS if n not in ("color_diffusion", "saturation_lab")]
    made += [("+".join(rng.choice(names, 2, replace=False)), float(rng.uniform(0.5, 5))) for _ in range(3)]
    return made


def distorted(image: np.ndarray, kind: str, strength: float, rng: np.random.Generator) -> np.ndarray:
    if kind == "identical":
        return image
    if "+" in kind:
        return degrading.two_together(image, strength, rng, kind.split("+"))
    return degrading.KINDS[kind].make(image, strength, rng)


def make(photograph: Photograph, which: int, path: Path) -> None:
    """Writes one part's pairs."""
    generative.NETWORK = path.parent / "superresolution.npz"
    reference = part(photograph, which)
    made = plan(photograph, which)
    versions, measured = [], []
    for number, (kind, strength) in enumerate(made):
        rng = np.random.default_rng((photograph.number, which, 2, number))
        versions.append(distorted(reference, kind, strength, rng))
        measured.append(measures.measured(reference, versions[-1]))
    names, strengths = zip(*made, strict=True)
    write_whole(
        path,
        reference=reference,
        distorted=np.stack(versions),
        measures=np.stack(measured),
        kind=np.array(names),
        strength=np.array(strengths, np.float32),
    )


def make_all(listed: list[Photograph], directory: Path, *, processes: int | None = None) -> None:
    """The parts: one of each photograph, and a second one of half of those that are trained on."""
    directory.mkdir(parents=True, exist_ok=True)
    network = directory / "superresolution.npz"
    if not network.exists():
        generative.train_network([part(p, 0) for p in listed if not p.held_out], network)
    tasks = []
    for which in range(PARTS):
        for photograph in listed:
            path = directory / f"{photograph.number:03d}_{which}.npz"
            if path.exists():
                continue
            # Half of the photographs that are not held out, whose number in the list is odd as often as even.
            if which == 0 or (photograph.number % 4 < 2 and not photograph.held_out):
                tasks.append((photograph, which, path))
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(processes, mp_context=context) as pool,
        tqdm(total=len(tasks), unit="part", desc="pairs") as bar,
    ):
        for future in as_completed([pool.submit(make, *task) for task in tasks]):
            future.result()
            bar.update()
