"""Decoupled weight decay: its formula, and where it equals the L2 penalty."""

import pytest
import torch
from helpers import build_blobs, load_weights, train_runs
from torch import nn

from dlopt.base.layout import Layout
from dlopt.normalization.batch import BatchNorm
from dlopt.regularization.weight_decay import WeightDecay

NET = nn.Sequential(nn.Linear(4, 3), BatchNorm(3), nn.Linear(3, 2)).double()
LAYOUT = Layout.of(NET)


def draw_iterates(*lead):
    return torch.randn(2, *lead, LAYOUT.size, dtype=torch.float64)


def test_weights_lose_a_share_of_what_they_were_and_the_rest_stays():
    w, before = draw_iterates()
    decayed, former = WeightDecay(0.3).after(w.clone(), before, 0.1, LAYOUT), before.clone()
    for p in LAYOUT:
        share = 0.1 * 0.3 if p.kind == "weight" else 0.0
        torch.testing.assert_close(decayed[p.slice], w[p.slice] - share * before[p.slice], rtol=1e-14, atol=1e-15)
    assert torch.equal(before, former)


@pytest.mark.parametrize("columns", ["lr", "strength", "both"])
def test_lanes_with_rates_and_strengths_of_their_own_equal_runs_alone(columns):
    w, before = draw_iterates(3)
    rates = [0.1, 0.2, 0.3] if columns != "strength" else [0.1] * 3
    strengths = [0.0, 0.5, 3.0] if columns != "lr" else [0.5] * 3
    lr, strength = (
        torch.tensor(values, dtype=torch.float64).unsqueeze(-1) if len(set(values)) > 1 else values[0]
        for values in (rates, strengths)
    )
    together = WeightDecay(strength).after(w.clone(), before, lr, LAYOUT)
    for i in range(3):
        alone = WeightDecay(strengths[i]).after(w[i].clone(), before[i], rates[i], LAYOUT)
        torch.testing.assert_close(together[i], alone, rtol=1e-14, atol=1e-15)


def test_under_plain_gradient_descent_it_is_the_l2_penalty_and_under_adam_it_is_not(tmp_path):
    """Loshchilov and Hutter 2019, propositions 1 and 2; the rate follows its schedule in both."""

    def train_last(optimizer, regularization):
        run = (
            f"optimizer={optimizer}",
            f"regularization={regularization}",
            "precision=float64",
            "schedule=cosine",
            "epochs=2",
        )
        strength = f"regularization.{regularization}.strength=0.5"
        return load_weights(train_runs(tmp_path / f"{optimizer}-{regularization}", build_blobs(*run, strength))[1][0])

    torch.testing.assert_close(train_last("sgd", "weight_decay"), train_last("sgd", "l2"), rtol=1e-10, atol=1e-12)
    assert (train_last("adam", "weight_decay") - train_last("adam", "l2")).abs().max() > 1e-3


def test_without_a_gradient_weights_fall_geometrically():
    w = draw_iterates()[0]
    start = w.clone()
    for _ in range(20):
        w = WeightDecay(0.5).after(w, w.clone(), 0.1, LAYOUT)
    mask = LAYOUT.mask("weight").bool()
    torch.testing.assert_close(w[mask], (1 - 0.05) ** 20 * start[mask])
    assert torch.equal(w[~mask], start[~mask])
