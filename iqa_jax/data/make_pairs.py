"""Reference-distorted pairs from any photographs, at scale."""

import contextlib
import csv
import dataclasses
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from PIL import Image

from iqa_jax.data import distortions
from iqa_jax.data.images import read_image
from iqa_jax.data.opinions import mean_opinion
from iqa_jax.data.png import png_bytes
from iqa_jax.errors import UserError
from iqa_jax.files import fitting_name, open_regular, remove_leftovers, write_whole
from iqa_jax.signals import follow_parent, kept_from_children

_SETTINGS = "distort.json"
_CONTENT = "photographs.json"  # what the photographs hold, by their names
_LOOKED_AT = 1 << 16  # bytes at each end of a photograph's file


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is made of each photograph.

    Attributes:
      types, levels: every combination of them, see `iqa_jax.data.distortions`.
      per_image: how many of the combinations to draw at random for each photograph; 0 for all.
      seed: of that draw and of the random distortions.
      short_side: larger photographs are scaled down to this short side, in pixels; 0 for as they are.
      label: whether the manifest has KADID-10k's mean opinion score of type and level as `mos`.
    """

    types: tuple[str, ...] = distortions.TYPES
    levels: tuple[int, ...] = distortions.LEVELS
    per_image: int = 0
    seed: int = 0
    short_side: int = 0
    label: bool = False

    def __post_init__(self):
        """Raises UserError for an unknown type or level, or one without a mean opinion score."""
        for kind in self.types:
            for level in self.levels:
                distortions.parameter(kind, level)
                if self.label:
                    mean_opinion(kind, level)

    def versions(self, number: int) -> list[tuple[str, int]]:
        """Types and levels for the photograph of this number, those of a type together."""
        every = list(dict.fromkeys(itertools.product(self.types, self.levels)))
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
    say: Callable[[str], object] = warnings.warn,
) -> list[str]:
    """Writes the folders `references` and `distorted` and, at the end, the manifest beside them.

    After an interruption, the same call resumes and keeps what is complete.  The manifest's columns are
    `reference`, `distorted` (both relative to it), `distortion`, `level`, `parameter` and, if the plan
    has labels, `mos`.  The data set `pairs` reads it.

    Args:
      photographs: image files, see `iqa_jax.data.images.read_image`.
      manifest: the table to write, in an existing directory.
      processes: how many run at a time; one per core if not given.
      progress: called with the number of further pairs that are complete, those of an earlier run included.
      say: called with the photographs that a number renames, and with `read_image`'s remarks, each once
        with the number of its photographs.
    Returns:
      Why photographs could not be used, one entry each; the manifest has the others.
    Raises:
      UserError: the directory holds other files, or pairs made with other settings or of photographs that
        have changed since.
      OSError: a file cannot be written; run the same again to resume.
    """
    output = manifest.parent
    photographs = sorted(photographs)
    names = output_names(photographs, plan, say)
    _check_settings(output, plan, [f"{names[path]}{path.suffix}" for path in photographs])
    _check_content(output, {names[path]: path for path in photographs})
    places = {name.rpartition("/")[0] for name in names.values()}
    for place in [output / folder / place for folder in ("references", "distorted") for place in places]:
        place.mkdir(parents=True, exist_ok=True)
        remove_leftovers(place)
    tasks = [(path, names[path], plan, number, output) for number, path in enumerate(photographs)]
    problems: dict[Path, str] = {}
    remarks: Counter[str] = Counter()
    context = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        with kept_from_children():
            pool = ProcessPoolExecutor(processes, mp_context=context, initializer=follow_parent)
            stack.callback(pool.shutdown, cancel_futures=True)
            running = {pool.submit(_make, *task): task for task in tasks}
        for future in as_completed(running):
            path, _, _, number, _ = running[future]
            problem, said = future.result()
            remarks.update(said)
            if problem:
                problems[path] = problem
            progress(len(plan.versions(number)))
    for remark, count in remarks.items():
        say(f"{count} of {len(photographs)} photographs: {remark}")
    made = [task for task in tasks if task[0] not in problems]
    _write_manifest(manifest, plan, made)
    return [problems[path] for path in photographs if path in problems]


def output_names(
    photographs: Sequence[Path], plan: Plan, say: Callable[[str], object] = warnings.warn
) -> dict[Path, str]:
    """The name of each in the output: its stem, with its folders in front where stems repeat.

    Where two files would share a name, the later photograph gets a number.  Many file systems do not
    distinguish names that differ in case or in how their letters are composed.
    """
    names = {path: path.stem for path in photographs}
    if len(set(names.values())) < len(names):
        root = os.path.commonpath([path.absolute().parent for path in photographs])
        names = {path: path.absolute().relative_to(root).with_suffix("").as_posix() for path in photographs}
    wanted, used = {_key(name) for name in names.values()}, _UsedNames(plan)
    changed = []
    for number, (path, name) in enumerate(names.items()):
        numbered = (f"{name}-{count}" for count in itertools.count(2))
        choices = itertools.chain([name], (choice for choice in numbered if _key(choice) not in wanted))
        names[path] = next(choice for choice in choices if used.has_room_for(choice, number))
        used.numbers[_key(names[path])] = number
        if names[path] != name:
            changed.append(f"{path.name} is {names[path]}")
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        say(f"photographs renamed with a number: {', '.join(changed[:3])}{more}")
    return names


class _UsedNames:
    """The names in use, and so the files that belong to each photograph."""

    def __init__(self, plan: Plan):
        self.numbers: dict[str, int] = {}  # of the photograph, by the key of its name
        self._plan = plan
        plain = {_plain(kind): kind for kind in plan.types}
        # x_color's quantization and x's color_quantization would be one file
        self._ends = [
            (f"_{longer.removesuffix(f'_{shorter}')}", plain[longer], plain[shorter])
            for longer, shorter in itertools.permutations(plain, 2)
            if longer.endswith(f"_{shorter}")
        ]

    def has_room_for(self, name: str, number: int) -> bool:
        """Whether the photograph of this number can have the name, so that it shares no file with another."""
        key = _key(name)
        if key in self.numbers:
            return False
        for end, longer, shorter in self._ends:
            other = self.numbers.get(key + end)
            if other is not None and self._levels(number, longer) & self._levels(other, shorter):
                return False
            other = self.numbers.get(key.removesuffix(end)) if key.endswith(end) else None
            if other is not None and self._levels(other, longer) & self._levels(number, shorter):
                return False
        return True

    def _levels(self, number: int, wanted: str) -> set[int]:
        return {level for kind, level in self._plan.versions(number) if kind == wanted}


def _key(name: str) -> str:
    """One key for all names that some file system does not distinguish."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _plain(kind: str) -> str:
    """A distortion type as a part of a file's name."""
    return kind.rstrip(".").replace(" ", "_")


