import time

import pytest

from iqa_jax.parallel.read_ahead import read_ahead

pytestmark = pytest.mark.quick


def test_results_come_in_order_whichever_is_done_first():
    def slow_first(number):
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number * number

    assert list(read_ahead(slow_first, range(10), threads=4)) == [n * n for n in range(10)]


def test_no_more_is_read_than_was_asked_for():
    started = []
    results = read_ahead(lambda number: started.append(number) or number, iter(range(10**9)), ahead=3)
    assert [next(results) for _ in range(5)] == list(range(5))
    results.close()
    assert started == list(range(len(started))) and 5 <= len(started) <= 5 + 3


def test_an_error_is_raised_at_its_item():
    results = read_ahead(lambda number: 1 / number, [1, 2, 0, 4])
    assert [next(results), next(results)] == [1, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(results)
