"""A submission that resumes."""

import csv
import dataclasses
import zipfile

import numpy as np
import pytest

from iqa_jax.errors import UserError
from iqa_jax.evaluation.submission import predict_resumably, write
from iqa_jax.files import locked

pytestmark = pytest.mark.quick
NAMES = ["a.png", "b,c.png", "two\nlines.png", "caf\udce9.png", 'quo"te.png', "日本.png"]


@dataclasses.dataclass
class Pairs:
    """As much of a `PairSource` as a submission needs."""

    name: np.ndarray
    reference: np.ndarray
    dataset: str = "pairs/odd"

    def __len__(self):
        return len(self.name)

    def fingerprint(self):
        return "the pairs"

    def select(self, positions):
        return Pairs(self.name[positions], self.reference[positions])


@pytest.fixture
def source():
    return Pairs(np.array(NAMES, object), np.array(["R1", "R1", "R2", "R2", "R3", "R3"], object))


def score_of(name):
    return NAMES.index(name) + 1 / 3


class Metric:
    """Scores by name; is interrupted when it has scored some groups."""

    def __init__(self, groups=99):
        self.left, self.seen = groups, []

    def __call__(self, pairs):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.seen += list(pairs.name)
        return np.array([score_of(name) for name in pairs.name])


def test_names_with_commas_line_breaks_and_odd_bytes_resume(source, tmp_path):
    for groups in (1, 1):
        metric = Metric(groups)
        with pytest.raises(KeyboardInterrupt):
            predict_resumably(source, metric, tmp_path, identity={"weights": "w"})
        assert len(metric.seen) == 2
    metric, told = Metric(), []
    predictions = predict_resumably(source, metric, tmp_path, identity={"weights": "w"}, progress=told.append)
    assert metric.seen == NAMES[4:] and told == [4, 2]
    assert predictions.scores == {name: score_of(name) for name in NAMES}
    options = {"full_reference": True, "cpu": True, "extra_data": True, "description": "naïve \udce9"}
    archive = write(tmp_path, predictions, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["output.txt", "readme.txt", "submission.zip"]
    assert "naïve ".encode() + b"\xe9" in (tmp_path / "readme.txt").read_bytes()  # whatever the locale
    with open(tmp_path / "output.txt", encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert dict(csv.reader(file)) == {name: f"{score_of(name):.6f}" for name in NAMES}
    with zipfile.ZipFile(archive) as file:
        for name in ("output.txt", "readme.txt"):
            assert file.read(name) == (tmp_path / name).read_bytes()


def test_a_damaged_score_is_computed_again(source, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        predict_resumably(source, Metric(2), tmp_path, identity={})
    journal = tmp_path / "predictions.partial"
    whole = journal.read_bytes()
    assert b"0.3333333333333333" in whole
    journal.write_bytes(whole.replace(b"0.3333333333333333", b"0.4333333333333333"))
    metric = Metric()
    assert predict_resumably(source, metric, tmp_path, identity={}).scores["a.png"] == score_of("a.png")
    assert metric.seen == ["a.png", *NAMES[4:]]


def test_a_score_that_is_no_number_and_a_second_process_are_named(source, tmp_path):
    with pytest.raises(UserError, match=r"a\.png: its score is nan"):
        predict_resumably(source, lambda pairs: np.full(len(pairs), np.nan), tmp_path, identity={})
    with locked(tmp_path / ".submission.lock"), pytest.raises(UserError, match="another process writes"):
        predict_resumably(source, Metric(), tmp_path, identity={})
    source.name[1] = "a.png"
    with pytest.raises(UserError, match="pictures of one name"):
        predict_resumably(source, Metric(), tmp_path, identity={})


def test_other_weights_do_not_take_the_scores(source, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        predict_resumably(source, Metric(1), tmp_path, identity={"weights": "w"})
    with pytest.raises(UserError, match="part of another submission.*'weights': 'w'"):
        predict_resumably(source, Metric(), tmp_path, identity={"weights": "v"})
