"""What every data set of reference and distorted images shares.

A data set is a tensorflow-datasets builder of single images: each record holds one image and the
name of its reference.  The references are stored once, in the split `references`; the other splits
hold the distorted images in name order, so that a slice such as `train[:80%]` cuts between
references when every reference has the same number of distorted images.  The builder's metadata
describe the scores and hold the table of every split, so that names, labels and sizes can be read
without the images.  `iqa_jax.data.source.PairSource` joins the two images of a pair again.
"""

import dataclasses
import hashlib
import io
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder
from tqdm import tqdm

from iqa_jax.data.datasets.writer import check_room, write_split
from iqa_jax.data.images import decode_image
from iqa_jax.data.numerals import AmbiguousNumber, numbers
from iqa_jax.errors import DataError

REFERENCES = "references"
# An encoded image: a file, or what makes one.
Encoded = Path | Callable[[], bytes]
_MADE_BYTES = 250_000  # of an image that is made: about what a PNG of 288 x 288 takes
# One column of a split's table for each field of a record but the image.
FIELDS = ("name", "reference", "mos", "distortion", "level")


@dataclasses.dataclass(frozen=True)
class Score:
    """What the labels of a data set mean.

    Attributes:
      kind: "MOS" or "DMOS".
      low, high: ends of the scale that the authors give, or of the published scores.
      higher_is_better: False for difference scores.
    """

    kind: str
    low: float
    high: float
    higher_is_better: bool


@dataclasses.dataclass(frozen=True)
class DistortedImage:
    """One distorted image of a data set.

    Attributes:
      name: unique within the data set.
      reference: a key of `Contents.references`.
      encoded: the image file, or what gives its content.
      mos: the label in the data set's own units; NaN without one.
      distortion, level: type and strength; "" and 0 where the data set has none.
    """

    name: str
    reference: str
    encoded: Encoded
    mos: float = float("nan")
    distortion: str = ""
    level: int = 0


@dataclasses.dataclass
class Contents:
    """The contents of a downloaded folder: references by name, distorted images by split, problems.

    Attributes:
      written: by the name of the distorted image, the place, the line and the text of its score.
    """

    references: dict[str, Encoded] = dataclasses.field(default_factory=dict)
    splits: dict[str, list[DistortedImage]] = dataclasses.field(default_factory=dict)
    problems: list[str] = dataclasses.field(default_factory=list)
    written: dict[str, tuple[str, str, str | float]] = dataclasses.field(default_factory=dict)

    def by_split(self) -> dict[str, list[DistortedImage]]:
        """The images of every split in name order, the references first."""
        references = [DistortedImage(name, name, encoded) for name, encoded in self.references.items()]
        return {
            split: sorted(images, key=lambda image: image.name)
            for split, images in {REFERENCES: references, **self.splits}.items()
        }

    def label(self, where: str, text: str, name: str, score: str | float) -> None:
        """Records the score that the line `text` at `where` gives an image."""
        if not name:
            self.problems.append(f"{where}: {text!r}, expected a name and a score")
        elif name in self.written:
            self.problems.append(f"{where}: a second label for {name}")
        else:
            self.written[name] = where, text, score

    def labels(self) -> dict[str, float]:
        """The scores by the name of the distorted image, all read together; others are problems.

        Raises:
          DataError: a score means two numbers.
        """
        notes = list(self.written.values())
        try:
            scores = numbers([score for _, _, score in notes])
        except AmbiguousNumber as error:
            raise DataError(f"{notes[error.position][0]}: {error}; nothing was prepared") from None
        self.problems += [
            f"{where}: {text!r}, expected a name and a score"
            for (where, text, _), score in zip(notes, scores, strict=True)
            if score is None
        ]
        return {name: score for name, score in zip(self.written, scores, strict=True) if score is not None}


