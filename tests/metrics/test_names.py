"""Names of metrics in rows."""

import pytest

from dlopt.metrics.names import find_direction, select_headline


@pytest.mark.parametrize("prefix", ["", "train/", "val/", "average/val/", "last/test/", "recent/train/"])
def test_the_direction_of_a_metric_does_not_depend_on_its_weights_or_steps(prefix):
    assert find_direction(f"{prefix}accuracy", {}) == "max"
    assert find_direction(f"{prefix}f1", {"f1": "max"}) == "max"


def test_the_headline_of_a_row_between_evaluations_is_of_recent_steps():
    recent = {"recent/train/accuracy": 0.5, "recent/train/loss": 1.0, "lr": 0.1}
    assert select_headline(recent) == ["recent/train/loss", "recent/train/accuracy"]
    assert select_headline(recent | {"val/loss": 2.0, "train/loss": 3.0}) == ["train/loss", "val/loss"]
