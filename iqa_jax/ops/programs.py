"""Compiling functions: `jax.jit` with each platform's options, and the store of compiled programs."""

import contextvars
import functools
import importlib
import math
import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from filelock import FileLock, Timeout
from jax import lax

from iqa_jax.errors import UserError
from iqa_jax.files import cache_dir, writable_cache

# XLA gives convolutions and matrix products on CPUs to YNNPACK, whose convolutions are slow where there are
# few channels: Inception-ResNet-v2's stem takes two thirds more time.  This leaves it the reductions only.
_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


STORE_BYTES = 2 * 2**30  # of compiled programs that are kept
_CHECKED = ".checked"  # in the store; its time is that of the last search for damaged programs

_one_platform: contextvars.ContextVar[str | None] = contextvars.ContextVar("one platform", default=None)


@functools.cache
def compiler_options() -> dict[str, str]:
    """Options for `jax.jit(..., compiler_options=…)` on the default backend; {} where they are unknown."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=_CPU_OPTIONS).lower().compile()
    except Exception:  # each version of XLA raises its own kind
        return {}
    return _CPU_OPTIONS


def jit(function: Callable, **options) -> Callable:
    """`jax.jit` for a program's outermost function, for the default backend alone, with its options."""
    traced = functools.wraps(function)(traced_for(jax.default_backend(), function))
    return jax.jit(traced, compiler_options=compiler_options(), **options)


def by_platform(*args, cpu: Callable, default: Callable):
    """`cpu(*args)` on CPUs and `default(*args)` elsewhere.

    Inside `jit` the one that is needed is traced alone, which halves the time to the first result; elsewhere,
    as for `jax.export` and in a `jax.jit` of the caller's, both are, and the platform decides.  What they
    contain is decided with them: left to itself, it would be traced twice in each.
    """
    platform = _one_platform.get()
    if platform is None:
        forms = {"cpu": traced_for("cpu", cpu), "default": traced_for("other", default)}
        return lax.platform_dependent(*args, **forms)
    return cpu(*args) if platform == "cpu" else default(*args)


def traced_for(platform: str, function: Callable) -> Callable:
    """`function` for one platform ("cpu" or "other"), which all its calls of `by_platform` know."""

    def traced(*args, **kwargs):
        token = _one_platform.set(platform)
        try:
            return function(*args, **kwargs)
        finally:
            _one_platform.reset(token)

    return traced


def device_remark() -> str | None:
    """A remark for a machine with a GPU that JAX does not use; None elsewhere."""
    if (
        jax.default_backend() != "cpu"
        or os.environ.get("JAX_PLATFORMS")
        or not os.path.exists("/dev/nvidia0")
    ):
        return None
    return (
        "this machine has a GPU (/dev/nvidia0), but JAX runs on the CPU; for drivers from 580 on: "
        'pip install "jax[cuda13]" of the same version, for older ones jax[cuda12]'
    )


