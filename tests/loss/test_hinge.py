"""The multi-class hinge loss against torch's and its own formula, in float64."""

import pytest
import torch
from helpers import assert_build_refused, build_blobs, make_option, train_runs

from dlopt.loss.hinge import Hinge

METRICS = ["accuracy", "error"]


def drawn():
    torch.manual_seed(0)
    return torch.randn(20, 4, dtype=torch.float64, requires_grad=True), torch.randint(4, (20,))


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("margin", [0.3, 1.0, 2.5])
def test_values_and_gradients_are_torchs(power, margin):
    outputs, targets = drawn()
    ours, theirs = Hinge(margin, power, METRICS), torch.nn.MultiMarginLoss(p=power, margin=margin)
    a, b = ours(outputs, targets), theirs(outputs, targets)
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(torch.autograd.grad(a, outputs), torch.autograd.grad(b, outputs))


@pytest.mark.parametrize("power", [1, 2])
def test_it_is_the_sum_over_the_wrong_classes(power):
    outputs, targets = drawn()
    total = 0.0
    for row, y in zip(outputs.tolist(), targets.tolist(), strict=True):
        total += sum(max(0.0, 0.7 - row[y] + row[j]) ** power for j in range(4) if j != y)
    assert Hinge(0.7, power, METRICS)(outputs, targets).item() == pytest.approx(total / 4 / 20)


def test_a_lead_by_the_margin_costs_nothing_and_pulls_at_nothing():
    _, targets = drawn()
    outputs = 1.5 * torch.nn.functional.one_hot(targets, 4).double().requires_grad_()
    loss = make_option("loss", "hinge")(outputs, targets)
    assert loss == 0.0
    assert (torch.autograd.grad(loss, outputs)[0] == 0).all()
    assert make_option("loss", "hinge", margin=2.0)(outputs, targets).item() == pytest.approx(0.5 * 3 / 4)


@pytest.mark.parametrize("power", [1, 2])
def test_as_many_times_as_there_are_classes_it_bounds_the_error_from_above(power):
    """A wrong class in front costs at least margin^power = 1 of C: C times the loss is no less than the 0-1 loss."""
    outputs, targets = drawn()
    loss = Hinge(1.0, power, METRICS)
    assert 4 * loss(outputs, targets) >= loss.measure(outputs, targets)["error"]


def test_lanes_may_differ_in_the_margin(tmp_path):
    runs = [build_blobs("loss=hinge", f"loss.margin={m}", "precision=float64") for m in (0.5, 2.0)]
    together, _ = train_runs(tmp_path / "lanes", *runs)
    for i, run in enumerate(runs):
        (alone,), _ = train_runs(tmp_path / f"alone{i}", run)
        assert together[i]["test/loss"] == pytest.approx(alone["test/loss"], rel=1e-9)
    assert together[0]["test/loss"] != together[1]["test/loss"]


def test_surrogate_and_0_1_loss_are_both_reported(tmp_path):
    (summary,), _ = train_runs(tmp_path, build_blobs("loss=hinge"))
    assert {"val/loss", "val/error", "test/loss", "test/error"} <= set(summary)


@pytest.mark.parametrize(
    ("override", "key"), [("loss.power=3", "loss.power"), ("loss.margin=0", "loss.margin"), ("loss.power=1.5", "loss.power")]
)  # fmt: skip
def test_other_powers_and_margins_are_refused(override, key):
    assert_build_refused(lambda: build_blobs("loss=hinge", override), key, "must be")


def test_mixed_targets_are_refused():
    mixing = ("augmentation=custom", "augmentation.custom._target_=mine.MixOpposites")
    assert_build_refused(lambda: build_blobs("loss=hinge", *mixing), "loss", "Hinge does not take")
