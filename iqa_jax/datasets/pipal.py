"""PIPAL (Gu et al., ECCV 2020) and the test pairs of the NTIRE 2022 challenge."""

import re
from collections import Counter
from pathlib import Path

from iqa_jax.datasets.base import Contents, DistortedImage, PairBuilder, Score

TEST_SPLIT = "ntire2022_test"
_NAME = re.compile(r"(?P<reference>[^_]+)_(?P<group>\d+)_(?P<index>\d+)\.bmp")

INSTRUCTIONS = """\
PIPAL is distributed by its authors (https://github.com/HaomingCai/PIPAL-dataset, NTIRE 2022 challenge
page).  Unpack it so that one folder, named PIPAL, holds
  Distortion_1 ... Distortion_4 (or Distortion1 ...), Train_Ref, Train_Label
and, for the challenge's test pairs, NTIRE2022_FR_Testing_Dis and NTIRE2022_FR_Testing_Ref."""


class Pipal(PairBuilder):
    """Distorted images of 200 references with MOS (`train`), and the unlabelled test pairs."""

    SCORE = Score(kind="MOS", low=916.71, high=1835.99, higher_is_better=True)
    DESCRIPTION = "PIPAL: a perceptual IQA data set, scores by an Elo system from 1.13 million judgements."
    MANUAL_DOWNLOAD_INSTRUCTIONS = INSTRUCTIONS

    def find(self, folder: Path) -> Contents:
        contents = Contents(references={p.name: p.read_bytes for p in folder.glob("Train_Ref/*.bmp")})
        labels = _read_labels(folder, contents.problems)
        paths = sorted(folder.glob("Distortion*[1-4]/*.bmp"))
        for name, count in Counter(path.name for path in paths).items():
            if count > 1:
                contents.problems.append(f"{name}: in {count} of the Distortion folders")
        images = {path.name: path for path in paths}
        contents.problems += [f"{n}: a label without an image" for n in sorted(labels.keys() - images.keys())]
        contents.problems += [f"{n}: an image without a label" for n in sorted(images.keys() - labels.keys())]
        contents.splits["train"] = [
            image
            for name in sorted(images.keys() & labels.keys())
            if (image := _distorted(images[name], labels[name], contents.problems))
        ]
        test = sorted(folder.glob("NTIRE2022_FR_Testing_Dis/*.bmp"))
        if test:
            contents.references |= {
                p.name: p.read_bytes for p in folder.glob("NTIRE2022_FR_Testing_Ref/*.bmp")
            }
            contents.splits[TEST_SPLIT] = [
                image for p in test if (image := _distorted(p, float("nan"), contents.problems))
            ]
        return contents


def _distorted(path: Path, mos: float, problems: list[str]) -> DistortedImage | None:
    match = _NAME.fullmatch(path.name)
    if not match:
        problems.append(f"{path.name}: expected a name like A0001_00_03.bmp")
        return None
    return DistortedImage(
        name=path.name,
        reference=f"{match['reference']}.bmp",
        read=path.read_bytes,
        mos=mos,
        distortion=f"group {match['group']}",
        level=int(match["index"]),
    )


def _read_labels(folder: Path, problems: list[str]) -> dict[str, float]:
    labels = {}
    for path in sorted(folder.glob("Train_Label/*.txt")):
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
            if not line.strip():
                continue
            name, _, score = (part.strip() for part in line.partition(","))
            where = f"Train_Label/{path.name}, line {number}"
            try:
                mos = float(score)
            except ValueError:
                mos = float("nan")
            if not abs(mos) < float("inf"):  # also false for NaN
                problems.append(f"{where}: {line!r}, expected a name and a score")
            elif name in labels:
                problems.append(f"{where}: a second label for {name}")
            else:
                labels[name] = mos
    return labels


def find_folder(data_dir: Path) -> Path | None:
    """The downloaded PIPAL folder in or under `data_dir`, if it is there."""
    candidates = (
        data_dir,
        data_dir / "PIPAL",
        data_dir / "pipal",
        data_dir / "downloads" / "manual" / "PIPAL",
    )
    return next((folder for folder in candidates if (folder / "Train_Ref").is_dir()), None)
