"""The templates of pages, `*.jinja` beside this file; their styles and scripts are in `web/`."""

import base64
from pathlib import Path

import numpy as np

from iqa_jax.data.png import png_bytes

WEB = Path(__file__).parent / "web"


def environment():
    """Jinja's environment with the templates."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": _number, "embedded": _embedded}
    made.globals["web"] = _web
    return made


def _web(name: str):
    """A style or script, to be part of a page as it is."""
    import markupsafe

    return markupsafe.Markup((WEB / name).read_text(encoding="utf-8"))


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.4f}"


def _embedded(image: bytes | np.ndarray) -> str:
    """A data URI of a PNG file or of pixels (H, W, 3)."""
    content = image if isinstance(image, bytes) else png_bytes(image)
    return "data:image/png;base64," + base64.b64encode(content).decode()
