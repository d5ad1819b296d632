"""Kronecker factors against per-example sums by hand, in float64, and the distributions of sampled targets."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from objectives import CLASSES, DROPOUT, KEYS, LANE_KEY, B, KeepWeights, ListedTargets, draw_data, make_problem
from torch import nn

from dlopt import prng
from dlopt.loss.bce import BinaryCrossEntropy
from dlopt.loss.cross_entropy import CrossEntropy
from dlopt.loss.kl import KullbackLeibler
from dlopt.loss.mse import MeanSquaredError
from dlopt.loss.nll import NegativeLogLikelihood
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.regularization.l2 import L2


class Images(nn.Module):
    """Two-dimensional convolutions with every option, a linear layer at each position, and one that is used twice."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), bias=False)
        self.second = nn.Conv2d(3, 4, 3, padding="same")
        self.grouped = nn.Conv2d(4, 4, 1, groups=2)
        self.each = nn.Linear(4, 5)
        self.twice = nn.Linear(5, 5)
        self.output = nn.Linear(5, 3)

    def forward(self, x):
        x = torch.tanh(self.grouped(torch.tanh(self.second(torch.tanh(self.first(x))))))
        x = torch.tanh(self.each(x.flatten(2).mT)).mean(1)
        return self.output(torch.tanh(self.twice(torch.tanh(self.twice(x)))))


def list_rows(layer, a, g):
    """Return the inputs and the gradients of each position of one example."""
    if isinstance(layer, nn.Conv1d):
        options = ((1, *part) for part in (layer.kernel_size, layer.dilation))
        a = F.unfold(a.unsqueeze(2), *options, (0, *layer.padding), (1, *layer.stride)).mT
    elif isinstance(layer, nn.Conv2d):
        padding = 1 if layer.padding == "same" else layer.padding  # of a kernel of 3
        a = F.unfold(a, layer.kernel_size, layer.dilation, padding, layer.stride).mT
    g = g if isinstance(layer, nn.Linear) else g.flatten(2).mT
    a, g = a.reshape(-1, a.shape[-1]), g.reshape(-1, g.shape[-1])
    return a if layer.bias is None else torch.cat([a, torch.ones(len(a), 1).double()], 1), g


def compute_by_hand(model, layers, loss, x, y):
    """Return A and G of each layer from the gradients of single examples and F.unfold."""
    calls = []
    hooks = [
        layer.register_forward_hook(lambda m, a, s, i=i: calls.append((i, a[0], s))) for i, layer in enumerate(layers)
    ]
    sums = [[0.0, 0.0, 0] for _ in layers]
    for n in range(len(x)):
        calls.clear()
        value = loss(model(x[n : n + 1]), y[n : n + 1])
        gradients = torch.autograd.grad(value, [s for *_, s in calls])
        for (i, inputs, _), slopes in zip(calls, gradients, strict=True):
            a, g = list_rows(layers[i], inputs.detach(), slopes)
            sums[i][0] += a.T @ a
            sums[i][1] += g.T @ g
            sums[i][2] += len(g)
    for hook in hooks:
        hook.remove()
    return [(a / len(x), g / positions) for a, g, positions in sums]


def draw_images():
    return torch.randn(B, 2, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3)), draw_data()[1]


def make_images():
    problem = Problem(Images().double(), CrossEntropy([], None))
    return problem, problem.bind(problem.layout.flatten(dict(problem.model.named_parameters())).detach().clone())


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("arch", ["mlp", "cnn", "images"])
def test_factors_are_sums_over_single_examples(arch, sampled):
    problem, w = make_images() if arch == "images" else make_problem(arch)
    x, y = draw_images() if arch == "images" else draw_data(arch)
    names = [layer.name for layer in problem.layout.affine]
    assert len(names) == {"mlp": 3, "cnn": 3, "images": 5}[arch]
    objective = MiniBatchObjective(problem, x, y, KEYS[0])
    found = objective.kronecker_factors(w, sampled=sampled)
    assert problem.evaluations == 1
    torch.testing.assert_close(objective.first.loss, problem.loss(problem.model(x), y).detach())
    if sampled:
        outputs = problem.model(x).detach()
        drawn = problem.loss.sample_targets(outputs, prng.fold_in(prng.fold_in(KEYS[0], "fisher"), 0))
        assert not torch.equal(drawn, y)
        y = drawn
    layers = [problem.model.get_submodule(name) for name in names]
    torch.testing.assert_close(found, compute_by_hand(problem.model, layers, problem.loss, x, y))
    if sampled:
        value = problem.loss(problem.model(x), y)
        g = torch.cat([p.flatten() for p in torch.autograd.grad(value, list(problem.model.parameters()))])
        torch.testing.assert_close(objective.gauss_newton_diagonal(w), len(x) * g**2)
        assert problem.evaluations == 2


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("arch", ["mlp", "cnn"])
def test_factors_of_lanes_equal_single_runs(arch, sampled):
    rules = (DROPOUT, KeepWeights())
    lanes, w = make_problem(arch, True, rules, lanes=3)
    x, y = draw_data(arch, lanes=3)
    common = MiniBatchObjective(lanes, x, y, LANE_KEY)
    together, diagonals = common.kronecker_factors(w, sampled=sampled), common.gauss_newton_diagonal(w)
    for i in range(3):
        problem, at = make_problem(arch, True, rules, w=w[i])
        objective = MiniBatchObjective(problem, x[i], y[i], KEYS[i])
        alone = objective.kronecker_factors(at, sampled=sampled)
        torch.testing.assert_close([(a[i], g[i]) for a, g in together], alone)
        torch.testing.assert_close(diagonals[i], objective.gauss_newton_diagonal(at))


