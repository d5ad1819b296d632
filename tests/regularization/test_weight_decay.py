"""Decoupled weight decay: the formula, AdamW's trajectory, and where it is the L2 penalty."""

import pytest
import torch
import torch.nn.functional as F
from helpers import build_blobs, load_weights, train_runs
from torch import nn

from dlopt import prng
from dlopt.activation.tanh import Tanh
from dlopt.arch.mlp import MLP
from dlopt.base.layout import Layout
from dlopt.loss.cross_entropy import CrossEntropy
from dlopt.normalization.batch import BatchNorm
from dlopt.normalization.none import NoNormalization
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.optimizer.adam import Adam
from dlopt.regularization.weight_decay import WeightDecay

NET = nn.Sequential(nn.Linear(4, 3), BatchNorm(3), nn.Linear(3, 2)).double()
LAYOUT = Layout.of(NET)


def iterates(*lead):
    return torch.randn(2, *lead, LAYOUT.size, dtype=torch.float64)


def test_weights_lose_a_share_of_what_they_were_and_the_rest_stays():
    w, before = iterates()
    decayed, former = WeightDecay(0.3).after(w.clone(), before, 0.1, LAYOUT), before.clone()
    for p in LAYOUT:
        share = 0.1 * 0.3 if p.kind == "weight" else 0.0
        torch.testing.assert_close(decayed[p.slice], w[p.slice] - share * before[p.slice], rtol=1e-14, atol=1e-15)
    assert torch.equal(before, former)


@pytest.mark.parametrize("columns", ["lr", "strength", "both"])
def test_lanes_with_rates_and_strengths_of_their_own_equal_runs_alone(columns):
    w, before = iterates(3)
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


def test_adam_with_it_takes_the_steps_of_torchs_adamw():
    """With torch's decay on matrices alone."""
    torch.manual_seed(0)
    model = MLP((6,), 3, Tanh(), NoNormalization(), lambda site: None, [5, 4], None, None).double()
    twin = MLP((6,), 3, Tanh(), NoNormalization(), lambda site: None, [5, 4], None, None).double()
    twin.load_state_dict(model.state_dict())
    matrices = [p for p in twin.parameters() if p.ndim > 1]
    biases = [p for p in twin.parameters() if p.ndim == 1]
    theirs = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.4}, {"params": biases, "weight_decay": 0.0}], lr=0.02, eps=1e-8
    )
    x, y = torch.randn(50, 10, 6, dtype=torch.float64), torch.randint(3, (50, 10))

    rule, decay, problem = Adam(0.02, 0.9, 0.999, 1e-8), WeightDecay(0.4), Problem(model, CrossEntropy([]))
    w = problem.bind(problem.layout.flatten(dict(model.named_parameters())).detach().clone())
    state = rule.init(w, problem.layout)
    for step in range(50):
        before = w.clone()
        w, state, *_ = rule.step(w, state, MiniBatchObjective(problem, x[step], y[step], prng.key(0, step)))
        w = decay.after(w, before, rule.lr, problem.layout)
        theirs.zero_grad()
        F.cross_entropy(twin(x[step]), y[step]).backward()
        theirs.step()
        expected = nn.utils.parameters_to_vector(twin.parameters()).detach()
        torch.testing.assert_close(w, expected, rtol=1e-10, atol=1e-10)


def test_under_plain_gradient_descent_it_is_the_l2_penalty_and_under_adam_it_is_not(tmp_path):
    """Loshchilov and Hutter 2019, propositions 1 and 2; the rate follows its schedule in both."""

    def last(optimizer, regularization):
        run = (f"optimizer={optimizer}", f"regularization={regularization}", "precision=float64", "schedule=cosine")
        strength = f"regularization.{regularization}.strength=0.5"
        return load_weights(train_runs(tmp_path / f"{optimizer}-{regularization}", build_blobs(*run, strength))[1][0])

    torch.testing.assert_close(last("sgd", "weight_decay"), last("sgd", "l2"), rtol=1e-10, atol=1e-12)
    assert (last("adam", "weight_decay") - last("adam", "l2")).abs().max() > 1e-3


def test_lanes_in_training_equal_runs_alone_beside_a_penalty(tmp_path):
    own = [
        (
            "regularization=[l2,weight_decay]",
            f"regularization.weight_decay.strength={s}",
            f"optimizer.lr={lr}",
            "precision=float64",
        )
        for s, lr in ((0.0, 0.01), (0.1, 0.02), (0.5, 0.03))
    ]
    _, lanes = train_runs(tmp_path / "lanes", *(build_blobs(*o) for o in own))
    for i, lane in enumerate(lanes):
        _, (alone,) = train_runs(tmp_path / f"alone{i}", build_blobs(*own[i]))
        torch.testing.assert_close(load_weights(lane), load_weights(alone), rtol=1e-9, atol=1e-9)


def test_without_a_gradient_weights_fall_geometrically():
    w = iterates()[0]
    start = w.clone()
    for _ in range(20):
        w = WeightDecay(0.5).after(w, w.clone(), 0.1, LAYOUT)
    mask = LAYOUT.mask("weight").bool()
    torch.testing.assert_close(w[mask], (1 - 0.05) ** 20 * start[mask])
    assert torch.equal(w[~mask], start[~mask])
