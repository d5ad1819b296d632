"""Auxiliary outputs against the formula of their losses, differentiated by torch, in float64."""

import itertools
import math

import mine
import pytest
import torch
import torch.nn.functional as F
from helpers import (
    BLOBS,
    assert_build_refused,
    build_experiment,
    interrupt_run,
    list_options,
    load_weights,
    read_rows,
    resume_run,
    train_runs,
)
from objectives import CLASSES, KEYS, LANE_KEY, KeepWeights, ListedTargets, ShiftedTargets, draw_data, draw_weights
from torch.func import functional_call, grad, jacrev

from dlopt import prng
from dlopt.loss.cross_entropy import CrossEntropy
from dlopt.objective.auxiliary import list_outputs
from dlopt.objective.init_probe import MiniBatchInitProbe
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.parts import Split
from dlopt.regularization.l2 import L2
from dlopt.training.inference import Predictor

WEIGHT = 0.3
HEADS = (*(o for o in BLOBS if not o.startswith("arch")), "arch=custom", "arch._target_=mine.TwoHeads")
WEIGHTED = (*HEADS, f"+arch.auxiliary_weight={WEIGHT}", "precision=float64", "epochs=2", "batch_size=13")


def make_net(**keys):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return mine.TwoHeads((5,), CLASSES, WEIGHT, **keys).double()


def make_objective(rules=(), lanes=None, size=None, norm=False):
    """Return an objective of a network with two heads, and weights."""
    problem = Problem(make_net(norm=norm), CrossEntropy([], None), rules, lanes=lanes, micro_batch_size=size)
    x, y = draw_data(lanes=lanes)
    if any(isinstance(rule, ShiftedTargets) for rule in rules):
        y = F.one_hot(y, CLASSES).double()
    w = draw_weights(problem)
    return MiniBatchObjective(problem, x, y, LANE_KEY if lanes else KEYS[0]), w if lanes else problem.bind(w)


def hessian(f):
    return jacrev(grad(f))


def compute_heads(net, w, x):
    """Return output and auxiliary outputs at w."""
    layout = Problem(net, CrossEntropy([], None)).layout
    return list_outputs(functional_call(net, layout.views(w), (x,)))


def add_by_hand(outputs, y):
    output, one, two = (F.cross_entropy(z, y) for z in outputs)
    return output + WEIGHT * one + WEIGHT * two


def compute_gauss_newton(net, w, x, y):
    """Return the Hessian of the loss of the outputs linearized at w."""
    outputs = torch.cat(compute_heads(net, w, x), 1)
    jacobian = jacrev(lambda v: torch.cat(compute_heads(net, v, x), 1))(w)
    return hessian(lambda u: add_by_hand((outputs + jacobian @ u).split(CLASSES, 1), y))(torch.zeros_like(w))


RULES = {"bound": (), "penalty": (L2(0.2),), "functional": (KeepWeights(), L2(0.2)), "mixed": (ShiftedTargets(0.25),)}


@pytest.mark.parametrize("size", [None, 3])
@pytest.mark.parametrize("lanes", [None, 3])
@pytest.mark.parametrize("name", RULES)
def test_the_objective_adds_the_losses_of_all_heads(name, lanes, size):
    rules = RULES[name]
    objective, w = make_objective(rules, lanes, size)
    direction = torch.linspace(-1, 1, w.numel(), dtype=torch.float64).reshape(w.shape)
    value, g = objective.gradient(w)
    results = (value, g, objective.value(w), objective.hvp(w, direction), objective.hessian(w),
               objective.gauss_newton_product(w, direction))  # fmt: skip
    cases = range(lanes) if lanes else [...]
    for i in cases:
        net, at, x = make_net(), w[i].clone(), objective.inputs[i]
        y = objective.problem.targets(rules, objective.targets)[i]
        strength = 0.2 if "penalty" in name or name == "functional" else 0.0
        is_weight = objective.layout.mask("weight").double()

        def f(v, net=net, x=x, y=y, strength=strength, is_weight=is_weight):
            return add_by_hand(compute_heads(net, v, x), y) + strength / 2 * (is_weight * v).square().sum()

        h = hessian(f)(at)
        gauss_newton = compute_gauss_newton(net, at, x, y) + strength * torch.diag(is_weight)
        v, u = f(at), direction[i]
        expected = (v, grad(f)(at), v, h @ u, h, gauss_newton @ u)
        torch.testing.assert_close(tuple(result[i] for result in results), expected)
        first, heads = objective.first, compute_heads(net, at, x)
        torch.testing.assert_close(first.outputs[i], heads[0])
        losses = [F.cross_entropy(z, y) for z in heads]
        torch.testing.assert_close([first.loss[i], *(loss[i] for loss in first.auxiliary)], losses)


