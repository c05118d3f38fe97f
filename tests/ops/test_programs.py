import os

import jax
import jax.numpy as jnp

from iqa_jax.ops import programs as compilation


def test_what_a_cpu_is_told_is_known_to_this_version_of_xla():
    assert compilation.compiler_options() == compilation._CPU_OPTIONS
    assert float(compilation.jit(lambda x: x + 1)(jnp.float32(1))) == 2


def test_other_platforms_and_versions_are_told_nothing(monkeypatch):
    compilation.compiler_options.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "tpu")
        assert compilation.compiler_options() == {}
    compilation.compiler_options.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(compilation, "_CPU_OPTIONS", {"xla_no_such_option": "1"})
        assert compilation.compiler_options() == {}
    compilation.compiler_options.cache_clear()


def test_empty_entries_of_the_store_go_and_its_size_is_bounded(tmp_path, monkeypatch):
    for name, size, age in (("empty", 0, 1), ("old", 60, 100), ("new", 60, 10)):
        (tmp_path / name).write_bytes(b"x" * size)
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    compilation._tidy(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"old", "new"}
    monkeypatch.setattr(compilation, "STORE_BYTES", 100)
    compilation._tidy(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
