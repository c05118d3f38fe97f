import os

import jax
import jax.numpy as jnp
from jax._src import compilation_cache

from iqa_jax.errors import UserError
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


def entries(store):
    return sorted(path.name for path in store.iterdir() if not path.name.startswith("."))


def test_damaged_entries_of_the_store_go_and_its_size_is_bounded(tmp_path, monkeypatch):
    whole = compilation_cache.compress_executable(b"program" * 100)
    contents = {"empty": b"", "old": b"x" * 60, "new": b"x" * 60, "a-cache": whole, "b-cache": whole[:-9]}
    for age, (name, content) in enumerate(contents.items()):
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (1e9 + age, 1e9 + age))
    compilation._tidy(tmp_path)
    assert entries(tmp_path) == ["a-cache", "new", "old"]
    (tmp_path / "a-cache").unlink()
    monkeypatch.setattr(compilation, "STORE_BYTES", 100)
    compilation._tidy(tmp_path)
    assert entries(tmp_path) == ["new"]
    (tmp_path / "c-cache").write_bytes(whole[:-9])  # since then
    compilation._tidy(tmp_path)
    assert entries(tmp_path) == ["new"]


def test_a_damaged_copy_with_its_originals_date_goes(tmp_path):
    compilation._tidy(tmp_path)  # has looked
    damaged = compilation_cache.compress_executable(b"program" * 100)[:-9]
    (tmp_path / "a-cache").write_bytes(damaged)
    os.utime(tmp_path / "a-cache", (1e9, 1e9))
    compilation._tidy(tmp_path)
    assert entries(tmp_path) == []
    os.utime(tmp_path / compilation._LOOKED_AT, (4e9, 4e9))  # by a clock that was wrong
    (tmp_path / "b-cache").write_bytes(damaged)
    compilation._tidy(tmp_path)
    assert entries(tmp_path) == []


def test_a_store_that_cannot_be_written_is_read(tmp_path, monkeypatch):
    options: dict = {}
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(jax.config, "update", options.__setitem__)
    monkeypatch.setenv("IQA_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr(compilation, "writable_cache", refuse)
    compilation.keep_programs()
    assert not options
    (tmp_path / "programs").mkdir()
    compilation.keep_programs()
    assert options["jax_compilation_cache_dir"] == str(tmp_path / "programs")
    assert options["jax_persistent_cache_min_compile_time_secs"] == float("inf")
    monkeypatch.undo()
    jax.config.update("jax_compilation_cache_dir", before)


def refuse(*_):
    raise UserError("cannot be written")


def test_a_choice_inside_a_choice_is_made_with_it():
    """Else what is nested n deep would be traced 2 ** n times, and longer than it takes to compile."""
    traced = []

    def nested(x, depth):
        def form(name):
            def call(x):
                traced.append((name, depth))
                return nested(x, depth - 1) if depth else x

            return call

        return compilation.by_platform(x, cpu=form("cpu"), default=form("default"))

    program = jax.jit(lambda x: nested(x, 3))
    assert program(1) == 1
    assert sorted(traced) == sorted((name, depth) for name in ("cpu", "default") for depth in range(4))
    sizes = []

    def halves(x):  # the same shapes for both
        sizes.append(x.shape)
        return compilation.by_platform(x, cpu=lambda x: x / 2, default=lambda x: x * 0.5)

    lowered = jax.jit(lambda x: compilation.few_at_a_time(halves, x)).trace(jnp.ones((1, 3)))
    text = lowered.lower(lowering_platforms=("cuda",)).as_text()
    assert sizes == [(1, 3)] * 2 and "multiply" in text and "divide" not in text
