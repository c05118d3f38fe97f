"""Files and folders that are written whole."""

import contextlib
import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from iqa_jax.errors import UserError
from iqa_jax.files import (
    check_replaceable,
    naming,
    output_file,
    partial_folder,
    remove_leftovers,
    whole_file,
    writable_directory,
    write_whole,
)

pytestmark = pytest.mark.quick
LEFT = ".iqa_jax-0123456789abcdef.partial"


@pytest.fixture
def full_disk():
    """Lets no file grow beyond some bytes, as a disk with a quota does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    "name", ["a.csv", "n" * 251 + ".csv", "ä" * 125 + ".csv", "\udcff.csv", "a\nb,c.csv"]
)
def test_any_name_that_the_file_system_takes_can_be_written(tmp_path, name):
    for content in ("naïve \udcff\n", b"bytes", ""):
        write_whole(tmp_path / name, content)
        expected = content if isinstance(content, bytes) else os.fsencode(content)
        assert (tmp_path / name).read_bytes() == expected
    assert os.listdir(tmp_path) == [name]


def test_a_written_file_has_the_usual_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "file", "text")
        with partial_folder(tmp_path) as folder:
            folder.rename(tmp_path / "folder")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750


def test_a_planted_link_is_neither_followed_nor_a_hindrance(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    names = iter(["0" * 16, "1" * 16, "2" * 16, "3" * 16])
    monkeypatch.setattr(os, "urandom", lambda count: bytes.fromhex(next(names)))
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / f".write-test-{os.getpid()}").symlink_to(victim)
    (shared / f".file.{os.getpid()}.partial").symlink_to(victim)
    (shared / "file").symlink_to(victim)  # is replaced, not written through
    writable_directory(shared)
    write_whole(shared / "file", "mine")
    (shared / f".iqa_jax-{'1' * 16}.partial").symlink_to(victim)  # a name that came true by chance
    with pytest.raises(FileExistsError):
        write_whole(shared / "file", "other")
    (shared / f".iqa_jax-{'2' * 16}.partial").symlink_to(tmp_path)
    with pytest.raises(FileExistsError), partial_folder(shared):
        pass
    remove_leftovers(shared)  # nor are they followed here
    assert victim.read_text() == "precious" and (shared / "file").read_text() == "mine"


def test_an_output_that_is_a_link_is_written_where_it_points_to(tmp_path):
    (tmp_path / "deep").mkdir()
    real, link = tmp_path / "deep" / "real.csv", tmp_path / "link.csv"
    link.symlink_to(real)
    for content in ("first", "second"):
        write_whole(output_file(link, ".csv"), content)
        assert link.is_symlink() and real.read_text() == content


def test_a_file_of_something_else_is_not_replaced(tmp_path):
    path = tmp_path / "a.html"
    check_replaceable(path, b"ours", "page")
    for content in (b"", b"all of it is ours"):
        path.write_bytes(content)
        check_replaceable(path, b"ours", "page")
    for content, within in ((b"theirs?", -1), (b"not yet ours", 5)):
        path.write_bytes(content.replace(b"theirs", b"mine"))
        with pytest.raises(UserError, match="a.html: is there already and is no page of iqa_jax"):
            check_replaceable(path, b"ours", "page", within=within)


def test_a_full_disk_is_told_by_the_name_of_the_file_and_leaves_what_was_there(tmp_path, full_disk):
    path = tmp_path / "scores.csv"
    write_whole(path, "before")
    with pytest.raises(OSError, match="scores.csv") as failure:
        write_whole(path, "x" * 5000)
    assert failure.value.errno == errno.EFBIG and failure.value.filename == str(path)
    assert path.read_text() == "before" and os.listdir(tmp_path) == ["scores.csv"]
    with pytest.raises(UserError, match=f"{tmp_path}.*File too large.*free some space"):
        writable_directory(tmp_path)
    with pytest.raises(OSError, match="journal"), naming(tmp_path / "journal"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OSError, match=r"Is a directory: '[^']*scores.csv'$"):
        (tmp_path / "folder" / "scores.csv").mkdir(parents=True)
        write_whole(tmp_path / "folder" / "scores.csv", "x")
    with pytest.raises(OSError, match="other"), naming(tmp_path / "journal"):
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), "other")


def test_a_failed_block_leaves_neither_file_nor_folder(tmp_path):
    for failure in (KeyboardInterrupt, ValueError):
        with pytest.raises(failure), whole_file(tmp_path / "file") as file:
            file.write(b"half")
            raise failure
        with pytest.raises(failure), partial_folder(tmp_path) as folder:
            (folder / "part").touch()
            raise failure
    assert not any(tmp_path.iterdir())


def test_a_folder_goes_though_a_thread_still_writes_there(tmp_path):
    def write(folder):
        for number in range(40):
            with contextlib.suppress(FileNotFoundError):
                folder.joinpath("deep").mkdir(parents=True, exist_ok=True)
                (folder / "deep" / str(number)).touch()
            time.sleep(0.002)

    with pytest.raises(KeyboardInterrupt), partial_folder(tmp_path) as folder:
        thread = threading.Thread(target=write, args=[folder])
        thread.start()
        raise KeyboardInterrupt
    thread.join()
    remove_leftovers(tmp_path)
    assert not any(tmp_path.iterdir())


_KILLED = """
import sys, time
from pathlib import Path
from iqa_jax.files import partial_folder, whole_file
with whole_file(Path(sys.argv[1]) / "file"), partial_folder(Path(sys.argv[1])) as folder:
    (folder / "part").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_goes_at_the_next_start_and_what_one_writes_stays(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", _KILLED, tmp_path], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    writable_directory(tmp_path)
    assert len(os.listdir(tmp_path)) == 2
    process.kill()
    process.communicate()
    writable_directory(tmp_path)
    assert not os.listdir(tmp_path)


def test_other_peoples_files_and_links_are_no_leftovers(tmp_path, monkeypatch):
    for name in (".iqa_jax-notes.partial", "x" + LEFT, LEFT + "x", ".hidden"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert len(os.listdir(tmp_path)) == 4
    (tmp_path / LEFT).touch()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    remove_leftovers(tmp_path)
    assert (tmp_path / LEFT).exists()
    monkeypatch.undo()
    remove_leftovers(tmp_path)
    assert not (tmp_path / LEFT).exists()


def test_where_there_are_no_locks_only_an_old_one_goes(tmp_path, monkeypatch):
    def without_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", without_locks)
    write_whole(tmp_path / "file", "text")
    left: Path = tmp_path / LEFT
    left.touch()
    remove_leftovers(tmp_path)
    assert left.exists()
    os.utime(left, (time.time() - 2 * 86400,) * 2)
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["file"]
