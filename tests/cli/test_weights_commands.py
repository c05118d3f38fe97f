"""Options of the commands that take weights: what does nothing is refused, what is large is bounded."""

import pytest

from iqa_jax.cli.options import numbers_of, step_of
from iqa_jax.errors import UserError

pytestmark = pytest.mark.quick


def test_numbers_are_bounded_and_in_order():
    assert numbers_of("--epochs", "2-4, 7,9 - 9") == [2, 3, 4, 7, 9]
    for text, message in (
        ("1-999999999", "more than 100,000 numbers"),
        ("1-60000,1-60000", "more than 100,000 numbers"),
        ("1-" + "9" * 30, "expected numbers such as"),
        ("5-3", "5-3 goes down"),
        ("7,5-3", "5-3 goes down"),
        ("1-2-3", "expected numbers such as"),
        ("²", "expected numbers such as"),
        (",", "expected numbers such as"),
    ):
        with pytest.raises(UserError, match=f"^--epochs .*{message}"):
            numbers_of("--epochs", text)


def test_a_step_is_a_number_or_a_word():
    assert [step_of(text) for text in ("7", "best", "²", "9" * 30)] == [7, "best", "²", "9" * 30]


@pytest.mark.parametrize("options", [("--step", "5"), ("--step", "latest"), ("--ema",)])
def test_what_chooses_between_checkpoints_is_refused_of_other_weights(call, tmp_path, small_weights, options):
    name = options[0].lstrip("-")
    for command in (
        ("export", "--weights", "blind", "--output", tmp_path / "a.jaxexport"),
        ("pack", "--weights", small_weights, "--output", tmp_path / "packed"),
        ("pack", "--weights", "full-reference", "--output", tmp_path / "packed"),
    ):
        code, out, err = call(*command, *options)
        assert (code, out) == (1, "") and err.count("\n") == 1
        assert f"no training run; {name} chooses between those of a run, leave it out" in err
    assert not list(tmp_path.iterdir())


def test_average_refuses_what_has_no_effect(call, tmp_path):
    begin = ("average", "--workdir", tmp_path, "--epochs", "1-2")
    for options, message in (
        (("--steps", "0", "--data-dir", tmp_path), "no effect"),
        (("--list", "3"), "give either --epochs"),
    ):
        code, _, err = call(*begin, *options)
        assert code == 1 and message in err and err.count("\n") == 1
