"""A metric as one ONNX file, which programs in any language run; `iqa_jax.scoring.onnx_model` reads it.

jax2onnx converts the operations that JAX traced, whatever network they are of; onnxruntime folds what is
constant; a few forms are then replaced by those that its kernels are fast at.
"""

import contextlib
import dataclasses
import io
import json
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.core import Tracer
from jax.extend.core import Literal

from iqa_jax import __version__
from iqa_jax.errors import UserError
from iqa_jax.files import check_replaceable, output_file, write_whole
from iqa_jax.ops.programs import traced_for
from iqa_jax.ops.windows import SMALLEST
from iqa_jax.scoring.metric import Metric
from iqa_jax.scoring.network import Network
from iqa_jax.scoring.onnx_model import FORMAT, OnnxModel, sealed
from iqa_jax.weights.flat import STORED, flat_weights, iqa_model_with
from iqa_jax.weights.record import identity_of
from iqa_jax.weights.sharing import source_of

OPSET = 20  # of ONNX; onnxruntime reads it from 1.17 on
_TOLERANCE = 1e-4  # between the file's scores and JAX's, as a share of the scale
# Operations that call a function of operations, and where these are.
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "checkpoint": "jaxpr"}
_CALLS |= {"remat2": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}


def export_onnx(metric: Metric, path: str | os.PathLike) -> Path:
    """Writes an ONNX file with the weights inside; its metadata say how an image is cut and what scores mean.

    The program takes windows, (B, S, S, 3) float32 in [0, 1] for any B, of the reference (unless the metric
    needs none) and of the distorted images, and gives their MOS (B,) float32.  It computes in float32, also
    for weights that were trained in bfloat16.  The scores of random windows are compared with JAX's before
    anything is written.

    Args:
      path: NAME.onnx.
    Returns:
      The path.
    Raises:
      UserError: the metric is an exported file itself, another file is there, or the file's scores differ
        from JAX's.
      ModuleNotFoundError: onnx, onnxruntime or jax2onnx is not installed.
    """
    path = output_file(path, ".onnx")
    check_replaceable(path, b"iqa_jax_format", "exported metric")
    network = getattr(metric.model, "network", metric.model)  # of one whose programs are kept
    if not isinstance(network, Network):
        raise UserError(
            "an exported metric cannot be exported again; give the weights or the run that it was made of"
        )
    model = _in_float32(network)
    content = _simplified(_converted(model)).SerializeToString(deterministic=True)
    whole = content + _metadata_bytes(sealed(_metadata(metric, model), content))
    _check(model, OnnxModel.from_bytes(whole)[0])
    write_whole(path, whole)
    return path


def _in_float32(model: Network) -> Network:
    if model.config.dtype == "float32":
        return model
    config = dataclasses.replace(model.config, dtype="float32")
    return Network.from_model(iqa_model_with(config, flat_weights(nnx.state(model.model, STORED))))


def input_names(model: Any) -> list[str]:
    """The inputs of a file, in their order."""
    return ["reference", "distorted"] if model.full_reference else ["distorted"]


def _metadata(metric: Metric, model: Network) -> dict[str, str]:
    """What a program in another language must know, and what `iqa_jax.load` needs."""
    config, names = model.config, input_names(model)
    source = source_of(metric.record)
    size = config.crop_size
    record = {name: metric.record[name] for name in ("name", "sha256") if name in metric.record}
    return {
        "iqa_jax_format": str(FORMAT),
        "metric": "full-reference" if model.full_reference else "blind",
        "inputs": f"{', '.join(names)}: (batch, {size}, {size}, 3) float32, sRGB from 0 to 1, channels last",
        "outputs": "mos: (batch,) float32, the MOS of each window",
        "window_size": str(size),
        "smallest_side": str(SMALLEST),
        "protocol": "grid, the fewest evenly spaced windows that cover the picture: along a side of n pixels "
        "(after mirroring) count = ceil(n / window_size) windows; window k begins at "
        "round(k * (n - window_size) / max(count - 1, 1)), halves rounded to the even number",
        "mirroring": "a side of n pixels below window_size is mirrored at the bottom or on the right to "
        "window_size pixels: pixel i is the picture's pixel j = i mod 2n, or 2n - 1 - j where j >= n",
        "pooling": "the mean of the windows' MOS",
        "worst": str(config.mos_low),
        "best": str(config.mos_high),
        "higher_is_better": "true",
        "identity": identity_of(config, metric.record["sha256"]),
        "sha256": metric.record["sha256"],
        "licence": str(source.get("licence", "not stated")),
        "version": f"iqa_jax {__version__}",
        "model": json.dumps(dataclasses.asdict(config)),
        "record": json.dumps({**record, "source": source}),
    }


