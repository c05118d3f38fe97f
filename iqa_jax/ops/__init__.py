"""Arrays in, arrays out; JAX alone.

This file and `windows` do not import JAX: an ONNX file scores pictures where it is not installed.
"""

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import jax

    Array = np.ndarray | jax.Array  # on the host, or wherever JAX has it
else:
    Array = np.ndarray  # names a type in annotations only


def is_array(given: Any) -> bool:
    """Whether it is an array of NumPy's or of JAX's; nobody has one of JAX's who has not imported it."""
    if isinstance(given, np.ndarray):
        return True
    return "jax" in sys.modules and isinstance(given, sys.modules["jax"].Array)


def is_traced(given: Any) -> bool:
    """Whether `jax.jit`, `jax.vmap` or `jax.grad` traces it, so that its values are not known."""
    return "jax" in sys.modules and isinstance(given, sys.modules["jax"].core.Tracer)
