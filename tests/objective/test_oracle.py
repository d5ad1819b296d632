"""The objective of one step against the loss by hand and central differences; purity, counting and keys."""

import pytest
import torch
import torch.nn.functional as F
from objectives import (
    CLASSES,
    EVERYTHING,
    KEYS,
    SETTINGS,
    STRENGTH,
    KeepWeights,
    build_net,
    compute_outputs_by_hand,
    draw_data,
    draw_weights,
    evaluate_by_hand,
    make_objective,
    make_problem,
    watch_masks,
)
from torch.autograd.functional import hessian as torch_hessian
from torch.autograd.functional import hvp as torch_hvp
from torch.func import functional_call, jacrev

from dlopt import prng
from dlopt.loss.bce import BinaryCrossEntropy
from dlopt.loss.cross_entropy import CrossEntropy
from dlopt.loss.focal import Focal
from dlopt.loss.hinge import Hinge
from dlopt.loss.huber import Huber
from dlopt.loss.kl import KullbackLeibler
from dlopt.loss.l1 import AbsoluteError
from dlopt.loss.mse import MeanSquaredError
from dlopt.loss.nll import NegativeLogLikelihood
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.parts import Regularization
from dlopt.regularization.dropout import Dropout
from dlopt.regularization.l1 import L1
from dlopt.regularization.l2 import L2

settings = pytest.mark.parametrize("name", SETTINGS)
archs = pytest.mark.parametrize("arch", ["mlp", "cnn"])


class NoPenalty(Regularization):
    """Has a penalty only for networks of another kind."""

    def penalty(self, w, layout):
        return None


def make_pair(arch, name):
    """Return the objective, w, and the same function by hand, with the masks that the network has drawn."""
    batch_norm, rules = SETTINGS[name]
    problem, w = make_problem(arch, batch_norm, rules)
    x, y = draw_data(arch)
    masks = watch_masks(problem.model)
    objective = make_objective(problem, arch=arch)
    objective.value(w)
    masks = dict(masks)
    if any(isinstance(r, Dropout) for r in rules):
        assert len(masks) == 2
        for mask in masks.values():
            torch.testing.assert_close(mask[mask != 0], torch.full_like(mask[mask != 0], 1 / 0.6))
            assert 0 < (mask == 0).sum() < mask.numel()
    strength = STRENGTH if any(isinstance(r, L2) for r in rules) else 0.0
    return objective, w, lambda w: evaluate_by_hand(problem.model, w, x, y, masks, strength)


@archs
@settings
def test_value_gradient_and_curvature_equal_the_loss_by_hand(arch, name):
    objective, w, f = make_pair(arch, name)
    leaf = w.clone().requires_grad_()
    expected = f(leaf)
    loss, g = objective.gradient(w)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(objective.value(w), expected.detach())
    torch.testing.assert_close(g, torch.autograd.grad(expected, leaf)[0])
    assert not loss.requires_grad
    assert not g.requires_grad
    v = torch.randn_like(w)
    torch.testing.assert_close(objective.hvp(w, v), torch_hvp(f, w.clone(), v)[1])
    torch.testing.assert_close(objective.hessian(w), torch_hessian(f, w.clone()))


def multiply_densely(problem, w, outputs, loss, penalty):
    """Return J' H_L J + H_R, from the Jacobian of outputs(w), loss(outputs) and penalty(w)."""
    z = outputs(w)
    j = jacrev(outputs)(w).reshape(-1, len(w))
    h = jacrev(jacrev(lambda z: loss(z.view(outputs(w).shape))))(z.flatten())
    return j.T @ h @ j + jacrev(jacrev(penalty))(w)


LOSSES = {
    "cross_entropy": (CrossEntropy([], None), lambda y: y),
    "cross_entropy, probabilities": (
        CrossEntropy([], None),
        lambda y: (F.one_hot(y, CLASSES) + 0.5) / (1 + CLASSES / 2),
    ),
    "nll": (NegativeLogLikelihood([], None), lambda y: y),
    "mse": (MeanSquaredError([]), lambda y: F.one_hot(y, CLASSES).double()),
    "hinge": (Hinge(1.0, 1, [], None), lambda y: y),
    "squared hinge": (Hinge(1.0, 2, [], None), lambda y: y),
    "bce": (BinaryCrossEntropy(3.0, []), lambda y: y),
    "focal": (Focal(2.0, None, []), lambda y: y),
    "huber": (Huber(0.3, []), lambda y: F.one_hot(y, CLASSES).double()),
    "kl": (KullbackLeibler([]), lambda y: (F.one_hot(y, CLASSES) + 0.5) / (1 + CLASSES / 2)),
    "l1": (AbsoluteError([]), lambda y: F.one_hot(y, CLASSES).double()),
    "weighted": (CrossEntropy([], [0.5, 2.0, 1.0]), lambda y: y),
}


