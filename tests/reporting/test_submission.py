"""A submission that resumes."""

import csv
import dataclasses
import zipfile

import numpy as np
import pytest

from iqa_jax.errors import UserError
from iqa_jax.files import locked
from iqa_jax.reporting.submission import make_submission
from iqa_jax.scoring import dataset
from iqa_jax.scoring.dataset import Predictor

pytestmark = pytest.mark.quick
NAMES = ["a.png", "b,c.png", "two\nlines.png", "caf\udce9.png", 'quo"te.png', "日本.png"]
OPTIONS = {"cpu": True, "extra_data": True, "description": "naïve \udce9"}


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
def source(monkeypatch):
    monkeypatch.setattr(dataset, "_PART", 2)
    return Pairs(np.array(NAMES, object), np.array(["R1", "R1", "R2", "R2", "R3", "R3"], object))


def score_of(name):
    return np.float32(NAMES.index(name) + 1 / 3)


class Scores(Predictor):
    """Scores by name, without weights; is interrupted when it has scored some references."""

    full_reference = True
    crops = "ten"

    def __init__(self, references=99, identity="w"):
        self.left, self.seen, self.identity = references, [], identity

    def __call__(self, pairs, progress=None):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.seen += list(pairs.name)
        return np.array([score_of(name) for name in pairs.name], np.float32)


def test_names_with_commas_line_breaks_and_odd_bytes_resume(source, tmp_path):
    earlier = []
    for _ in range(2):
        predictor = Scores(1)
        with pytest.raises(KeyboardInterrupt):
            make_submission(tmp_path, source, predictor, **OPTIONS)
        assert len(predictor.seen) == 2
        earlier += predictor.seen
    predictor, done = Scores(), []
    predictions = make_submission(tmp_path, source, predictor, **OPTIONS, progress=done.append)
    assert sorted(predictor.seen + earlier) == sorted(NAMES) and done == [2, 2, 2]
    assert predictions.scores.tolist() == [score_of(name) for name in NAMES]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["output.txt", "readme.txt", "submission.zip"]
    assert "naïve ".encode() + b"\xe9" in (tmp_path / "readme.txt").read_bytes()  # whatever the locale
    with open(tmp_path / "output.txt", encoding="utf-8", errors="surrogateescape", newline="") as file:
        assert dict(csv.reader(file)) == {name: f"{score_of(name):.6f}" for name in NAMES}
    with zipfile.ZipFile(tmp_path / "submission.zip") as file:
        for name in ("output.txt", "readme.txt"):
            assert file.read(name) == (tmp_path / name).read_bytes()


def test_a_damaged_score_is_computed_again(source, tmp_path):
    interrupted = Scores(2)
    with pytest.raises(KeyboardInterrupt):
        make_submission(tmp_path, source, interrupted, **OPTIONS)
    (journal, _) = sorted((tmp_path / "predictions.partial").glob("part-*.journal"))
    content = journal.read_bytes()
    assert b".33333" in content
    journal.write_bytes(content.replace(b".33333", b".43333"))
    predictor = Scores()
    predictions = make_submission(tmp_path, source, predictor, **OPTIONS)
    assert predictions.scores.tolist() == [score_of(name) for name in NAMES]
    assert len(predictor.seen) == 4 and len(set(predictor.seen) & set(interrupted.seen)) == 2


def test_a_second_process_and_two_pictures_of_one_name_are_errors(source, tmp_path):
    with locked(tmp_path / ".submission.lock"), pytest.raises(UserError, match="another process writes"):
        make_submission(tmp_path, source, Scores(), **OPTIONS)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "readme.txt").write_text("mine")
    with pytest.raises(UserError, match="readme.txt: is there already and is no readme of iqa_jax"):
        make_submission(tmp_path / "mine", source, Scores(), **OPTIONS)
    source.name[1] = "a.png"
    with pytest.raises(UserError, match="two pictures have one name"):
        make_submission(tmp_path, source, Scores(), **OPTIONS)


def test_other_weights_do_not_take_the_scores(source, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make_submission(tmp_path, source, Scores(1), **OPTIONS)
    with pytest.raises(UserError, match="belongs to another job .*'weights': 'w'"):
        make_submission(tmp_path, source, Scores(identity="v"), **OPTIONS)
