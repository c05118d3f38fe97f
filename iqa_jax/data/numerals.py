"""Text -> numbers: the cells of a column are read together, for one alone may mean two numbers.

`1,448.96` and `1.448,96` are both 1448.96; `1,420` is 1420 where another cell has a decimal point, and 1.42
where another cell can only have a decimal comma.
"""

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from iqa_jax.errors import DataError

# Between thousands, in any country: no-break, figure, thin and narrow no-break space; apostrophes.
_SPACES = " \u00a0\u2007\u2009\u202f'’"
_MINUS = {ord("\u2212"): "-"}


def _written(mark: str, separators: str, whole: str = "") -> re.Pattern[str]:
    """Numbers with this decimal mark, and one of these between thousands."""
    thousands = rf"[1-9]\d{{0,2}}(?P<separator>[{separators}])\d{{3}}(?:(?P=separator)\d{{3}})*"
    return re.compile(
        rf"(?P<sign>[+-]?)(?P<whole>\d+|{thousands}{whole}|)(?:{re.escape(mark)}(?P<fraction>\d*))?"
        r"(?P<power>[eE][+-]?\d+)?",
        re.ASCII,
    )


_PLAIN = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
# India writes 12,34,567.
_POINT = _written(".", "," + _SPACES, r"|[1-9]\d?(?:,\d\d)+,\d{3}")
_COMMA = _written(",", "." + _SPACES)


class AmbiguousNumber(DataError):
    """A cell that means two numbers, of which the others of its column exclude none.

    Attributes:
      position: of the cell in its column.
    """

    def __init__(self, position: int, text: str, first: float, second: float):
        super().__init__(f"{text!r} is {first:.15g} or {second:.15g}: write one of these")
        self.position = position


class _Reading(NamedTuple):
    """What a cell means with a decimal point and with a decimal comma; None where it can't be written so."""

    point: float | None
    comma: float | None
    plain: bool  # without anything between thousands, with a point if with any mark
    points_separate: bool  # it can only be one with points between thousands


def numbers(
    cells: Sequence[str | float | None], *, within: tuple[float, float] | None = None
) -> list[float | None]:
    """The numbers of a column; None for a cell that holds none, or one that is not finite.

    Decimal points or commas, thousands divided by commas, points, spaces or apostrophes, exponents, and the
    digits of any script are understood.  Which of the marks is the decimal one is what all cells allow; where
    both are allowed and mean the same, it does not matter; a point alone is a decimal point, unless another
    cell has points between thousands and a decimal comma.

    Args:
      within: the ends of the scale, if they are known; of two meanings, one outside of it is none.
    Raises:
      AmbiguousNumber: for example `1,420` beside whole numbers.
    """
    readings = [_reading(cell) for cell in cells]
    known = [reading for reading in readings if reading]
    if all(reading.plain for reading in known):
        return [reading and reading.point for reading in readings]
    point = all(reading.point is not None for reading in known)
    comma = all(reading.comma is not None for reading in known)
    points_separate = any(reading.points_separate for reading in known)
    values: list[float | None] = []
    for position, reading in enumerate(readings):
        possible = []
        if reading:
            # Where no decimal mark suits all, each cell must have a single meaning.
            either = point == comma or (reading.plain and not points_separate)
            possible = [reading.point] if point or either else []
            possible += [reading.comma] if comma or either else []
        meanings = list(dict.fromkeys(value for value in possible if value is not None))
        if len(meanings) > 1 and within:
            meanings = [value for value in meanings if within[0] <= value <= within[1]] or meanings
        if len(meanings) > 1:
            raise AmbiguousNumber(position, str(cells[position]).strip(), *meanings)
        values.append(meanings[0] if meanings else None)
    return values


def _reading(cell: str | float | None) -> _Reading | None:
    if cell is None:
        return None
    if not isinstance(cell, str):
        value = float(cell) if math.isfinite(cell) else None
        return None if value is None else _Reading(value, value, plain=True, points_separate=False)
    text = _in_ascii_digits(cell.strip().translate(_MINUS))
    point, comma = _value(_POINT, text), _value(_COMMA, text)
    if point is None and comma is None:
        return None
    plain = bool(_PLAIN.fullmatch(text))
    return _Reading(point, comma, plain, points_separate=point is None and "." in text)


def _value(pattern: re.Pattern[str], text: str) -> float | None:
    match = pattern.fullmatch(text)
    if not match or not (match["whole"] or match["fraction"]):
        return None
    whole = re.sub(r"\D", "", match["whole"])
    value = float(f"{match['sign']}{whole or 0}.{match['fraction'] or 0}{match['power'] or ''}")
    return value if math.isfinite(value) else None


def _in_ascii_digits(text: str) -> str:
    if text.isascii():
        return text
    return "".join(str(unicodedata.decimal(mark)) if mark.isdecimal() else mark for mark in text)