@archs
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    "rules",
    [(), (L2(STRENGTH), KeepWeights()), (L2(STRENGTH), L1(0.1, False)), (NoPenalty(),)],
    ids=["no rules", "l2", "l2 and l1", "no penalty"],
)
def test_a_gauss_newton_product_is_that_of_the_jacobian_and_the_hessian_of_the_loss(arch, name, rules):
    loss, transform = LOSSES[name]
    x, y = draw_data(arch)
    problem = Problem(build_net(arch), loss, rules)
    w = problem.bind(draw_weights(problem))
    objective = MiniBatchObjective(problem, x, transform(y), KEYS[0])
    dense = multiply_densely(
        problem,
        w,
        lambda w: functional_call(problem.model, problem.layout.views(w), (x,)),
        lambda z: loss(z, transform(y)),
        lambda w: (
            STRENGTH / 2 * (problem.layout.mask("weight").double() * w**2).sum() if L2(STRENGTH) in rules else 0 * w[0]
        ),
    )
    for seed in (1, 2):
        v = torch.randn(len(w), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(objective.gauss_newton_product(w, v), dense @ v)
    assert problem.evaluations == 2
    torch.testing.assert_close(objective.first.loss, loss(objective.first.outputs, transform(y)))


@archs
def test_a_gauss_newton_product_has_the_masks_and_the_statistics_of_the_batch(arch):
    """Of a network in training, whose outputs by hand are those of evaluate_by_hand."""
    problem, w = make_problem(arch, batch_norm=True, rules=EVERYTHING)
    objective = make_objective(problem, arch=arch)
    masks = watch_masks(problem.model)
    first = objective.first_evaluation(w)
    masks = dict(masks)
    x, y = draw_data(arch)
    outputs = lambda w: compute_outputs_by_hand(problem.model, w, x, masks)[0]  # noqa: E731
    torch.testing.assert_close(outputs(w), first.outputs)
    mask = problem.layout.mask("weight").double()
    penalty = lambda w: STRENGTH / 2 * (mask * w**2).sum()  # noqa: E731
    dense = multiply_densely(problem, w, outputs, lambda z: F.cross_entropy(z, y), penalty)
    v = torch.randn_like(w)
    torch.testing.assert_close(objective.gauss_newton_product(w, v), dense @ v)


@pytest.mark.parametrize("method", ["hvp", "gauss_newton_product"])
@settings
def test_products_are_those_of_the_present_w(name, method):
    """After another w, after w has changed in place, and after the network has gone to another w."""
    batch_norm, rules = SETTINGS[name]
    problem, w = make_problem(batch_norm=batch_norm, rules=rules)
    objective, v, other = make_objective(problem), torch.randn_like(w), w + 0.3

    def check(at):
        fresh = make_objective(make_problem(batch_norm=batch_norm, rules=rules)[0])
        torch.testing.assert_close(getattr(objective, method)(at, v), getattr(fresh, method)(at.clone(), v))

    check(w)
    check(other)
    objective.value(w - 0.2)
    check(other)
    check(w)
    w.mul_(0.5)
    check(w)
    other.mul_(0.5)
    check(other)
    problem.bind(w.clone()).mul_(2.0)
    check(w)


def test_products_at_one_w_share_one_forward_pass():
    problem, w = make_problem(rules=(L2(STRENGTH),))
    passes = []
    problem.model.register_forward_hook(lambda *arguments: passes.append(1))
    objective = make_objective(problem)
    for product in (objective.hvp, objective.gauss_newton_product):
        passes.clear()
        for _ in range(3):
            product(w, w)
        assert len(passes) == 1


@archs
def test_gradient_and_curvature_agree_with_central_differences(arch):
    objective, w, _ = make_pair(arch, "all")
    v = F.normalize(torch.randn_like(w), dim=0)
    h = 1e-5
    slope = (objective.value(w + h * v) - objective.value(w - h * v)) / (2 * h)
    torch.testing.assert_close(objective.gradient(w)[1] @ v, slope, rtol=1e-6, atol=1e-8)
    bend = (objective.gradient(w + h * v)[1] - objective.gradient(w - h * v)[1]) / (2 * h)
    torch.testing.assert_close(objective.hvp(w, v), bend, rtol=1e-5, atol=1e-7)


def test_a_gradient_is_not_overwritten_in_its_step():
    problem, w = make_problem(batch_norm=True, rules=EVERYTHING)
    previous = None
    for step in range(6):
        objective = MiniBatchObjective(problem, *draw_data(), prng.key(0, step))
        g = objective.gradient(w)[1]
        copy = g.clone()
        assert previous is None or torch.equal(*previous), "the next step overwrote the gradient of this one"
        later = [objective.gradient(w + 0.1 * k)[1] for k in range(3)]
        assert len({one.data_ptr() for one in [g, *later]}) == 4
        objective.value(w)
        objective.hvp(w, w)
        objective.gradient(w)
        assert torch.equal(g, copy)
        previous = (g, copy)
        w -= 0.1 * g


@settings
def test_evaluations_change_neither_the_network_nor_the_function(name):
    objective, w, _ = make_pair("mlp", name)
    model = objective.problem.model
    before = {n: t.clone() for n, t in model.state_dict().items()}
    w_before, value, (loss, g) = w.clone(), objective.value(w), objective.gradient(w)
    for _ in range(2):
        objective.gradient(w)
        objective.gradient(w + 1.0)
        objective.value(w - 1.0)
        objective.hvp(w, g)
        objective.problem.predict(w, objective.inputs)
    assert torch.equal(w, w_before)
    assert torch.equal(objective.value(w), value)
    assert torch.equal(objective.gradient(w)[0], loss)
    assert torch.equal(objective.gradient(w)[1], g)
    after = model.state_dict()
    assert all(torch.equal(after[n], before[n]) for n in before)
    assert all(torch.equal(after[n], b) for n, b in objective.problem.running.items())
    assert all(m.training for m in model.modules())


def test_masks_are_a_function_of_the_step_and_the_site():
    problem, w = make_problem("cnn", rules=(Dropout(0.5, 0.0, "train"),))
    masks = watch_masks(problem.model)

    def draw(objective, ask):
        masks.clear()
        ask(objective)
        return [masks[site] == 0 for site in sorted(masks)]

    objective = make_objective(problem, arch="cnn")
    first = draw(objective, lambda o: o.value(w))
    for ask in (lambda o: o.value(w), lambda o: o.gradient(w), lambda o: o.gradient(w + 1), lambda o: o.value(w - 1)):
        assert all(map(torch.equal, draw(objective, ask), first))
    assert all(map(torch.equal, draw(make_objective(problem, arch="cnn"), lambda o: o.gradient(w)), first))
    assert not any(map(torch.equal, draw(make_objective(problem, 1, "cnn"), lambda o: o.value(w)), first))
    one, other = (mask.flatten() for mask in first)
    size = min(len(one), len(other))
    assert not torch.equal(one[:size], other[:size])


@pytest.mark.parametrize("method", ["value", "gradient", "hvp", "gauss_newton_product", "hessian"])
def test_first_is_the_first_evaluation(method):
    problem, w = make_problem(batch_norm=True, rules=(L2(STRENGTH),))
    x, y = draw_data()
    objective = make_objective(problem)
    assert objective.first is None
    at = w + 0.1
    getattr(objective, method)(*((at, w) if "product" in method or method == "hvp" else (at,)))
    first = objective.first
    for later in (w, w - 0.1):
        objective.value(later)
        objective.gradient(later)
        objective.hvp(later, w)
    assert objective.first is objective.first_evaluation(w) is first
    torch.testing.assert_close(first.loss, evaluate_by_hand(problem.model, at, x, y))
    torch.testing.assert_close(F.cross_entropy(first.outputs, y), first.loss)
    normalized = x @ at[:30].view(6, 5).T + at[30:36]
    torch.testing.assert_close(first.statistics["hidden.1.running_mean"], normalized.mean(0))
    torch.testing.assert_close(first.statistics["hidden.1.running_var"], normalized.var(0))
    assert not any(t.requires_grad for t in (first.loss, first.outputs, *first.statistics.values()))


def ask_everything(objective, w):
    objective.value(w)
    objective.value(w + 1)
    objective.gradient(w)
    objective.gradient(w + 1)
    objective.hvp(w, w)
    objective.hessian(w)


def test_evaluations_are_counted_except_those_of_diagnostics():
    problem, w = make_problem(batch_norm=True, rules=EVERYTHING)
    running = {name: b.clone() for name, b in problem.running.items()}
    each = 5 + w.numel()  # a Hessian is a product for each weight
    for step in range(2):
        objective = make_objective(problem, step)
        ask_everything(objective, w)
        assert problem.evaluations == each * (step + 1)
        first = objective.first
        with objective.pause_counting():
            ask_everything(objective, w)
        assert problem.evaluations == each * (step + 1)
        assert objective.first is first
    assert all(torch.equal(b, running[name]) for name, b in problem.running.items())
    with pytest.raises(RuntimeError), objective.pause_counting():
        raise RuntimeError
    objective.value(w)
    assert problem.evaluations == 2 * each + 1


def test_the_key_of_an_optimizer_is_a_function_of_step_and_name():
    problem, _ = make_problem()
    keys = [make_objective(problem, step).random_key(name) for step in range(3) for name in ("noise", "probe")]
    assert len(set(keys)) == 6
    assert MiniBatchObjective(problem, *draw_data(), KEYS[0]).random_key("noise") == keys[0]


def test_products_do_not_search_the_layers_again():
    """A large network has hundreds of them."""
    problem, w = make_problem("mlp", *SETTINGS["all"])
    objective = make_objective(problem)

    def fail():
        raise AssertionError

    problem.model.modules = fail
    assert objective.hvp(problem.bind(w), torch.ones_like(w)).isfinite().all()
