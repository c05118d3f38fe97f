"""Scores of files: none stops the others, each is known in the state in which it was read."""

import os

import numpy as np
import pytest

from iqa_jax.scoring import files as files_module
from iqa_jax.scoring.files import score_files
from iqa_jax.scoring.results import journal_of, state_of
from iqa_jax.signals import Stopped
from tests.cli.test_score import Fidelity, score_pairs
from tests.cli.test_score import Stopped as StoppedMetric
from tests.miniature import noisy, picture, save

pytestmark = pytest.mark.quick

RAISED = [
    ZeroDivisionError("division by zero"),
    KeyError("weights"),
    IndexError(),
    TypeError("a\nb"),
    AssertionError("odd"),
    NotImplementedError("this kind"),
    np.linalg.LinAlgError("singular"),
]


@pytest.fixture
def pairs(tmp_path):
    """Five targets of one reference; the third is wider than the others and has a wider reference."""
    made = []
    for number in range(5):
        image = picture(0, (32, 40 if number == 2 else 36))
        save(tmp_path / "ref" / f"{image.shape[1]}.png", image)
        save(tmp_path / "dis" / f"{number}.png", noisy(image, 4.0 * number, number))
        made.append((tmp_path / "dis" / f"{number}.png", tmp_path / "ref" / f"{image.shape[1]}.png"))
    return made


class Failing(Fidelity):
    """Raises for the images that are 40 pixels wide, in one of its methods; scores four images together."""

    def __init__(self, error, method):
        super().__init__()
        self.error, self.method = error, method

    def _fail(self, images, method):
        if method == self.method and images[-1].shape[1] == 40:
            raise self.error

    def check(self, *images):
        self._fail(images, "check")
        super().check(*images)

    def stream(self, pairs):
        together = []
        for images in pairs:
            together.append(images)
            self._fail(images, "stream")
            if len(together) == 4:
                yield from (self.score(*images) for images in together)
                together = []
        yield from (self.score(*images) for images in together)

    def map(self, *images):
        self._fail(images, "map")
        return super().map(*images)


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("method", ["check", "stream"])
def test_no_exception_of_one_file_stops_the_others(pairs, method, error, tmp_path):
    table = tmp_path / "s.csv"
    assert score_pairs(Failing(error, method), pairs, table=table) == 1
    rows = table.read_text().splitlines()[1:]
    assert [bool(row.split(",")[2]) for row in rows] == [True, True, False, True, True]
    assert type(error).__name__ in rows[2] and "\nb" not in rows[2]


@pytest.mark.parametrize("where", ["read_image", "draw", "map"])
def test_nor_does_one_in_reading_or_drawing(pairs, monkeypatch, where):
    read_image = files_module.read_image

    def fails(path, **options):
        if where == "read_image" and path == pairs[2][0]:
            raise ZeroDivisionError("division by zero")
        return read_image(path, **options)

    def draw(position, images, quality):
        if where == "draw" and position == 2:
            raise KeyError("colour")

    monkeypatch.setattr(files_module, "read_image", fails)
    metric = Failing(LookupError("windows"), "map" if where == "map" else "")
    results = [result for _, result in sorted(score_files(metric, pairs, map_writer=draw))]
    expected = {
        "read_image": f"{pairs[2][0]}: ZeroDivisionError: division by zero",
        "draw": "no map: KeyError: 'colour'",
        "map": "no map: LookupError: windows",
    }
    assert [result.error for result in results] == [None, None, expected[where], None, None]
    assert [result.score is None for result in results] == [False, False, where == "read_image", False, False]


def test_a_fault_of_the_metric_stands_in_every_row(pairs):
    class Broken(Fidelity):
        def score(self, *images):
            raise AttributeError("no weights")

    class Unbegun(Fidelity):
        def stream(self, pairs):
            raise AttributeError("no weights")

    class Short(Fidelity):
        def stream(self, pairs):
            return zip(super().stream(pairs), range(2), strict=False)

    for metric in (Broken(), Unbegun()):
        results = dict(score_files(metric, pairs))
        assert [results[k].error for k in range(5)] == ["AttributeError: no weights"] * 5
    results = dict(score_files(Short(), pairs))  # what it gives is no number, and it stops early
    assert all("TypeError" in results[k].error for k in range(5))


@pytest.mark.parametrize("signal", [KeyboardInterrupt(), Stopped(15)])
def test_signals_are_no_failure_of_a_file(pairs, signal):
    with pytest.raises(type(signal)):
        list(score_files(Failing(signal, "stream"), pairs))


def test_a_file_that_is_replaced_while_it_is_scored_is_scored_again(pairs, tmp_path, monkeypatch):
    read_image = files_module.read_image
    other = tmp_path / "other.png"
    save(other, noisy(picture(0, (32, 36)), 60.0, 9))
    scored = [target for target, _ in pairs[:2]]  # before the stop; a thread may read ahead beyond it
    assert min(result.score for _, result in score_files(Fidelity(), pairs[:2])) > 80

    def replaced(path, **options):
        image = read_image(path, **options)
        if path in scored:  # by another with the same date, as soon as it was read
            known = path.stat()
            path.write_bytes(other.read_bytes())
            os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))
        return image

    table = tmp_path / "s.csv"
    with monkeypatch.context() as patch:
        patch.setattr(files_module, "read_image", replaced)
        metric = StoppedMetric()
        metric.after = 2
        with pytest.raises(KeyboardInterrupt):
            score_pairs(metric, pairs[:2] + pairs[3:], table=table)
    assert journal_of(table).read_text().count("\n") == 3
    assert score_pairs(Fidelity(), pairs[:2] + pairs[3:], table=table) == 0
    scores = [float(row.split(",")[2]) for row in table.read_text().splitlines()[1:]]
    assert max(scores[:2]) < 80


def test_the_state_of_all_files_is_that_before_they_were_read(pairs, tmp_path):
    save(tmp_path / "mask.png", np.full((32, 36, 3), 255, np.uint8))
    target, reference = pairs[0]
    masks = {target: tmp_path / "mask.png"}
    before = tuple(state_of(path) for path in (target, reference, masks[target]))
    ((_, result),) = score_files(Fidelity(), pairs[:1], masks=masks)
    assert result.states == before and None not in before
    ((_, result),) = score_files(Fidelity(full_reference=False), [(target, None)])
    assert result.states == (before[0], None, None)


def test_sizes_that_differ_are_said_in_pixels_with_what_to_do(tmp_path, capsys):
    save(tmp_path / "r.png", picture(0, (48, 64)))
    save(tmp_path / "t.png", picture(0, (24, 32)))
    assert score_pairs(Fidelity(), [(tmp_path / "t.png", tmp_path / "r.png")]) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error.endswith("reference and target differ in shape: 64 x 48 and 32 x 24 pixels")
    assert "--resize target" in hint and "--resize reference" in hint and "`prepare`" in hint
    save(tmp_path / "t.png", picture(0, (48, 64)))
    (tmp_path / "r.png").write_bytes(b"")
    assert score_pairs(Fidelity(), [(tmp_path / "t.png", tmp_path / "r.png")]) == 1
    assert "--resize" not in capsys.readouterr().err
