"""A page to look at scored images: a sortable list and a viewer; works from a file, without a network."""

import base64
import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from iqa_jax.errors import UserError
from iqa_jax.evaluation.report import environment
from iqa_jax.files import partial_folder, writable_directory, write_whole

PAGE = "index.html"
PICTURES = "index-files"  # beside the page
_MARK = ".made-with-the-page"  # in that folder, which is then replaced by the next page
_THUMBNAIL = (128, 96)
_WORST = 5  # windows that are marked
_INLINE = 5 * 2**20  # bytes of pictures that stand in the page itself
# Formats that browsers show, and their endings; other files are written as PNG.
_SHOWN = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "WEBP": ".webp",
    "GIF": ".gif",
    "AVIF": ".avif",
    "BMP": ".bmp",
}
_ORIENTATION = ExifTags.Base.Orientation
_MEDIA = {".jpg": "jpeg"}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A scored image as the page lists it.

    Attributes:
      name, reference: what to call the target and its reference, which there may not be.
      content: what targets to compare with each other have in common.
      method: the name of the set that the target belongs to; "" if there is one set only.
      score: None if it could not be computed, for the reason in `error`.
      measured: more numbers, each a column by its name; every entry has the same.
    """

    name: str
    reference: str | None
    content: str
    method: str
    score: float | None
    error: str | None
    measured: Mapping[str, float] = dataclasses.field(default_factory=dict)


class Page(contextlib.AbstractContextManager):
    """Collects pictures while images are scored, then writes the page; what is not written goes at the end.

    `add` may be called from several threads.
    """

    def __init__(self, directory: Path, *, as_files: bool = True, scale: tuple[float, float] | None = None):
        """Takes the directory, which becomes `index.html` and, for more than 5 MB, `index-files/`.

        Args:
          as_files: pictures are their files, where browsers show these; else they are written as PNG.
          scale: what the colours of all maps show; of each map the range that is there if not given.
        Raises:
          UserError: it cannot be written, or holds an `index-files` that no page has made.
        """
        self.directory = writable_directory(directory)
        pictures = self.directory / PICTURES
        if pictures.exists() and not (pictures / _MARK).exists():
            raise UserError(f"{pictures}: is in the way of the page's pictures; choose another directory")
        self._open = contextlib.ExitStack()
        self._images = self._open.enter_context(partial_folder(self.directory))
        self._as_files, self._scale = as_files, scale
        self._pictures: dict[int, dict] = {}
        self._names: dict[Path, str] = {}
        self._lock = threading.Lock()

    def __exit__(self, *_):
        self._open.close()

    def add(self, position: int, files: Sequence[Path], images: Sequence[np.ndarray], quality) -> None:
        """Keeps the pictures of the image at a position of the list.

        Args:
          files, images: of the reference, if there is one, and the target; (H, W, 3) uint8.  Without
            files, paths that tell the pictures apart.
          quality: what `metric.map` gave.
        """
        height, width = images[-1].shape[:2]
        low, high = self._scale or (float(quality.values.min()), float(quality.values.max()))
        worst = np.argsort(quality.scores)[:_WORST]
        name = _name_of(*files)
        picture = {
            "width": width,
            "height": height,
            "target": self._shown(files[-1], images[-1]),
            "referenceImage": self._shown(files[0], images[0]) if len(files) > 1 else None,
            "thumbnail": self._thumbnail(name, images[-1]),
            "map": self._map(name, quality.values, low, high),
            "mapLow": round(low, 4),
            "mapHigh": round(high, 4),
            "windows": [[*map(int, quality.windows[k]), round(float(quality.scores[k]), 4)] for k in worst],
        }
        with self._lock:
            self._pictures[position] = picture

    def write(
        self, title: str, remark: str, unit: str, entries: Sequence[Entry], methods: Sequence[str] = ()
    ) -> Path:
        """Writes the page with what was added for the entries; returns its path.

        Args:
          methods: the names in the entries, in the order of their columns.
        """
        files = sorted(self._images.iterdir())
        inline = sum(path.stat().st_size for path in files) <= _INLINE
        pairs = [
            {
                "name": entry.name,
                "reference": entry.reference,
                "content": entry.content,
                "method": entry.method,
                "score": entry.score,
                "error": entry.error if entry.score is None else None,
                "measured": [*entry.measured.values()],
                **self._pictures.get(position, _EMPTY),
            }
            for position, entry in enumerate(entries)
        ]
        content = {
            "pairs": pairs,
            "sources": {path.name: self._source(path, inline) for path in files},
            "methods": list(methods),
            "measures": [*entries[0].measured] if entries else [],
        }
        # "<" could end the script that the data stand in.
        data = json.dumps(content).replace("<", "\\u003c")
        template = environment().get_template("page.html.jinja")
        path = self.directory / PAGE
        pictures = self.directory / PICTURES
        (self._images / _MARK).touch()
        with partial_folder(self.directory) as old:  # not taken away piece by piece: the mark may go first
            if pictures.exists():
                pictures.rename(old / PICTURES)
            if not inline:
                self._images.rename(pictures)
        write_whole(path, template.render(title=title, remark=remark, unit=unit, data=data))
        return path

    def _shown(self, file: Path, image: np.ndarray) -> str:
        """The name of a picture, of a file that is shown once or several times."""
        with self._lock:
            if file in self._names:
                return self._names[file]
            ending = _shown_alike(file) if self._as_files else None
            name = self._names[file] = f"{_name_of(file)}{ending or '.png'}"
        if ending:
            shutil.copyfile(file, self._images / name)
        else:
            Image.fromarray(image).save(self._images / name, compress_level=1)
        return name

    def _thumbnail(self, name: str, image: np.ndarray) -> str:
        small = Image.fromarray(image)
        small.thumbnail(_THUMBNAIL)
        small.save(self._images / f"{name}-thumbnail.jpg", quality=80)
        return f"{name}-thumbnail.jpg"

    def _map(self, name: str, values: np.ndarray, low: float, high: float) -> str:
        """The colours of a map at a quarter of its size: it has nothing finer."""
        from matplotlib import colormaps

        level = np.clip((values[::4, ::4] - low) / max(high - low, 1e-9), 0, 1) * 255
        image = Image.fromarray(level.astype(np.uint8), "P")
        image.putpalette(colormaps["viridis"](np.arange(256), bytes=True)[:, :3].tobytes())
        image.save(self._images / f"{name}-map.png")
        return f"{name}-map.png"

    @staticmethod
    def _source(path: Path, inline: bool) -> str:
        """What an <img> takes: the picture itself or its place beside the page."""
        if not inline:
            return f"{PICTURES}/{path.name}"
        kind = _MEDIA.get(path.suffix, path.suffix[1:])
        return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _name_of(*files: Path) -> str:
    """What to call the picture of files: it depends on nothing else, and stands in any address as it is."""
    return hashlib.sha256(os.fsencode("\0".join(map(str, files)))).hexdigest()[:16]


def _shown_alike(file: Path) -> str | None:
    """The usual ending of a file that browsers show as it was scored, whatever it is called; None of others.

    Of several frames they would show all.  They all follow the orientation that EXIF gives for a JPEG, but
    not that of other files or of XMP.
    """
    try:
        with Image.open(file) as image:
            ending = _SHOWN.get(image.format or "")
            if image.format != "MPO" and getattr(image, "is_animated", False):
                return None
            if image.getexif().get(_ORIENTATION, 1) == 1:
                return ending
            stated = Image.Exif()
            stated.load(image.info.get("exif", b""))
            return ending if ending == ".jpg" and _ORIENTATION in stated else None
    except Exception:  # Pillow raises almost anything for metadata that are damaged; the pixels are there
        return None


_EMPTY: dict = {
    "width": 1,
    "height": 1,
    "target": None,
    "referenceImage": None,
    "thumbnail": None,
    "map": None,
    "mapLow": None,
    "mapHigh": None,
    "windows": [],
}