def _check_settings(output: Path, plan: Plan, photographs: Sequence[str]) -> None:
    """Records the settings, or checks that they are those of the earlier run."""
    path = output / _SETTINGS
    settings = {**dataclasses.asdict(plan), "photographs": list(photographs)}
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        if any(not entry.name.startswith(".") for entry in output.iterdir()):
            raise UserError(f"{output}: not empty; choose another directory")
        write_whole(path, json.dumps(settings, indent=2) + "\n")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        other = next((name for name in settings if settings[name] != before.get(name)), None)
    except (ValueError, AttributeError):
        raise UserError(
            f"{path}: damaged; it records how the pairs beside it were made; choose another directory"
        ) from None
    if other is not None:
        raise UserError(f"{output}: holds pairs made with other settings ({other}); choose another directory")


def _check_content(output: Path, photographs: Mapping[str, Path]) -> None:
    """Records what the photographs hold, or checks that those that were made hold the same still.

    One that cannot be read is reported where it is to be made.
    """
    path, before = output / _CONTENT, {}
    with contextlib.suppress(OSError, ValueError, TypeError):  # of an earlier version, or damaged
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    now = dict(before)
    for name, photograph in photographs.items():
        with contextlib.suppress(OSError):
            now[name] = _digest(photograph)
        if before.get(name, now.get(name)) != now.get(name) and (output / reference_file(name)).exists():
            raise UserError(
                f"{photograph}: has changed, or is another photograph than the one that {output} holds pairs "
                "of; choose another directory"
            )
    if now != before:
        write_whole(path, json.dumps(now, indent=2) + "\n")


def _digest(path: Path) -> str:
    """SHA-256 of a file's size, beginning and end: enough to tell photographs apart, and quick for many."""
    size = path.stat().st_size
    with open_regular(path) as file:
        beginning = file.read(_LOOKED_AT)
        file.seek(max(size - _LOOKED_AT, 0))
        return hashlib.sha256(b"%d %s %s" % (size, beginning, file.read(_LOOKED_AT))).hexdigest()


def _make(path: Path, name: str, plan: Plan, number: int, output: Path) -> tuple[str | None, set[str]]:
    """Writes one photograph and its distorted versions; returns its problem, if any, and the remarks."""
    targets = [output / file for _, _, file in version_files(name, plan, number)]
    reference = output / reference_file(name)
    said: set[str] = set()
    written: list[Path] = []
    if reference.exists() and all(target.exists() for target in targets):
        return None, said
    try:
        image = _scaled(read_image(path, say=said.add), plan.short_side)
        if not reference.exists():
            written.append(reference)
        _save(reference, image)
        for (kind, level, _), target in zip(version_files(name, plan, number), targets, strict=True):
            if not target.exists():
                written.append(target)
                _save(target, distortions.distort(image, kind, level, seed=(plan.seed, number)))
    except UserError as error:
        for file in written:
            file.unlink(missing_ok=True)
        message = str(error)
        return message if message.startswith(str(path)) else f"{path}: {message}", said
    return None, said


def reference_file(name: str) -> str:
    return _file("references", name, ".png")


def version_files(name: str, plan: Plan, number: int) -> Iterator[tuple[str, int, str]]:
    """Type, level and file of each distorted version of a photograph."""
    for kind, level in plan.versions(number):
        yield kind, level, _file("distorted", name, f"_{_plain(kind)}_{level}.png")


def _file(folder: str, name: str, ending: str) -> str:
    places, slash, last = name.rpartition("/")
    return f"{folder}/{places}{slash}{fitting_name(last, ending)}"


def _scaled(image: np.ndarray, short_side: int) -> np.ndarray:
    short = min(image.shape[:2])
    if not short_side or short <= short_side:
        return image
    size = [round(side * short_side / short) for side in (image.shape[1], image.shape[0])]
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def _save(path: Path, image: np.ndarray) -> None:
    write_whole(path, png_bytes(image, compress_level=1))


def _write_manifest(path: Path, plan: Plan, tasks: Sequence[tuple]) -> None:
    columns = ["reference", "distorted", "distortion", "level", "parameter", *(["mos"] if plan.label else [])]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for _, photograph, _, number, _ in tasks:
        for kind, level, name in version_files(photograph, plan, number):
            row = [reference_file(photograph), name, kind, level, distortions.parameter(kind, level)]
            writer.writerow(row + ([mean_opinion(kind, level)] if plan.label else []))
    write_whole(path, text.getvalue())
