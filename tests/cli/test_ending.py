"""How commands end: what a user is told of an error."""

import errno
import os
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from iqa_jax.cli.ending import plain_text, shown_plainly
from iqa_jax.errors import UserError

pytestmark = pytest.mark.quick
ROOT = Path(__file__).resolve().parents[2]
FULL = os.strerror(errno.ENOSPC)


def raised_by_jax(error):
    """The error as it comes from where JAX looks for devices."""
    code = compile("def backends(error): raise error", "/site-packages/jax/_src/xla_bridge.py", "exec")
    exec(code, names := {})
    try:
        names["backends"](error)
    except type(error) as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UserError("a.csv: empty"), "a.csv: empty"),
        (OSError(errno.ENOSPC, FULL, "s.csv"), f"s.csv: {FULL}; free some space, or write to another disk"),
        (OSError(errno.ENOENT, "No such file", b"caf\xe9"), "caf\udce9: No such file"),
        (
            ValueError(f'RESOURCE_EXHAUSTED: Failed writing "/disk/w": {FULL} [28]\nsource location'),
            f'{FULL}: RESOURCE_EXHAUSTED: Failed writing "/disk/w": {FULL} [28]; free some space, or write '
            "to another disk",
        ),
        (MemoryError(), "out of memory"),
        (
            BrokenProcessPool("abrupt"),
            "a worker process was killed, perhaps for memory; run the same command again to resume",
        ),
        (
            ModuleNotFoundError("no ray", name="ray.util"),
            "ray.util is not installed; it comes with: pip install 'iqa-conformer[ray]'",
        ),
        (ModuleNotFoundError("no x", name="x"), None),
        (ValueError("a fault"), None),
        (AssertionError(), None),
    ],
)
def test_errors_in_one_line(error, text):
    assert plain_text(error) == text


@pytest.mark.parametrize("platform", ["cuda", "gpu", "tpu"])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (AssertionError(), ""),
        (RuntimeError("Unable to initialize backend 'tpu': no libtpu (set JAX_PLATFORMS='' to choose)"),
         " (Unable to initialize backend 'tpu': no libtpu)"),
    ],
)  # fmt: skip
def test_a_platform_that_is_not_there_is_named(monkeypatch, platform, error, reason):
    monkeypatch.setenv("JAX_PLATFORMS", platform)
    text = plain_text(raised_by_jax(error))
    assert text.startswith(f"JAX_PLATFORMS={platform}: JAX finds no such device here{reason}; unset it")
    monkeypatch.delenv("JAX_PLATFORMS")
    assert plain_text(raised_by_jax(AssertionError())) is None


def test_jax_raises_that_indeed():
    code = "from iqa_jax.cli.ending import shown_plainly\nwith shown_plainly(): import jax; jax.devices()"
    environment = {**os.environ, "JAX_PLATFORMS": "nonsense", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: JAX_PLATFORMS=nonsense: JAX finds no such")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="of Linux")
def test_output_that_cannot_be_written_is_said():
    code = "from iqa_jax.cli.ending import shown_plainly\nwith shown_plainly(): print('result')"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", code]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
    assert done.returncode == 1
    assert done.stderr == f"error: standard output: {FULL}; free some space, or write to another disk\n"


def test_what_the_locale_lacks_is_escaped():
    code = (
        "from iqa_jax.cli.ending import shown_plainly\nwith shown_plainly(): print('naïve 日本 caf\\udce9')"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for encoding, shown in (
        ("", b"na\\xefve \\u65e5\\u672c caf"),
        ("latin1", b"na\xefve \\u65e5\\u672c caf"),
    ):
        environment["PYTHONIOENCODING"] = encoding
        command = [sys.executable, "-c", f"exec({ascii(code)})"]
        done = subprocess.run(command, env=environment, capture_output=True, cwd=ROOT)
        assert done.returncode == 0 and done.stdout.startswith(shown), done.stderr


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), shown_plainly():
        1 / 0  # noqa: B018
