"""Work on Ray, with two workers on this machine of which one is killed."""

import json
import os
import signal
import time
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from iqa_jax.errors import UserError
from iqa_jax.parallel.cluster import WorkersLost, hand_out, run_parts
from tests import miniature

pytest.importorskip("ray")


def squaring(folder: Path):
    """Makes what squares numbers; the first worker that gets a 3 is killed."""

    def build():
        def work(number: int) -> tuple[int, int]:
            marker = folder / "killed"
            if number == 3 and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.2)
            return number**2, os.getpid()

        return work

    return build


def never_built():
    def build():
        raise UserError("no weights here")

    return build


def test_what_a_killed_worker_had_is_done_again(tmp_path):
    handler = signal.getsignal(signal.SIGTERM)
    found = dict(run_parts(squaring(tmp_path), [1, 2, 3, 4, 5, 6], workers=2))
    assert (tmp_path / "killed").exists()
    assert {number: square for number, (square, _) in found.items()} == {k: (k + 1) ** 2 for k in range(6)}
    assert len({process for _, process in found.values()}) >= 2
    assert signal.getsignal(signal.SIGTERM) is handler  # Ray sets its own


class Ended(Exception):
    """As Ray tells of a worker that has ended."""


class Workers:
    """As much of Ray as handing out parts needs, in this process; part 13 ends its worker."""

    exceptions = types.SimpleNamespace(RayActorError=Ended)

    def __init__(self):
        self.started, self.tried = 0, Counter()

    def start(self):
        self.started += 1
        return types.SimpleNamespace(work=types.SimpleNamespace(remote=lambda number, part: (number, part)))

    def wait(self, running, num_returns):
        return running[:1], running[1:]

    def get(self, task):
        number, part = task
        self.tried[part] += 1
        if part >= 13:
            raise Ended("the worker died\nsomewhere")
        return number, part


def test_a_part_that_ends_its_workers_is_given_up_and_named():
    workers, found = Workers(), []
    with pytest.raises(WorkersLost, match=r"part 1 ended .* 3 times \(the worker died\), and so did 1"):
        for result in hand_out(workers, workers.start, [7, 13, 8, 14, 9], 2):
            found.append(result)
    assert sorted(found) == [(0, 7), (2, 8), (4, 9)]
    assert workers.tried[13] == workers.tried[14] == 3 and workers.started == 2 + 6


def test_workers_that_never_do_anything_are_not_started_for_ever():
    workers = Workers()
    with pytest.raises(UserError, match="end before they finish any part: the worker died"):
        list(hand_out(workers, workers.start, [13] * 100, 2))
    assert workers.started <= 2 + 6


def test_an_error_of_the_work_and_a_cluster_that_is_not_there_are_plain():
    with pytest.raises(UserError, match="no weights here"):  # more workers than cores, none of which begins
        list(run_parts(never_built(), [1, 2, 3, 4, 5], workers=1 + (os.cpu_count() or 1)))
    with pytest.raises(UserError, match="ray nowhere"):
        list(run_parts(never_built(), [1], address="nowhere"))


def test_scores_and_predictions_are_those_of_one_process(tmp_path, call, small_weights):
    for number in range(3):
        image = miniature.picture(number, (72, 80))
        miniature.save(tmp_path / "ref" / f"R{number}.png", image)
        for version in range(2):
            distorted = miniature.noisy(image, 9.0 * version, version)
            miniature.save(tmp_path / "dis" / f"R{number}_{version}.png", distorted)
    (tmp_path / "dis" / "R1_0.png").write_bytes(b"broken")
    arguments = [
        "score",
        "--weights",
        small_weights,
        "-t",
        tmp_path / "dis",
        "-r",
        tmp_path / "ref",
        "--json",
    ]
    alone, on_cluster = (call(*arguments, *more) for more in ([], ["--ray", "local", "--workers", 2]))
    assert alone[0] == on_cluster[0] == 1
    for one, other in zip(json.loads(alone[1]), json.loads(on_cluster[1]), strict=True):
        assert one.get("error") == other.get("error") or "not an image" in other["error"]
        assert one.get("score") == pytest.approx(other.get("score"), abs=1e-4)
    rows = "".join(f"ref/R{k}.png,dis/R{k}_1.png,{k + 1}\n" for k in range(3))
    (tmp_path / "mine.csv").write_text(f"reference,distorted,mos\n{rows}")
    data = ["--data-dir", tmp_path / "data"]
    assert call("prepare", "pairs", "--manual-dir", tmp_path / "mine.csv", *data)[0] == 0
    predicted = []
    for more in ([], ["--ray", "local", "--workers", 1]):
        output = tmp_path / f"evaluation{len(more)}"
        options = ["--dataset", "pairs/mine", "--crops", "grid", "--output", output, "--resamples", 10]
        assert call("evaluate", "--weights", small_weights, *options, *data, *more)[0] == 0
        table = (output / "predictions-pairs-mine-train.csv").read_text().splitlines()[1:]
        predicted.append([float(line.split(",")[-1]) for line in table])
    np.testing.assert_allclose(*predicted, atol=1e-4)
