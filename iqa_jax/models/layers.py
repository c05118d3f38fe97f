"""Convolutions, normalisation and attention in the form that each platform runs fastest.

XLA has good convolution kernels on GPUs and TPUs; on CPUs several forms are slow.  Every function
here computes the same sum on every platform and only chooses how (`lax.platform_dependent`);
`tests/test_layers.py` holds the forms against each other.
"""

import dataclasses
import os
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def _summed_in_float32(form):
    """A form for CPUs that sums in float32 at least, as the kernels of other platforms do."""

    def wrapped(*args):
        dtype = args[0].dtype
        wide = jnp.promote_types(dtype, jnp.float32)
        return form(*(a.astype(wide) for a in args)).astype(dtype)

    return wrapped


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

    return lax.platform_dependent(x, kernel, cpu=_summed_in_float32(convolve), default=convolve)


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

    @_summed_in_float32
    def on_cpu(x, kernel):
        return _shifted_sum(_pad_spatial(x, *kernel.shape[:2], stride), kernel, stride)

    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=convolve)


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


def dot_product_attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """softmax(Q K^T / sqrt(D)) V for query (B, L, N, D), key and value (B, S, N, D).

    On CPUs the examples are attended to one after the other, recomputing the (N, L, S) scores in
    the backward pass: they stay in the cache, which is several times faster than one large tensor.
    """

    def attend(qkv):
        q, k, v = qkv  # (N, L, D), (N, S, D), (N, S, D)
        scores = (q / q.shape[-1] ** 0.5) @ k.swapaxes(-1, -2)
        weights = jnp.exp(scores - lax.stop_gradient(scores.max(-1, keepdims=True)))
        return (weights @ v) / weights.sum(-1, keepdims=True)

    @_summed_in_float32
    def on_cpu(*qkv):
        heads_first = tuple(a.transpose(0, 2, 1, 3) for a in qkv)
        return lax.map(jax.checkpoint(attend), heads_first).transpose(0, 2, 1, 3)

    return lax.platform_dependent(query, key, value, cpu=on_cpu, default=jax.nn.dot_product_attention)


def few_at_a_time(function, *arrays: jax.Array):
    """`function(*arrays)` for a function that treats the examples of batches (B, …) independently.

    On CPUs only as many examples as there are cores are computed together: what passes from layer
    to layer then stays in the cache.
    """
    batch = arrays[0].shape[0]
    cores = (os.cpu_count() or 1) if isinstance(batch, int) else 1  # an exported program's is symbolic
    few = max(n for n in range(1, cores + 1) if batch % n == 0)

    def on_cpu(*arrays):
        if isinstance(batch, int) and batch == few:
            return function(*arrays)
        parts = [x.reshape(-1, few, *x.shape[1:]) for x in arrays]
        results = lax.map(lambda part: function(*part), parts)
        return jax.tree.map(lambda y: y.reshape(batch, *y.shape[2:]), results)

    return lax.platform_dependent(*arrays, cpu=on_cpu, default=function)


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

    return lax.platform_dependent(x, cpu=on_cpu, default=pool)


