"""Progress bars."""

import io
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm


def on_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is a terminal; one that was closed is None."""
    return stream is not None and stream.isatty()


class _Nowhere(io.TextIOBase):
    """Takes text and keeps none of it."""

    def write(self, text: str) -> int:
        return len(text)


def progress_bar(
    total: int, what: str, unit: str, *, initial: int = 0, leave: bool = False, hidden: bool = False
) -> "tqdm":
    """A bar on standard error, which disappears at the end unless it is left; usable in a `with`.

    It counts without being shown where it is hidden or standard error is not a terminal.
    """
    from tqdm import tqdm

    shown = on_terminal(sys.stderr) and not hidden
    return tqdm(
        total=total,
        initial=initial,
        desc=what,
        unit=unit,
        leave=leave,
        dynamic_ncols=True,
        file=sys.stderr if shown else _Nowhere(),
    )
