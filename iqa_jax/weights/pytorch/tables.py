"""Which PyTorch entry becomes which of our weights: one table for each known naming.

A table is a list of (pattern, replacement), applied in order with `re.sub` to a whole PyTorch key;
what comes out is the path of a weight here.  The change of layout follows from the two shapes.
"""

import dataclasses
import re

import numpy as np

from iqa_jax.errors import WeightsError
from iqa_jax.models.backbones.efficientnet_lite0 import STAGES


def _batch_norm(norm: str, path: str) -> list[tuple[str, str]]:
    names = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    return [(rf"^{norm}\.{theirs}$", f"{path}.{ours}") for theirs, ours in names.items()]


def _conv_norm(conv: str, norm: str, path: str) -> list[tuple[str, str]]:
    """Rules for one `ConvNorm` at `path` whose convolution and BatchNorm have the given names."""
    return [(rf"^{conv}\.weight$", f"{path}.kernel"), *_batch_norm(norm, path)]


_INCEPTION = [
    (r"mixed_5b\.branch3\.1\.", "mixed_5b.branch3."),
    *_conv_norm(r"(.+)\.conv", r"(.+)\.bn", r"\1"),
    (r"\.conv2d\.weight$", ".conv2d.kernel"),
    (r"^(classif|last_linear)\.weight$", "classif.kernel"),
    (r"^last_linear\.bias$", "classif.bias"),
]

_STEM = ("conv2d_1a", "conv2d_2a", "conv2d_2b", None, "conv2d_3b", "conv2d_4a", None, "mixed_5b")

_IQA_COMMON = [
    *[(rf"^mixed5b\.{n}\.", f"backbone.{name}.") for n, name in enumerate(_STEM) if name],
    (r"^block35_(2|4|6|8|10)\.([01])\.", lambda m: f"backbone.repeat.{int(m[1]) - 2 + int(m[2])}."),
    *_INCEPTION,
    (r"^conv_proj\.weight$", "conv_proj.kernel"),
    (r"^(emb_[pq])\.weight$", r"\1"),
    (r"^(encoder|decoder)\.blocks\.0\.", r"\1."),
    (r"\.(self_att_module|cross_attention_module)\.attention\.", r".\1."),
    (r"\.norm\.weight$", ".norm.scale"),
    (r"\.(query|key|value|output)_layer\.weight$", r".\1_layer.kernel"),
    (r"\.feed_forward_module\.", ".ff_module."),
    (r"\.(ff_module\d?)\.layers\.0\.weight$", r".\1.norm.scale"),
    (r"\.(ff_module\d?)\.layers\.0\.", r".\1.norm."),
    (r"\.(ff_module\d?)\.layers\.1\.", r".\1.expand."),
    (r"\.(ff_module\d?)\.layers\.4\.", r".\1.project."),
    (r"\.layernorm\.weight$", ".layernorm.scale"),
]
_IQA_KERNELS = [(r"\.(expand|project|hidden|output)\.weight$", r".\1.kernel")]

_CONFORMER = [
    *_IQA_COMMON,
    (r"\.conv_module\.layers\.0\.weight$", ".conv_module.norm.scale"),
    (r"\.conv_module\.layers\.0\.", ".conv_module.norm."),
    (r"\.conv_module\.layers\.1\.", ".conv_module.expand."),
    (r"\.conv_module\.layers\.3\.weight$", ".conv_module.depthwise_kernel"),
    (r"\.conv_module\.layers\.3\.bias$", ".conv_module.depthwise_bias"),
    *_batch_norm(r"(.+)\.conv_module\.layers\.4", r"\1.conv_module.batch_norm"),
    (r"\.conv_module\.layers\.6\.", ".conv_module.project."),
    (r"^head\.1\.", "head.hidden."),
    (r"^head\.3\.", "head.output."),
    *_IQA_KERNELS,
]

_TRANSFORMER = [
    *_IQA_COMMON,
    (r"^head\.0\.", "head.hidden."),
    (r"^head\.2\.", "head.output."),
    *_IQA_KERNELS,
]

# timm: the first stage's block has no expansion, so its convolutions and norms are numbered lower.
_EFFICIENTNET_TIMM = [
    *_conv_norm("conv_stem", "bn1", "conv_stem"),
    *_conv_norm("conv_head", "bn2", "conv_head"),
    *_conv_norm(r"blocks\.0\.0\.conv_dw", r"blocks\.0\.0\.bn1", "stages.0.0.depthwise"),
    *_conv_norm(r"blocks\.0\.0\.conv_pw", r"blocks\.0\.0\.bn2", "stages.0.0.project"),
    *_conv_norm(r"blocks\.(\d)\.(\d)\.conv_pw", r"blocks\.(\d)\.(\d)\.bn1", r"stages.\1.\2.expand"),
    *_conv_norm(r"blocks\.(\d)\.(\d)\.conv_dw", r"blocks\.(\d)\.(\d)\.bn2", r"stages.\1.\2.depthwise"),
    *_conv_norm(r"blocks\.(\d)\.(\d)\.conv_pwl", r"blocks\.(\d)\.(\d)\.bn3", r"stages.\1.\2.project"),
    (r"^classifier\.weight$", "classifier.kernel"),
]

