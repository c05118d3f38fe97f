"""What a model is made of."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything that is needed to build a model again; stands beside its weights as JSON.

    Attributes:
      name: a key of `IQA_MODELS`, or the name of a backbone.
      backbone: a key of `BACKBONES`.
      num_classes: of a backbone on its own: its classifier's size, 0 for none.
      dim, heads, dropout: width, attention heads and dropout probability after the backbone.
      stochastic_depth: of a student, the probability that a residual branch is left out.
      crop_size: side of the square crops in pixels; fixes the number of positions.
      taps, stride: feature maps of the backbone that are looked at, averaged over cells of `stride` pixels on
        a side, one for each position; () and 0 for the backbone's own taps and grid, as in the paper.
      magnitudes: of a full-reference model with a `stride`, maps of which it also sees the mean of
        |f_ref - f_dis| over the pixels of each cell.
      mos_mean, mos_std: MOS = prediction * mos_std + mos_mean (PIPAL's by default).
      mos_low, mos_high: ends of the MOS scale.
      dtype: compute type, "float32" or "bfloat16"; parameters are float32.
    """

    name: str
    backbone: str = "inception_resnet_v2"
    num_classes: int = 0
    dim: int = 128
    heads: int = 4
    dropout: float = 0.1
    stochastic_depth: float = 0.0
    crop_size: int = 192
    taps: tuple[str, ...] = ()
    stride: int = 0
    magnitudes: tuple[str, ...] = ()
    mos_mean: float = 1448.9595
    mos_std: float = 121.5351
    mos_low: float = 916.71
    mos_high: float = 1835.99
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for field in ("taps", "magnitudes"):  # JSON has lists
            object.__setattr__(self, field, tuple(getattr(self, field)))
