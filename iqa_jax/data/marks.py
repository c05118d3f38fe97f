"""Marks in pictures that iqa_jax draws, so that it neither scores them nor takes another file for one."""

from pathlib import Path

from iqa_jax.files import check_replaceable, open_regular

FIGURE, QUALITY_MAP = "iqa_jax figure", "iqa_jax quality map"  # see `iqa_jax.data.png.png_bytes`
PAGE = ".made-with-the-page"  # a file in a folder of pictures, which belong to a page of scores
_BEGINNING = 256  # bytes of a file, in which a mark stands


def check_picture_replaceable(path: Path, mark: str) -> None:
    """Raises UserError if a file is there that `png_bytes` has not marked so."""
    check_replaceable(path, mark.encode(), mark.removeprefix("iqa_jax "), within=_BEGINNING)


def is_quality_map(path: Path) -> bool:
    """Whether a file is a quality map, by its name and its beginning."""
    if not path.name.endswith(".png") or "-map" not in path.name:
        return False
    try:
        with open_regular(path) as file:
            return QUALITY_MAP.encode() in file.read(_BEGINNING)
    except OSError:
        return False
