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
    monkeypatch.setenv("IQA_JAX_CACHE", str(tmp_path))
    store = tmp_path / "programs"
    store.mkdir()
    (store / "empty-cache").touch()
    (store / "whole-cache").write_bytes(b"x")
    settings = {}
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(jax.config, "update", settings.__setitem__)
            compilation.keep_programs()
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert [path.name for path in store.iterdir()] == ["whole-cache"]
    assert settings["jax_compilation_cache_max_size"] == compilation.STORE_BYTES
    assert settings["jax_compilation_cache_dir"] == str(store)
