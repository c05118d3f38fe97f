"""A prepared data set on disk: the checks that it is complete, and how a new one replaces it.

`checksums.json` holds the SHA-256 of the files that describe the set and the sizes of its shards, which are
quick to compare when it is opened; the table of each split holds a CRC-32 of each image, compared when it is
read.
"""

import contextlib
import json
import shutil
import zlib
from itertools import zip_longest
from pathlib import Path
from typing import Any, cast

import tensorflow_datasets as tfds
from tqdm import tqdm

from iqa_jax.data.datasets.base import FIELDS, DistortedImage, PairBuilder, as_bytes, as_row
from iqa_jax.errors import DataError
from iqa_jax.files import file_sha256, open_regular, write_whole

_CHECKSUMS = "checksums.json"
_DESCRIBING = ("dataset_info.json", "features.json", "metadata.json")
UNFINISHED = "incomplete."  # begins the name of a folder that is written to
_REPLACED = ".replaced"  # ends the name of a set while another takes its place


def seal(directory: Path) -> None:
    """Writes the checksums of a data set that is complete."""
    sums = {name: file_sha256(directory / name) for name in _DESCRIBING}
    shards = {path.name: path.stat().st_size for path in sorted(directory.iterdir()) if path.name not in sums}
    write_whole(directory / _CHECKSUMS, json.dumps({"sha256": sums, "bytes": shards}, indent=2) + "\n")


def damage(directory: Path) -> str:
    """The damage in the files of a prepared data set, "" if there is none; reads no image."""
    try:
        with open_regular(directory / _CHECKSUMS) as file:
            sums = json.load(file)
        files, shards = dict(sums["sha256"]), dict(sums["bytes"])
    except FileNotFoundError:
        return f"{_CHECKSUMS} is missing"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{_CHECKSUMS} cannot be read"
    for name in dict.fromkeys((*_DESCRIBING, *files, *shards)):
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        if name in shards and path.stat().st_size != shards[name]:
            return f"{name} has {path.stat().st_size:,} bytes, not {shards[name]}"
        if name not in shards and file_sha256(path) != files.get(name):
            return f"{name} has changed"
    return ""


def put_in_place(new: Path, place: Path) -> None:
    """Moves `new` to `place`; a set that was there stays until then."""
    aside, replaces = _aside(place), place.exists()
    if replaces:
        place.rename(aside)
    try:
        new.rename(place)
    except BaseException:
        if replaces:
            with contextlib.suppress(OSError):
                aside.rename(place)
        raise
    if replaces:
        shutil.rmtree(aside, ignore_errors=True)  # what is left of it, the next preparation removes


def interrupted(place: Path) -> bool:
    """Whether a preparation was killed or is running."""
    return _aside(place).exists() or any(place.parent.glob(f"{UNFINISHED}*"))


def recover(place: Path) -> None:
    """Cleans up after a killed preparation; restores the old set unless a new one had replaced it."""
    for left_over in place.parent.glob(f"{UNFINISHED}*"):
        shutil.rmtree(left_over)
    aside = _aside(place)
    if not aside.exists():
        return
    if place.exists():
        shutil.rmtree(aside)
    else:
        aside.rename(place)


def _aside(place: Path) -> Path:
    return place.with_name(place.name + _REPLACED)


class Damaged(DataError):
    """Prepared data differ from what was written; `what` names the place."""

    def __init__(self, of: str, what: str):
        self.what = (what.strip() or "cannot be read").splitlines()[0][:200]
        super().__init__(f"{of}: prepared data are damaged ({self.what}); prepare them again")


class EncodedImages:
    """The encoded images of a split, by position; each is compared with the table when it is first read."""

    def __init__(self, builder: PairBuilder, split: str):
        """Raises Damaged if the shards cannot be opened."""
        table = builder.metadata["tables"][split]
        self._names, self._sums = table["name"], table["crc32"]
        self._compared = bytearray(len(self._names))  # once is enough, array_record has sums of its own
        self._of = f"{builder.asked_name}, {split}"
        try:
            decoders = {"image": tfds.decode.SkipDecoding()}
            open_split = cast(Any, builder.as_data_source)  # its decorator hides its arguments
            self._records = open_split(split, decoders=decoders)
        except MemoryError:
            raise
        except Exception as error:  # of many kinds, where files are damaged
            raise Damaged(self._of, str(error)) from None

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, position: int) -> bytes:
        name = self._names[position]
        try:
            record = self._records[position]
            encoded = record["image"]
        except MemoryError:
            raise
        except Exception as error:  # array_record and tensorflow-datasets raise many kinds
            raise Damaged(self._of, f"{name}: {error}") from None
        if record["name"] != as_bytes(name):
            raise Damaged(self._of, f"{record['name'].decode(errors='replace')} is in the place of {name}")
        if not self._compared[position]:
            if zlib.crc32(encoded) != self._sums[position]:
                raise Damaged(self._of, f"{name} has changed")
            self._compared[position] = True
        return encoded


def difference(prepared: PairBuilder, current: PairBuilder | None) -> str:
    """The first difference between prepared and current data; "" if there is none.

    Reads all images, the prepared ones too.

    Args:
      current: a new builder of the same source; None to check the prepared images alone.
    Raises:
      Damaged: a prepared image is not what was written.
      DataError: the files and labels of the source do not fit.
    """
    then = prepared.metadata
    splits: dict[str, list[DistortedImage]] = {}
    if current:
        splits, now = current.contents().by_split(), current.metadata
        if then["tables"].keys() != splits.keys():
            return f"the splits are now {', '.join(splits)}"
        for split, images in splits.items():
            known = then["tables"][split]
            rows = zip(*(known[field] for field in FIELDS), strict=True)
            changed = _first_change(list(rows), [as_row(image) for image in images])
            if changed:
                return f"the entry of {changed} has changed"
        for key in ("score", "paired", "options", "opinions"):
            if then.get(key) != now.get(key):
                return f"{key.removesuffix('s')} changed from {then.get(key)} to {now.get(key)}"
    total = sum(len(table["name"]) for table in then["tables"].values())
    with tqdm(
        total=total, desc=f"checking {prepared.name}", unit="image", dynamic_ncols=True, disable=None
    ) as bar:
        for split, table in then["tables"].items():
            stored, files = EncodedImages(prepared, split), splits.get(split)
            for position, name in enumerate(table["name"]):
                bar.update()
                encoded = stored[position]
                file = files[position].encoded if files else None
                if isinstance(file, Path) and file.read_bytes() != encoded:
                    return f"{name} has changed"
    return ""


def _first_change(before: list[tuple], after: list[tuple]) -> str:
    """The name of the first row that is in one list alone."""
    if before == after:
        return ""
    rows = zip_longest(before, after)
    return next((old or new)[0] for old, new in rows if old != new)
