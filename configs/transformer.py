"""The IQA Transformer's recipe: `iqa_jax/configs/transformer.py`; copy that file to write your own."""

from iqa_jax.configs.transformer import get_config  # noqa: F401
