"""`jax.jit` with what XLA has to be told on CPUs, and the store of compiled programs."""

import functools
from collections.abc import Callable

import jax

from iqa_jax.errors import UserError
from iqa_jax.files import writable_cache

# XLA gives convolutions and matrix products on CPUs to YNNPACK, whose convolutions are slow where there are
# few channels: Inception-ResNet-v2's stem takes two thirds more time.  This leaves it the reductions only.
_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


@functools.cache
def compiler_options() -> dict[str, str]:
    """Options for `jax.jit(..., compiler_options=…)` on the default backend; {} where they are unknown."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=_CPU_OPTIONS).lower().compile()
    except Exception:  # another version of XLA, which says so in its own ways
        return {}
    return _CPU_OPTIONS


def jit(function: Callable, **options) -> Callable:
    """`jax.jit` for a program's outermost function, with `compiler_options()`."""
    return jax.jit(function, compiler_options=compiler_options(), **options)


def keep_programs() -> None:
    """Lets JAX keep compiled programs in the cache directory, so that a second start is quick.

    For command lines; a setting of `JAX_COMPILATION_CACHE_DIR` stays as it is.  Where the cache directory
    cannot be written, programs are compiled at each start.
    """
    if jax.config.jax_compilation_cache_dir:
        return
    try:
        store = writable_cache("programs")
    except UserError:
        return
    jax.config.update("jax_compilation_cache_dir", str(store))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
