"""The loss as a module of PyTorch: JAX's value and gradient, and what such a module is asked for."""

import copy
import importlib
import io
import pickle
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import iqa_jax
import iqa_jax.torch as bridge
from iqa_jax.errors import UserError
from iqa_jax.models import ModelConfig
from iqa_jax.scoring.export import _without_gradient
from iqa_jax.scoring.metric import BlindMetric, FullReferenceMetric
from iqa_jax.scoring.network import Network
from iqa_jax.torch import Loss
from tests import networks

SIZE = 32
quick = pytest.mark.quick


class Close:
    """A `WindowModel` that costs nothing: the nearer distorted windows are to the references, the better."""

    sets = 1
    config = ModelConfig("close", crop_size=SIZE, mos_mean=0.0, mos_std=0.5, mos_low=0.0, mos_high=1.0)

    def __init__(self, full_reference=True):
        self.full_reference = full_reference

    def predict(self, *windows):
        reference, distorted = windows if self.full_reference else (0.5, *windows)
        weight = jnp.linspace(0, 1, SIZE)[:, None, None]
        return 1 - (weight * jnp.square(reference - distorted)).mean((1, 2, 3))


RECORD = {"sha256": "0" * 64}
METRIC, BLIND = FullReferenceMetric(Close(), RECORD), BlindMetric(Close(full_reference=False), RECORD)


@pytest.fixture(scope="module")
def network():
    model = networks.random_model(networks.small_config(crop_size=SIZE, dim=16))
    return FullReferenceMetric(Network.from_model(model), RECORD)


@pytest.fixture(scope="module")
def loss():
    """Of the model that costs nothing; its programs are compiled once."""
    return Loss(METRIC)


def pair(batch=2, shape=(48, 40), learns=True, dtype=torch.float32):
    """Reference and distorted images, (N, 3, H, W)."""
    torch.manual_seed(0)
    reference = torch.rand(batch, 3, *shape)
    distorted = (reference + 0.2 * torch.randn_like(reference)).clamp(0, 1).to(dtype)
    return reference.to(dtype), distorted.requires_grad_(learns)


def in_jax(*images):
    return [jnp.moveaxis(jnp.asarray(image.detach().float().numpy()), 1, -1) for image in images]


def expected(metric, *images):
    """JAX's losses (N,) and the gradients (N, 3, H, W) of their mean."""

    def mean(*images):
        losses = metric.loss(*images)
        return losses.mean(), losses

    positions = tuple(range(len(images)))
    gradients, losses = jax.jit(jax.grad(mean, argnums=positions, has_aux=True))(*in_jax(*images))
    return np.asarray(losses), [np.moveaxis(np.asarray(gradient), -1, 1) for gradient in gradients]


def same(found, wanted, tolerance):
    np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def test_a_network_has_jaxs_value_and_gradient(network):
    reference, distorted = pair()
    reference.requires_grad_()
    losses, gradients = expected(network, reference, distorted)
    perceptual = Loss(network)
    for reduction, wanted in {"mean": losses.mean(), "sum": losses.sum(), "none": losses}.items():
        perceptual.reduction = reduction
        found = perceptual(reference, distorted)
        assert found.dtype == torch.float32 and found.shape == wanted.shape
        same(found, wanted, 1e-6)
        reference.grad = distorted.grad = None
        found.backward(torch.ones_like(found) / (1 if reduction == "mean" else 2))
        same(reference.grad, gradients[0], 1e-5)
        same(distorted.grad, gradients[1], 1e-5)
    # The reference itself, and images without anything on them.
    for value in (reference.detach(), torch.zeros_like(distorted), torch.ones_like(distorted)):
        image, copied = (value.clone().requires_grad_() for _ in range(2))
        perceptual(image, copied).sum().backward()
        assert torch.isfinite(image.grad).all() and torch.isfinite(copied.grad).all()