class PairBuilder(FileReaderBuilder):
    """Base of the builders.

    A subclass gives `SCORE`, `DESCRIPTION` and `find`, and, unless it makes its own images,
    `MANUAL_DOWNLOAD_INSTRUCTIONS`, `FOLDERS` and `MARKS`.

    Attributes:
      source: the downloaded folder or file, None for a set that needs none; `prepare_dataset` sets it.
      place: the final folder of the prepared set, for messages while it is written elsewhere.
      WHOLE: labelled pairs and references of the published set, None where there is none.
      FOLDERS: usual names of the downloaded folder.
      MARKS: files or folders, any of which identifies it.
    """

    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {"1.1.0": "Sizes are those after the EXIF orientation; references have a digest."}
    code_path = None  # tensorflow-datasets looks for it with importlib_resources, which it does not declare
    source: Path | None = None
    place: Path | None = None
    _contents: Contents | None = None
    SCORE: Score
    DESCRIPTION: str
    WHOLE: tuple[int, int] | None = None
    FOLDERS: tuple[str, ...] = ()
    MARKS: tuple[str, ...] = ()

    @property
    def metadata(self) -> dict:
        """What is stored beside the images: the score's meaning, the tables, how they were made."""
        return cast(dict, self.info.metadata)

    @property
    def paired(self) -> bool:
        """Whether the images have references; if not, a thumbnail of each content replaces them."""
        return self.metadata.get("paired", True)

    @property
    def asked_name(self) -> str:
        """The name that opens it: "kadid10k", "pairs/mine"."""
        return f"{self.name}/{self.builder_config.name}" if self.builder_config else self.name

    @classmethod
    def find_folder(cls, data_dir: Path) -> Path | None:
        """The downloaded folder in or under `data_dir`, if it is there."""
        places = [data_dir, *(data_dir / f for f in cls.FOLDERS)]
        places += [data_dir / "downloads" / "manual" / f for f in cls.FOLDERS]
        return next((f for f in places if any((f / mark).exists() for mark in cls.MARKS)), None)

    @classmethod
    def configuration(cls, asked: str, source: Path | None) -> str | None:
        """Name of the builder's configuration; None for a set of one form.

        Args:
          asked: what follows the "/" of a data set's name.
          source: the downloaded folder or file, if it was given.
        Raises:
          DataError: there is no such configuration.
        """
        if asked:
            raise DataError(f"{cls.name}/{asked}: {cls.name} has one form only, ask for {cls.name}")
        return None

    def lacks(self, source: Path) -> str:
        """What the folder has that was missing when the data were prepared, at a quick look; or ""."""
        return ""

    def contents(self) -> Contents:
        """What `source` holds, read once.

        Raises:
          DataError: counts and lists its problems.
        """
        if self._contents is None:
            contents = self.find(cast(Path, self.source))  # None only where the set takes None
            raise_problems(self.where, [*contents.problems, *_inconsistencies(contents)])
            self._contents = contents
        return self._contents

    @property
    def where(self) -> str:
        """The place that problems are reported for."""
        return f"{self.name}, {self.source}" if self.source else self.name

    def find(self, source: Path) -> Contents:
        """What `source` holds, None for a set that needs none; problems are listed, not raised."""
        raise TypeError(f"{type(self).__name__} does not define find")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "name": tfds.features.Text(),
                    "reference": tfds.features.Text(),
                    "image": tfds.features.Image(),
                    "mos": tfds.features.Scalar(np.float32),
                    "distortion": tfds.features.Text(),
                    "level": tfds.features.Scalar(np.int32),
                }
            ),
            metadata=tfds.core.MetadataDict(score=dataclasses.asdict(self.SCORE), tables={}),
            disable_shuffling=True,  # records stay in name order
        )

    def _download_and_prepare(self, dl_manager, download_config=None) -> None:
        if self.source is None and self.MANUAL_DOWNLOAD_INSTRUCTIONS:
            self.source = Path(dl_manager.manual_dir)  # where tensorflow-datasets' own call was given one
        splits = self.contents().by_split()
        every = [image for images in splits.values() for image in images]
        needed = sum(_stored_bytes(image.encoded) for image in every)
        check_room(self.place or Path(self.data_path).parent, needed, f"preparing {self.name}")
        sizes: dict[str, tuple[int, int]] = {}
        digests: dict[str, str] = {}
        problems: list[str] = []
        with tqdm(
            total=len(every), desc=f"preparing {self.name}", unit="image", dynamic_ncols=True, disable=None
        ) as bar:
            infos = [
                write_split(self, split, self._records(split, images, sizes, digests, problems, bar))
                for split, images in splits.items()
            ]
        raise_problems(self.where, problems)
        known = self.metadata["tables"][REFERENCES]
        known["digest"] = [digests[name] for name in known["name"]]
        self.info.set_splits(tfds.core.SplitDict(infos))

    def _records(self, split, images, sizes, digests, problems, bar: tqdm) -> Iterator[dict]:
        """The records of a split, in order; collects its table, the references' sizes and the problems.

        `digests` are of the references' pixels; without references, of each content's first picture.
        """
        table: dict[str, list] = {column: [] for column in (*FIELDS, "width", "height", "crc32")}
        remarks: dict[str, str] = {}

        def remark(name: str, text: str) -> None:
            remarks.setdefault(text, name)

        for image in images:
            bar.update()
            encoded = _read(image.encoded)
            try:
                pixels = decode_image(encoded, say=partial(remark, image.name))
            except DataError as error:
                problems.append(f"{image.name}: cannot be read as an image ({error})")
                continue
            size = pixels.shape[1::-1]
            if split == REFERENCES:
                sizes[image.name] = size
            elif self.paired and size != sizes.get(image.reference, size):
                problems.append(f"{image.name}: {_by(size)}, its reference is {_by(sizes[image.reference])}")
            content = image.name if split == REFERENCES else image.reference
            if self.paired == (split == REFERENCES) and content not in digests:
                digests[content] = digest(pixels)
            record = {field: getattr(image, field) for field in FIELDS}
            row = {**record, "width": size[0], "height": size[1], "crc32": zlib.crc32(encoded)}
            for column, value in row.items():
                table[column].append(value)
            texts = {field: as_bytes(value) for field, value in record.items() if isinstance(value, str)}
            yield {**record, **texts, "image": io.BytesIO(encoded)}
        for text, name in remarks.items():
            bar.write(f"{self.name}, {split}: {text} ({name} first)", file=sys.stderr)
        self.metadata["tables"][split] = {**table, "mos": [none_if_nan(m) for m in table["mos"]]}


