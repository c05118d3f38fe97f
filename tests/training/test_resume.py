"""What a run has measured is never lost; one that was stopped in an evaluation ends as one that was not."""

import json
import os
import signal

import numpy as np
import optax
import pytest
from flax import nnx

from iqa_jax.training import loop, validation
from iqa_jax.training.stopping import Interrupted
from iqa_jax.weights.checkpoints import Saved
from tests.training import tiny

pytestmark = pytest.mark.quick


@pytest.fixture
def run(monkeypatch):
    return tiny.patched(monkeypatch)


@pytest.fixture
def whole(run, tmp_path):
    """A run that nothing has stopped."""
    run(tmp_path / "whole")
    tiny.Evaluator.calls.clear()
    return tmp_path / "whole"


def metrics(workdir):
    return (workdir / "metrics.jsonl").read_text()


def assert_same(workdir, expected):
    assert metrics(workdir) == metrics(expected)
    ours, theirs = Saved(workdir), Saved(expected)
    assert set(theirs.steps) <= set(ours.steps) and ours.best_step() == theirs.best_step()
    for step in theirs.steps:
        found, wanted = ours.read(step), theirs.read(step)
        assert {n: a.tobytes() for n, a in found.items()} == {n: a.tobytes() for n, a in wanted.items()}, step


# metrics.jsonl.


def cut(path):
    path.write_bytes(path.read_bytes()[:30])


def zeroed(path):
    path.write_bytes(bytes(path.stat().st_size))


def a_digit_flipped(path):
    text = path.read_text()
    place = text.index("plcc") + 9
    path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])


def lines_swapped(path):
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))


def not_text(path):
    path.write_bytes(b"\xff\xfe{}\n" + path.read_bytes())


def deleted(path):
    path.unlink()


@pytest.mark.parametrize("damage", [cut, zeroed, a_digit_flipped, lines_swapped, not_text, deleted])
@pytest.mark.parametrize("first", [6, 8], ids=["resumed", "finished"])
def test_damaged_metrics_are_written_again_from_the_checkpoint(run, whole, tmp_path, damage, first, capsys):
    run(tmp_path / "run", num_steps=first)
    damage(tmp_path / "run" / "metrics.jsonl")
    line = run(tmp_path / "run")
    assert_same(tmp_path / "run", whole)
    assert line == json.loads(metrics(whole).splitlines()[-1])
    assert (
        "metrics.jsonl: lines are missing or changed; written again from the check" in capsys.readouterr().out
    )


def test_a_whole_file_is_not_spoken_of(run, whole, capsys):
    capsys.readouterr()
    run(whole)
    assert "metrics.jsonl: " not in capsys.readouterr().out and not tiny.Evaluator.calls


def test_a_run_that_is_beyond_its_end_stays_and_may_be_continued(run, tmp_path):
    run(tmp_path / "run", num_steps=7)
    tiny.Evaluator.calls.clear()
    assert run(tmp_path / "run", num_steps=5)["step"] == 7 and not tiny.Evaluator.calls
    run(tmp_path / "run")
    assert [json.loads(line)["step"] for line in metrics(tmp_path / "run").splitlines()] == [4, 8]


# Ctrl-C in an evaluation.


@pytest.fixture
def ctrl_c_is_heard():
    """Also where a shell starts the tests in the background, with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def stopping_at(monkeypatch, steps, number=signal.SIGINT):
    def during(step):
        if step in steps:
            steps.remove(step)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(tiny.Evaluator, "during", staticmethod(during))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("step", [4, 8])
def test_an_evaluation_that_is_stopped_is_left_and_made_again(
    run, whole, tmp_path, monkeypatch, step, number
):
    stopping_at(monkeypatch, [step], number)
    before = signal.signal(number, signal.default_int_handler)  # nohup has SIGHUP ignored
    try:
        with pytest.raises(
            Interrupted, match=f"stopped at step {step} .*all is saved; run the same"
        ) as stopped:
            run(tmp_path / "run")
    finally:
        signal.signal(number, before)
    assert stopped.value.exit_code == 128 + number
    assert Saved(tmp_path / "run").steps[-1] == step
    steps = [json.loads(line)["step"] for line in metrics(tmp_path / "run").splitlines()]
    assert steps == list(range(4, step, 4))  # the evaluation that was left has no line
    run(tmp_path / "run")
    assert_same(tmp_path / "run", whole)


def test_an_evaluation_may_be_stopped_again_and_again(run, whole, tmp_path, monkeypatch, ctrl_c_is_heard):
    stopping_at(monkeypatch, [4, 4, 4, 8, 8])
    for _ in range(5):
        with pytest.raises(Interrupted):
            run(tmp_path / "run")
    run(tmp_path / "run")
    assert_same(tmp_path / "run", whole)


def test_a_signal_before_an_evaluation_does_not_wait_for_it(run, whole, tmp_path, monkeypatch):
    take = tiny.Feed.take

    def signalled(self, number):
        if number == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(tiny.Feed, "take", signalled)
        with pytest.raises(Interrupted, match="step 4"):
            run(tmp_path / "run")
    assert not tiny.Evaluator.calls
    run(tmp_path / "run")
    assert_same(tmp_path / "run", whole)


def test_a_second_ctrl_c_ends_at_once(run, tmp_path, monkeypatch, ctrl_c_is_heard):
    stopping_at(monkeypatch, [4])
    once = tiny.Evaluator.during
    monkeypatch.setattr(
        tiny.Evaluator, "during", staticmethod(lambda step: (once(step), once(4), press(step)))
    )

    def press(step):
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run")
    assert Saved(tmp_path / "run").steps == [2]


def test_the_evaluator_looks_for_a_signal_at_every_pair(monkeypatch):
    class Source:
        mos = np.arange(9.0)
        reference = np.array(["a"] * 9)
        paired = True

        def __len__(self):
            return 9

        def select(self, positions):
            return self

    seen = []

    def predict(network, source, *, crops, progress):
        for pair in range(9):
            seen.append(pair)
            progress(1)
        return np.zeros((1, 9), np.float32)

    monkeypatch.setattr(validation, "predict", predict)
    monkeypatch.setattr(validation, "Network", lambda *_: None)
    monkeypatch.setattr(
        validation, "baselines", lambda source, progress: predict(None, source, crops="", progress=progress)
    )
    state = loop.initial_state(nnx.State({}), optax.sgd(1.0), ema=False)
    for last in (0, 4):
        seen.clear()
        evaluator = validation.Evaluator(Source(), None, crops="center")
        with pytest.raises(validation.Abandoned):
            evaluator(state, {}, stopped=lambda last=last: len(seen) > last)
        assert len(seen) == last + 1
    seen.clear()
    with pytest.raises(validation.Abandoned):  # of PSNR and SSIM
        validation.Evaluator(Source(), None, crops="center")(state, {}, stopped=lambda: len(seen) > 12)
    assert len(seen) == 13
    evaluator.know_baselines([{"step": 4, "psnr_srcc": 0.25, "ssim_srcc": None}])
    seen.clear()
    found = evaluator(state, {})
    assert len(seen) == 9 and found["psnr_srcc"] == 0.25 and np.isnan(found["ssim_srcc"])
