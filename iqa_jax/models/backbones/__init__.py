"""The backbones by name; `iqa_jax.models.backbones.base` says what one has to give."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from iqa_jax.models.backbones.base import Backbone
from iqa_jax.models.backbones.efficientnet_lite0 import EfficientNetLite0
from iqa_jax.models.backbones.inception_resnet_v2 import InceptionResNetV2

BACKBONES: dict[str, type[Backbone]] = {
    "inception_resnet_v2": InceptionResNetV2,
    "efficientnet_lite0": EfficientNetLite0,
}


def build_backbone(
    name: str, *, num_classes: int = 0, used: tuple[str, ...] = (), dtype: jnp.dtype, rngs: nnx.Rngs
) -> Backbone:
    """A randomly initialised backbone.

    Args:
      num_classes: of its classifier, 0 for none.
      used: the maps that are needed where there is no classifier; () for its own taps.
    """
    chosen: dict[str, Any] = {"used": used} if used else {}
    return BACKBONES[name](num_classes=num_classes, dtype=dtype, rngs=rngs, **chosen)
