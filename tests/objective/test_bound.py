"""The network that is bound to the memory of w equals the functional one, at any w."""

import pytest
import torch
from objectives import (
    CLASSES,
    DROPOUT,
    EVERYTHING,
    SETTINGS,
    STRENGTH,
    InputNoise,
    KeepWeights,
    build_net,
    draw_data,
    draw_weights,
    make_objective,
    make_problem,
)
from torch import nn

from dlopt.activation.tanh import Tanh
from dlopt.arch.mlp import MLP
from dlopt.loss.cross_entropy import CrossEntropy
from dlopt.normalization.none import NoNormalization
from dlopt.objective.problem import Problem
from dlopt.regularization.l2 import L2

PATHS = {
    **SETTINGS,
    "input noise": (True, (InputNoise(0.5), L2(STRENGTH))),
    "two input noises": (False, (InputNoise(0.5), DROPOUT, InputNoise(1.0))),
}


@pytest.mark.parametrize("arch", ["mlp", "cnn"])
@pytest.mark.parametrize("name", PATHS)
def test_the_bound_path_equals_the_functional_path(arch, name):
    batch_norm, rules = PATHS[name]
    problem, w = make_problem(arch, batch_norm, rules)
    functional, same = make_problem(arch, batch_norm, (*rules, KeepWeights()))
    assert problem.binds
    assert not functional.binds
    one, other = make_objective(problem, arch=arch), make_objective(functional, arch=arch)
    torch.testing.assert_close(one.gradient(w), other.gradient(same))
    torch.testing.assert_close(one.value(w), other.value(same))
    torch.testing.assert_close(one.first, other.first)
    torch.testing.assert_close(one.hvp(w, w), other.hvp(same, same))


@pytest.mark.parametrize("name", SETTINGS)
def test_another_w_is_evaluated_as_if_it_were_bound(name):
    batch_norm, rules = SETTINGS[name]
    problem, w = make_problem("cnn", batch_norm, rules)
    objective = make_objective(problem, arch="cnn")
    at_w = objective.gradient(w)
    for scale in (0.5, -1.0):
        trial = w * scale
        other, bound_w = make_problem("cnn", batch_norm, rules, w=trial)
        expected = make_objective(other, arch="cnn")
        torch.testing.assert_close(objective.gradient(trial), expected.gradient(bound_w))
        torch.testing.assert_close(objective.value(trial), expected.value(bound_w))
    assert torch.equal(torch.cat([p.detach().flatten() for p in problem.model.parameters()]), w)
    assert all(map(torch.equal, objective.gradient(w), at_w))


def test_a_step_in_place_and_another_binding_are_seen_by_the_network():
    problem, w = make_problem(batch_norm=True, rules=EVERYTHING)
    objective = make_objective(problem)
    objective.gradient(w)
    w.add_(0.1 * torch.randn_like(w))
    copy = w.clone()
    torch.testing.assert_close(objective.gradient(w), objective.gradient(copy))
    torch.testing.assert_close(problem.predict(w, draw_data()[0]), problem.predict(copy, draw_data()[0]))
    expected = objective.gradient(w + 1.0)
    torch.testing.assert_close(objective.gradient(problem.bind(w + 1.0)), expected)
    unbound = Problem(build_net(rules=EVERYTHING, batch_norm=True), CrossEntropy([], None), EVERYTHING)
    torch.testing.assert_close(make_objective(unbound).gradient(w + 1.0), expected)


def test_a_weight_without_influence_has_gradient_zero():
    class Idle(MLP):
        def __init__(self):
            super().__init__((5,), CLASSES, Tanh(), NoNormalization(), lambda site: None, [4], None, None)
            self.idle = nn.Linear(2, 2)

    problem = Problem(Idle().double(), CrossEntropy([], None))
    g = make_objective(problem).gradient(problem.bind(draw_weights(problem)))[1]
    unused = torch.cat([torch.full((p.size,), p.name.startswith("idle")) for p in problem.layout])
    assert (g[unused] == 0).all()
    assert (g[~unused] != 0).any()
