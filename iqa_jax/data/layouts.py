"""Tables of pairs under the column names of published data sets, and where these keep their images."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from iqa_jax.data.images import EXTENSIONS
from iqa_jax.data.tables import PAIR_ALIASES, Rows, listed_path, numbered_lines, renamed, table_rows
from iqa_jax.errors import DataError

Say = Callable[[str], object]
_IMAGE_COLUMNS = ("image_name", "image name", "name", "dist_img", "img_distorted")
# What a table of pairs may say; other columns are not read.
_COLUMNS = ("reference", "distorted", "mos", "dmos", "distortion", "level", "content", "method")
_PIPAL_FOLDERS = tuple(f"../Distortion{mark}{k}" for mark in ("_", "") for k in range(1, 5))
_NAME_AND_SCORE = re.compile(r"([^,;\t]+)[,;\t]\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)")


@dataclasses.dataclass(frozen=True)
class _Layout:
    """What the columns of a published table are called here.

    Attributes:
      title: of the data set.
      columns: names here, by the names there.
      folders: where the files are, relative to the table, if not beside it.
    """

    title: str
    columns: Mapping[str, str]
    folders: tuple[str, ...] = ()


def _layout_of(header: Sequence[str]) -> _Layout | None:
    """The layout with these columns, in lower case; None if there is none.

    Raises:
      DataError: they may mean two things.
    """
    if {"distorted", *(alias for alias in PAIR_ALIASES if PAIR_ALIASES[alias] == "distorted")} & {*header}:
        return None
    images = [name for name in _IMAGE_COLUMNS if name in header]
    if "name" in images and not {"mos", "dmos"} & {*header}:
        images.remove("name")
    if len(images) > 1:
        raise DataError(f"columns {' and '.join(images)}: which names the images? Call it distorted")
    if not images:
        return None
    image = images[0]
    if image == "dist_img":
        return _kadid(header)
    if image == "img_distorted":
        columns = {"img_distorted": "distorted", "img_source": "reference", "distortion": "dmos"}
        columns |= {"codec": "distortion", "dlevel": "level"}
        return _Layout("AIC (JND, lower is better)", columns, ("PTC_images", "full_resolution_images"))
    label = "mos" if "mos" in header or "mos_zscore" not in header else "mos_zscore"
    columns = {image: "distorted", label: "mos"}
    if image == "image_name":
        return _Layout("KonIQ-10k", columns, ("1024x768", "512x384"))
    if image == "image name":
        return _Layout("SPAQ", columns, ("TestImage", "../TestImage"))
    return _Layout("FLIVE", columns if "mos" in header else {image: "distorted"}, ("database",))


def _kadid(header: Sequence[str]) -> _Layout:
    columns = {"dist_img": "distorted", "ref_img": "reference"}
    folders = ("images", "dist_imgs", "ref_imgs")
    if "dmos" in header and "mos" not in header:
        if "var" not in header:
            raise DataError(
                "columns dist_img and dmos without var: KADID-10k's dmos holds a MOS; call it mos if higher "
                "is better, else call dist_img distorted and ref_img reference"
            )
        return _Layout("KADID-10k (its dmos is a MOS)", {**columns, "dmos": "mos"}, folders)
    return _Layout("KADIS-700k", columns, folders)


@dataclasses.dataclass(frozen=True)
class PairTable:
    """The rows of a table of pairs.

    Attributes:
      rows: by column: distorted, and what there is of reference, mos, dmos, distortion, level, ….
      folders: where files are looked for, relative to the table.
    """

    rows: Rows
    folders: tuple[str, ...] = ()

    def path(self, folder: Path, name: str) -> str:
        """The path of a file that the table in a folder names, relative to that folder; see `listed_path`."""
        beside = listed_path(folder, name)
        for other in self.folders if name and not (folder / beside).is_file() else ():
            there = listed_path(folder, f"{other}/{name}")
            if (folder / there).is_file():
                return there
        return beside


def read_pair_table(path: Path, columns: Sequence[str], problems: list[str], say: Say) -> PairTable:
    """A table of pairs, with columns named as here or as in a published data set.

    These are KADID-10k and KADIS-700k, KonIQ-10k, SPAQ, FLIVE, AIC, and PIPAL, whose lines are a name and a
    score.

    Args:
      columns: those that it must have.
      problems: gets what cannot be read.
      say: called with a line on how the columns of a published data set are read.
    Raises:
      DataError: columns may mean two things.
    """
    recognised: list[tuple[_Layout, Sequence[str], Sequence[str]]] = []

    def names_of(header: Sequence[str]) -> list[str]:
        try:
            layout = _layout_of(header)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        names = list(header)
        if layout is not None:
            # A column that is not read does not get in the way of one that is called so here.
            ours = layout.columns.values()
            names = [layout.columns.get(name, "" if name in ours else name) for name in header]
        names = renamed(names, columns, PAIR_ALIASES)
        twice = next((name for name in _COLUMNS if names.count(name) > 1), None)
        if twice and set(columns) <= set(names):
            its = [called for called, name in zip(header, names, strict=True) if name == twice]
            raise DataError(f"{path}: columns {' and '.join(its)}: which is the {twice}? Keep one of them")
        if layout is not None:
            recognised[:] = [(layout, header, names)]
        return names

    failures: list[str] = []
    rows = table_rows(path, columns, failures, names=names_of)
    if not rows and (listed := _names_and_scores(path)):
        named = [row for _, row in listed]
        if set(columns) <= {*named[0]}:
            say(_without_header(path, named[0]))
            return PairTable(listed, _PIPAL_FOLDERS)
    problems += failures
    if not recognised or not rows:
        return PairTable(rows)
    layout, header, names = recognised[0]
    read = [
        f"{name} is read as {ours}"
        for name, ours in layout.columns.items()
        if name in header and name != ours
    ]
    used = zip(header, names, strict=True)
    unused = [name for name, ours in used if name and name not in layout.columns and ours not in _COLUMNS]
    more = f"; not used: {', '.join(unused)}" if unused else ""
    say(f"{path.name}: columns as in {layout.title}: {', '.join(read)}{more}")
    return PairTable(rows, layout.folders)


def _names_and_scores(path: Path) -> Rows:
    """Rows of a file that has a name and a score on every line and no header; else none.

    As in PIPAL, the file is called after the reference of its images, which lies in `../Train_Ref`.
    """
    if path.suffix.lower() not in (".txt", ".csv"):
        return []
    matches = [(number, _NAME_AND_SCORE.fullmatch(line)) for number, line in numbered_lines(path, [])]
    rows: Rows = []
    for number, match in matches:
        if match is None or Path(match[1].strip()).suffix.lower() not in EXTENSIONS:
            return []
        rows.append((number, {"distorted": match[1].strip(), "mos": match[2]}))
    references = sorted((path.parent.parent / "Train_Ref").glob(f"{path.stem}.*"))
    if len(references) == 1 and all(row["distorted"].startswith(path.stem) for _, row in rows):
        for _, row in rows:
            row["reference"] = f"../Train_Ref/{references[0].name}"
    return rows


def _without_header(path: Path, row: Mapping[str, str]) -> str:
    reference = f", of the reference {row['reference']}" if "reference" in row else ""
    return f"{path.name}: no header; as in PIPAL, a name and a MOS on each line{reference}"
