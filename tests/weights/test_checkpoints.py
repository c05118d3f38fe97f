import shutil

import numpy as np
import pytest

from iqa_jax.errors import TrainingError, WeightsError
from iqa_jax.weights.checkpoints import Checkpoints, Saved


def arrays(step):
    rng = np.random.default_rng(step)
    return {
        "step": np.int32(step),
        "weights.large": rng.standard_normal((300, 100)).astype(np.float32),
        "weights.small": rng.standard_normal(3).astype(np.float32),
    }


def written(workdir, srcc, **kw):
    """A run with a checkpoint at each step of `srcc`."""
    with Checkpoints(workdir, **kw) as checkpoints:
        for step, value in srcc.items():
            checkpoints.save(step, arrays(step), srcc=value)
        checkpoints.wait()
        return checkpoints.steps, checkpoints.best_step()


def check(found, step):
    assert found.keys() == arrays(step).keys()
    for name, array in arrays(step).items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_keeps_the_latest_and_the_best(tmp_path):
    steps, best = written(tmp_path, {1: 0.5, 2: 0.9, 3: 0.7, 4: 0.6, 5: 0.8}, keep=2)
    assert steps == [2, 4, 5] and best == 2


def test_a_poor_or_undefined_srcc_is_never_the_best(tmp_path):
    steps, best = written(tmp_path, {1: 0.5, 2: float("nan"), 3: None, 4: -0.9}, keep=1)
    assert steps == [1, 4] and best == 1


def test_every_epoch_is_kept_for_averaging(tmp_path):
    steps, _ = written(tmp_path, {step: step / 100 for step in range(2, 14, 2)}, keep=1, every=4)
    assert steps == [4, 8, 12]


def test_reads_what_was_written(tmp_path):
    written(tmp_path, {3: 0.1, 7: 0.2})
    checkpoints = Saved(tmp_path)
    check(checkpoints.read(7), 7)
    with pytest.raises(WeightsError, match="no checkpoint of step 5; there are: 3, 7"):
        checkpoints.read(5)


def largest(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip_a_bit(folder):
    content = bytearray(largest(folder).read_bytes())
    content[len(content) // 2] ^= 4
    largest(folder).write_bytes(content)


def truncate(folder):
    largest(folder).write_bytes(largest(folder).read_bytes()[:1000])


def remove_a_file(folder):
    (folder / "arrays" / "manifest.ocdbt").unlink()


def remove_the_arrays(folder):
    shutil.rmtree(folder / "arrays")


def truncate_the_seal(folder):
    seal = folder / "sha256.json"
    seal.write_bytes(seal.read_bytes()[:100])


def change_the_seal(folder):
    seal = folder / "sha256.json"
    seal.write_text(seal.read_text().replace('"srcc": 0.2', '"srcc": 0.9'))


def nothing_in_the_seal(folder):
    (folder / "sha256.json").write_text("[]")


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_bit,
        truncate,
        remove_a_file,
        remove_the_arrays,
        truncate_the_seal,
        change_the_seal,
        nothing_in_the_seal,
    ],
)
def test_a_damaged_newest_is_named_and_passed_over(tmp_path, damage, capfd):
    written(tmp_path, {3: 0.3, 7: 0.2})
    damage(tmp_path / "checkpoints" / "7")
    said = []
    with Checkpoints(tmp_path, say=said.append) as checkpoints:
        found, _ = checkpoints.read_latest()
        check(found, 3)
        assert len(said) == 1 and "checkpoints/7: damaged" in said[0]
        checkpoints.save(7, arrays(7), srcc=0.4)
        checkpoints.wait()
        assert checkpoints.steps == [3, 7]
    assert "Traceback" not in capfd.readouterr().err


def better(folder):
    (folder / "metrics" / "metrics").write_text('{"srcc": 0.9}')


def cut(folder):
    (folder / "metrics" / "metrics").write_bytes(b'{"sr')


def empty(folder):
    (folder / "metrics" / "metrics").write_bytes(b"")


def gone(folder):
    shutil.rmtree(folder / "metrics")


@pytest.mark.parametrize("damage", [better, cut, empty, gone])
def test_damaged_metrics_make_no_other_step_the_best(tmp_path, damage):
    written(tmp_path, {3: 0.3, 5: 0.1, 7: 0.2}, keep=3)
    for step in (5, 7):
        damage(tmp_path / "checkpoints" / str(step))
    assert Saved(tmp_path).best_step() == 3
    check(Saved(tmp_path).read(7), 7)
    said = []
    with Checkpoints(tmp_path, say=said.append) as checkpoints:
        assert checkpoints.steps == [3, 5, 7] and checkpoints.best_step() == 3
    assert [line.endswith("written again from sha256.json") for line in said] == [True, True]


@pytest.mark.parametrize("damage", [truncate_the_seal, change_the_seal, nothing_in_the_seal])
def test_no_step_is_taken_for_the_best_where_one_cannot_be_trusted(tmp_path, damage):
    written(tmp_path, {3: 0.3, 7: 0.2})
    damage(tmp_path / "checkpoints" / "7")
    with pytest.raises(WeightsError, match=r"checkpoints/7: damaged .*name a step \(there are 3, 7\)"):
        Saved(tmp_path).best_step()
    check(Saved(tmp_path).read(3), 3)
    with pytest.raises(WeightsError, match="checkpoints/7: damaged"):
        Saved(tmp_path).read(7)


LINES = [{"step": 3, "srcc": 0.1}, {"step": 7, "srcc": 1 / 3, "krcc": None}]


def test_a_checkpoint_keeps_the_evaluations_up_to_there(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, arrays(7), srcc=1 / 3, evaluations=LINES)
        checkpoints.wait()
        assert checkpoints.read_latest()[1].evaluations == LINES


@pytest.mark.parametrize("killed", ["before the new one is whole", "before the old one is gone", "not"])
def test_a_checkpoint_is_replaced_whole(tmp_path, killed):
    written(tmp_path, {7: None})
    before = tmp_path / "before"
    shutil.copytree(tmp_path / "checkpoints" / "7", before)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, arrays(8), srcc=0.5)
        check(checkpoints.read_latest()[0], 7)
        checkpoints.save(7, arrays(8), srcc=0.5, evaluations=LINES, replace=True)
    expected = 8
    if killed != "not":
        before.rename(tmp_path / ".checkpoint-7")
    if killed == "before the new one is whole":
        shutil.rmtree(tmp_path / "checkpoints" / "7")
        expected = 7
    with Checkpoints(tmp_path) as checkpoints:
        check(checkpoints.read_latest()[0], expected)
        assert checkpoints.steps == [7]
    assert not list(tmp_path.glob(".checkpoint-*"))


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(self):
        raise ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device")

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, arrays(1))
        checkpoints.wait()
        monkeypatch.setattr("orbax.checkpoint.CheckpointManager.wait_until_finished", full)
        with pytest.raises(
            TrainingError, match="could not be written .*No space left on device.*run the same"
        ):
            checkpoints.save(2, arrays(2))


def test_an_unfinished_checkpoint_does_not_count(tmp_path):
    written(tmp_path, {3: 0.3, 7: 0.2})
    (tmp_path / "checkpoints" / "7").rename(tmp_path / "checkpoints" / "7.orbax-checkpoint-tmp")
    with Checkpoints(tmp_path) as checkpoints:
        check(checkpoints.read_latest()[0], 3)
    assert not list(tmp_path.rglob("*tmp*"))
