import errno
import os
import shutil
import subprocess
import sys

import filelock
import jax
import jax.numpy as jnp
import pytest

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


STORING = """
import sys, jax
from iqa_jax.ops import programs
programs.STORE_BYTES = int(sys.argv[1])
programs.keep_programs()
for number in map(int, sys.argv[2:]):
    jax.jit(lambda x: x * number)(1.0)
    jax.jit(lambda x: x - number)(1.0)
"""


def compiled(store, *numbers, most_bytes=compilation.STORE_BYTES):
    """A process compiles a program for each number; the names of what the store then has."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("JAX_") or k == "JAX_PLATFORMS"}
    done = subprocess.run(
        [sys.executable, "-c", STORING, *map(str, (most_bytes, *numbers))],
        env={**variables, "IQA_JAX_CACHE": str(store.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return kept(store)


def kept(store):
    return {path.name for path in store.glob("*-cache")}


@pytest.fixture(scope="module")
def filled_store(tmp_path_factory):
    place = tmp_path_factory.mktemp("filled") / "programs"
    assert compiled(place, 2)
    return place


@pytest.fixture
def store(tmp_path, filled_store):
    return shutil.copytree(filled_store, tmp_path / "programs")


@pytest.fixture
def start(tmp_path, monkeypatch):
    """`start()` does what a command does at its start; gives the options that JAX would get."""

    def call():
        options: dict = {}
        with monkeypatch.context() as patch:
            patch.setenv("IQA_JAX_CACHE", str(tmp_path))
            patch.setattr(jax.config, "update", options.__setitem__)
            patch.setattr(type(jax.config), "jax_compilation_cache_dir", None)
            compilation.keep_programs()
        return options

    return call


def test_in_python_the_first_metric_keeps_programs_as_commands_do(tmp_path, small_weights):
    code = (
        "import sys, jax, iqa_jax; before = jax.config.jax_compilation_cache_dir\n"
        "iqa_jax.load(sys.argv[1]); print(before, jax.config.jax_compilation_cache_dir)"
    )
    variables = {k: v for k, v in os.environ.items() if not k.startswith("JAX_") or k == "JAX_PLATFORMS"}
    variables |= {"IQA_JAX_CACHE": str(tmp_path), "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-c", code, small_weights]
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.stdout.split() == ["None", str(tmp_path / "programs")], done.stderr


def test_the_store_is_bounded(store):
    first = kept(store)
    size = sum((store / name).stat().st_size for name in kept(store))
    last = compiled(store, 3, most_bytes=size)
    assert sum((store / name).stat().st_size for name in last) <= size
    assert last and not last & first


def cut(program):
    program.write_bytes(program.read_bytes()[:-9])


def emptied(program):
    program.write_bytes(b"")


def without_its_time(program):
    """As after a kill or on a full disk."""
    program.with_name(program.name.replace("-cache", "-atime")).unlink()


@pytest.mark.parametrize("damage", [cut, emptied, without_its_time])
def test_damaged_programs_go_also_copies_with_their_originals_date(store, start, damage):
    start()  # has looked at all
    first, second = sorted(kept(store))
    damage(store / first)
    os.utime(store / first, (1e9, 1e9))
    assert start()["jax_compilation_cache_max_size"] == compilation.STORE_BYTES
    assert kept(store) == {second}
    os.utime(store / compilation._CHECKED, (4e9, 4e9))  # by a clock that was wrong
    damage(store / second)
    start()
    assert not kept(store)


def test_a_damaged_program_is_compiled_again_without_a_word(tmp_path):
    before = compiled(tmp_path / "programs", 2)
    for name in before:
        cut(tmp_path / "programs" / name)
    assert compiled(tmp_path / "programs", 2) == before


def test_a_store_in_use_is_not_searched_and_one_without_locks_is_not_bounded(store, start, monkeypatch):
    before = kept(store)
    without_its_time(store / min(before))
    with filelock.FileLock(store / ".lockfile"):
        assert start()["jax_compilation_cache_max_size"] == compilation.STORE_BYTES

    def no_locks(self, *_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", no_locks)
    assert start()["jax_compilation_cache_max_size"] == -1 and kept(store) == before


def test_a_store_that_cannot_be_written_is_read(tmp_path, start, monkeypatch):
    monkeypatch.setattr(compilation, "writable_cache", refuse)
    assert not start()
    (tmp_path / "programs").mkdir()
    options = start()
    assert options["jax_compilation_cache_dir"] == str(tmp_path / "programs")
    assert options["jax_persistent_cache_min_compile_time_secs"] == float("inf")
    assert options["jax_compilation_cache_max_size"] == -1


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
