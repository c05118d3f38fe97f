"""Convolutions and pooling in the form that each platform runs fastest.

XLA has good convolution kernels on GPUs and TPUs; on CPUs several forms are slow.  Every function
here computes the same sum on every platform and only chooses how (`by_platform`);
`tests/ops/test_conv.py` holds the forms against each other.
"""

from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.custom_derivatives import SymbolicZero

from iqa_jax.ops.programs import by_platform, summed_in_float32

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "same" padding of one axis: (before, after), the odd pixel after."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def conv2d(x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: str = "SAME") -> jax.Array:
    """2-D convolution: x (B, H, W, C), kernel (kh, kw, C, D) -> (B, H', W', D).

    `padding` is "VALID" or TensorFlow's "SAME" (at stride 1: (k - 1) / 2 on both sides).
    """

    def convolve(x, kernel):
        return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=_LAYOUT)

    return by_platform(x, kernel, cpu=summed_in_float32(convolve), default=convolve)


def _pad_spatial(x, kh, kw, stride):
    return jnp.pad(
        x, ((0, 0), same_padding(x.shape[1], kh, stride), same_padding(x.shape[2], kw, stride), (0, 0))
    )


def depthwise_conv2d(x: jax.Array, kernel: jax.Array, *, stride: int = 1) -> jax.Array:
    """Depthwise convolution, TensorFlow's "same" padding: x (B, H, W, C), kernel (kh, kw, C)."""

    def convolve(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel[:, :, None],
            (stride, stride),
            "SAME",
            feature_group_count=x.shape[-1],
            dimension_numbers=_LAYOUT,
        )

    @summed_in_float32
    def on_cpu(x, kernel):
        kh, kw = kernel.shape[:2]
        return _shifted_sum(_pad_spatial(x, kh, kw, stride), kernel, stride)

    return by_platform(x, kernel, cpu=on_cpu, default=convolve)


def _shifts(x, kh, kw, stride, height, width):
    """The kh * kw shifted views of a padded x (..., H, W, C), each (..., height, width, C)."""
    for i in range(kh):
        for j in range(kw):
            rows = slice(i, i + (height - 1) * stride + 1, stride)
            columns = slice(j, j + (width - 1) * stride + 1, stride)
            yield x[..., rows, columns, :]


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _shifted_sum(x, kernel, stride):
    """Depthwise convolution of a padded x as a sum of shifted, scaled copies (one fused loop).

    Its derivative is written so that JAX's transpose of it, which is what a gradient runs, is fast too.  It
    consists of ordinary operations: it can be differentiated again, forwards or backwards.
    """
    (kh, kw, _), shape = kernel.shape, _valid(x, kernel, stride)
    shifts = _shifts(x, kh, kw, stride, *shape)
    return sum(v * tap for v, tap in zip(shifts, _taps(kernel, 4), strict=True))


@partial(_shifted_sum.defjvp, symbolic_zeros=True)
def _shifted_sum_jvp(stride, primals, tangents):
    (x, kernel), (of_x, of_kernel) = primals, tangents
    parts = []
    if not isinstance(of_x, SymbolicZero):
        parts.append(_spread_sum(of_x, kernel, stride))
    if not isinstance(of_kernel, SymbolicZero):
        parts.append(_sum_of_each(x, of_kernel, stride))
    return _shifted_sum(x, kernel, stride), sum(parts)


def _spread_sum(x, kernel, stride):
    """`_shifted_sum`, where each copy is spread over a larger array before they are added.

    Slow; its transpose is a `_shifted_sum` of the dilated gradient with the flipped kernel.
    """
    (kh, kw, _), (height, width) = kernel.shape, _valid(x, kernel, stride)
    positions = [(i, j) for i in range(kh) for j in range(kw)]
    zero = jnp.zeros((), x.dtype)
    copies = (
        lax.pad(x * tap, zero, ((0, 0, 0), (kh - 1 - i, i, 0), (kw - 1 - j, j, 0), (0, 0, 0)))
        for (i, j), tap in zip(positions, _taps(kernel, 4), strict=True)
    )
    total = cast(jax.Array, sum(copies))
    end = (total.shape[0], kh + (height - 1) * stride, kw + (width - 1) * stride, total.shape[3])
    return lax.slice(total, (0, kh - 1, kw - 1, 0), end, (1, stride, stride, 1))


def _sum_of_each(x, kernel, stride):
    """`_shifted_sum`, one example after the other.

    So is its transpose, the kernel's gradient: what it works on stays in the cache.  Without the checkpoint
    the shifted copies would be kept for it.
    """
    (kh, kw, _), shape = kernel.shape, _valid(x, kernel, stride)
    taps = _taps(kernel, 3)

    @partial(jax.checkpoint, prevent_cse=False)
    def of_example(image):
        return sum(v * tap for v, tap in zip(_shifts(image, kh, kw, stride, *shape), taps, strict=True))

    return lax.map(of_example, x)


def _valid(x, kernel, stride):
    """Height and width of the convolution of a padded x (B, H, W, C)."""
    return tuple((size - k) // stride + 1 for size, k in zip(x.shape[1:3], kernel.shape[:2], strict=True))


def _taps(kernel, ndim):
    """The kh * kw elements of a kernel (kh, kw, C), each (…, 1, C) of `ndim` axes."""
    kh, kw, channels = kernel.shape
    return jnp.split(kernel.reshape(kh * kw, *[1] * (ndim - 2), channels), kh * kw)


def max_pool(x: jax.Array) -> jax.Array:
    """3 x 3 max-pooling with stride 2 and no padding, (B, H, W, C)."""

    def on_cpu(x):
        for axis in (1, 2):
            last = x.shape[axis] - (x.shape[axis] - 3) % 2
            a, b, c = (lax.slice_in_dim(x, k, last - 2 + k, 2, axis) for k in range(3))
            x = jnp.maximum(jnp.maximum(a, b), c)
        return x

    def pool(x):
        return nnx.max_pool(x, (3, 3), strides=(2, 2), padding="VALID")

    return by_platform(x, cpu=on_cpu, default=pool)
