"""A network with one or several sets of weights, as a `WindowModel`, and the programs of it."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from iqa_jax.models.base import IQAModel, split_model
from iqa_jax.models.config import ModelConfig
from iqa_jax.ops.programs import few_at_a_time, jit
from iqa_jax.weights.flat import STORED, flat_weights, iqa_model_with

_SMALLER = (1, 4, 10)  # programs for what is left over, where a program's size is what it costs


class Network:
    """A network under one or several sets of weights, as a `WindowModel`.

    The backbone, which takes nearly all the time, runs once for all sets, unless it was trained too.
    """

    def __init__(self, graphdef: nnx.GraphDef, frozen: nnx.State, weights: Sequence[nnx.State]):
        """Takes the parts of `iqa_jax.models.base.split_model`, of a model in evaluation mode.

        Args:
          weights: one or more sets of what is not frozen.
        """
        self._graphdef, self._frozen, self._weights = graphdef, frozen, tuple(weights)
        self.config = self.model.config
        self.full_reference = self.model.full_reference
        self.sets = len(self._weights)
        self._features, self._scores = _compiled(graphdef)

    @classmethod
    def from_model(cls, model: IQAModel) -> "Network":
        """A network under the weights that a model in evaluation mode has."""
        graphdef, weights, frozen = split_model(model)
        return cls(graphdef, frozen, [weights])

    @functools.cached_property
    def model(self) -> IQAModel:
        """The network with the first set of weights."""
        return nnx.merge(self._graphdef, self._weights[0], self._frozen)

    def features(self, windows, count):
        features = self._features(self._frozen, self._weights, *_sized(windows, count))
        # NumPy sees the arrays of a CPU as they are.
        return tuple(map(np.asarray, features)) if jax.default_backend() == "cpu" else features

    def scores(self, reference, windows, count):
        (windows, count), reference = _sized(windows, count), reference and _sized(reference, count)[0]
        return self._scores(self._frozen, self._weights, windows, count, *(reference or ()))

    def predict(self, *windows):
        return self.model.denormalise(self.model(*windows))

    def __reduce__(self):
        """For pickle: the weights of the first set as arrays, without the programs."""
        weights = flat_weights(nnx.state(self.model, STORED))
        return _network, (self.config, {name: np.asarray(array) for name, array in weights.items()})


def _network(config: ModelConfig, weights: dict) -> Network:
    return Network.from_model(iqa_model_with(config, weights))


def window_functions(graphdef: nnx.GraphDef) -> tuple[Callable, Callable]:
    """`features` and `scores` of a network's structure, to be compiled.

    Both take (frozen, weights, windows, count), with one or more sets of weights.  `scores` also takes what
    `features` gave of the references' windows, if the model compares with them.
    """

    def merged(frozen, weights):
        return [nnx.merge(graphdef, trained, frozen) for trained in weights]

    @functools.partial(jax.jit, inline=True)  # traced once for both
    def projected(frozen, weights, windows):
        models = merged(frozen, weights)
        if "backbone" in weights[0]:  # it was trained too
            return tuple(model.project(windows) for model in models)
        shared = models[0].features(windows)  # (B, h, w, C)
        return tuple(model.projected(shared) for model in models)  # (B, h, w, D) each

    def features(frozen, weights, windows, count):
        return few_at_a_time(lambda part: projected(frozen, weights, part), windows, count=count)

    def scores(frozen, weights, windows, count, *reference):
        def score(windows, *reference):
            images = (*([reference] if reference else []), projected(frozen, weights, windows))
            mos = [
                model.denormalise(model.assess(*of_model))
                for model, *of_model in zip(merged(frozen, weights), *images, strict=True)
            ]
            return jnp.stack(mos, axis=1)  # (B, sets)

        return few_at_a_time(score, windows, *reference, count=count).T  # (sets, B)

    # In float32 throughout, so that a GPU, which would take TF32, gives a CPU's scores.
    exact = jax.default_matmul_precision("highest")
    return exact(features), exact(scores)


@functools.lru_cache(maxsize=8)
def _compiled(graphdef: nnx.GraphDef) -> tuple[Callable, Callable]:
    """The programs of a network's structure; weights are arguments."""
    features, scores = window_functions(graphdef)
    return jit(features), jit(scores)


def _sized(arrays, count: int):
    """Arrays of a program's size, and the count; a program for CPUs stops after what matters."""
    if jax.default_backend() != "cpu":
        arrays = cut_to_program(arrays, count)
    return arrays, count


def cut_to_program(arrays, count: int):
    """Arrays (B, …) cut to the smallest size of a program that holds `count` rows: few sizes to compile."""
    size = min((n for n in _SMALLER if n >= count), default=None)
    return jax.tree.map(lambda x: x[:size], arrays)


@jax.jit
def unstacked(array: jax.Array) -> list[jax.Array]:
    """The rows of an array, each by itself, where JAX has it."""
    return list(array)


@jax.jit
def stacked(rows: Sequence[jax.Array]) -> jax.Array:
    """Rows as one array, where JAX has them."""
    return jnp.stack(rows)
