"""Label smoothing: parity with torch's cross entropy, and the minimum of theory."""

import math

import pytest
import torch
import torch.nn.functional as F

from dlopt.loss.cross_entropy import CrossEntropy
from dlopt.regularization.label_smoothing import LabelSmoothing


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.7])
def test_cross_entropy_of_smoothed_targets_is_torchs_with_label_smoothing(strength):
    outputs = torch.randn(20, 7, dtype=torch.float64, requires_grad=True)
    y = torch.randint(7, (20,))
    ours = CrossEntropy([], None)(outputs, LabelSmoothing(strength).targets(F.one_hot(y, 7).double()))
    torchs = F.cross_entropy(outputs, y, label_smoothing=strength)
    torch.testing.assert_close(ours, torchs)
    torch.testing.assert_close(torch.autograd.grad(ours, outputs), torch.autograd.grad(torchs, outputs))


def test_targets_stay_probabilities_and_mixed_ones_are_smoothed_alike():
    mixed = torch.rand(50, 4, dtype=torch.float64).softmax(-1)
    smooth = LabelSmoothing(0.3).targets(mixed)
    torch.testing.assert_close(smooth.sum(-1), torch.ones(50, dtype=torch.float64))
    torch.testing.assert_close(smooth, 0.7 * mixed + 0.075)


def test_at_the_minimum_the_right_output_lies_above_the_others_by_a_known_margin():
    s, k = 0.1, 5
    margin = math.log((1 - s) * k / s + 1)
    outputs = torch.zeros(1, k, dtype=torch.float64)
    outputs[0, 2] = margin
    outputs.requires_grad_()
    loss = CrossEntropy([], None)(outputs, LabelSmoothing(s).targets(F.one_hot(torch.tensor([2]), k).double()))
    (g,) = torch.autograd.grad(loss, outputs)
    torch.testing.assert_close(g, torch.zeros_like(g), atol=1e-15, rtol=0)


def test_it_is_for_classes_and_wants_probabilities():
    assert LabelSmoothing(0.1).kinds == ("classes",)
    assert LabelSmoothing(0.1).mixes
