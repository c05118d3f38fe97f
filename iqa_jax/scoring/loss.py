"""The loss of a metric: windows of traced images through the model, a few at a time."""

from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec, auto_axes

from iqa_jax.errors import UserError
from iqa_jax.models.base import as_unit_float
from iqa_jax.ops import Array
from iqa_jax.ops.windows import windows as cut_windows
from iqa_jax.scoring.engine import WindowModel, check_process

LOSS_WINDOWS = 8  # that a loss, and its gradient, look at together


def mean_mos(model: WindowModel, *images: Array, windows: int | None, key: jax.Array | None) -> jax.Array:
    """The mean MOS of the grid's windows, () or (B,), differentiable.

    Args:
      images: (H, W, 3) or (B, H, W, 3), the reference's first if the model compares with one.
      windows, key: so many windows, drawn with the key; all if not given.
    Raises:
      UserError: another number of windows, or no key to draw them with.
    """
    check_process()
    if windows is not None:
        _check_count(windows)

    def whole(*images):
        cut = [cut_windows(as_unit_float(x), "grid", model.config.crop_size) for x in images]
        count = cut[0].shape[1]
        if windows is not None and windows < count:
            chosen = jax.random.choice(_checked_key(key, windows), count, (windows,), replace=False)
            cut = [x[:, chosen] for x in cut]
        mos = _few_at_a_time(model.predict, *(x.reshape(-1, *x.shape[2:]) for x in cut))
        return mos.reshape(cut[0].shape[:2]).mean(1)

    if images[0].ndim == 3:
        return _without_explicit_axes(whole, *(jnp.expand_dims(x, 0) for x in images))[0]
    return _without_explicit_axes(whole, *images)


def _check_count(windows: object) -> None:
    if not isinstance(windows, int | np.integer) or isinstance(windows, bool) or windows < 1:
        raise UserError(f"windows={windows!r}: expected a whole number, 1 or more")


def _checked_key(key, windows: int) -> jax.Array:
    """A key of `jax.random.key`, or one of the older `jax.random.PRNGKey`."""
    expected = f"windows={windows}: expected a key, jax.random.key(0), to draw them with"
    if key is None:
        raise UserError(expected)
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        fits = shape == ()
    else:
        fits = dtype == np.uint32 and shape == jax.random.key_data(jax.random.key(0)).shape
    if not fits:
        came = f"a {type(key).__name__}" if dtype is None else f"{dtype} of shape {shape}"
        raise UserError(f"{expected}; key is {came}")
    return key


def _without_explicit_axes(function, *images: Array) -> jax.Array:
    """`function(*images)`, where XLA decides how all but the batch is sharded.

    `jax.make_mesh` makes axes Explicit: each operation's sharding then follows from its operands', which a
    loop over examples does not allow.
    """
    shardings = [jax.typeof(x).sharding for x in images]
    of = next((s for s in shardings if AxisType.Explicit in s.mesh.axis_types), None)
    if of is None:
        return function(*images)
    batch = next((s.spec[0] for s in shardings if s.mesh == of.mesh and s.spec and s.spec[0]), None)
    sharding = NamedSharding(of.mesh, PartitionSpec(batch))
    return cast(jax.Array, auto_axes(function, out_sharding=sharding)(*images))


def _few_at_a_time(predict, *windows: jax.Array) -> jax.Array:
    """MOS (N,) of windows (N, S, S, 3); what a gradient needs of them is computed again for few at a time."""
    count = windows[0].shape[0]
    parts = -(-count // LOSS_WINDOWS)
    if parts == 1:
        return predict(*windows)
    padded = [
        jnp.pad(x, ((0, parts * LOSS_WINDOWS - count), *[(0, 0)] * (x.ndim - 1)), "edge") for x in windows
    ]
    grouped = tuple(x.reshape(parts, LOSS_WINDOWS, *x.shape[1:]) for x in padded)
    return jax.lax.map(jax.checkpoint(lambda part: predict(*part)), grouped).reshape(-1)[:count]
