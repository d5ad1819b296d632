"""What checkpoints hold, and where two of them differ."""

import math
from collections import OrderedDict

import pytest
import torch
from helpers import build_blobs, train_runs

from dlopt.training.checkpointing import STATE_KEYS, find_differences

ONE = {
    "step": 3,
    "model": {"a": torch.tensor([1.0, -0.0]), "b": torch.zeros(0, 2)},
    "state": (torch.arange(3), [1, {"t": torch.tensor(2.0)}]),
    "row": '{"val/loss": 0.1}',
    "average": None,
    "rate": math.nan,
}


def changed(x, place=None, value=None):
    """A deep copy, with another value at one place where one is given: keys and indices."""
    if place == ():
        return value

    def inner(key, y):
        return changed(y, place[1:] if place is not None and place[0] == key else None, value)

    if isinstance(x, dict):
        return {key: inner(key, y) for key, y in x.items()}
    if isinstance(x, (tuple, list)):
        return type(x)(inner(i, y) for i, y in enumerate(x))
    return x.clone() if isinstance(x, torch.Tensor) else x


def test_what_is_equal_has_no_difference():
    assert list(find_differences(ONE, changed(ONE))) == []
    assert list(find_differences(OrderedDict(a=1), {"a": 1})) == []
    assert list(find_differences([1, 2], (1, 2))) == [], "what is loaded may be either"
    for value in (torch.tensor(math.nan), torch.tensor([1e-45]), torch.zeros(3, 0), torch.tensor(True)):
        assert list(find_differences(value, value.clone())) == []
    strided = torch.arange(12.0).view(3, 4).T
    assert list(find_differences(strided, strided.contiguous())) == []


@pytest.mark.parametrize(("place", "value"), [
    (("step",), 4),
    (("step",), 3.0),
    (("model", "a"), torch.tensor([1.0, 0.0])),
    (("model", "a"), torch.tensor([1.0 + 2**-23, -0.0])),
    (("model", "a"), torch.tensor([1.0, -0.0], dtype=torch.float64)),
    (("model", "a"), torch.tensor([[1.0, -0.0]])),
    (("model", "a"), torch.tensor([1.0, -0.0]).view(torch.int32)),
    (("model", "a"), [1.0, -0.0]),
    (("model", "b"), torch.zeros(2, 0)),
    (("model", "b"), None),
    (("model",), {"a": torch.tensor([1.0, -0.0])}),
    (("state",), (torch.arange(3),)),
    (("state", 1, 1, "t"), torch.tensor(math.nan)),
    (("row",), '{"val/loss": 0.2}'),
    (("average",), 0),
    (("rate",), 0.0),
])  # fmt: skip
def test_each_difference_is_named_by_its_place(place, value):
    wanted = ["".join(f"/{key}" for key in place)]
    assert list(find_differences(ONE, changed(ONE, place, value))) == wanted
    assert list(find_differences(changed(ONE, place, value), ONE)) == wanted


def test_all_that_decides_how_a_run_goes_on_is_compared(tmp_path):
    """Beside the clock, what comes from the configuration, and rows, which are compared on their own."""
    _, (run,) = train_runs(tmp_path, build_blobs())
    left = run.load("last").keys() - set(STATE_KEYS)
    assert left == {"format", "config", "settings", "preprocessing", "encoding", "logged", "row", "history", "seconds"}
