"""A metric as a loss for PyTorch: a module whose value and gradient JAX computes.

    from iqa_jax.torch import Loss

    perceptual = Loss("full-reference")
    loss = torch.nn.functional.l1_loss(restored, original) + 0.005 * perceptual(original, restored)

The network runs in JAX, so there is one implementation, and all weights that `iqa_jax.load` takes work here
too, except exported files, which have no gradient.  On one device tensors and arrays share memory by DLPack;
else they go through the host.
"""

import contextlib
import os
import warnings
from collections.abc import Iterator

import numpy as np

from iqa_jax.errors import UserError, extra_named

with extra_named("iqa_jax.torch", "torch", "jax", "torch"):
    import jax
    import jax.numpy as jnp
    import torch

from iqa_jax.ops.programs import jit
from iqa_jax.ops.windows import SMALLEST
from iqa_jax.scoring.engine import check_process
from iqa_jax.scoring.load import load
from iqa_jax.scoring.metric import Metric

REDUCTIONS = ("mean", "sum", "none")
ROUNDING = 1e-3  # values this far outside [0, 1] are clipped, as a metric does; further out they are an error
_WANTED = "expected a torch.Tensor (N, 3, H, W), float in [0, 1]"
_NAMES = {True: ("reference", "distorted"), False: ("distorted",)}  # by whether a metric has a reference


class Loss(torch.nn.Module):
    """How far images are below a metric's best score, in standard deviations of the training labels.

    Call it with (reference, distorted), in this order or by these keywords; with a blind metric, with
    (distorted).  Images are (N, 3, H, W), float in [0, 1], H and W at least 32, on one device.  Any dtype of
    torch's floats is computed in float32, also under autocast; gradients have the dtype of their image.

    The module has no parameters and no state: `state_dict()` is empty and `.to(...)` changes nothing.  Copies
    share the compiled programs.  A program is compiled for each shape of the images.

    Attributes:
      metric: what `iqa_jax.load` gave.
      reduction: "mean", "sum" or "none" (a loss for each image).
      windows: how many of the grid's windows a call looks at; all if None.
    """

    def __init__(
        self,
        weights: str | os.PathLike | Metric = "full-reference",
        *,
        reduction: str = "mean",
        windows: int | None = None,
        step: int | str = "best",
        ema: bool = False,
    ):
        """Loads a metric.

        Args:
          weights, step, ema: see `iqa_jax.load`; or a metric that is loaded already.
          reduction: what to do with the losses of a batch.
          windows: look at so many of the grid's windows, drawn anew at each call; saves time and memory.
        Raises:
          WeightsError: see `iqa_jax.load`.
          UserError: an option that does not exist.
        """
        super().__init__()
        if reduction not in REDUCTIONS:
            raise UserError(f"reduction {reduction!r}: expected one of {', '.join(REDUCTIONS)}")
        is_number = isinstance(windows, int | np.integer) and not isinstance(windows, bool)
        if windows is not None and not (is_number and windows >= 1):
            raise UserError(f"windows={windows!r}: expected a whole number, 1 or more")
        if not isinstance(weights, Metric):
            weights = load(weights, step=step, ema=ema, engine="jax")
        self.reduction, self.windows = reduction, windows
        self._programs = _Programs(weights)

    @property
    def metric(self) -> Metric:
        """The metric whose loss this is."""
        return self._programs.metric

    @torch.compiler.disable
    def forward(
        self,
        *images: torch.Tensor,
        reference: torch.Tensor | None = None,
        distorted: torch.Tensor | None = None,
        key: jax.Array | None = None,
    ) -> torch.Tensor:
        """The loss, float32: () or, with the reduction "none", (N,).

        Args:
          images, reference, distorted: (N, 3, H, W), by position or by name.  Each gets a gradient if it
            requires one.
          key: `jax.random.key(...)` that draws the windows; if not given, PyTorch's random numbers on the
            CPU draw them, so that `torch.manual_seed` repeats them.
        Raises:
          UserError: another type, shape, size, dtype, device or range.
        """
        check_process()
        given = self._by_name(images, reference, distorted)
        for name, image in given.items():
            _check_kind(image, name)
        _check_alike(given)
        in_float32 = {name: image.to(torch.float32) for name, image in given.items()}
        with _transforms_named():
            for name, image in in_float32.items():
                _check_range(image.detach(), name)
            images = tuple(in_float32.values())
            learns = torch.is_grad_enabled()
            wanted = tuple(k for k, image in enumerate(images) if learns and image.requires_grad)
            losses = _FromJax.apply(self._programs, self.windows, wanted, self._key(key), *images)
        return losses if self.reduction == "none" else getattr(losses, self.reduction)()

    def extra_repr(self) -> str:
        """What `print(loss)` shows in the parentheses."""
        return f"{self.metric!r}, reduction={self.reduction!r}, windows={self.windows}"

    def _by_name(self, images, reference, distorted) -> dict[str, torch.Tensor]:
        """The images that a call gave, by name, in the metric's order."""
        names = _NAMES[self.metric.full_reference]
        by_keyword = {"reference": reference, "distorted": distorted}
        given = {name: image for name, image in by_keyword.items() if image is not None}
        by_position = dict(zip(names, images, strict=False))
        if (
            len(images) > len(names)
            or given.keys() & by_position.keys()
            or {*given, *by_position} != {*names}
        ):
            got = ", ".join([f"{len(images)} by position", *(f"{name}=" for name in given)])
            raise UserError(f"images: {got}; expected ({', '.join(names)}), each once, for {self.metric!r}")
        if len(images) == 2 and torch.is_grad_enabled() and _only_first_learns(*images):
            raise UserError(
                "reference requires a gradient and distorted does not: are they swapped? The reference comes "
                "first; loss(reference=..., distorted=...) is safe in any order"
            )
        given |= by_position
        return {name: given[name] for name in names}

    def _key(self, key: object) -> jax.Array | np.ndarray | None:
        if self.windows is None:
            return None
        if key is None:
            return jax.random.key(int(torch.randint(2**31 - 1, (), device="cpu")))
        if not isinstance(key, jax.Array | np.ndarray):
            raise UserError(f"key: a {type(key).__name__}; expected jax.random.key(0)")
        return key

    def _replicate_for_data_parallel(self):
        raise UserError(
            "torch.nn.DataParallel runs copies of a module in threads, which this loss does not do: wrap "
            "your network alone and give the loss its output, or use DistributedDataParallel"
        )