def files_in(folder: Path, pattern: str) -> list[Path]:
    """The regular files that fit a pattern, sorted; without hidden ones, macOS leaves a `._NAME` of each."""
    return sorted(
        path
        for path in folder.glob(pattern)
        if not any(part.startswith(".") for part in path.relative_to(folder).parts) and path.is_file()
    )


def match(
    contents: Contents,
    split: str,
    images: Mapping[str, Path],
    labels: Mapping[str, float],
    describe: Callable[[str], tuple[str, str, int] | None],
) -> None:
    """Adds the images with a label to a split; lists labels without an image and images without a label.

    Args:
      images, labels: by the name of the distorted image.
      describe: reference, distortion type and level of a name; None if it is not such a name.
    """
    problems = contents.problems
    if not images or not labels:
        problems.append(f"split {split}: {len(images)} images and {len(labels)} labels")
        return
    problems += [f"{name}: a label without an image" for name in sorted(labels.keys() - images.keys())]
    problems += [f"{name}: an image without a label" for name in sorted(images.keys() - labels.keys())]
    matched = contents.splits.setdefault(split, [])
    for name in sorted(images.keys() & labels.keys()):
        described = describe(name)
        if described is None:
            problems.append(f"{name}: not a name of a distorted image in this data set")
            continue
        reference, distortion, level = described
        matched.append(DistortedImage(name, reference, images[name], labels[name], distortion, level))


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def as_row(image: DistortedImage) -> tuple:
    """The columns `FIELDS` of an image, as the tables of prepared data have them."""
    return image.name, image.reference, none_if_nan(image.mos), image.distortion, image.level


def none_if_nan(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else float(value)


def digest(pixels: np.ndarray) -> str:
    """The same for two decoded images (H, W, 3) of the same pixels, whatever their files."""
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:16]


def as_bytes(text: str) -> bytes:
    """UTF-8; the bytes of a file name that is not UTF-8 stay as they are."""
    return text.encode("utf-8", "surrogateescape")


def _read(encoded: Encoded) -> bytes:
    return encoded.read_bytes() if isinstance(encoded, Path) else encoded()


def _stored_bytes(encoded: Encoded) -> int:
    return encoded.stat().st_size if isinstance(encoded, Path) else _MADE_BYTES


def _inconsistencies(contents: Contents) -> Iterator[str]:
    """Missing references and names that are listed twice."""
    seen = set()
    for images in contents.splits.values():
        for image in images:
            if image.reference not in contents.references:
                yield f"{image.name}: its reference {image.reference} is missing"
            if image.name in seen:
                yield f"{image.name}: is listed twice"
            seen.add(image.name)


def raise_problems(where: str, problems: list[str], shown: int = 10) -> None:
    """Raises one DataError that counts all problems and names the first ones."""
    if problems:
        more = [f"and {len(problems) - shown} more"] if len(problems) > shown else []
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise DataError("\n  ".join([f"{where}: {count}, nothing was prepared:", *problems[:shown], *more]))
