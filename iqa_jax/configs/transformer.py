"""IQA Transformer (after IQT, Cheon et al., 2021), the paper's second full-reference model.

    python train.py --config configs/transformer.py[:pipal|:demo]

The recipe is the Conformer's.  Published for it on PIPAL: PLCC 0.7897 / SRCC 0.7650 on the
challenge's validation set.
"""

from ml_collections import ConfigDict

from iqa_jax.configs import conformer


def get_config(dataset: str = "auto") -> ConfigDict:
    c = conformer.get_config(dataset)
    c.model = "iqa_transformer"
    return c
