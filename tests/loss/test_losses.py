"""Losses and metrics against their formulas, in float64."""

import math

import pytest
import torch
from helpers import list_options, make_option

LOSSES = {name: make_option("loss", name) for name in list_options("loss")}
CROSS_ENTROPY, SQUARED = LOSSES["cross_entropy"], LOSSES["mse"]
losses = pytest.mark.parametrize("name", LOSSES)
N, C = 12, 4


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def batch(kind, lead=()):
    outputs = torch.randn(*lead, N, C, dtype=torch.float64)
    targets = torch.randint(C, (*lead, N)) if kind == "classes" else torch.randn(*lead, N, C, dtype=torch.float64)
    return outputs, targets


@losses
def test_a_loss_is_a_finite_differentiable_scalar(name):
    loss = LOSSES[name]
    outputs, targets = batch(loss.targets)
    value = loss(outputs.requires_grad_(), targets)
    assert value.shape == ()
    assert value.isfinite()
    assert torch.autograd.gradcheck(lambda o: loss(o, targets), (outputs,))


@losses
def test_a_loss_is_the_mean_over_the_examples(name):
    loss = LOSSES[name]
    outputs, targets = batch(loss.targets)
    each = torch.stack([loss(outputs[i : i + 1], targets[i : i + 1]) for i in range(N)])
    torch.testing.assert_close(loss(outputs, targets), each.mean())


@losses
@pytest.mark.parametrize("lead", [(3,), (2, 3)])
def test_metrics_of_many_lanes_are_those_of_each(name, lead):
    loss = LOSSES[name]
    outputs, targets = batch(loss.targets, lead)
    together = loss.measure(outputs, targets)
    flat, flat_targets = outputs.flatten(0, -3), targets.flatten(0, len(lead) - 1)
    for metric, values in together.items():
        assert values.shape == lead
        alone = [loss.measure(o, t)[metric] for o, t in zip(flat, flat_targets, strict=True)]
        torch.testing.assert_close(values.flatten(), torch.stack(alone))


def test_cross_entropy_is_minus_the_mean_log_probability_of_the_right_class():
    outputs, targets = batch("classes")
    total = 0.0
    for row, y in zip(outputs.tolist(), targets.tolist(), strict=True):
        total -= math.log(math.exp(row[y]) / sum(math.exp(o) for o in row))
    assert CROSS_ENTROPY(outputs, targets).item() == pytest.approx(total / N)


def test_cross_entropy_of_equal_outputs_is_the_log_of_the_number_of_classes():
    _, targets = batch("classes")
    assert CROSS_ENTROPY(torch.full((N, C), 7.0).double(), targets).item() == pytest.approx(math.log(C))


def test_adding_a_number_to_all_outputs_changes_nothing():
    outputs, targets = batch("classes")
    shifted = outputs + 1000 * torch.randn(N, 1, dtype=torch.float64)
    torch.testing.assert_close(CROSS_ENTROPY(shifted, targets), CROSS_ENTROPY(outputs, targets))


def test_accuracy_counts_the_right_ones_and_error_the_wrong_ones():
    outputs, targets = batch("classes")
    right = sum(row.index(max(row)) == y for row, y in zip(outputs.tolist(), targets.tolist(), strict=True))
    found = CROSS_ENTROPY.measure(outputs, targets)
    assert 0 < right < N
    assert found["accuracy"].item() == pytest.approx(right / N)
    assert found["error"].item() == pytest.approx(1 - right / N)


@pytest.mark.parametrize(("shift", "accuracy"), [(0, 1.0), (1, 0.0)])
def test_accuracy_of_perfect_and_of_hopeless_outputs(shift, accuracy):
    _, targets = batch("classes")
    outputs = torch.nn.functional.one_hot((targets + shift) % C, C).double()
    assert CROSS_ENTROPY.measure(outputs, targets)["accuracy"] == accuracy


def probabilities(lead=()):
    return torch.randn(*lead, N, C, dtype=torch.float64).softmax(-1)


def test_cross_entropy_of_probabilities_is_minus_the_mean_of_the_expected_log_probability():
    outputs, _ = batch("classes")
    targets = probabilities()
    total = 0.0
    for row, p in zip(outputs.tolist(), targets.tolist(), strict=True):
        total -= sum(q * math.log(math.exp(o) / sum(math.exp(k) for k in row)) for o, q in zip(row, p, strict=True))
    assert CROSS_ENTROPY(outputs, targets).item() == pytest.approx(total / N)
    assert torch.autograd.gradcheck(lambda o: CROSS_ENTROPY(o, targets), (outputs.requires_grad_(),))


@pytest.mark.parametrize("lead", [(), (3,)])
def test_sure_probabilities_are_classes(lead):
    outputs, targets = batch("classes", lead)
    sure = torch.nn.functional.one_hot(targets, C).double()
    mapped = torch.vmap(CROSS_ENTROPY) if lead else CROSS_ENTROPY
    torch.testing.assert_close(mapped(outputs, sure), mapped(outputs, targets))
    torch.testing.assert_close(CROSS_ENTROPY.measure(outputs, sure), CROSS_ENTROPY.measure(outputs, targets))


def test_the_accuracy_of_probabilities_is_that_against_the_largest():
    outputs, _ = batch("classes")
    targets = probabilities()
    right = sum(o.index(max(o)) == p.index(max(p)) for o, p in zip(outputs.tolist(), targets.tolist(), strict=True))
    assert 0 < right < N
    assert CROSS_ENTROPY.measure(outputs, targets)["accuracy"].item() == pytest.approx(right / N)


def test_mean_squared_error_is_the_mean_of_squares_over_examples_and_outputs():
    outputs, targets = batch("numbers")
    pairs = zip(outputs.flatten().tolist(), targets.flatten().tolist(), strict=True)
    expected = sum((o - t) ** 2 for o, t in pairs) / (N * C)
    assert SQUARED(outputs, targets).item() == pytest.approx(expected)


def test_r2_is_zero_for_the_mean_one_for_the_truth_and_negative_for_worse():
    _, targets = batch("numbers")

    def r2(outputs):
        return SQUARED.measure(outputs, targets)["r2"].item()

    mean = targets.mean(0, keepdim=True).expand(N, C)
    assert r2(mean) == pytest.approx(0, abs=1e-12)
    assert r2(targets) == 1.0
    assert r2(mean + 1.0) < 0


@pytest.mark.parametrize("error", [0.0, 0.5])
def test_r2_of_targets_that_do_not_vary_is_no_number(error):
    targets = torch.full((6, 2), 0.25, dtype=torch.float64)
    assert SQUARED.measure(targets + error, targets)["r2"].isnan()


def test_r2_is_the_share_of_the_variance_that_is_explained():
    outputs, targets = batch("numbers")
    found = SQUARED.measure(outputs, targets)["r2"]
    variance = targets.var(0, correction=0).mean()
    torch.testing.assert_close(found, 1 - SQUARED(outputs, targets) / variance)
