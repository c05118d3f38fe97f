"""Pairs with labels as files: windows as PNG, a table and the division by photograph.

DIRECTORY/reference/NNN_W_K.png    window K of part W of photograph NNN
DIRECTORY/distorted/NNN_W_D_K.png  the same window of distorted version D
DIRECTORY/windows.csv              reference, distorted, mos, distortion: what `prepare pairs` takes
DIRECTORY/held_out.csv             those rows whose photographs are held out
DIRECTORY/left_out.csv             of these, the types that training does without, if there are any
DIRECTORY/splits.json              references to train on, and those of photographs that are held out
"""

import csv
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from labels import Labeller
from photographs import Photograph
from PIL import Image
from tqdm import tqdm

HELD_OUT_WINDOWS = 2  # of each distorted version of a photograph that is held out

Row = tuple[str, str, float, str]


def write_set(
    listed: list[Photograph], pairs: Path, directory: Path, *, without: tuple[str, ...] = ()
) -> None:
    """Writes the set of the parts in `pairs`; the division comes last.

    Args:
      without: types of distortion that are left out of training and of the maps of its labels; what is held
        out keeps the labels it has with all types.
    """
    for folder in ("reference", "distorted"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    held_out = {photograph.number: photograph.held_out for photograph in listed}
    files = sorted(path for path in pairs.glob("???_?.npz") if int(path.name[:3]) in held_out)
    parts = [_measures(path) for path in files]
    held = [held_out[int(path.name[:3])] for path in files]
    training = [part for part, is_held_out in zip(parts, held, strict=True) if not is_held_out]
    labellers = {True: Labeller(training), False: Labeller(training, without=without)}
    labels = [
        np.stack([labellers[is_held_out].windows(*version) for version in zip(*part.values(), strict=True)])
        for part, is_held_out in zip(parts, held, strict=True)
    ]
    divided: dict[str, set[str]] = {"train": set(), "validation": set()}
    tables: dict[str, list[Row]] = {"windows": [], "held_out": [], "left_out": []}
    with ProcessPoolExecutor() as pool:
        jobs = pool.map(_write_part, files, [directory] * len(files), labels, held)
        for rows, is_held_out in zip(
            tqdm(jobs, total=len(files), unit="part", desc="files"), held, strict=True
        ):
            if is_held_out:
                tables["held_out"] += rows
                tables["left_out"] += [row for row in rows if row[3] in without]
            else:
                rows = [row for row in rows if not {*row[3].split("+")} & {*without}]
            tables["windows"] += rows
            divided["validation" if is_held_out else "train"] |= {row[0] for row in rows}
    for name, rows in tables.items():
        if rows:
            _write_table(directory / f"{name}.csv", rows)
    content = {"dataset": "pairs/windows", "split": "train"}
    content |= {part: sorted(references) for part, references in divided.items()}
    (directory / "splits.json").write_text(json.dumps(content, indent=0) + "\n", encoding="utf-8")


def _write_table(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["reference", "distorted", "mos", "distortion"])
        writer.writerows((*row[:2], f"{row[2]:.4f}", _type(row[3])) for row in rows)


def _type(kind: str) -> str:
    return "two together" if "+" in kind else kind


def _measures(path: Path) -> dict[str, np.ndarray]:
    """What `Labeller` takes of a part."""
    with np.load(path) as part:
        return {name: part[name] for name in ("kind", "strength", "measures", "changed")}


def _write_part(path: Path, directory: Path, labels: np.ndarray, held_out: bool) -> list[Row]:
    """The windows of a part as files, and their rows; labels are (versions, 6)."""
    rows = []
    with np.load(path) as part:
        reference, distorted, chosen, kinds = (
            part[name] for name in ("reference", "distorted", "window", "kind")
        )
    for number, window in enumerate(reference):
        _save(window, directory / "reference" / f"{path.stem}_{number}.png")
    for version, (windows, kind) in enumerate(zip(distorted, kinds, strict=True)):
        kept = range(len(windows))
        if held_out:
            kept = sorted(
                np.random.default_rng((int(path.name[:3]), version)).choice(6, HELD_OUT_WINDOWS, False)
            )
        for at in kept:
            number = int(chosen[version, at])
            name = f"{path.stem}_{version:03d}_{number}.png"
            _save(windows[at], directory / "distorted" / name)
            rows.append(
                (
                    f"reference/{path.stem}_{number}.png",
                    f"distorted/{name}",
                    float(labels[version, number]),
                    str(kind),
                )
            )
    return rows


def _save(image: np.ndarray, path: Path) -> None:
    Image.fromarray(image).save(path, compress_level=1)
