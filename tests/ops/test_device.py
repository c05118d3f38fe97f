"""What is said of the devices."""

import pytest

from iqa_jax.ops import programs

pytestmark = pytest.mark.quick


def test_a_gpu_that_jax_does_not_see_is_named(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr("iqa_jax.ops.programs.os.path.exists", lambda path: path == "/dev/nvidia0")
    assert 'pip install "jax[cuda13]"' in programs.device_remark()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert programs.device_remark() is None
