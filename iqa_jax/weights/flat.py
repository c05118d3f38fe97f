"""An NNX state as a flat {path: array} mapping and back, checked."""

import contextlib
import functools
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import jax
import numpy as np
from flax import nnx

from iqa_jax.errors import WeightsError
from iqa_jax.models import IQAModel, ModelConfig, build
from iqa_jax.ops import Array

Weights = Mapping[str, Array]  # by path: "encoder.norm.scale"
STORED = nnx.Any(nnx.Param, nnx.BatchStat)


def flat_weights(state: nnx.State) -> dict[str, jax.Array]:
    """An NNX state as {"encoder.norm.scale": array, …}."""
    return {".".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(state)}


def filled_state(state: nnx.State, weights: Weights) -> nnx.State:
    """`state` with the arrays of a mapping as `flat_weights` makes it."""
    leaves = [(path, ".".join(map(str, path)), leaf) for path, leaf in nnx.to_flat_state(state)]
    arrays = jax.device_put({name: weights[name] for _, name, _ in leaves})  # all at once, which is quicker
    return nnx.from_flat_state([(path, leaf.replace(arrays[name])) for path, name, leaf in leaves])


@functools.cache
def _abstract(config: ModelConfig) -> tuple[nnx.GraphDef, nnx.State]:
    """Structure and state of the model, with shapes in place of arrays."""
    return nnx.split(abstract_model(config))


def abstract_model(config: ModelConfig) -> nnx.Module:
    """The model with shapes in place of arrays; costs no arithmetic."""
    return nnx.eval_shape(lambda: build(config, rngs=nnx.Rngs(0)))


@functools.cache
def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    stored, _ = nnx.split_state(_abstract(config)[1], STORED, ...)
    return {".".join(map(str, path)): leaf.shape for path, leaf in nnx.to_flat_state(stored)}


def model_with(config: ModelConfig, weights: Weights) -> nnx.Module:
    """The model of `config` with these weights, in evaluation mode.

    Raises:
      WeightsError: a weight is missing, surplus or of another shape.
    """
    check_weights({name: np.shape(w) for name, w in weights.items()}, weight_shapes(config))
    graphdef, state = _abstract(config)
    model = nnx.merge(graphdef, filled_state(state, weights))
    model.eval()
    return model


def iqa_model_with(config: ModelConfig, weights: Weights) -> IQAModel:
    """The same for the configuration of an IQA model, where that is known."""
    return cast(IQAModel, model_with(config, weights))


def check_weights(shapes: Mapping[str, tuple], expected: Mapping[str, tuple]) -> None:
    """Raises WeightsError unless both have the same names and shapes."""
    for problem, names in (
        ("missing", sorted(expected.keys() - shapes.keys())),
        ("not part of this model", sorted(shapes.keys() - expected.keys())),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise WeightsError(f"weight {names[0]}{more}: {problem}")
    for name, shape in expected.items():
        if tuple(shapes[name]) != tuple(shape):
            raise WeightsError(f"weight {name}: shape {tuple(shapes[name])}, expected {tuple(shape)}")


def content_hash(weights: Weights) -> str:
    """SHA-256 over names, dtypes, shapes and bytes; the same wherever the arrays live."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        array = np.asarray(weights[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def in_file(path: Path) -> Iterator[None]:
    """Adds the path of the file or folder to errors in what was read from it."""
    try:
        yield
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from None


def check_content(weights: Weights, sha256: str | None) -> None:
    """Raises WeightsError unless the weights have this hash and can give scores.

    The checksum of a file can be replaced with the file; this hash is part of the identity of scores.
    """
    if content_hash(weights) != sha256:
        raise WeightsError("not the weights that config.json was written for; convert or fetch both again")
    check_finite(weights)


def check_finite(weights: Weights) -> None:
    """Raises WeightsError for weights that give no scores; names the first."""
    for name, array in weights.items():
        values = np.asarray(array)
        if not np.isfinite(values).all():
            raise WeightsError(f"weight {name}: has values that are not finite in {values.dtype}")
        if name.endswith(".var") and (values < 0).any():
            raise WeightsError(f"weight {name}: a variance below 0")