@pytest.mark.parametrize("norm", [False, True])
def test_the_mean_gradient_of_the_examples_is_the_gradient(norm):
    objective, w = make_objective(norm=norm)
    (each,) = objective.example_gradients(w, 8)
    torch.testing.assert_close(each.mean(0), objective.gradient(w)[1])


def test_the_fisher_information_of_one_example_is_the_product_of_its_factors():
    objective, w = make_objective()
    single = MiniBatchObjective(objective.problem, objective.inputs[:1], objective.targets[:1], KEYS[0])
    g = single.gradient(w)[1]
    factors = single.kronecker_factors(w, sampled=False)
    for layer, (a, b) in zip(objective.layout.affine, factors, strict=True):
        flat = layer.join(g).flatten()
        torch.testing.assert_close(torch.kron(b, a), torch.outer(flat, flat))


def test_factors_of_sampled_targets_are_the_gauss_newton_matrix_in_the_mean():
    """Of one example and its first layer, over all targets of the three heads: exactly."""
    net, (x, y) = make_net(), draw_data()
    problem = Problem(net, ListedTargets([], None))
    w = problem.bind(draw_weights(problem))
    probabilities = [z.softmax(-1)[0] for z in compute_heads(make_net(), w, x[:1])]
    layer = problem.layout.affine[0]
    mean = diagonal = 0.0
    for drawn in itertools.product(range(CLASSES), repeat=3):
        problem.loss.metrics.extend([torch.tensor([c]) for c in drawn] * 2)
        objective = MiniBatchObjective(problem, x[:1], y[:1], KEYS[0])
        a, g = objective.kronecker_factors(w, sampled=True)[0]
        probability = math.prod(p[c] for p, c in zip(probabilities, drawn, strict=True))
        mean = mean + probability * torch.kron(g, a)
        diagonal = diagonal + probability * objective.gauss_newton_diagonal(w)
    exact = compute_gauss_newton(make_net(), w, x[:1], y[:1])
    half = layer.join(exact).flatten(1)
    torch.testing.assert_close(mean, layer.join(half.T).flatten(1).T)
    torch.testing.assert_close(diagonal, exact.diagonal())


def test_the_probe_of_inits_differentiates_the_losses_of_all_heads():
    net, (x, y) = make_net(), draw_data()
    start = MiniBatchInitProbe(net, CrossEntropy([], None), Split(x, y), torch.float64, prng.key(0))
    w = start.layout.flatten(dict(net.named_parameters())).detach()
    torch.testing.assert_close(start.outputs(w), compute_heads(make_net(), w, start.inputs)[0])
    g = grad(lambda v: add_by_hand(compute_heads(net, v, start.inputs), start.targets))(w)
    found = start.gradients(w)["one.weight"].outputs
    bias = next(p.slice for p in start.layout if p.name == "one.bias")
    torch.testing.assert_close(found.sum(0), g[bias])


# ------------------------------------------------------------------------------------------- runs


def test_rows_hold_the_mean_loss_of_each_head(tmp_path):
    """Four steps an epoch, of 13, 13, 13 and 9 examples, at weights that do not move."""
    frozen = ("optimizer=sgd", "optimizer.lr=1e-300")
    experiment = build_experiment(*WEIGHTED, *frozen, "log_every=2")
    _, (run,) = train_runs(tmp_path, experiment)
    x, y = experiment.train.gather()
    losses = [F.cross_entropy(z, y).item() for z in compute_heads(experiment.model, experiment.w, x.double())]
    last = read_rows(run)[-1]
    names = ["train/loss", "train/auxiliary/1/loss", "train/auxiliary/2/loss"]
    assert [last[name] for name in names] == pytest.approx(losses)
    assert {f"recent/{name}" for name in names} <= set(last)
    assert not any("auxiliary" in name for name in last if "train/" not in name)