@quick
def test_each_image_has_a_gradient_of_its_own_if_it_asks_for_one(loss):
    each = copy.deepcopy(loss)
    each.reduction = "none"
    _, gradients = expected(METRIC, *pair())
    for asks in ((False, True), (True, False), (True, True)):
        images = [x.detach().requires_grad_(learns) for x, learns in zip(pair(), asks, strict=True)]
        found = each(reference=images[0], distorted=images[1])
        found.sum().backward(retain_graph=True)
        for image, gradient in zip(images, gradients, strict=True):
            assert (image.grad is not None) == image.requires_grad
            if image.requires_grad:
                same(image.grad, 2 * gradient, 1e-5)
                image.grad = None
        found[1].backward()  # the graph is used again
        assert not any(image.grad[0].any() for image in images if image.requires_grad)
        for image, gradient in zip(images, gradients, strict=True):
            if image.requires_grad:
                same(image.grad[1], 2 * gradient[1], 1e-5)


@quick
def test_a_blind_metric_takes_one_image():
    blind, (_, distorted) = Loss(BLIND), pair()
    losses, (gradient,) = expected(BLIND, distorted)
    for found in (blind(distorted), blind(distorted=distorted)):
        distorted.grad = None
        found.backward()
        same(found, losses.mean(), 1e-6)
        same(distorted.grad, gradient, 1e-5)
    for images, named in (((X, X), {}), ((X,), {"reference": X}), ((), {"reference": X})):
        with pytest.raises(UserError, match=r"expected \(distorted\), each once"):
            blind(*images, **named)


@quick
def test_memory_is_shared_on_one_device_and_else_goes_through_the_host(loss, monkeypatch):
    reference, distorted = pair()
    array = bridge._to_jax(distorted)
    assert array.unsafe_buffer_pointer() == distorted.data_ptr()
    assert bridge._to_torch(array, distorted.device).data_ptr() == distorted.data_ptr()
    shared = loss(reference, distorted)
    shared.backward()
    gradient, distorted.grad = distorted.grad, None
    monkeypatch.setattr(bridge, "_shared", lambda device: False)
    by_host = loss(reference, distorted)
    by_host.backward()
    assert torch.equal(by_host, shared) and torch.equal(distorted.grad, gradient)