def _metadata_bytes(metadata: dict[str, str]) -> bytes:
    """The metadata as they follow the rest of a file."""
    import onnx

    empty = onnx.ModelProto()
    onnx.helper.set_model_props(empty, metadata)
    return empty.SerializeToString(deterministic=True)


def _check(model: Network, written: OnnxModel) -> None:
    """Raises UserError unless the file gives JAX's scores for random windows, of one and of three."""
    size = model.config.crop_size
    rng = np.random.default_rng(0)
    reference = rng.uniform(size=(3, size, size, 3)).astype(np.float32)
    distorted = np.clip(reference + rng.normal(0, 0.1, reference.shape), 0, 1).astype(np.float32)
    given = model.features(reference, 3) if model.full_reference else None
    expected = np.asarray(model.scores(given, distorted, 3))[0, :3]
    of_reference = written.features(reference, 3) if model.full_reference else None
    scores = written.scores(of_reference, distorted, 3)[0]
    first = None if of_reference is None else (of_reference[0][:1],)
    alone = written.scores(first, distorted[:1], 1)[0]
    allowed = _TOLERANCE * (model.config.mos_high - model.config.mos_low)
    apart = np.abs(np.append(scores - expected, alone - expected[:1])).max()
    if not apart <= allowed:
        raise UserError(
            f"the converted metric's scores differ from JAX's by {apart:.2g}, more than {allowed:.2g}; this "
            "version of jax2onnx converts an operation of the network wrongly, try another one"
        )


def _converted(model: Network):
    """The model of onnx that computes `model.predict`, as jax2onnx writes it."""
    from jax2onnx import to_onnx

    size, names = model.config.crop_size, input_names(model)
    (batch,) = jax.export.symbolic_shape("batch")
    windows = [jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)] * len(names)
    # Traced before jax2onnx puts functions of its own in the place of JAX's and Flax's.
    predict = traced_for("other", jax.default_matmul_precision("highest")(model.predict))
    closed = jax.make_jaxpr(predict)(*windows)

    def replayed(*images):
        return _replayed(closed.jaxpr, closed.consts, images)[0]

    with _silence():
        return to_onnx(
            replayed, windows, model_name="iqa_jax", opset=OPSET, input_names=names, output_names=["mos"]
        )