@pytest.mark.parametrize("steps", [3, 5])
def test_a_run_resumes_to_the_same_bits_and_lanes_equal_runs_of_their_own(steps, tmp_path):
    common = (*WEIGHTED, "log_every=2", "+arch.norm=true")
    _, (whole,) = train_runs(tmp_path / "whole", build_experiment(*common))
    half = interrupt_run(tmp_path / "half", steps, build_experiment(*common))
    _, half = resume_run(half.path, build_experiment(*common))
    assert read_rows(half) == read_rows(whole)
    assert torch.equal(load_weights(half), load_weights(whole))
    _, lanes = train_runs(tmp_path / "lanes", *(build_experiment(*common, f"seed={i}") for i in range(2)))
    torch.testing.assert_close(load_weights(lanes[0]), load_weights(whole))
    for row, expected in zip(read_rows(lanes[0]), read_rows(whole), strict=True):
        assert row == pytest.approx(expected)


@pytest.mark.parametrize("optimizer", list_options("optimizer"))
def test_every_optimizer_trains_the_heads(optimizer, tmp_path):
    experiment = build_experiment(*WEIGHTED, f"optimizer={optimizer}", "batch_size=full", "epochs=2")
    _, (run,) = train_runs(tmp_path, experiment)
    model = run.load("last")["model"]
    before = experiment.model.state_dict()
    assert all(not torch.equal(model[name], before[name]) for name in model if name.startswith("heads"))


def test_inference_computes_no_heads_and_gives_the_bits_of_the_output_without_them(tmp_path):
    experiment = build_experiment(*WEIGHTED)
    _, (run,) = train_runs(tmp_path, experiment)
    experiment.model.load_state_dict(run.load("best")["model"])
    splits = {"val": (experiment.validation,)}
    predictor = Predictor(experiment.model, experiment.loss, splits=splits, dtype=torch.float64)
    plain = mine.TwoHeads((4,), 3, fault="no heads").double()
    plain.load_state_dict(run.load("best")["model"])
    x = torch.randn(7, 4, dtype=torch.float64)
    assert torch.equal(predictor.predict(x), plain.eval()(x).detach())
    for head in predictor.model.heads:
        head.register_forward_hook(lambda *_: pytest.fail("a head was computed"))
    assert predictor.evaluate("val")["loss"] == min(row["val/loss"] for row in run.rows() if "val/loss" in row)


def test_a_network_may_return_its_heads_in_inference_too():
    class Talkative(mine.TwoHeads):
        def forward(self, x):
            return super().forward(x) if self.training else (self.output(self.two(self.one(x))), [])

    problem = Problem(Talkative((5,), CLASSES, WEIGHT).double(), CrossEntropy([], None))
    w = problem.bind(draw_weights(problem))
    x, _ = draw_data()
    assert problem.predict(w, x).shape == (8, CLASSES)


@pytest.mark.parametrize(("overrides", "key", "words"), [
    ([], "arch", "returns auxiliary outputs in training, whose losses have no weight"),
    (["+arch.fault='no heads'", "+arch.auxiliary_weight=0.3"], "arch.auxiliary_weight", "has no auxiliary outputs"),
    (["+arch.fault=shape", "+arch.auxiliary_weight=0.3"], "arch", "shape (2, 3), one has (2, 1)"),
    (["+arch.fault=none", "+arch.auxiliary_weight=0.3"], "arch", "shape (2, 3), one has NoneType"),
    (["+arch.auxiliary_weight=-1"], "arch.auxiliary_weight", "must be a number >= 0, got -1"),
    (["+arch.auxiliary_weight=much"], "arch.auxiliary_weight", "must be a number >= 0, got 'much'"),
])  # fmt: skip
def test_heads_without_weight_and_weights_without_heads_are_refused(overrides, key, words):
    assert_build_refused(lambda: build_experiment(*HEADS, *overrides), key, words)