# The packaged file numbers all blocks in one row.
_BLOCKS = [f"stages.{s}.{b}" for s, stage in enumerate(STAGES) for b in range(stage[0])]
_EFFICIENTNET_PACKAGED = [
    *_conv_norm("_conv_stem", "_bn0", "conv_stem"),
    *_conv_norm("_conv_head", "_bn1", "conv_head"),
    (r"^_blocks\.(\d+)\.", lambda m: f"{_BLOCKS[int(m[1])]}." if int(m[1]) < len(_BLOCKS) else m[0]),
    *_conv_norm(r"(stages.+)\._expand_conv", r"(stages.+)\._bn0", r"\1.expand"),
    *_conv_norm(r"(stages.+)\._depthwise_conv", r"(stages.+)\._bn1", r"\1.depthwise"),
    *_conv_norm(r"(stages.+)\._project_conv", r"(stages.+)\._bn2", r"\1.project"),
    (r"^_fc\.weight$", "classifier.kernel"),
    (r"^_fc\.bias$", "classifier.bias"),
]


@dataclasses.dataclass(frozen=True)
class Kind:
    """One naming of PyTorch weights.

    Attributes:
      description: what to call it to a user.
      model: the name of the model here.
      marks: keys by which it is recognised; all of them must be there.
      table: the renaming rules.
      classifier: names under which the classifier's weight may stand ((classes, features)).
      later: what the keys of layers after the last tap begin with.
    """

    description: str
    model: str
    marks: tuple[str, ...]
    table: list
    classifier: tuple[str, ...] = ()
    later: str = r"(?!)"


KINDS = (
    Kind(
        "the original IQA Transformer",
        "iqa_transformer",
        ("mixed5b.0.conv.weight", "emb_q.weight"),
        _TRANSFORMER,
    ),
    Kind(
        "the original IQA Conformer",
        "iqa_conformer",
        ("mixed5b.0.conv.weight", "encoder.blocks.0.ff_module1.layers.0.weight"),
        _CONFORMER,
    ),
    Kind(
        "Inception-ResNet-v2 as timm or Cadene name it",
        "inception_resnet_v2",
        ("conv2d_1a.conv.weight",),
        _INCEPTION,
        ("classif.weight", "last_linear.weight"),
        r"mixed_6a|repeat_1|mixed_7a|repeat_2|block8|conv2d_7b|classif|last_linear",
    ),
    Kind(
        "EfficientNet-Lite0 as timm names it",
        "efficientnet_lite0",
        ("conv_stem.weight",),
        _EFFICIENTNET_TIMM,
        ("classifier.weight",),
        r"blocks\.[56]|conv_head|bn2|classifier",
    ),
    Kind(
        "EfficientNet-Lite0 as packaged",
        "efficientnet_lite0",
        ("_conv_stem.weight",),
        _EFFICIENTNET_PACKAGED,
        ("_fc.weight",),
        r"_blocks\.1[1-5]|_conv_head|_bn1|_fc",
    ),
)


def recognise(keys) -> Kind:
    """The kind of checkpoint that has these keys.

    Raises:
      WeightsError: none of the known ones.
    """
    for kind in KINDS:
        if all(mark in keys for mark in kind.marks):
            return kind
    some = ", ".join(sorted(keys)[:3]) or "none at all"
    known = "; ".join(kind.description for kind in KINDS)
    raise WeightsError(f"the keys (such as {some}) are of no known model; known are: {known}")


def renamed(key: str, table) -> str:
    for pattern, replacement in table:
        key = re.sub(pattern, replacement, key)
    return key


def relaid(value: np.ndarray, path: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """A PyTorch array in the layout of our weight `path`, or None if it cannot have that shape.

    Convolution (O, I, h, w) -> (h, w, I, O); depthwise (C, 1, h, w) -> (h, w, C); linear (O, I) and
    1 x 1 convolution (O, I, 1, 1) -> (I, O); position embedding (h * w, D) -> (h, w, D).
    """
    if value.ndim == 4 and len(shape) == 4:
        value = value.transpose(2, 3, 1, 0)
    elif value.ndim == 4 and len(shape) == 3 and value.shape[1] == 1:
        value = value[:, 0].transpose(1, 2, 0)
    elif value.ndim == 4 and len(shape) == 2 and value.shape[2:] == (1, 1):
        value = value[:, :, 0, 0].T
    elif path.endswith(".kernel") and value.ndim == 2:
        value = value.T
    elif value.ndim == 2 and len(shape) == 3 and value.shape == (shape[0] * shape[1], shape[2]):
        value = value.reshape(shape)
    return value if value.shape == tuple(shape) else None
