"""A page of scored images: a sortable list and a viewer; works from a file, without a network."""

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

from iqa_jax.data import marks
from iqa_jax.data.png import png_bytes
from iqa_jax.errors import UserError
from iqa_jax.files import check_replaceable, partial_folder, writable_directory, write_whole
from iqa_jax.reporting.maps import levels, viridis
from iqa_jax.reporting.templates import environment
from iqa_jax.scoring.metric import QualityMap

PAGE = "index.html"
_OURS = b'<svg id="histogram" role="img"'  # in every page
PICTURES = "index-files"  # beside the page
_THUMBNAIL = (128, 96)
_WORST = 5  # windows that are marked
_INLINE = 5 * 2**20  # up to so many bytes, pictures are part of the page itself
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
      name, reference: names of the target and of its reference, None without one.
      content: the same for targets that are compared with each other.
      method: the name of the set that the target belongs to; "" if there is only one set.
      score: None if it could not be computed, for the reason in `error`.
      measured: further numbers by the names of their columns, the same for all entries.
    """

    name: str
    reference: str | None
    content: str
    method: str
    score: float | None
    error: str | None
    measured: Mapping[str, float] = dataclasses.field(default_factory=dict)


class Page(contextlib.AbstractContextManager):
    """Collects pictures while images are scored, then writes the page.

    `add` may be called from several threads.  Pictures of a page that is never written are deleted.
    """

    def __init__(self, directory: Path, *, as_files: bool = True, scale: tuple[float, float] | None = None):
        """Prepares the directory of `index.html` and, for pictures of more than 5 MB, `index-files/`.

        Args:
          as_files: pictures are copies of their files, where browsers show these; else PNG files.
          scale: the range that the colours of all maps span; that of each map if not given.
        Raises:
          UserError: the directory cannot be written, or holds an `index.html` or `index-files` that no page
            has made.
        """
        self.directory = writable_directory(directory)
        pictures = self.directory / PICTURES
        if pictures.exists() and not (pictures / marks.PAGE).exists():
            raise UserError(f"{pictures}: no page has made this folder; choose another directory")
        check_replaceable(self.directory / PAGE, _OURS, "page of scores")
        self._open = contextlib.ExitStack()
        self._images = self._open.enter_context(partial_folder(self.directory))
        self._as_files, self._scale = as_files, scale
        self._pictures: dict[int, dict] = {}
        self._names: dict[Path, str] = {}
        self._lock = threading.Lock()

    def __exit__(self, *_):
        self._open.close()

    def add(
        self, position: int, files: Sequence[Path], images: Sequence[np.ndarray], quality: QualityMap
    ) -> None:
        """Adds the pictures of the image at a position of the list.

        Args:
          files, images: of the reference, if there is one, and the target; (H, W, 3) uint8.  Pictures that
            come from no files have made-up paths, a different one each.
          quality: the map of the target.
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
        self,
        title: str,
        remark: str,
        unit: str,
        entries: Sequence[Entry],
        methods: Sequence[str] = (),
        comparison: Mapping | None = None,
    ) -> Path:
        """Writes the page of the entries with their pictures; returns its path.

        Args:
          methods: the names in the entries, in the order of their columns.
          comparison: of the methods, see `iqa_jax.evaluation.comparison.Comparison.report`.
        """
        self._share_scales(entries)
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
            "comparison": comparison,
            "measures": [*entries[0].measured] if entries else [],
            "unit": unit,
        }
        # "<" could end the script that the data stand in.
        data = json.dumps(content).replace("<", "\\u003c")
        template = environment().get_template("page.html.jinja")
        path = self.directory / PAGE
        pictures = self.directory / PICTURES
        (self._images / marks.PAGE).touch()
        with partial_folder(self.directory) as old:  # renamed whole, so that its mark is never lost alone
            if pictures.exists():
                pictures.rename(old / PICTURES)
            if not inline:
                self._images.rename(pictures)
        write_whole(path, template.render(title=title, remark=remark, unit=unit, data=data))
        return path

    def _share_scales(self, entries: Sequence[Entry]) -> None:
        """Gives the maps of what is compared with each other the same colours for the same quality."""
        contents: dict[str, list[dict]] = {}
        for position, picture in self._pictures.items():
            contents.setdefault(entries[position].content, []).append(picture)
        for pictures in contents.values() if self._scale is None else ():
            low = min(picture["mapLow"] for picture in pictures)
            high = max(picture["mapHigh"] for picture in pictures)
            for picture in pictures:
                values = np.linspace(picture["mapLow"], picture["mapHigh"], 256)
                if (picture["mapLow"], picture["mapHigh"]) != (low, high):
                    path = self._images / picture["map"]
                    with Image.open(path) as image:
                        recoloured = Image.fromarray(np.asarray(image), "P")
                    recoloured.putpalette(viridis()[levels(values, low, high)].tobytes())
                    path.write_bytes(png_bytes(recoloured))
                picture |= {"mapLow": low, "mapHigh": high}

    def _shown(self, file: Path, image: np.ndarray) -> str:
        """The name of the picture of a file, which is written once."""
        with self._lock:
            if file in self._names:
                return self._names[file]
            ending = _ending_in_browsers(file) if self._as_files else None
            name = self._names[file] = f"{_name_of(file)}{ending or '.png'}"
        if ending:
            shutil.copyfile(file, self._images / name)
        else:
            (self._images / name).write_bytes(png_bytes(image, compress_level=1))
        return name

    def _thumbnail(self, name: str, image: np.ndarray) -> str:
        small = Image.fromarray(image)
        small.thumbnail(_THUMBNAIL)
        small.save(self._images / f"{name}-thumbnail.jpg", quality=80)
        return f"{name}-thumbnail.jpg"

    def _map(self, name: str, values: np.ndarray, low: float, high: float) -> str:
        """The colours of a map at a quarter of its size, which loses nothing that can be seen."""
        image = Image.fromarray(levels(values[::4, ::4], low, high), "P")
        image.putpalette(viridis().tobytes())
        (self._images / f"{name}-map.png").write_bytes(png_bytes(image))
        return f"{name}-map.png"

    @staticmethod
    def _source(path: Path, inline: bool) -> str:
        """The address of a picture: itself as data, or its place beside the page."""
        if not inline:
            return f"{PICTURES}/{path.name}"
        kind = _MEDIA.get(path.suffix, path.suffix[1:])
        return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _name_of(*files: Path) -> str:
    """A name for the picture of files that depends on their paths alone and is valid in any address."""
    return hashlib.sha256(os.fsencode("\0".join(map(str, files)))).hexdigest()[:16]


def _ending_in_browsers(file: Path) -> str | None:
    """The usual ending of a file that browsers show as it was scored; None for other files.

    Browsers would show all frames of a file.  They follow the EXIF orientation of a JPEG file, but not that
    of other files or of XMP.
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
    except Exception:  # Pillow raises almost anything for damaged metadata; the pixels are fine
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