@pytest.mark.parametrize("lanes", [None, 3])
def test_factors_of_micro_batches_are_those_of_the_batch(lanes):
    found = []
    for size in (None, 3):
        problem, w = make_problem("cnn", lanes=lanes, micro_batch_size=size)
        objective = MiniBatchObjective(problem, *draw_data("cnn", lanes), LANE_KEY if lanes else KEYS[0])
        found.append(objective.kronecker_factors(w, sampled=False))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("size", [None, 1])
def test_the_estimated_diagonal_is_that_of_the_gauss_newton_matrix_in_the_mean(size):
    """Over all targets of two examples, together or as micro-batches: exactly. The penalty is not part of it."""
    problem, w = make_problem(rules=(L2(0.3),), micro_batch_size=size)
    x, y = (part[:2] for part in draw_data())
    probabilities = problem.model(x).softmax(-1).detach()
    problem.loss = ListedTargets([], None)
    mean = 0.0
    for drawn in itertools.product(range(CLASSES), repeat=2):
        problem.loss.metrics.extend(torch.tensor(drawn).split(size or 2))
        diagonal = MiniBatchObjective(problem, x, y, KEYS[0]).gauss_newton_diagonal(w)
        mean = mean + probabilities[0, drawn[0]] * probabilities[1, drawn[1]] * diagonal
    objective = MiniBatchObjective(Problem(problem.model, problem.loss), x, y, KEYS[0])
    exact = [objective.gauss_newton_product(w, v)[i] for i, v in enumerate(torch.eye(len(w)).double())]
    torch.testing.assert_close(mean, torch.stack(exact))


def test_the_fisher_information_of_one_example_is_the_product_of_its_factors():
    """Exactly, for linear layers: the outer product of its gradient."""
    problem, w = make_problem()
    x, y = draw_data()
    objective = MiniBatchObjective(problem, x[:1], y[:1], KEYS[0])
    g = objective.gradient(w)[1]
    for layer, (a, b) in zip(problem.layout.affine, objective.kronecker_factors(w, sampled=False), strict=True):
        flat = layer.join(g).flatten()
        torch.testing.assert_close(torch.kron(b, a), torch.outer(flat, flat))


def test_layers_that_are_tied_or_frozen_have_no_factors():
    model = nn.Sequential(
        nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3), nn.Linear(3, 3), nn.ConvTranspose1d(3, 3, 1)
    )
    model[1].weight = model[0].weight
    model[2].bias.requires_grad_(False)
    model[3].weight.requires_grad_(False)
    problem = Problem(model, CrossEntropy([], None))
    assert [(layer.name, layer.sides) for layer in problem.layout.affine] == [("2", (5, 3))]


@pytest.mark.parametrize(
    "loss",
    [
        CrossEntropy([], None),
        NegativeLogLikelihood([], None),
        MeanSquaredError([]),
        BinaryCrossEntropy(None, []),
        KullbackLeibler([]),
    ],
    ids=type,
)
def test_gradients_of_sampled_targets_have_the_hessian_of_the_loss_as_covariance(loss):
    """Over 20,000 draws; of log-probabilities by their logits."""
    logits = torch.tensor([1.0, -0.5, 0.2], dtype=torch.float64)

    def outputs(s):
        return s.log_softmax(-1) if isinstance(loss, NegativeLogLikelihood) else s

    count = 20_000
    many = logits.expand(count, 3).clone().requires_grad_()
    targets = loss.sample_targets(outputs(many).detach(), prng.key(0, "targets"))
    g = torch.autograd.grad(loss(outputs(many), targets) * count, many)[0]
    target = targets[:1]
    hessian = torch.autograd.functional.hessian(lambda s: loss(outputs(s).unsqueeze(0), target), logits)
    torch.testing.assert_close(g.mean(0), torch.zeros(3).double(), rtol=0, atol=0.02)
    torch.testing.assert_close(g.T @ g / count, hessian, rtol=0, atol=0.02)
