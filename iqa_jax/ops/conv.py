"""Convolutions and pooling in the form that each platform runs fastest.

XLA has good convolution kernels on GPUs and TPUs; on CPUs several forms are slow.  Every function
here computes the same sum on every platform and only chooses how (`by_platform`);
`tests/ops/test_conv.py` holds the forms against each other.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

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
    kh, kw = kernel.shape[:2]
    if (kh, kw, stride) == (1, 1, 1):
        return x @ kernel[0, 0]

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
        return _shifted_sum(_pad_spatial(x, *kernel.shape[:2], stride), kernel, stride)

    return by_platform(x, kernel, cpu=on_cpu, default=convolve)


def _shifts(x, kh, kw, stride, height, width):
    """The kh * kw shifted views of a padded x (..., H, W, C), each (..., height, width, C)."""
    for i in range(kh):
        for j in range(kw):
            rows = slice(i, i + (height - 1) * stride + 1, stride)
            columns = slice(j, j + (width - 1) * stride + 1, stride)
            yield x[..., rows, columns, :]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _shifted_sum(x, kernel, stride):
    """Depthwise convolution of a padded x as a sum of shifted, scaled copies (one fused loop)."""
    kh, kw, channels = kernel.shape
    height, width = (x.shape[1] - kh) // stride + 1, (x.shape[2] - kw) // stride + 1
    taps = kernel.reshape(kh * kw, channels)
    return sum(v * taps[n] for n, v in enumerate(_shifts(x, kh, kw, stride, height, width)))


def _shifted_sum_forward(x, kernel, stride):
    return _shifted_sum(x, kernel, stride), (x, kernel)


def _shifted_sum_backward(stride, residuals, grad):
    x, kernel = residuals
    kh, kw, channels = kernel.shape
    height, width = grad.shape[1:3]

    # The input's gradient is the stride-1 convolution of the dilated gradient with the flipped kernel.
    edges = []
    for size, length, k in zip(x.shape[1:3], (height, width), (kh, kw), strict=True):
        reached = (length - 1) * stride + k
        edges.append((k - 1, k - 1 + size - reached, stride - 1))
    zero = jnp.zeros((), grad.dtype)
    dilated = lax.pad(grad, zero, ((0, 0, 0), *edges, (0, 0, 0)))
    grad_x = _shifted_sum(dilated, kernel[::-1, ::-1], 1)

    # The kernel's gradient, one example at a time: its working set stays in the cache.
    def add_example(total, example):
        image, g = example
        products = [(v * g).sum((0, 1)) for v in _shifts(image, kh, kw, stride, height, width)]
        return total + jnp.stack(products), None

    start = jnp.zeros((kh * kw, channels), jnp.float32)
    grad_kernel, _ = lax.scan(add_example, start, (x, grad))
    return grad_x, grad_kernel.reshape(kernel.shape).astype(kernel.dtype)


_shifted_sum.defvjp(_shifted_sum_forward, _shifted_sum_backward)


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
