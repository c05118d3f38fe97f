"""The Blind Noisy Student's recipe: `iqa_jax/configs/student.py`; copy that file to write your own."""

from iqa_jax.configs.student import get_config  # noqa: F401