@contextlib.contextmanager
def _silence():
    """Without what jax2onnx prints and logs of its plugins."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _replayed(jaxpr, consts: Sequence, arguments: Sequence) -> list:
    """A program traced again as the converter takes it: without calls, constants and splits of the batch."""
    known = dict(zip(jaxpr.constvars, consts, strict=True))
    known |= dict(zip(jaxpr.invars, arguments, strict=True))

    def value(variable):
        return variable.val if isinstance(variable, Literal) else known[variable]

    for step in jaxpr.eqns:
        values, name = [value(variable) for variable in step.invars], step.primitive.name
        if name in _CALLS:
            inner = step.params[_CALLS[name]]
            results = _replayed(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), values)
        else:
            of_batch = any(map(_is_of_batch, step.outvars))  # a constant for each example of a batch
            if not of_batch and not any(isinstance(x, Tracer) for x in values):
                with jax.ensure_compile_time_eval():
                    results = step.primitive.bind(*values, **step.params)
            elif name == "split" and any(map(jax.export.is_symbolic_dim, step.params["sizes"])):
                results = _equal_parts(values[0], len(step.params["sizes"]), step.params["axis"])
            else:
                results = step.primitive.bind(*values, **step.params)
            if not step.primitive.multiple_results:
                results = [results]
        known.update(zip(step.outvars, results, strict=True))
    return [value(variable) for variable in jaxpr.outvars]


def _is_of_batch(variable) -> bool:
    return any(map(jax.export.is_symbolic_dim, variable.aval.shape))


def _equal_parts(x: jax.Array, count: int, axis: int) -> list[jax.Array]:
    """The parts of an axis whose length is a multiple of the batch's: its splits are equal ones."""
    parts = x.reshape(*x.shape[:axis], count, x.shape[axis] // count, *x.shape[axis + 1 :])
    return [lax.index_in_dim(parts, number, axis, keepdims=False) for number in range(count)]


def _simplified(model):
    """The same program in fewer and faster operations."""
    model = _folded(model)
    _with_fast_forms(model.graph)
    model = _folded(model)
    _without_copies(model.graph)
    kept = [opset for opset in model.opset_import if opset.domain == ""]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    model.producer_name, model.producer_version = "iqa_jax", __version__
    del model.graph.value_info[:]
    return model


def _folded(model):
    """What onnxruntime makes of a model for any machine: constants computed, biases in convolutions."""
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory(prefix="iqa_jax-") as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def _with_fast_forms(graph) -> None:
    """Replaces an Einsum with weights by a convolution or a product of matrices, and bounds by Clip."""
    from onnx import helper, numpy_helper

    constants = {stored.name: numpy_helper.to_array(stored) for stored in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}

    def bound(node) -> str | None:
        """The input that is a single number."""
        return next((name for name in node.input if name in constants and constants[name].size == 1), None)

    def product(node) -> list:
        (equation,) = (attribute.s.decode() for attribute in node.attribute if attribute.name == "equation")
        (left, right), out = equation.split("->")[0].split(","), equation.split("->")[1]
        if len(right) != 2 or out != left[:-1] + right[1] or left[-1] != right[0]:
            return [node]
        if len(left) != 4 or node.input[1] not in constants:
            return [helper.make_node("MatMul", node.input, node.output)]
        name, kernel = node.output[0], constants[node.input[1]]
        graph.initializer.append(
            numpy_helper.from_array(np.ascontiguousarray(kernel.T[:, :, None, None]), f"{name}_kernel")
        )
        return [
            helper.make_node("Transpose", [node.input[0]], [f"{name}_first"], perm=[0, 3, 1, 2]),
            helper.make_node("Conv", [f"{name}_first", f"{name}_kernel"], [f"{name}_conv"]),
            helper.make_node("Transpose", [f"{name}_conv"], [name], perm=[0, 2, 3, 1]),
        ]

    def clipped(node) -> list:
        inner = next((makers[n] for n in node.input if n in makers and makers[n].op_type == "Max"), None)
        high, low = bound(node), inner and bound(inner)
        if not (inner and high and low):
            return [node]
        (given,) = (name for name in inner.input if name != low)
        return [helper.make_node("Clip", [given, low, high], node.output)]

    forms: dict[str, Callable] = {"Einsum": product, "Min": clipped}
    nodes = [made for node in graph.node for made in forms.get(node.op_type, lambda node: [node])(node)]
    del graph.node[:]
    graph.node.extend(_used(nodes, [output.name for output in graph.output]))


def _used(nodes: list, outputs: Sequence[str]) -> list:
    """The nodes that outputs depend on."""
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
    return kept[::-1]


def _without_copies(graph) -> None:
    """Keeps equal constants once."""
    first: dict[tuple, str] = {}
    names: dict[str, str] = {}
    for stored in graph.initializer:
        key = (stored.data_type, tuple(stored.dims), stored.raw_data, stored.SerializePartialToString()
               if not stored.raw_data else b"")  # fmt: skip
        names[stored.name] = first.setdefault(key, stored.name)
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = names.get(name, name)
    kept = [stored for stored in graph.initializer if names[stored.name] == stored.name]
    del graph.initializer[:]
    graph.initializer.extend(cast(Any, kept))
