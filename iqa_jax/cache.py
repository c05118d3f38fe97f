"""Where things made on first use are kept."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """`$IQA_JAX_CACHE`, else `$XDG_CACHE_HOME/iqa_jax`, else `~/.cache/iqa_jax`."""
    if own := os.environ.get("IQA_JAX_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "iqa_jax"
