"""Where weights lie: the shipped ones, the model hub's, those of a path.  Nothing here needs JAX."""

import difflib
import os
from pathlib import Path

from iqa_jax.errors import WeightsError
from iqa_jax.files import local_path
from iqa_jax.weights.hub import fetched_folder, on_hub

# The weights that ship with the package, by name.
SHIPPED = {name: Path(__file__).parent / "shipped" / name for name in ("full-reference", "blind")}


def is_file(path: str | os.PathLike) -> bool:
    """Whether it is the path of a file, rather than a name, an address or a folder."""
    return os.fspath(path) not in SHIPPED and not on_hub(path) and local_path(path).is_file()


def place_of(path: str | os.PathLike) -> Path:
    """Where the weights of a name, an address or a path lie; see `read_any`.

    Raises:
      WeightsError: nothing can be fetched from the address, or nothing has that name.
    """
    if (name := os.fspath(path)) in SHIPPED:
        return SHIPPED[name]
    if on_hub(name):
        return fetched_folder(name)
    place = local_path(path)
    if not place.exists() and len(place.parts) == 1:
        near = difflib.get_close_matches(name.lower(), SHIPPED, n=1)
        raise WeightsError(
            f"{name}: no such directory or file, and no metric of the package; these are "
            f"{' and '.join(SHIPPED)}{f', did you mean {near[0]}?' if near else ''}.  Expected one of them, "
            "a run, a folder or file of weights, or hf://OWNER/NAME"
        )
    return place


def check_choice(path: str | os.PathLike, *, step: int | str, ema: bool) -> None:
    """Raises WeightsError if `step` or `ema` chooses a checkpoint of something that is not a run."""
    for name, is_given in (("step", step != "best"), ("ema", ema)):
        if is_given:
            raise WeightsError(
                f"{path}: one set of weights, no training run; {name} chooses between those of a run, "
                "leave it out"
            )