def cores() -> int:
    """How many CPU cores this process may use; they change its speed, never its results."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def few_at_a_time(function: Callable, *arrays: jax.Array, count: jax.Array | None = None):
    """`function(*arrays)` for a function that treats the examples of batches (B, …) independently.

    On CPUs only as many examples as there are cores are computed together: what passes from layer
    to layer then stays in the cache.

    Args:
      count: how many of the examples matter, (); the results of the others may be anything.
    """
    batch = arrays[0].shape[0]
    if not isinstance(batch, int):  # an exported program's is symbolic
        few = 1
    elif count is None:
        few = max(n for n in range(1, cores() + 1) if batch % n == 0)
    else:
        few = min(cores(), batch)

    def on_cpu(*arrays):
        if isinstance(batch, int) and batch == few:
            return function(*arrays)
        if count is not None:
            return _up_to(function, arrays, few, count)
        parts = [x.reshape(-1, few, *x.shape[1:]) for x in arrays]
        results = lax.map(lambda part: function(*part), parts)
        return jax.tree.map(lambda y: y.reshape(batch, *y.shape[2:]), results)

    return by_platform(*arrays, cpu=on_cpu, default=function)


def _up_to(function: Callable, arrays: tuple[jax.Array, ...], few: int, count: jax.Array):
    """`function` on `few` examples after the other, until `count` are done."""
    once = jax.jit(lambda *part: function(*part), inline=True)  # traced once, for the shapes and for the loop
    batch = arrays[0].shape[0]
    shapes = jax.eval_shape(once, *(jax.ShapeDtypeStruct((few, *x.shape[1:]), x.dtype) for x in arrays))
    start = jax.tree.map(lambda s: jnp.zeros((batch, *s.shape[1:]), s.dtype), shapes)

    def do_part(number, results):
        start = jnp.minimum(number * few, batch - few)  # the last part may overlap the one before
        part = once(*(lax.dynamic_slice_in_dim(x, start, few) for x in arrays))

        def put(whole, new):
            return lax.dynamic_update_slice_in_dim(whole, new, start, 0)

        return jax.tree.map(put, results, part)

    return lax.fori_loop(0, (count + few - 1) // few, do_part, start)


def summed_in_float32(form):
    """A form for CPUs that sums in float32 at least, as the kernels of other platforms do."""

    def wrapped(*args):
        dtype = args[0].dtype
        wide = jnp.promote_types(dtype, jnp.float32)
        return form(*(a.astype(wide) for a in args)).astype(dtype)

    return wrapped


def keep_programs() -> None:
    """Lets JAX keep compiled programs in the cache directory, so that a second start is quick.

    For command lines; a setting of `JAX_COMPILATION_CACHE_DIR` stays as it is.  A store that cannot be
    written is only read.  Beyond `STORE_BYTES` JAX removes the programs that were used least recently.
    """
    if jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]  # JAX adds its options at run time
        return
    least_seconds, most_bytes = 0.0, STORE_BYTES  # of compiling, for a program to be kept; of all programs
    try:
        store = writable_cache("programs")
        if not _remove_damaged(store):
            most_bytes = -1
    except UserError:
        try:
            store = cache_dir() / "programs"
        except UserError:  # no home directory is known
            return
        if not store.is_dir():
            return
        least_seconds, most_bytes = math.inf, -1  # where there is a bound, JAX writes down each use
    jax.config.update("jax_compilation_cache_dir", str(store))
    jax.config.update("jax_compilation_cache_max_size", most_bytes)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least_seconds)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _remove_damaged(store: Path) -> bool:
    """Removes damaged programs, which JAX neither runs nor replaces, and those without a time of use.

    JAX writes that time last, so that a killed process or a full disk leaves none; with such a program in
    the store, JAX adds no others.  A program is read once: its time of change tells whether it is new, since
    a copy has the date of its original.

    Returns:
      Whether the file system has locks, which JAX needs to bound the store.
    """
    checked = store / _CHECKED
    try:
        with FileLock(store / ".lockfile", timeout=0):  # JAX's own
            since = checked.stat().st_mtime if checked.exists() else 0.0
            if since > time.time():  # the clock was wrong
                since = 0.0
            checked.touch()
            for program in store.glob("*-cache"):
                used, known = program.with_name(program.name.removesuffix("cache") + "atime"), program.stat()
                is_new = max(known.st_mtime, known.st_ctime) >= since
                if not used.exists() or used.stat().st_size != 8 or (is_new and not _is_whole(program)):
                    program.unlink()
                    used.unlink(missing_ok=True)
    except Timeout:  # another process reads or writes there
        pass
    except (OSError, NotImplementedError):
        return False
    return True


def _is_whole(program: Path) -> bool:
    """Whether a program can be decompressed, where its compression is known."""
    content = program.read_bytes()
    try:
        if content.startswith(b"\x28\xb5\x2f\xfd"):
            return bool(importlib.import_module("zstandard").ZstdDecompressor().decompress(content))
        return bool(zlib.decompress(content) if content.startswith(b"\x78") else content)
    except ImportError:  # JAX used another package
        return True
    except Exception:  # each compression has errors of its own
        return False
