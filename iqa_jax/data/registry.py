"""The registry of distortion types: a function registers itself with its parameter at each level."""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from iqa_jax.errors import UserError

LEVELS = (1, 2, 3, 4, 5)

_MIN_SIDE = 32  # px: room for a colour block


class Distortion(NamedTuple):
    """A type of distortion.

    Attributes:
      function: (image, parameter) or (image, parameter, generator) -> distorted image.
      parameters: of level 1 to 5.
      random: whether the function takes a generator.
    """

    function: Callable[..., np.ndarray]
    parameters: tuple[float, ...]
    random: bool


TABLE: dict[str, Distortion] = {}


def distortion(*parameters: float, name: str = ""):
    """Registers a type with its parameter at each level, under `name` or the function's name.

    The image is checked on entry, and a result in [0, 1] turned into uint8.
    """

    def register(function):
        @functools.wraps(function)
        def checked(image: np.ndarray, *args, **kwargs) -> np.ndarray:
            check_image(image)
            result = function(image, *args, **kwargs)
            if result.dtype == np.uint8:
                return result
            return np.rint(np.clip(result, 0, 1) * 255).astype(np.uint8)

        random = "rng" in inspect.signature(function).parameters
        TABLE[name or function.__name__] = Distortion(checked, parameters, random)
        return checked

    return register


def check_image(image: np.ndarray) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise UserError(f"image: expected a uint8 array, got {getattr(image, 'dtype', type(image).__name__)}")
    if image.ndim != 3 or image.shape[2] != 3 or min(image.shape[:2]) < _MIN_SIDE:
        raise UserError(f"image of shape {image.shape}: expected (H, W, 3), H and W of {_MIN_SIDE} or more")
