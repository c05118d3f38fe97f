"""Jobs that processes share."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from iqa_jax.errors import UserError
from iqa_jax.parallel.jobs import grouped, run_shared


def work_slowly(directory: Path, parts: int, pause: float):
    def work(number):
        (directory / f"begun-{number}-{os.getpid()}").touch()
        time.sleep(pause)
        return number**2

    return run_shared(directory, parts, work, identity={"job": "squares"})


def process(*arguments):
    started = multiprocessing.get_context("spawn").Process(target=work_slowly, args=arguments)
    started.start()
    return started


def test_processes_share_the_parts_and_each_gets_all_results(tmp_path):
    other = process(tmp_path, 12, 0.2)
    while not list(tmp_path.glob("begun-*")):
        time.sleep(0.01)
    assert work_slowly(tmp_path, 12, 0.2) == [k**2 for k in range(12)]
    other.join(30)
    assert other.exitcode == 0
    begun = [path.name.split("-")[1:] for path in tmp_path.glob("begun-*")]
    assert len(begun) == 12 and len({who for _, who in begun}) == 2


def test_the_part_of_a_lost_process_is_done_by_another(tmp_path):
    lost = process(tmp_path, 4, 1000.0)
    while not list(tmp_path.glob("begun-*")):
        time.sleep(0.01)
    os.kill(lost.pid, signal.SIGKILL)
    lost.join()
    assert work_slowly(tmp_path, 4, 0.0) == [0, 1, 4, 9]
    asked = []
    assert run_shared(tmp_path, 4, asked.append, identity={"job": "squares"}) == [0, 1, 4, 9]
    assert asked == []
    with pytest.raises(UserError, match="belongs to another job .*; choose another directory"):
        run_shared(tmp_path, 4, asked.append, identity={"job": "cubes"})
    assert asked == []


def test_equal_keys_stay_together():
    parts = grouped(["a", "b", "a", "c", "b", "d"], 3)
    assert [part.tolist() for part in parts] == [[0, 2], [1, 4, 3], [5]]
    assert grouped([], 3) == []


def test_a_damaged_part_is_worked_out_again_and_one_of_another_job_is_not_taken(tmp_path):
    def squares(asked=None, identity="squares"):
        def work(number):
            if asked is not None:
                asked.append(number)
            return [number**2 + 0.5, "caf\udce9, \n"]

        return run_shared(tmp_path, 4, work, identity={"job": identity})

    first = squares()
    parts = [tmp_path / f"part-{number}.journal" for number in range(4)]
    whole = [part.read_bytes() for part in parts]
    chance = random.Random(0)
    for _ in range(60):
        number = chance.randrange(4)
        content = bytearray(whole[number])
        at = chance.randrange(len(content))
        if chance.random() < 0.5:
            content[at] ^= 1 << chance.randrange(8)
        else:
            del content[at:]
        parts[number].write_bytes(content)
        assert squares(again := []) == first and set(again) <= {number}
    parts[1].write_bytes(whole[2])  # of this job, but another part
    assert squares(again := []) == first and again == [1]
    parts[1].write_text("[1.5]")  # another format
    assert squares(again := []) == first and again == [1]
    for part in parts:
        part.write_bytes(b"\0" + part.read_bytes()[1:])  # it does not tell any more whose it is
    assert squares(again := [], "cubes") == first and sorted(again) == [0, 1, 2, 3]