@quick
def test_images_on_a_device_that_jax_has_not_are_remarked_on():
    with pytest.warns(UserWarning, match="the images are on cuda:0 and JAX computes on its cpu: .*the host"):
        bridge._warn_of_the_host(torch.device("cuda", 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bridge._warn_of_the_host(torch.device("cpu"))


@quick
@pytest.mark.parametrize(
    "change", [lambda x: x.contiguous(memory_format=torch.channels_last), lambda x: x.mT.clone().mT]
)
def test_tensors_of_any_layout_have_one_loss(loss, change):
    reference, distorted = pair()
    losses, gradients = expected(METRIC, reference, distorted)
    found = loss(change(reference), change(distorted))
    found.backward()
    same(found, losses.mean(), 1e-6)
    same(distorted.grad, gradients[1], 1e-5)


X = torch.full((2, 3, 48, 40), 0.5)
NOT_IMAGES = {
    "NumPy's": (
        X.numpy(),
        r"distorted: a ndarray; expected a torch.Tensor \(N, 3, H, W\), float in \[0, 1\]",
    ),
    "channels last": (X.permute(0, 2, 3, 1), r"shape \(2, 48, 40, 3\); .*image.permute\(0, 3, 1, 2\)"),
    "single": (X[0], r"shape \(3, 48, 40\); .*image\[None\]"),
    "grey": (X[:, :1], r"shape \(2, 1, 48, 40\); .*image.expand\(-1, 3, -1, -1\)"),
    "empty": (X[:0], "an empty batch"),
    "small": (X[..., :31], r"shape \(2, 3, 48, 31\); expected 32 pixels or more"),
    "uint8": ((X * 255).to(torch.uint8), r"distorted: torch.uint8; .*image.float\(\) / 255"),
    "whole numbers": (X.long(), "distorted: torch.int64; expected"),
    "255": (X * 255, r"values from 127.5 to 127.5; expected \[0, 1\]; divide by 255\?"),
    "-1 to 1": (X * 2 - 2, r"values from -1 to -1; .*\(image \+ 1\) / 2"),
    "overshot": (X + 0.6, r"values from 1.1 to 1.1; .*image.clamp\(0, 1\)"),
    "not a number": (X.where(X < 0, torch.nan), "distorted: holds NaN or infinite values"),
    "infinite": (X / 0, "distorted: holds NaN or infinite values"),
    "of another size": (X[..., :32, :], r"\(2, 3, 48, 40\) and distorted \(2, 3, 32, 40\) differ in shape"),
    "of another batch": (X[:1], r"\(2, 3, 48, 40\) and distorted \(1, 3, 48, 40\) differ in shape"),
    "without values": (X.to("meta"), "distorted: a tensor that is on the device meta"),
    "sparse": (X.to_sparse(), "distorted: a tensor that is torch.sparse_coo"),
}


@quick
@pytest.mark.parametrize("name", NOT_IMAGES)
def test_what_is_no_image_is_refused_in_a_line(loss, name):
    image, message = NOT_IMAGES[name]
    with pytest.raises(UserError, match=message) as refused:
        loss(X, image)
    assert "\n" not in str(refused.value)


@quick
def test_rounding_errors_are_clipped_as_a_metric_does(loss):
    grown = X + 0.5 + 0.9 * bridge.ROUNDING
    losses, (_, gradient) = expected(METRIC, X, grown.clamp(0, 1))
    given = grown.clone().requires_grad_()
    found = loss(X, given)
    found.backward()
    same(found, losses.mean(), 1e-6)
    same(given.grad, gradient, 1e-5)
    for image, allowed in ((grown, True), (grown + 0.2 * bridge.ROUNDING, False)):  # in both alike
        for call in (lambda x: METRIC.check(*in_jax(X, x)), lambda x: loss(X, x)):
            if allowed:
                call(image)
            else:
                with pytest.raises(UserError, match="expected .0, 1.; clip them"):
                    call(image)


@quick
def test_images_by_name_and_swapped_ones(loss):
    reference, distorted = pair()
    assert torch.equal(loss(distorted=distorted, reference=reference), loss(reference, distorted))
    assert torch.equal(loss(reference, distorted=distorted), loss(reference, distorted))
    with pytest.raises(UserError, match="are they swapped\\?"):
        loss(distorted, reference)
    loss(distorted.detach(), reference)  # nobody can tell
    loss(reference=distorted, distorted=reference).backward()  # meant
    assert distorted.grad is not None
    for images, named in (((), {}), ((X,), {}), ((X, X, X), {}), ((X, X), {"distorted": X})):
        with pytest.raises(UserError, match=r"expected \(reference, distorted\), each once"):
            loss(*images, **named)


@quick
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_a_gradient_none_is_computed(mode):
    metric = FullReferenceMetric(Close(), RECORD)
    metric.model.predict = _without_gradient(metric.model.predict)  # as an exported program's
    exported = Loss(metric)
    reference, distorted = pair()
    with mode():
        found = exported(reference, distorted)
    assert not found.requires_grad
    same(found, np.asarray(METRIC.loss(*in_jax(reference, distorted))).mean(), 1e-6)
    assert torch.equal(exported(reference, distorted.detach()), found)
    with pytest.raises(UserError, match="an exported metric has no gradient"):
        exported(reference, distorted)


@quick
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_computed_in_float32_with_a_gradient_of_their_own(loss, dtype):
    reference, distorted = pair(dtype=dtype)
    losses, (_, gradient) = expected(METRIC, reference, distorted)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(reference, distorted)
    assert found.dtype == torch.float32
    same(found, losses.mean(), 1e-6)
    found.backward()
    assert distorted.grad.dtype == dtype
    same(distorted.grad.double(), gradient, 1e-5 if dtype == torch.float64 else 1e-2)


@quick
def test_automatic_mixed_precision_trains(loss):
    network, scaler = torch.nn.Conv2d(3, 3, 3, padding=1), torch.amp.GradScaler("cpu")
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    reference, distorted = pair(learns=False)
    found = []
    for _ in range(5):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            found.append(loss(reference, network(distorted).sigmoid()))
        scaler.scale(found[-1]).backward()
        scaler.step(optimizer)
        scaler.update()
    assert found[-1] < found[0]


def test_a_compiled_network_breaks_its_graph_at_the_loss(loss):
    network = torch.nn.Conv2d(3, 3, 3, padding=1)
    reference, distorted = pair(learns=False)

    def step(images):
        return loss(reference, network(images).sigmoid()) * 2

    graphs, gradients = [], []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    for function in (step, torch.compile(step, backend=backend)):
        network.zero_grad()
        found = function(distorted)
        found.backward()
        gradients.append((found.detach(), network.weight.grad.clone()))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert len(graphs) == 2  # before the loss and after it
    torch.compiler.reset()
    with pytest.raises(Exception, match=r"Loss\.forward"):
        torch.compile(step, backend="eager", fullgraph=True)(distorted)


@quick
def test_transforms_of_torch_func_are_refused_in_a_line(loss):
    reference, distorted = pair()
    for derived in (
        lambda: torch.func.grad(lambda x: loss(reference, x))(distorted.detach()),
        lambda: torch.func.vmap(lambda x: loss(reference, x))(distorted.detach()[None]),
    ):
        with pytest.raises(UserError, match="torch.func .* cannot look into this loss") as refused:
            derived()
        assert "\n" not in str(refused.value)


@quick
def test_a_default_device_changes_nothing_of_the_windows_that_are_drawn():
    chooses = Loss("blind", windows=1)
    image = torch.rand(1, 3, 200, 220)
    torch.manual_seed(0)
    expected = chooses(image)
    torch.manual_seed(0)
    with torch.device("meta"):
        assert chooses(image).item() == expected.item()


@quick
def test_a_second_derivative_is_refused_in_a_line(loss):
    reference, distorted = pair()

    def penalty():
        (gradient,) = torch.autograd.grad(loss(reference, distorted), distorted, create_graph=True)
        return gradient.square().sum()

    for derive in (lambda: penalty().backward(), lambda: torch.autograd.grad(penalty(), distorted)):
        with pytest.raises(UserError, match="no second derivative in PyTorch") as refused:
            derive()
        assert "\n" not in str(refused.value)


@quick
def test_a_module_without_parameters_or_state(loss):
    assert not loss.state_dict() and not [*loss.parameters()] and not [*loss.buffers()]
    assert "iqa" not in str(loss.load_state_dict({})) and "close" in repr(loss) and "'mean'" in repr(loss)
    assert loss.to("cpu", torch.float16) is loss and loss.half().eval().requires_grad_(False) is loss
    loss.train()
    reference, distorted = pair()
    found = loss(reference, distorted)
    copied = copy.deepcopy(torch.nn.ModuleDict({"loss": loss}))["loss"]
    copied.reduction = "none"
    assert copied._programs is loss._programs and loss.reduction == "mean"
    assert copied(reference, distorted).shape == (2,)
    unpickled = pickle.loads(pickle.dumps(loss))
    assert torch.equal(unpickled(reference, distorted), found)
    file = io.BytesIO()
    torch.save({"network": torch.nn.Linear(1, 1).state_dict(), "loss": loss.state_dict()}, file)
    file.seek(0)
    assert torch.load(file, weights_only=True)["loss"] == {}


@quick
def test_data_parallel_is_refused_and_the_distributed_one_wraps_the_network(loss, tmp_path):
    with pytest.raises(UserError, match="DataParallel runs copies.*wrap your network alone"):
        loss._replicate_for_data_parallel()  # what it calls for several devices
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(torch.nn.Conv2d(3, 3, 3, padding=1))
        reference, distorted = pair(learns=False)
        loss(reference, parallel(distorted).sigmoid()).backward()
        assert parallel.module.weight.grad.any()
        with pytest.raises(RuntimeError, match="not needed"):  # PyTorch's word on modules without parameters
            torch.nn.parallel.DistributedDataParallel(loss)
    finally:
        # PyTorch holds the interpreter while it waits for gloo's thread.  If that still needs it, to drop
        # its last work, both wait for ever: here it gets the time for that.
        time.sleep(1)
        torch.distributed.destroy_process_group()


def _number(k):
    return torch.full((3, 40, 40), k / 10)


def test_workers_of_a_data_loader_may_be_forked_after_the_loss_was_called(loss):
    loss(X, X)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.StackDataset([_number(k) for k in range(4)]), 2, num_workers=1, timeout=60,
        multiprocessing_context="fork",
    )  # fmt: skip
    with pytest.warns(RuntimeWarning, match="fork"):  # JAX's; the workers do not call it
        batches = [batch for (batch,) in loader]
    assert [round(float(loss(batch, 0 * batch)), 6) > 0 for batch in batches] == [True, True]


@quick
def test_options_that_do_not_exist():
    with pytest.raises(UserError, match="reduction 'average': expected one of mean, sum, none"):
        Loss(METRIC, reduction="average")
    for windows in (0, 1.5, True, [2]):
        with pytest.raises(UserError, match=r"windows=.*: expected a whole number, 1 or more"):
            Loss(METRIC, windows=windows)
    with pytest.raises(UserError, match="key: a int; expected jax.random.key"):
        Loss(METRIC, windows=2)(X, X, key=3)
    with pytest.raises(UserError, match="nothing-there"):
        Loss("nothing-there/at-all")


@quick
def test_windows_are_drawn_by_torchs_random_numbers_or_by_a_key():
    few = Loss(METRIC, windows=1)
    reference, distorted = pair(shape=(96, 96), learns=False)
    found = []
    for seed in (1, 1, 2, 3, 4):
        torch.manual_seed(seed)
        found.append(float(few(reference, distorted)))
    assert found[0] == found[1] and len({*found}) > 1
    key = jax.random.key(5)
    wanted = METRIC.loss(*in_jax(reference, distorted), windows=1, key=key)
    same(few(reference, distorted, key=key), np.asarray(wanted).mean(), 1e-6)


@quick
def test_each_shape_is_traced_once_and_batches_may_differ():
    model = Close()
    metric, traced, predict = FullReferenceMetric(model, RECORD), [], model.predict

    def counted(*windows):
        traced.append(windows[0].shape)
        return predict(*windows)

    model.predict = counted
    perceptual, shapes = Loss(metric), [(1, (32, 32)), (3, (32, 32)), (1, (40, 33)), (1, (32, 32))]
    for batch, shape in shapes:
        reference, distorted = pair(batch, shape)
        perceptual(reference, distorted).backward()
        same(distorted.grad, expected(METRIC, reference, distorted)[1][1], 1e-5)
    assert len(traced) == len({*shapes})


def test_weights_of_ones_own(small_weights):
    perceptual = Loss(small_weights)
    assert perceptual.metric.full_reference and "weights" in repr(perceptual)
    assert Loss("blind").metric.full_reference is False


@quick
def test_without_torch_a_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "iqa_jax.torch")
    monkeypatch.delattr(iqa_jax, "torch")
    for use in (lambda: importlib.import_module("iqa_jax.torch"), lambda: iqa_jax.torch):
        with pytest.raises(ModuleNotFoundError) as missing:
            use()
        assert "not installed" in str(missing.value) and "iqa-conformer[torch]" in str(missing.value)
        assert missing.value.name == "torch" and "\n" not in str(missing.value)


@quick
def test_the_package_comes_without_torch_until_it_is_asked_for():
    code = (
        "import sys, iqa_jax; iqa_jax.load; print('torch' in sys.modules, 'torch' in dir(iqa_jax)); "
        "print(iqa_jax.torch.Loss.__module__)"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False", "iqa_jax.torch"], done.stderr
