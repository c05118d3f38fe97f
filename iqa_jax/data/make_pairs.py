"""Reference-distorted pairs from any photographs, at scale."""

import csv
import dataclasses
import io
import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from PIL import Image

from iqa_jax.data import distortions
from iqa_jax.data.images import read_image
from iqa_jax.data.opinions import mean_opinion
from iqa_jax.errors import UserError
from iqa_jax.files import write_whole
from iqa_jax.signals import follow_parent, kept_from_children

_SETTINGS = "distort.json"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is made of each photograph.

    Attributes:
      types, levels: every combination of them, see `iqa_jax.data.distortions`.
      per_image: so many of the combinations, drawn for each photograph by chance; 0 for all.
      seed: of that choice and of the random distortions.
      short_side: larger photographs are scaled down to this short side, in pixels; 0 for as they are.
      label: whether the manifest has KADID-10k's mean opinion of type and level as `mos`.
    """

    types: tuple[str, ...] = distortions.TYPES
    levels: tuple[int, ...] = distortions.LEVELS
    per_image: int = 0
    seed: int = 0
    short_side: int = 0
    label: bool = False

    def __post_init__(self):
        """Raises UserError for a type or a level that does not exist, or of which no opinion is known."""
        for kind in self.types:
            for level in self.levels:
                distortions.parameter(kind, level)
                if self.label:
                    mean_opinion(kind, level)

    def versions(self, number: int) -> list[tuple[str, int]]:
        """Types and levels for the photograph of this number, those of a type together."""
        every = [(kind, level) for kind in self.types for level in self.levels]
        if not self.per_image or self.per_image >= len(every):
            return every
        rng = np.random.default_rng((self.seed, number))
        return [every[k] for k in np.sort(rng.choice(len(every), self.per_image, replace=False))]


def make_pairs(
    photographs: Sequence[Path],
    manifest: Path,
    plan: Plan,
    *,
    processes: int | None = None,
    progress: Callable[[int], object] = lambda pairs: None,
) -> list[str]:
    """Writes the folders `references` and `distorted` and, when all is done, the manifest beside them.

    What an interrupted start has written stays and is not made again.  The manifest's columns are
    `reference`, `distorted` (both relative to it), `distortion`, `level`, `parameter` and, if the plan
    says so, `mos`; `python -m iqa_jax prepare pairs` takes it.

    Args:
      photographs: image files, see `iqa_jax.data.images.read_image`.
      manifest: the table to write, in an existing directory.
      processes: how many work at a time; one a core if not given.
      progress: is told how many more pairs are done, those of an earlier start included.
    Returns:
      Why photographs could not be used, an entry each; the others are in the manifest.
    Raises:
      UserError: two photographs of one name in one folder, or other settings' pairs in the directory.
    """
    output = manifest.parent
    photographs = sorted(photographs)
    names = _names(photographs)
    _check_settings(output, plan, [f"{names[path]}{path.suffix}" for path in photographs])
    for folder in ("references", "distorted"):
        for name in names.values():
            (output / folder / name).parent.mkdir(parents=True, exist_ok=True)
    tasks = [(path, names[path], plan, number, output) for number, path in enumerate(photographs)]
    problems = {}
    context = multiprocessing.get_context("spawn")
    with kept_from_children():
        pool = ProcessPoolExecutor(processes, mp_context=context, initializer=follow_parent)
        running = {pool.submit(_make, *task): task for task in tasks}
    with pool:
        try:
            for future in as_completed(running):
                path, _, _, number, _ = running[future]
                if problem := future.result():
                    problems[path] = problem
                progress(len(plan.versions(number)))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    made = [task for task in tasks if task[0] not in problems]
    _write_manifest(manifest, plan, made)
    return [problems[path] for path in photographs if path in problems]


def _names(photographs: Sequence[Path]) -> dict[Path, str]:
    """What to call each in the output: its name without the ending, after its folders where names repeat.

    Raises:
      UserError: two are of one name and in one folder.
    """
    names = {path: path.stem for path in photographs}
    if len(set(names.values())) == len(names):
        return names
    root = os.path.commonpath([path.absolute().parent for path in photographs])
    names = {path: path.absolute().relative_to(root).with_suffix("").as_posix() for path in photographs}
    counts = Counter(names.values())
    twice = [str(path) for path, name in names.items() if counts[name] > 1]
    if twice:
        raise UserError(f"photographs of one name, rename them: {', '.join(twice[:10])}")
    return names


def _check_settings(output: Path, plan: Plan, photographs: Sequence[str]) -> None:
    """Notes what is made here, or makes sure that it is the same as before."""
    path = output / _SETTINGS
    settings = {**dataclasses.asdict(plan), "photographs": list(photographs)}
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        if any(output.iterdir()):
            raise UserError(f"{output}: not empty; choose another --output")
        path.write_text(json.dumps(settings, indent=2) + "\n")
        return
    before = json.loads(path.read_text())
    if before != settings:
        other = next(name for name in settings if settings[name] != before.get(name))
        raise UserError(f"{output}: holds pairs made with other settings ({other}); choose another --output")


def _make(path: Path, name: str, plan: Plan, number: int, output: Path) -> str | None:
    """Writes one photograph and its distorted versions; returns what is wrong with it."""
    targets = [output / file for _, _, file in _versions(name, plan, number)]
    reference = output / _reference(name)
    if reference.exists() and all(target.exists() for target in targets):
        return None
    try:
        image = _scaled(read_image(path, say=lambda text: None), plan.short_side)
        _save(reference, image)
        for (kind, level, _), target in zip(_versions(name, plan, number), targets, strict=True):
            if not target.exists():
                _save(target, distortions.distort(image, kind, level, seed=(plan.seed, number)))
    except UserError as error:
        message = str(error)
        return message if message.startswith(str(path)) else f"{path}: {message}"
    return None


def _reference(name: str) -> str:
    return f"references/{name}.png"


def _versions(name: str, plan: Plan, number: int) -> Iterator[tuple[str, int, str]]:
    """Type, level and file of each distorted version of a photograph."""
    for kind, level in plan.versions(number):
        plain = kind.rstrip(".").replace(" ", "_")
        yield kind, level, f"distorted/{name}_{plain}_{level}.png"


def _scaled(image: np.ndarray, short_side: int) -> np.ndarray:
    short = min(image.shape[:2])
    if not short_side or short <= short_side:
        return image
    size = [round(side * short_side / short) for side in (image.shape[1], image.shape[0])]
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _save(path: Path, image: np.ndarray) -> None:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    write_whole(path, buffer.getvalue())


def _write_manifest(path: Path, plan: Plan, tasks: Sequence[tuple]) -> None:
    columns = ["reference", "distorted", "distortion", "level", "parameter", *(["mos"] if plan.label else [])]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for _, photograph, _, number, _ in tasks:
        for kind, level, name in _versions(photograph, plan, number):
            row = [_reference(photograph), name, kind, level, distortions.parameter(kind, level)]
            writer.writerow(row + ([mean_opinion(kind, level)] if plan.label else []))
    write_whole(path, text.getvalue())
