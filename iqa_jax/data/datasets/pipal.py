"""PIPAL (Gu et al., ECCV 2020) and the test pairs of the NTIRE 2022 challenge."""

import re
from collections import Counter
from pathlib import Path

from iqa_jax.data.datasets.base import Contents, PairBuilder, Score, files_in, match
from iqa_jax.data.tables import numbered_lines

TEST_SPLIT = "ntire2022_test"
_TRAINING, _TEST = "Train_Ref", "NTIRE2022_FR_Testing_Dis"
_NAME = re.compile(r"(?P<reference>[^_]+)_(?P<group>\d+)_(?P<index>\d+)\.bmp")

INSTRUCTIONS = """\
PIPAL is distributed by its authors (https://github.com/HaomingCai/PIPAL-dataset, NTIRE 2022 challenge
page).  Unpack it so that one folder, named PIPAL, holds
  Distortion_1 ... Distortion_4 (or Distortion1 ...), Train_Ref, Train_Label
and, for the challenge's test pairs, NTIRE2022_FR_Testing_Dis and NTIRE2022_FR_Testing_Ref.
Either part will do by itself: the first to train and evaluate, the second for a submission."""


class Pipal(PairBuilder):
    """Distorted images of 200 references with MOS (`train`), and the unlabelled test pairs."""

    SCORE = Score(kind="MOS", low=916.71, high=1835.99, higher_is_better=True)
    DESCRIPTION = "PIPAL: a perceptual IQA data set, scores by an Elo system from 1.13 million judgements."
    MANUAL_DOWNLOAD_INSTRUCTIONS = INSTRUCTIONS
    WHOLE = (23_200, 200)
    FOLDERS = ("PIPAL", "pipal")
    MARKS = (_TRAINING, _TEST)

    @classmethod
    def has_training_images(cls, folder: Path) -> bool:
        """Whether it is more than the challenge's test pairs."""
        return (folder / _TRAINING).exists()

    def lacks(self, source: Path) -> str:
        for split, part in (("train", _TRAINING), (TEST_SPLIT, _TEST)):
            if (source / part).exists() and split not in self.info.splits:
                return f"was prepared when {source} had no {part}"
        return ""

    def find(self, source: Path) -> Contents:
        contents = Contents()
        if self.has_training_images(source) or not (source / _TEST).exists():
            _find_training(source, contents)
        test = {path.name: path for path in files_in(source, f"{_TEST}/*.bmp")}
        if test:
            references = files_in(source, "NTIRE2022_FR_Testing_Ref/*.bmp")
            contents.references |= {path.name: path for path in references}
            match(contents, TEST_SPLIT, test, dict.fromkeys(test, float("nan")), _describe)
        return contents


def _find_training(folder: Path, contents: Contents) -> None:
    contents.references = {path.name: path for path in files_in(folder, f"{_TRAINING}/*.bmp")}
    for path in files_in(folder, "Train_Label/*.txt"):
        for number, line in numbered_lines(path, contents.problems):
            name, _, score = (part.strip() for part in line.partition(","))
            contents.label(f"Train_Label/{path.name}, line {number}", line, name, score)
    paths = files_in(folder, "Distortion*[1-4]/*.bmp")
    for name, count in Counter(path.name for path in paths).items():
        if count > 1:
            contents.problems.append(f"{name}: in {count} of the Distortion folders")
    match(contents, "train", {path.name: path for path in paths}, contents.labels(), _describe)


def _describe(name: str) -> tuple[str, str, int] | None:
    parts = _NAME.fullmatch(name)
    return parts and (f"{parts['reference']}.bmp", f"group {parts['group']}", int(parts["index"]))
