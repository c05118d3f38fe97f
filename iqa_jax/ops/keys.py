"""Random keys of a training run: each derived from the seed by what it is for, so that no two uses share one.

`jax.random.split(key, n)[i]` and `jax.random.fold_in(key, i)` are the same key: two uses that both count from
the seed, one steps and the other epochs, meet.  Here the purpose comes first.
"""

import enum

import jax
import numpy as np

from iqa_jax.ops import Array


class Purpose(enum.IntEnum):
    """What random numbers are for.  A purpose keeps its number; 0 would be none, as NumPy pads with zeros."""

    INITIAL_WEIGHTS = 1
    ORDER = 2
    AUGMENTATION = 3
    NOISE = 4
    DROPOUT = 5
    STATISTICS = 6
    PLACES = 7


def key_for(seed: int | Array, purpose: Purpose | Array) -> jax.Array:
    """The key from which all keys for one purpose derive."""
    return jax.random.fold_in(jax.random.key(seed), purpose)


def step_key(seed: int | Array, purpose: Purpose, step: int | Array) -> jax.Array:
    """The key of one step."""
    return jax.random.fold_in(key_for(seed, purpose), step)


def example_key(
    seed: int | Array, epoch: int | Array, index: int | Array, pseudo: bool | Array = False
) -> jax.Array:
    """The key of one example's crop and augmentation, or of its crop and noise if it is pseudo-labelled.

    It depends on nothing but the seed, the epoch and the record's index among those of its kind.
    """
    purpose = jax.numpy.where(pseudo, Purpose.NOISE, Purpose.AUGMENTATION)
    return jax.random.fold_in(jax.random.fold_in(key_for(seed, purpose), epoch), index)


def generator_for(seed: int, purpose: Purpose, *numbers: int) -> np.random.Generator:
    """A generator on the host, for what the numbers count: a source, an epoch."""
    return np.random.default_rng((seed, purpose, *numbers))
