"""What every data set of reference and distorted images shares.

A data set is a tensorflow-datasets builder of single images: each record holds one image and the
name of its reference.  The references are stored once, in the split `references`; the other splits
hold the distorted images in name order, so that a slice such as `train[:80%]` cuts between
references when every reference has the same number of distorted images.  The builder's metadata say
what the scores mean, and hold the table of every split, so that names, labels and sizes can be read
without the images.  `iqa_jax.data.PairSource` joins the two images of a pair again.
"""

import dataclasses
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tqdm import tqdm

from iqa_jax.errors import DataError

REFERENCES = "references"
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
      read: gives the encoded image (PNG, JPEG or BMP), `Path.read_bytes` say.
      mos: the label in the data set's own units; NaN without one.
      distortion, level: type and strength, as far as the data set tells; "" and 0 otherwise.
    """

    name: str
    reference: str
    read: Callable[[], bytes]
    mos: float = float("nan")
    distortion: str = ""
    level: int = 0


@dataclasses.dataclass
class Contents:
    """What was found on disk: references by name, distorted images by split, and what is wrong.

    Attributes:
      labels: scores by the name of the distorted image, for `match`.
    """

    references: dict[str, Callable[[], bytes]] = dataclasses.field(default_factory=dict)
    splits: dict[str, list[DistortedImage]] = dataclasses.field(default_factory=dict)
    problems: list[str] = dataclasses.field(default_factory=list)
    labels: dict[str, float] = dataclasses.field(default_factory=dict)

    def label(self, where: str, text: str, name: str, score: str | float) -> None:
        """Notes the score of an image; what is wrong with it is a problem of `text` at `where`."""
        mos = finite(score)
        if mos is None or not name:
            self.problems.append(f"{where}: {text!r}, expected a name and a score")
        elif name in self.labels:
            self.problems.append(f"{where}: a second label for {name}")
        else:
            self.labels[name] = mos


class PairBuilder(tfds.core.GeneratorBasedBuilder):
    """Base of the builders.  A subclass gives `SCORE`, `DESCRIPTION` and `find`.

    Attributes:
      source: the downloaded folder or file, None for a set that needs none; `prepare` sets it.
      WHOLE: labelled pairs and references of the published set, None where there is no such thing.
      FOLDERS: what the downloaded folder is usually called.
      MARK: a file or folder by which it is known.
    """

    VERSION = tfds.core.Version("1.0.0")
    source: Path | None = None
    SCORE: Score
    DESCRIPTION: str
    WHOLE: tuple[int, int] | None = None
    FOLDERS: tuple[str, ...] = ()
    MARK = ""

    @classmethod
    def find_folder(cls, data_dir: Path) -> Path | None:
        """The downloaded folder in or under `data_dir`, if it is there."""
        places = [data_dir, *(data_dir / f for f in cls.FOLDERS)]
        places += [data_dir / "downloads" / "manual" / f for f in cls.FOLDERS]
        return next((folder for folder in places if cls.MARK and (folder / cls.MARK).exists()), None)

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

    def check_unchanged(self, source: Path) -> None:
        """Raises DataError if the data were prepared from another file; folders are not compared."""

    def find(self, source: Path | None) -> Contents:
        """What there is in `source`; problems are listed, not raised."""
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

    def _split_generators(self, dl_manager):
        source = self.source
        if source is None and self.MANUAL_DOWNLOAD_INSTRUCTIONS:
            source = Path(dl_manager.manual_dir)  # where tensorflow-datasets' own call was given one
        contents = self.find(source)
        where = f"{self.name}, {source}" if source else self.name
        raise_problems(where, [*contents.problems, *_inconsistencies(contents)])
        references = [DistortedImage(name, name, read) for name, read in sorted(contents.references.items())]
        splits = {REFERENCES: references}
        splits |= {split: sorted(images, key=_by_name) for split, images in contents.splits.items()}
        sizes: dict[str, tuple[int, int]] = {}
        problems: list[str] = []

        def examples(split):
            yield from self._generate_examples(split, splits[split], sizes, problems)
            # All are told at the end; but tensorflow-datasets refuses a split without a record.
            if split == list(splits)[-1] or not self.info.metadata["tables"][split]["name"]:
                raise_problems(where, problems)

        return {split: examples(split) for split in splits}

    def _generate_examples(self, split, images, sizes, problems) -> Iterator[tuple[int, dict]]:
        table = {column: [] for column in (*FIELDS, "width", "height")}
        for number, image in enumerate(tqdm(images, desc=f"preparing {self.name}, {split}", unit="image")):
            encoded = image.read()
            try:
                size = checked_size(encoded)
            except DataError as error:
                problems.append(f"{image.name}: {error}")
                continue
            if split == REFERENCES:
                sizes[image.name] = size
            elif size != sizes.get(image.reference, size):
                problems.append(f"{image.name}: {_by(size)}, its reference is {_by(sizes[image.reference])}")
            record = {field: getattr(image, field) for field in FIELDS}
            for column, value in (*record.items(), ("width", size[0]), ("height", size[1])):
                table[column].append(value)
            yield number, {**record, "image": io.BytesIO(encoded)}
        self.info.metadata["tables"][split] = {**table, "mos": [none_if_nan(m) for m in table["mos"]]}


def finite(text) -> float | None:
    """A score as a number; None if it is not a finite one."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if np.isfinite(value) else None


def match(
    contents: Contents,
    split: str,
    images: Mapping[str, Path],
    labels: Mapping[str, float],
    describe: Callable[[str], tuple[str, str, int] | None],
) -> None:
    """Adds the images with a label to a split; lists labels and images that stand alone.

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
    found = contents.splits.setdefault(split, [])
    for name in sorted(images.keys() & labels.keys()):
        described = describe(name)
        if described is None:
            problems.append(f"{name}: not a name of a distorted image in this data set")
            continue
        reference, distortion, level = described
        read = images[name].read_bytes
        found.append(DistortedImage(name, reference, read, labels[name], distortion, level))


def _by_name(image: DistortedImage) -> str:
    return image.name


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def none_if_nan(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else float(value)


def checked_size(encoded: bytes) -> tuple[int, int]:
    """Width and height of an encoded image that decodes whole.

    Raises:
      DataError: it is no image, or truncated.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            image.load()
            return image.size
    except Exception as error:  # Pillow raises many kinds for broken files
        raise DataError(f"cannot be read as an image ({error or type(error).__name__})") from None


def _inconsistencies(contents: Contents) -> Iterator[str]:
    """Missing references and names that stand twice."""
    seen = set()
    for images in contents.splits.values():
        for image in images:
            if image.reference not in contents.references:
                yield f"{image.name}: its reference {image.reference} is missing"
            if image.name in seen:
                yield f"{image.name}: stands twice"
            seen.add(image.name)


def raise_problems(where: str, problems: list[str], shown: int = 10) -> None:
    """Raises one DataError that counts all problems and names the first ones."""
    if problems:
        more = [f"and {len(problems) - shown} more"] if len(problems) > shown else []
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise DataError("\n  ".join([f"{where}: {count}, nothing was prepared:", *problems[:shown], *more]))
