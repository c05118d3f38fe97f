"""Where things made on first use are kept."""

import os
from pathlib import Path


def cache_dir() -> Path:
    """`$IQA_JAX_CACHE`, else `$XDG_CACHE_HOME/iqa_jax`, else `~/.cache/iqa_jax`."""
    if own := os.environ.get("IQA_JAX_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "iqa_jax"


def keep_compiled_programs() -> None:
    """Lets JAX keep compiled programs in `cache_dir()`, so that a second start is quick.

    For command lines; a setting of `JAX_COMPILATION_CACHE_DIR` stays as it is.
    """
    import jax

    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "programs"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
