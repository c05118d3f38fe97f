"""Makes the pairs: parts of photographs, distorted, measured, cut into the windows that models look at.

Writes one file for each part, `pairs/NNN_W.npz`, so that the same command resumes:

  reference   (6, 192, 192, 3) uint8, the windows of the grid that covers 512 x 384
  distorted   (N, K, 192, 192, 3) uint8, K of the same windows of each distorted version
  window      (N, K) which
  measures    (N, 6, M) float32, see `measures.py`, of all windows
  changed     (N, 6) share of the pixels that differ
  kind, strength   (N,) see `degrading.py`; kind "identical" is the reference itself
"""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import degrading
import measures
import numpy as np
from photographs import Photograph, part
from tqdm import tqdm

from iqa_jax.ops.windows import covering

SIZE = 192
KEPT = 2  # windows of each distorted version that are kept


def windows(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (6, 192, 192, 3)."""
    rows, columns = (covering(side, SIZE) for side in image.shape[:2])
    return np.stack([image[t : t + SIZE, c : c + SIZE] for t in rows for c in columns])


def plan(photograph: Photograph, which: int) -> list[tuple[str, float]]:
    """Kinds and strengths of a part's distorted versions, "a+b" for two together."""
    rng = np.random.default_rng((photograph.number, which, 1))
    made = [("identical", 0.0)]
    for kinds, count in ((degrading.KADID, 3), (degrading.OTHERS, 2)):
        for name, kind in kinds.items():
            low, high = kind.range
            shares = (np.arange(count) + rng.random(count)) / count
            made += [(name, float(low + (high - low) * share)) for share in shares]
    names = [n for n in degrading.KINDS if n not in ("color_diffusion", "saturation_lab")]
    made += [("+".join(rng.choice(names, 2, replace=False)), float(rng.uniform(0.5, 5))) for _ in range(8)]
    return made


def levels() -> list[tuple[str, float]]:
    """KADID-10k's own types and levels, for photographs that are held out."""
    return [("identical", 0.0)] + [(name, float(level)) for name in degrading.KADID for level in range(1, 6)]


def distorted(image: np.ndarray, kind: str, strength: float, rng: np.random.Generator) -> np.ndarray:
    if kind == "identical":
        return image
    if "+" in kind:
        return degrading.two_together(image, strength, rng, kind.split("+"))
    return degrading.KINDS[kind].make(image, strength, rng)


def make(photograph: Photograph, which: int, path: Path, every: bool) -> None:
    """Writes one part's pairs; `every`: KADID-10k's levels, all windows."""
    reference = part(photograph, which)
    cut = windows(reference)
    kept, chosen, measured, changed = [], [], [], []
    made = levels() if every else plan(photograph, which)
    for number, (kind, strength) in enumerate(made):
        rng = np.random.default_rng((photograph.number, which, 2, number))
        image = windows(distorted(reference, kind, strength, rng))
        measured.append(measures.measured(cut, image))
        changed.append((image != cut).any(-1).mean((1, 2)))
        at = np.arange(6)
        if not every:  # of a local distortion at least one window that it touches
            first = rng.choice(6, p=(changed[-1] + 1e-6) / (changed[-1] + 1e-6).sum())
            at = np.array([first, *rng.choice(np.delete(at, first), KEPT - 1, replace=False)])
        kept.append(image[at])
        chosen.append(at)
    names, strengths = zip(*made, strict=True)
    partial = path.with_suffix(".partial.npz")
    np.savez(
        partial,
        reference=cut,
        distorted=np.stack(kept),
        window=np.stack(chosen).astype(np.int8),
        measures=np.stack(measured),
        changed=np.stack(changed).astype(np.float32),
        kind=np.array(names),
        strength=np.array(strengths, np.float32),
    )
    os.replace(partial, path)


def make_all(listed: list[Photograph], parts: int, directory: Path, *, processes: int | None = None) -> None:
    """`parts` of each photograph to train on; of those held out one, at KADID-10k's levels."""
    directory.mkdir(parents=True, exist_ok=True)
    tasks = []
    for which in range(parts):
        for photograph in listed:
            if which == 0 or not photograph.held_out:
                path = directory / f"{photograph.number:03d}_{which}.npz"
                if not path.exists():
                    tasks.append((photograph, which, path, photograph.held_out))
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(processes, mp_context=context) as pool,
        tqdm(total=len(tasks), unit="part", desc="pairs") as bar,
    ):
        for future in as_completed([pool.submit(make, *task) for task in tasks]):
            future.result()
            bar.update()