class _Programs:
    """The compiled programs of a metric's loss; copies of a module share them, and pickle leaves them out."""

    def __init__(self, metric: Metric):
        self.metric = metric
        self._run = jit(self._losses, static_argnums=(0, 1))

    def __deepcopy__(self, memo) -> "_Programs":
        return self

    def __reduce__(self):
        return _Programs, (self.metric,)

    def __call__(self, windows: int | None, wanted: tuple[int, ...], key, *images: torch.Tensor):
        """Losses (N,) and the gradients of the images whose positions are `wanted`, each on their device."""
        device = images[0].device
        _warn_of_the_host(device)
        done = self._run(windows, wanted, key, *(_to_jax(image) for image in images))
        # Until JAX has read the images, whose memory is PyTorch's, nobody may change them.
        losses, gradients = jax.block_until_ready(done)
        return _to_torch(losses, device), [_to_torch(gradient, device) for gradient in gradients]

    def _losses(self, windows, wanted, key, *images):
        """Images (N, 3, H, W) float32 -> losses (N,), gradients (N, 3, H, W).

        An image's loss depends on no other image of the batch, so the gradient of their sum holds the
        gradient of each.
        """
        images = [jnp.clip(image, 0, 1) for image in images]  # rounding errors; more was refused

        def summed(*images):
            last = (jnp.moveaxis(image, 1, -1) for image in images)  # (N, H, W, 3)
            losses = self.metric.loss(*last, windows=windows, key=key)  # (N,)
            return losses.sum(), losses

        if not wanted:
            return summed(*images)[1], ()
        gradients, losses = jax.grad(summed, argnums=wanted, has_aux=True)(*images)
        return losses, gradients


class _FromJax(torch.autograd.Function):
    """Losses (N,) of images (N, 3, H, W) in float32; the gradients come with them, from one program."""

    @staticmethod
    def forward(ctx, programs, windows, wanted, key, *images):
        losses, gradients = programs(windows, wanted, key, *images)
        # The images let a second derivative find its way to `_Once`.
        ctx.save_for_backward(*gradients, *(images[k] for k in wanted))
        ctx.wanted, ctx.count = wanted, len(images)
        return losses

    @staticmethod
    def backward(ctx, *incoming):
        results, number = [None] * ctx.count, len(ctx.wanted)
        gradients, images = ctx.saved_tensors[:number], ctx.saved_tensors[number:]
        for k, gradient, image in zip(ctx.wanted, gradients, images, strict=True):
            results[k] = _Once.apply(gradient, image, incoming[0])
        return None, None, None, None, *results


class _Once(torch.autograd.Function):
    """The gradient of an image, which has no derivative."""

    @staticmethod
    def forward(ctx, gradient, image, incoming):
        return gradient * incoming.reshape(-1, 1, 1, 1)

    @staticmethod
    def backward(ctx, *incoming):
        raise UserError(
            "this loss has no second derivative in PyTorch (a gradient penalty asks for one); metric.loss "
            "has it, in JAX"
        )


def _shared(device: torch.device) -> bool:
    """Whether JAX computes on this device by default, so that memory can be shared."""
    if device.type == "cpu":
        return jax.default_backend() == "cpu"
    if device.type != "cuda" or jax.default_backend() != "gpu":
        return False
    return device.index in [known.local_hardware_id for known in jax.local_devices()]


