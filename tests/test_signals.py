"""Signals end a command with one line and their exit code, whatever swallows them."""

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

from iqa_jax import signals
from iqa_jax.cli.ending import shown_plainly
from iqa_jax.signals import Stopped, kept_from_children, stop_signals_interrupt

pytestmark = pytest.mark.quick
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def nobody_handles_signals():
    """As in a shell; a test run may have been started with some of them ignored."""
    wanted = (*signals.STOP_SIGNALS, signal.SIGINT)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in wanted}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)
    time.sleep(0.001)  # where Python looks for signals


def ended(work, capsys):
    """Exit code and lines on standard error of what works under `shown_plainly`."""
    with pytest.raises(SystemExit) as end, shown_plainly():
        work()
    return end.value.code, capsys.readouterr().err.splitlines()


def by_a_handler():
    with contextlib.suppress(BaseException):
        send()


def by_a_finaliser():
    class Finalised:
        def __del__(self):
            send()

    Finalised()


def by_a_callback_of_c():
    ctypes.CFUNCTYPE(None)(send)()


def by_a_comparison_in_c():
    class Item:
        def __eq__(self, other):
            by_a_handler()
            return True

    assert Item() in [1]


@pytest.mark.parametrize(
    "swallowed", [by_a_handler, by_a_finaliser, by_a_callback_of_c, by_a_comparison_in_c]
)
def test_a_signal_that_was_swallowed_is_raised_again(swallowed, capsys):
    def work():
        swallowed()
        by_a_handler()  # the second one in a row
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            pass
        raise AssertionError("ran on")

    assert ended(work, capsys) == (143, ["stopped by SIGTERM"])


@pytest.mark.parametrize("number", [*signals.STOP_SIGNALS, signal.SIGINT])
def test_a_command_that_came_to_its_end_all_the_same_does_not_report_success(number, capsys):
    def work():
        with contextlib.suppress(BaseException):
            send(number)

    line = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}"
    assert ended(work, capsys) == (128 + number, [line])


@pytest.mark.parametrize("failure", [ImportError("numpy.core failed"), SystemError("NULL"), SystemExit(0)])
def test_an_error_that_took_the_place_of_the_signal_is_not_shown(failure, capsys):
    def work():
        try:
            send()
        except BaseException:
            raise failure from None

    assert ended(work, capsys) == (143, ["stopped by SIGTERM"])


def test_a_module_that_is_being_imported_comes_to_its_end_first(tmp_path, monkeypatch, capsys):
    (tmp_path / "interrupted_module.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(0.15)\nwhole = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def work():
        import interrupted_module  # noqa: F401

        time.sleep(10)

    assert ended(work, capsys) == (143, ["stopped by SIGTERM"])
    assert sys.modules.pop("interrupted_module").whole


def test_cleaning_up_is_not_disturbed_by_more_signals(capsys):
    done = []

    def generator():
        try:
            yield 1
        finally:
            time.sleep(0.1)
            done.append("generator")

    def work():
        values = generator()
        next(values)
        try:
            send(signal.SIGINT)
        finally:
            for _ in range(4):
                send(signal.SIGINT)
                time.sleep(0.05)
            with contextlib.suppress(ValueError):
                raise ValueError
            done.append("block")
        next(values)

    assert ended(work, capsys) == (130, ["interrupted"])
    assert done == ["block", "generator"]


def test_where_cleaning_up_takes_long_another_signal_ends_it(monkeypatch):
    monkeypatch.setattr(signals, "_PATIENCE", 0.0)
    ending = []
    with pytest.raises(Stopped), stop_signals_interrupt(ending.append):
        try:
            send()
        finally:
            send(signal.SIGINT)
    assert ending == [signal.SIGTERM]


def test_libraries_do_not_complain_and_all_is_as_before_afterwards(capsys):
    before = [signal.getsignal(number) for number in (*signals.STOP_SIGNALS, signal.SIGALRM, signal.SIGINT)]
    hooks = sys.excepthook, sys.unraisablehook, threading.excepthook, warnings.showwarning

    class Complains:
        def __del__(self):
            raise RuntimeError("Event loop is closed")

    def work():
        try:
            send()
        finally:
            Complains()
            logging.getLogger("asyncio").error("Task was destroyed but it is pending!")
            warnings.warn("a coroutine was never awaited", RuntimeWarning, stacklevel=1)
            thread = threading.Thread(target=lambda: 1 / 0)
            thread.start()
            thread.join()

    assert ended(work, capsys) == (143, ["stopped by SIGTERM"])
    now = [signal.getsignal(number) for number in (*signals.STOP_SIGNALS, signal.SIGALRM, signal.SIGINT)]
    assert now == before
    assert (sys.excepthook, sys.unraisablehook, threading.excepthook, warnings.showwarning) == hooks
    assert logging.root.manager.disable == 0 and signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_an_ignored_signal_stays_ignored(capsys):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with shown_plainly():
        send(signal.SIGHUP)
        send(signal.SIGINT)
    assert capsys.readouterr().err == ""


def test_outside_the_main_thread_nothing_is_taken():
    taken = []

    def work():
        with stop_signals_interrupt() as request:
            taken.append(request.number)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert taken == [None] and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


_MODULE = """
import atexit, sys, time
print("importing", flush=True)
if "import" in sys.argv: time.sleep(60)
def at_exit():
    print("ending", flush=True)
    if "exit" in sys.argv: time.sleep(60)
atexit.register(at_exit)
def main():
    print("working", flush=True)
    if "work" in sys.argv: time.sleep(60)
    sys.exit(3)
"""


@pytest.mark.parametrize(
    ("moment", "shown", "code", "errors"),
    [
        ("import", "importing", 130, "interrupted\n"),
        ("work", "working", 130, "interrupted\n"),
        ("exit", "ending", 3, ""),
    ],
)
def test_a_process_ends_in_one_line_at_any_moment(tmp_path, moment, shown, code, errors):
    (tmp_path / "slow.py").write_text(_MODULE)
    command = "from iqa_jax.cli.ending import as_process; as_process('slow')"
    paths = os.pathsep.join([str(ROOT), str(tmp_path)])
    process = subprocess.Popen(
        [sys.executable, "-c", command, moment],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.stdout.readline() != f"{shown}\n":
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1] == errors and process.returncode == code


def test_a_child_leaves_signals_to_its_parent():
    code = (
        "import time; from iqa_jax.signals import follow_parent; follow_parent()\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    with kept_from_children():
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGINT, signal.SIGHUP}
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    child.send_signal(signal.SIGUSR1)
    time.sleep(0.1)
    assert child.poll() is None
    child.terminate()  # as a pool ends its workers
    assert child.wait() == -signal.SIGTERM
    child.stdout.close()


def test_a_signal_waits_while_children_are_started(capsys):
    def work():
        with kept_from_children():
            signal.raise_signal(signal.SIGTERM)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # as another thread takes it
            time.sleep(0.1)
            started.append("all of them")
        time.sleep(10)

    started = []
    assert ended(work, capsys) == (143, ["stopped by SIGTERM"]) and started


_PARENT = """
import multiprocessing, os, sys
from concurrent.futures import ProcessPoolExecutor
from iqa_jax.signals import follow_parent
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=follow_parent) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        sys.stdin.read()
"""


def test_a_worker_does_not_outlive_a_killed_parent(tmp_path):
    (tmp_path / "parent.py").write_text(_PARENT)
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "parent.py"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(worker, 0)
            status = Path(f"/proc/{worker}/status")
            if status.exists() and "State:\tZ" in status.read_text():  # nobody reaps it in a container
                raise ProcessLookupError
            time.sleep(0.02)
