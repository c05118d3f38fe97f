"""What the frozen part of a model sees of the pairs, computed once: training the rest then takes minutes.

Writes one file for each part, `features/NAME/NNN_W.npz`: the fields of `iqa_jax.models.base.Compared` for the
six windows of each distorted version (N, 6, …), the reference's once (6, …); of the blind metric the
averages of the backbone's maps alone.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from iqa_jax.models.base import FullReferenceModel, IQAModel
from iqa_jax.ops.windows import cut, places

SIZE = 192


def windows(image: np.ndarray) -> np.ndarray:
    """The windows of the grid: (H, W, 3) -> (6, 192, 192, 3) for 512 x 384."""
    height, width = image.shape[:2]
    return np.stack([cut(image, place, SIZE) for place in places("grid", height, width, SIZE)])


def compared_features(
    model: FullReferenceModel, reference: np.ndarray, versions: Iterable[np.ndarray]
) -> dict[str, np.ndarray]:
    """The fields of `Compared`: those of the reference (6, …), the others (N, 6, …)."""
    features, compare = _programs(model)
    original = features(jnp.asarray(windows(reference)))
    rows = [compare(original, jnp.asarray(windows(version))) for version in versions]
    fields = {name: np.stack([getattr(row, name) for row in rows]) for name in rows[0]._fields}
    fields["reference"] = fields["reference"][0]
    half = ("reference", "distorted", "magnitudes")  # the others need more digits
    return {name: x.astype(np.float16) if name in half else x for name, x in fields.items()}


def _programs(model):
    graphdef, state = nnx.split(model)
    if graphdef not in _COMPILED:

        @jax.jit
        def features(state, images):
            return nnx.merge(graphdef, state).features(images)

        @jax.jit
        def compare(state, original, images):
            merged = nnx.merge(graphdef, state)
            return merged.compared_features(original, merged.features(images))

        _COMPILED[graphdef] = features, compare
    features, compare = _COMPILED[graphdef]
    return (lambda x: features(state, x)), (lambda original, x: compare(state, original, x))


_COMPILED: dict = {}


def blind_features(model: IQAModel, images: Iterable[np.ndarray]) -> np.ndarray:
    """The averages of the maps: (N, 6, h, w, C) float16."""
    graphdef, state = nnx.split(model)
    if graphdef not in _COMPILED:
        _COMPILED[graphdef] = jax.jit(lambda state, x: nnx.merge(graphdef, state).features(x))
    rows = [_COMPILED[graphdef](state, jnp.asarray(windows(image))) for image in images]
    return np.stack(rows).astype(np.float16)
