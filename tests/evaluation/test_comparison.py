"""Methods compared on the same pictures."""

import numpy as np
import pytest

from iqa_jax.errors import UserError
from iqa_jax.evaluation.comparison import compare

pytestmark = pytest.mark.quick
CONTENTS = [f"r{k:02d}" for k in np.repeat(np.arange(25), 4)]


def three_methods():
    """B is 0.12 below A on most pictures, C differs from A by noise alone."""
    rng = np.random.default_rng(0)
    a = rng.uniform(2, 5, 100)
    return {"A": a, "B": a - 0.12 + 0.1 * rng.standard_normal(100), "C": a + 0.1 * rng.standard_normal(100)}


def test_means_wins_and_what_is_told_apart():
    scores = three_methods()
    found = compare(scores, CONTENTS, left_out=3)
    assert found.means == pytest.approx([values.mean() for values in scores.values()])
    best = np.argmax(np.stack([*scores.values()]), axis=0)
    assert found.wins == tuple(int((best == k).sum()) for k in range(3)) and sum(found.wins) == 100
    assert (found.pictures, found.references, found.left_out) == (100, 25, 3)
    by_pair = {frozenset((d.better, d.other)): d for d in found.differences}
    assert len(by_pair) == 3  # all pairs of three
    apart = by_pair[frozenset("AB")]
    gap = scores["A"] - scores["B"]
    assert apart.better == "A" and apart.shown and apart.mean == pytest.approx(gap.mean())
    low, high = apart.interval
    assert 0 < low < apart.mean < high
    assert apart.sentence == (
        f"A is better than B on {(gap > 0).sum()} of 100 pictures, mean difference {gap.mean():.2f} "
        f"({low:.2f} to {high:.2f})"
    )
    alike = by_pair[frozenset("AC")]
    assert not alike.shown and alike.sentence.startswith(f"{alike.better} and {alike.other}: no difference")


def test_the_interval_is_that_of_references_not_of_pictures():
    """Twenty equal pictures of a reference say as much as one."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.1, 1, 30), np.zeros(30)
    once = compare({"a": a, "b": b}, [f"{k:02d}" for k in range(30)]).differences[0]
    often = compare(
        {"a": a.repeat(20), "b": b.repeat(20)}, [f"{k:02d}" for k in np.repeat(range(30), 20)]
    ).differences[0]
    assert often.interval == pytest.approx(once.interval) and often.mean == pytest.approx(once.mean)


def test_many_methods_are_compared_with_the_best():
    rng = np.random.default_rng(2)
    scores = {f"m{k}": rng.normal(k == 3, 0.1, 20) for k in range(6)}
    found = compare(scores, [str(k) for k in range(20)])
    assert len(found.differences) == 5 and {d.better for d in found.differences} == {"m3"}


def test_a_single_reference_has_no_interval_and_equal_scores_no_winner():
    (only,) = compare({"a": [2.0, 3.0], "b": [1.0, 3.0]}, ["r", "r"]).differences
    assert only.interval is None and not only.shown and "a single reference" in only.sentence
    assert (only.better_on, only.worse_on, only.report()["interval_95"]) == (1, 0, None)
    (equal,) = compare({"a": [3.0, 3.0], "b": [3.0, 3.0]}, ["r", "r"]).differences
    assert equal.sentence == "a and b: equal means, a is better on 0 of 2 pictures and worse on 0"
    same = compare({"a": [2.0, 3.0], "b": [2.0, 3.0]}, ["r", "s"])
    assert same.wins == (0, 0) and "no difference shown, mean difference 0.00" in same.differences[0].sentence


@pytest.mark.parametrize(
    ("scores", "contents", "what"),
    [
        ({"a": [1.0, 2.0], "b": [1.0]}, ["r", "s"], "b: scores: 1, pictures: 2"),
        ({"a": [1.0, 2.0]}, ["r"], "a: scores: 2, pictures: 1"),
        ({"a": [1.0, 2.0]}, ["r", "s", "t"], "a: scores: 2, pictures: 3"),
        ({"a": [1.0, float("nan")]}, ["r", "s"], "a: a score is not finite"),
        ({"a": []}, [], "a: scores: 0, pictures: 0"),
        ({}, [], "no methods to compare"),
    ],
)
def test_scores_that_do_not_fit_are_refused(scores, contents, what):
    with pytest.raises(UserError, match=what):
        compare(scores, contents)


@pytest.mark.parametrize(("shift", "text"), [(0.004, "0.004 (0.004 to 0.004)"), (0.5, "0.50 (0.50 to 0.50)")])
def test_a_small_difference_is_not_rounded_to_none(shift, text):
    values = np.arange(3.0)
    (only,) = compare({"a": values + shift, "b": values}, list("rst")).differences
    assert only.sentence.endswith(f"mean difference {text}")
