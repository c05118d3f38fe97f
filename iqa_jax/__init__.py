"""Learned, perceptual image quality assessment in JAX."""

__version__ = "0.1.0"

__all__ = ["load"]


def __getattr__(name: str):
    """Imports `load` at its first use: JAX and Flax take seconds."""
    if name == "load":
        from iqa_jax.metric import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
