"""Targets of your own data, and the test split."""

import numpy as np
import pytest
import torch

from dlopt.data import _targets
from dlopt.errors import OptionError


def test_the_test_rows_are_the_same_everywhere_and_always():
    """These numbers may never change: results would not be comparable."""
    train, test = _targets.split_test(torch.arange(10) % 2, 0.4)
    assert test.tolist() == [1, 6, 7, 8]
    assert sorted(train.tolist() + test.tolist()) == list(range(10))


@pytest.mark.parametrize(
    ("values", "kind"),
    [([1, 2], "classes"), ([True, False], "classes"), (["a", "b"], "classes"), ([1.0, 2.0], "numbers")],
)
def test_floats_are_numbers_and_all_else_are_classes(values, kind):
    assert _targets.infer_kind(np.array(values), "auto") == kind
    assert _targets.infer_kind(np.array(values), "classes") == "classes"


def test_classes_are_counted_from_zero_in_sorted_order():
    codes, names = _targets.encode_classes(np.array([7, -2, 7, 10]), "classes")
    assert codes.tolist() == [1, 0, 1, 2]
    assert names == ("-2", "7", "10")


def test_numbers_have_an_output_dimension():
    assert _targets.encode_numbers(np.array([1, 2, 3])).tolist() == [[1], [2], [3]]
    assert _targets.encode_numbers(np.ones((3, 2))).shape == (3, 2)
    assert _targets.encode_numbers(np.ones(3)).dtype == torch.float32


def test_text_cannot_be_numbers():
    with pytest.raises(OptionError, match="'a'"):
        _targets.infer_kind(np.array(["a", "1"]), "numbers")