class ConvNorm(nnx.Module):
    """Convolution without bias, then BatchNorm with its *running* statistics, then an activation.

    Backbones are made of these: pretrained, in evaluation mode whatever mode the model is in.  The
    normalisation is folded into the kernel at each call, so only a convolution and a bias run.

    Attributes:
      kernel: (kh, kw, C, D), or (kh, kw, C) when depthwise.
      scale, bias, mean, var: BatchNorm's parameters and statistics, each (D,).
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        kernel_size: int | tuple[int, int] = 1,
        *,
        stride: int = 1,
        padding: str = "SAME",
        depthwise: bool = False,
        activation=jax.nn.relu,
        epsilon: float = 1e-3,
        dtype: jnp.dtype = jnp.float32,
        rngs: nnx.Rngs,
    ):
        kh, kw = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        shape = (kh, kw, features_in) if depthwise else (kh, kw, features_in, features_out)
        fan_in = kh * kw * (1 if depthwise else features_in)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), shape) * (2 / fan_in) ** 0.5)
        self.scale = nnx.Param(jnp.ones(features_out))
        self.bias = nnx.Param(jnp.zeros(features_out))
        self.mean = nnx.BatchStat(jnp.zeros(features_out))
        self.var = nnx.BatchStat(jnp.ones(features_out))
        self.stride, self.padding, self.depthwise = stride, padding, depthwise
        self.activation, self.epsilon, self.dtype = activation, epsilon, dtype

    def folded(self) -> tuple[jax.Array, jax.Array]:
        """Kernel and bias of the equivalent convolution without BatchNorm."""
        factor = self.scale[...] * lax.rsqrt(self.var[...] + self.epsilon)
        bias = self.bias[...] - self.mean[...] * factor
        return (self.kernel[...] * factor).astype(self.dtype), bias.astype(self.dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, bias = self.folded()
        x = x.astype(self.dtype)
        if self.depthwise:
            y = depthwise_conv2d(x, kernel, stride=self.stride)
        else:
            y = conv2d(x, kernel, stride=self.stride, padding=self.padding)
        return self.activation(y + bias)


def pointwise_branches(x: jax.Array, *branches: ConvNorm) -> list[jax.Array]:
    """Several 1 x 1 `ConvNorm`s with ReLU that read the same input, as one matrix product."""
    kernels, biases = zip(*(branch.folded() for branch in branches), strict=True)
    kernel, bias = jnp.concatenate(kernels, axis=-1), jnp.concatenate(biases)
    y = jax.nn.relu(x.astype(kernel.dtype) @ kernel[0, 0] + bias)
    edges = [0]
    for part in biases:
        edges.append(edges[-1] + part.shape[0])
    return [y[..., a:b] for a, b in zip(edges, edges[1:], strict=False)]


class BatchNorm(nnx.Module):
    """BatchNorm with PyTorch's semantics: momentum 0.1, unbiased variance in the running estimate.

    Statistics are kept in float32 and, under `jax.jit` over a mesh, are those of the global batch.
    `use_running_average` is what `model.train()` and `model.eval()` set.
    """

    def __init__(self, features: int, *, momentum: float = 0.1, epsilon: float = 1e-5):
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.mean = nnx.BatchStat(jnp.zeros(features))
        self.var = nnx.BatchStat(jnp.ones(features))
        self.momentum, self.epsilon = momentum, epsilon
        self.use_running_average = False

    def __call__(self, x: jax.Array) -> jax.Array:
        dtype = x.dtype
        x = x.astype(jnp.float32)
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            axes = tuple(range(x.ndim - 1))
            mean = x.mean(axes)
            var = jnp.square(x - mean).mean(axes)
            count = x.size // x.shape[-1]
            unbiased = var * (count / (count - 1))
            self.mean[...] += self.momentum * lax.stop_gradient(mean - self.mean[...])
            self.var[...] += self.momentum * lax.stop_gradient(unbiased - self.var[...])
        factor = self.scale[...] * lax.rsqrt(var + self.epsilon)
        return ((x - mean) * factor + self.bias[...]).astype(dtype)


@dataclasses.dataclass(frozen=True)
class NoiseFor:
    """In place of `rngs`: keys for noise in the network that is for some examples of a batch only.

    Attributes:
      rngs: with a `dropout` stream.
      examples: (B,) bool, which ones.
    """

    rngs: nnx.Rngs
    examples: jax.Array


class _Noise(nnx.Module):
    """Noise of some rate in training mode; subclasses give `noisy`.

    `deterministic` is what `model.train()` and `model.eval()` set.
    """

    def __init__(self, rate: float):
        self.rate = rate
        self.deterministic = False

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | NoiseFor | None = None) -> jax.Array:
        if self.deterministic or self.rate == 0:
            return x
        if rngs is None:
            raise ValueError("noise in training mode needs rngs=nnx.Rngs(dropout=key)")
        if isinstance(rngs, NoiseFor):
            chosen = rngs.examples.reshape(-1, *[1] * (x.ndim - 1))
            return jnp.where(chosen, self.noisy(rngs.rngs.dropout(), x), x)
        return self.noisy(rngs.dropout(), x)

    def noisy(self, key: jax.Array, x: jax.Array) -> jax.Array:
        raise TypeError(f"{type(self).__name__} does not define noisy")


class Dropout(_Noise):
    """Dropout from 16 random bits an element: on CPUs several times faster than `nnx.Dropout`.

    The last axis must be even.
    """

    def noisy(self, key, x):
        words = jax.random.bits(key, (*x.shape[:-1], x.shape[-1] // 2), jnp.uint32)
        bits = lax.bitcast_convert_type(words, jnp.uint16).reshape(x.shape)
        dropped = round(self.rate * 2**16)
        return jnp.where(bits >= dropped, x * (2**16 / (2**16 - dropped)), 0)


class StochasticDepth(_Noise):
    """Leaves out a residual branch, for each example by itself (Huang et al., 2016).

    What stays is scaled, so that the mean stays.
    """

    def noisy(self, key, x):
        kept = jax.random.bernoulli(key, 1 - self.rate, (x.shape[0], *[1] * (x.ndim - 1)))
        return x * jnp.where(kept, 1 / (1 - self.rate), 0).astype(x.dtype)


def check_images(images: jax.Array, smallest: int = 1) -> None:
    """Raises ValueError unless `images` are float (B, H, W, 3), H and W of at least `smallest`."""
    fits = images.ndim == 4 and images.shape[-1] == 3 and min(images.shape[1:3]) >= smallest
    if not fits or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(
            f"images of shape {images.shape}, {images.dtype}: expected float in [0, 1], "
            f"(B, H, W, 3), H and W of at least {smallest}"
        )


def collect_taps(stages, taps: tuple[str, ...]) -> dict[str, jax.Array]:
    """Runs a generator of (name, output) until every name in `taps` has come."""
    found, wanted, seen = {}, set(taps), []
    for name, output in stages:
        seen.append(name)
        if name in wanted:
            found[name] = output
        if len(found) == len(wanted):
            return {tap: found[tap] for tap in taps}
    missing = ", ".join(sorted(wanted - found.keys()))
    raise ValueError(f"no such tap: {missing}; this network has {', '.join(seen)}")
