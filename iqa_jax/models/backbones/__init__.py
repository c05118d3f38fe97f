"""The backbones by name; `iqa_jax.models.backbones.base` says what one has to give."""

from iqa_jax.models.backbones.efficientnet_lite0 import EfficientNetLite0
from iqa_jax.models.backbones.inception_resnet_v2 import InceptionResNetV2

BACKBONES: dict[str, type[InceptionResNetV2 | EfficientNetLite0]] = {
    "inception_resnet_v2": InceptionResNetV2,
    "efficientnet_lite0": EfficientNetLite0,
}
