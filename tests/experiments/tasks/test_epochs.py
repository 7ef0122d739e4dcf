import collections
import itertools

import pytest

from experiments.tasks.text_task import draws, one_epoch


def test_each_epoch_shows_every_problem_once_and_in_another_order():
    epochs = [[i for _, i in draws(3, (7,), (0,), 7 * epoch, 7)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("cut", [1, 3, 5, 60])
def test_draws_are_a_function_of_the_position(cut):
    whole = draws(1, (5, 3), (0, 1, 0), 0, 60)
    parts = [draws(1, (5, 3), (0, 1, 0), start, cut) for start in range(0, 60, cut)]
    assert list(itertools.chain(*parts)) == whole
    assert draws(2, (5, 3), (0, 1, 0), 0, 60) != whole


def test_kinds_take_turns_and_each_runs_through_its_own_epochs():
    drawn = draws(0, (10, 4), (0, 1, 0, 0), 0, 400)
    assert [kind for kind, _ in drawn[:8]] == [0, 1, 0, 0] * 2
    counts = collections.Counter(drawn)
    assert all(counts[0, i] == 30 for i in range(10))
    assert all(counts[1, i] == 25 for i in range(4))


def test_nothing_repeats_within_one_epoch():
    sizes, pattern = (10, 4), (0, 1, 0, 0)
    length = one_epoch(sizes, pattern)
    assert length == 12  # three of kind 0 a cycle: after three cycles one is left
    assert len(set(draws(5, sizes, pattern, 0, length))) == length
    assert len(set(draws(5, sizes, pattern, 0, length + len(pattern)))) < length + len(pattern)
