"""When rows, evaluations and diagnostics are due."""

import pytest

from dlopt.training.due import Intervals


@pytest.mark.parametrize(
    ("log_every", "eval_every", "steps", "evaluations", "rows"),
    [
        (None, 3, 10, [3, 6, 9, 10], [3, 6, 9, 10]),
        (4, 3, 10, [3, 6, 9, 10], [3, 4, 6, 8, 9, 10]),
        (4, 20, 10, [10], [4, 8, 10]),
        (None, 5, 10, [5, 10], [5, 10]),
        (1, 1, 3, [1, 2, 3], [1, 2, 3]),
    ],
)
def test_evaluations_are_at_intervals_and_at_the_end_and_each_has_a_row(
    log_every, eval_every, steps, evaluations, rows
):
    due = Intervals(log_every=log_every, eval_every=eval_every, steps=steps)
    assert [step for step in range(1, steps + 1) if due.evaluation(step)] == evaluations
    assert [step for step in range(1, steps + 1) if due.row(step)] == rows
    assert [step for step in range(1, steps + 1) if due.diagnostic(None, step)] == rows, (
        "without an interval of its own"
    )
    assert [step for step in range(1, steps + 1) if due.diagnostic(2, step)] == list(range(2, steps + 1, 2))
    assert due.may_end
