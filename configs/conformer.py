"""The IQA Conformer's recipe: `iqa_jax/configs/conformer.py`; copy that file to write your own."""

from iqa_jax.configs.conformer import get_config  # noqa: F401