def _warn_of_the_host(device: torch.device) -> None:
    if device.type != "cpu" and not _shared(device):
        warnings.warn(
            f"the images are on {device} and JAX computes on its {jax.default_backend()}: each call copies "
            'them through the host (pip install "jax[cuda12]" or "jax[cuda13]" lets JAX use an NVIDIA GPU)',
            stacklevel=2,
        )


def _to_jax(image: torch.Tensor) -> jax.Array:
    image = image.detach().contiguous()
    return jax.dlpack.from_dlpack(image) if _shared(image.device) else jnp.asarray(image.cpu().numpy())


def _to_torch(array: jax.Array, device: torch.device) -> torch.Tensor:
    if _shared(device):
        return torch.from_dlpack(array)
    return torch.from_numpy(np.array(array)).to(device)  # a copy: NumPy's view of a JAX array is read-only


def _only_first_learns(first: object, second: object) -> bool:
    return getattr(first, "requires_grad", False) and not getattr(second, "requires_grad", False)


def _check_kind(image: object, name: str) -> None:
    """Raises UserError unless type, shape and dtype are those of images."""
    if not isinstance(image, torch.Tensor):
        raise UserError(f"{name}: a {type(image).__name__}; {_WANTED}")
    shape = tuple(image.shape)
    if len(shape) != 4 or shape[1] != 3:
        raise UserError(f"{name}: shape {shape}; {_WANTED}{_reshaped(shape)}")
    if not image.dtype.is_floating_point:
        hint = "; divide by 255: image.float() / 255" if image.dtype == torch.uint8 else ""
        raise UserError(f"{name}: {image.dtype}; {_WANTED}{hint}")
    if not shape[0]:
        raise UserError(f"{name}: shape {shape}; an empty batch, expected one image or more")
    if min(shape[2:]) < SMALLEST:
        raise UserError(f"{name}: shape {shape}; expected {SMALLEST} pixels or more on each side")
    if image.layout != torch.strided or image.device.type == "meta":
        what = "on the device meta, without values" if image.device.type == "meta" else f"{image.layout}"
        raise UserError(f"{name}: a tensor that is {what}; {_WANTED}")


def _reshaped(shape: tuple[int, ...]) -> str:
    """How a tensor of such a shape becomes one of images, as far as can be guessed."""
    if len(shape) == 4 and shape[3] == 3:
        return "; channels come second: image.permute(0, 3, 1, 2)"
    if len(shape) == 4 and shape[1] == 1:
        return "; a grey image: image.expand(-1, 3, -1, -1)"
    if len(shape) == 3 and 3 in (shape[0], shape[2]):
        batch = "image[None]" if shape[0] == 3 else "image.permute(2, 0, 1)[None]"
        return f"; a single image: {batch}"
    return ""


def _check_alike(given: dict[str, torch.Tensor]) -> None:
    """Raises UserError unless all images have one shape and are on one device."""
    if len(given) < 2:
        return
    reference, distorted = given["reference"], given["distorted"]
    if reference.shape != distorted.shape:
        raise UserError(
            f"reference {tuple(reference.shape)} and distorted {tuple(distorted.shape)} differ in shape; "
            "scale one to the other's size (torch.nn.functional.interpolate) or cut the same part of both"
        )
    if reference.device != distorted.device:
        raise UserError(
            f"reference is on {reference.device} and distorted on {distorted.device}; move one: "
            "reference.to(distorted.device)"
        )


@contextlib.contextmanager
def _transforms_named() -> Iterator[None]:
    """Raises UserError instead of PyTorch's errors where a transform of torch.func gives tensors."""
    try:
        yield
    except RuntimeError as error:
        if not any(sign in str(error) for sign in ("functorch", "doesn't have storage")):
            raise
        raise UserError(
            "torch.func (grad, vmap, jvp) cannot look into this loss: call backward() or "
            "torch.autograd.grad, or use metric.loss, in JAX"
        ) from None


def _check_range(image: torch.Tensor, name: str) -> None:
    """Raises UserError unless all values are in [0, 1], or nearly."""
    low, high = torch.stack(torch.aminmax(image)).tolist()  # NaN if any value is; one transfer
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UserError(f"{name}: holds NaN or infinite values; {_WANTED}")
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise UserError(f"{name}: values from {low:g} to {high:g}; expected [0, 1]{_undone(low, high)}")


def _undone(low: float, high: float) -> str:
    """How values of such a range are brought into [0, 1], as far as can be guessed."""
    if low >= -0.25 and high <= 1.25:
        return "; clip them? image.clamp(0, 1)"
    if low >= 0:
        return "; divide by 255?" if high <= 255 else ""
    if low >= -1 - ROUNDING and high <= 1 + ROUNDING:
        return "; are they scaled to [-1, 1]? Then give (image + 1) / 2"
    if low >= -2.2 and high <= 2.7:
        return "; are they normalised? Then give image * std + mean"
    return "; a network's output? image.clamp(0, 1) or image.sigmoid()"
