"""Update rules: what holds for every option of the group, trajectories against torch's, and stability by theory."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from dlopt import streams
from dlopt.activation.tanh import Tanh
from dlopt.arch.mlp import MLP
from dlopt.checkpoint import plain, restored
from dlopt.config import paths
from dlopt.loss.cross_entropy import CrossEntropy
from dlopt.normalization.none import NoNormalization
from dlopt.objective import Problem
from dlopt.optimizer.adam import Adam, Moments
from dlopt.optimizer.momentum import HeavyBall
from dlopt.optimizer.sgd import SGD
from dlopt.weights import Layout

P, STEPS = 8, 50
RULES = {
    name: instantiate(OmegaConf.load(paths.CONF / "optimizer" / f"{name}.yaml"))
    for name in paths.options("optimizer")
    if name != "custom"
}
rules = pytest.mark.parametrize("name", RULES)


class Quadratic:
    """f(w) = w'Aw / 2 with eigenvalues from 0.1 to 1, for any leading dimensions."""

    layout = Layout.of(nn.Linear(P, 1, bias=False))

    def __init__(self, eigenvalues=None):
        torch.manual_seed(0)
        rotation = torch.linalg.qr(torch.randn(P, P, dtype=torch.float64))[0]
        eigenvalues = torch.linspace(0.1, 1.0, P) if eigenvalues is None else eigenvalues
        self.a = rotation @ torch.diag(eigenvalues.double()) @ rotation.T
        self.asked = []

    def value(self, w):
        return 0.5 * (w @ self.a * w).sum(-1)

    def gradient(self, w):
        self.asked.append(w.clone())
        return self.value(w), w @ self.a

    def hvp(self, w, v):
        return v @ self.a

    def hessian(self, w):
        return self.a.expand(*w.shape[:-1], P, P)

    def stream(self, name):
        return streams.key(0, name)


def started(lead=()):
    return torch.randn(*lead, P, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def run(rule, objective, w, steps=STEPS):
    """The last iterate, and the values at all of them."""
    w, values = w.clone(), []
    state = rule.init(w, objective.layout)
    for _ in range(steps):
        values.append(objective.value(w).clone())
        w, state, *_ = rule.step(w, state, objective)
    return w, torch.stack([*values, objective.value(w)])


@rules
def test_a_convex_quadratic_falls(name):
    _, values = run(RULES[name], Quadratic(), started())
    assert values[-1] < values[0]
    assert values.isfinite().all()


@rules
def test_lanes_with_rates_of_their_own_equal_runs_alone(name):
    rule = RULES[name]
    if not rule.lanes:
        pytest.skip("the rule declares lanes = False")
    factors = [0.3, 1.0, 1.5]
    together, alone = rule, [rule] * 3
    if hasattr(rule, "lr"):
        column = torch.tensor(factors, dtype=torch.float64).unsqueeze(-1) * rule.lr
        together = dataclasses.replace(rule, lr=column)
        alone = [dataclasses.replace(rule, lr=rate) for rate in column.flatten().tolist()]
    w = started((3,))
    last, values = run(together, Quadratic(), w)
    for i, one in enumerate(alone):
        solo, solo_values = run(one, Quadratic(), w[i])
        torch.testing.assert_close(last[i], solo, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(values[:, i], solo_values, rtol=1e-10, atol=1e-12)


@rules
def test_lanes_may_differ_in_every_number(name):
    rule = RULES[name]
    numbers = [f.name for f in dataclasses.fields(rule) if type(getattr(rule, f.name)) is float]
    if not rule.lanes or not numbers:
        pytest.skip("the rule has nothing in which lanes could differ")
    lower = {n: [getattr(rule, n) * c for c in (1.0, 0.9, 0.5)] for n in numbers}
    together = dataclasses.replace(rule, **{n: torch.tensor(v).double().unsqueeze(-1) for n, v in lower.items()})
    w = started((3,))
    last, _ = run(together, Quadratic(), w)
    for i in range(3):
        exact = {n: float(torch.tensor(v).double()[i]) for n, v in lower.items()}
        solo, _ = run(dataclasses.replace(rule, **exact), Quadratic(), w[i])
        torch.testing.assert_close(last[i], solo, rtol=1e-9, atol=1e-12)


@rules
@pytest.mark.parametrize("lead", [(), (3,)])
def test_the_state_is_a_tuple_of_tensors_of_each_lane_or_of_all(name, lead):
    rule, objective = RULES[name], Quadratic()
    if not rule.lanes:
        pytest.skip("the rule declares lanes = False")
    w = started(lead)
    state = rule.init(w, objective.layout)
    for _ in range(3):
        assert isinstance(state, tuple)
        for leaf in state:
            assert isinstance(leaf, torch.Tensor)
            assert leaf.ndim == 0 or leaf.shape[: len(lead)] == lead
        classes = type(state), [leaf.shape for leaf in state], [leaf.dtype for leaf in state]
        w, state, *_ = rule.step(w, state, objective)
        assert (type(state), [leaf.shape for leaf in state], [leaf.dtype for leaf in state]) == classes
        assert w.shape == (*lead, P)
        assert w.dtype == torch.float64


@rules
def test_a_step_reports_loss_and_gradient_where_it_started(name):
    rule, objective = RULES[name], Quadratic()
    w = started()
    state = rule.init(w, objective.layout)
    for _ in range(3):
        before = w.clone()
        moment = rule.step(w, state, objective)
        torch.testing.assert_close(moment.loss, objective.value(before))
        torch.testing.assert_close(moment.gradient, before @ objective.a)
        assert not torch.equal(moment.w, before)
        w, state = moment.w, moment.state


@rules
def test_a_state_saved_and_restored_goes_on_as_if_nothing_had_happened(name):
    """After every step, as checkpoints do it, and with w in another place."""
    rule, objective = RULES[name], Quadratic()
    whole, _ = run(rule, objective, started(), 10)
    w = started()
    state = rule.init(w, objective.layout)
    for _ in range(10):
        w, state, *_ = rule.step(w, state, objective)
        w, saved = w.clone(), plain(state, 0, solo=True)
        state = restored(rule.init(w, objective.layout), saved, w.device)
    assert torch.equal(w, whole)


@rules
def test_a_stationary_point_is_left_where_it_is(name):
    w, _ = run(RULES[name], Quadratic(), torch.zeros(P, dtype=torch.float64), 5)
    assert not w.any()


# ------------------------------------------------------------------------------------------- against torch


PARITY = {
    "sgd": (SGD(0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "momentum": (HeavyBall(0.05, 0.9), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
    "adam": (Adam(0.01, 0.9, 0.999, 1e-8), lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.9, 0.999), eps=1e-8)),
    "adam, other numbers": (Adam(0.1, 0.5, 0.9, 1e-3), lambda p: torch.optim.Adam(p, 0.1, (0.5, 0.9), 1e-3)),
}


@pytest.mark.parametrize("name", PARITY)
def test_fifty_steps_of_a_small_net_are_those_of_torch(name):
    rule, make = PARITY[name]
    torch.manual_seed(0)
    model = MLP((6,), 3, Tanh(), NoNormalization(), lambda site: None, [5, 4]).double()
    twin = MLP((6,), 3, Tanh(), NoNormalization(), lambda site: None, [5, 4]).double()
    twin.load_state_dict(model.state_dict())
    x, y = torch.randn(STEPS, 10, 6, dtype=torch.float64), torch.randint(3, (STEPS, 10))

    problem = Problem(model, CrossEntropy())
    w = problem.bind(problem.layout.flatten(dict(model.named_parameters())).detach().clone())
    state, theirs = rule.init(w, problem.layout), make(twin.parameters())
    for step in range(STEPS):
        w, state, loss, *_ = rule.step(w, state, problem.objective(x[step], y[step], streams.key(0, step)))
        theirs.zero_grad()
        other = F.cross_entropy(twin(x[step]), y[step])
        other.backward()
        theirs.step()
        expected = nn.utils.parameters_to_vector(twin.parameters()).detach()
        torch.testing.assert_close(w, expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(loss, other.detach(), rtol=1e-10, atol=1e-10)
    assert w is problem.home


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_adams_fused_kernel_is_its_textbook_form(dtype, rtol):
    torch.manual_seed(0)
    rule = Adam(0.01, 0.9, 0.999, 1e-8)
    one = torch.randn(200, dtype=dtype)
    other = one.clone()
    states = [rule.init(one, Quadratic.layout), rule.init(other, Quadratic.layout)]
    for _ in range(STEPS):
        g = torch.randn(200, dtype=dtype) * 10.0 ** torch.randint(-3, 4, (200,))
        one, states[0] = rule.fused(one, states[0], g)
        other, states[1] = rule.textbook(other, states[1], g)
        torch.testing.assert_close(one, other, rtol=rtol, atol=rtol)
        assert states[0].t == states[1].t
        torch.testing.assert_close(states[0], states[1], rtol=rtol, atol=rtol * 1e-3)


# ------------------------------------------------------------------------------------------- theory


def test_adam_is_its_formula_over_the_whole_history():
    """Kingma and Ba 2015, algorithm 1, the averages written as sums over all gradients so far."""
    rule = Adam(0.01, 0.9, 0.99, 1e-6)
    torch.manual_seed(0)
    gradients = torch.randn(20, P, dtype=torch.float64)
    w = expected = started()
    w, state = w.clone(), rule.init(w, Quadratic.layout)
    for t in range(1, 21):
        w, state = rule.textbook(w, state, gradients[t - 1])
        age = torch.arange(t - 1, -1, -1, dtype=torch.float64).unsqueeze(-1)
        m = (0.1 * 0.9**age * gradients[:t]).sum(0) / (1 - 0.9**t)
        v = (0.01 * 0.99**age * gradients[:t].square()).sum(0) / (1 - 0.99**t)
        expected = expected - 0.01 * m / (v.sqrt() + 1e-6)
        torch.testing.assert_close(w, expected)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_adams_first_step_is_the_rate_whatever_the_gradients_size(scale):
    w = started()
    rule = Adam(0.01, 0.9, 0.999, 1e-12)
    g = torch.randn(P, dtype=torch.float64) * scale
    for update in (rule.fused, rule.textbook):
        after, _ = update(w.clone(), Moments(torch.zeros_like(w), torch.zeros_like(w), torch.zeros(())), g)
        torch.testing.assert_close(after, w - 0.01 * g.sign(), rtol=1e-6, atol=1e-8)


def test_momentum_under_a_constant_gradient_approaches_its_terminal_speed():
    class Slope(Quadratic):
        def gradient(self, w):
            return w.sum(-1), torch.ones_like(w)

    rule, w = HeavyBall(0.1, 0.9), started()
    state = rule.init(w, Slope.layout)
    for _ in range(400):
        before = w.clone()
        w, state, *_ = rule.step(w, state, Slope())
    torch.testing.assert_close(before - w, torch.full_like(w, 0.1 / (1 - 0.9)))


def test_momentum_zero_is_gradient_descent():
    one, _ = run(HeavyBall(0.3, 0.0), Quadratic(), started())
    other, _ = run(SGD(0.3), Quadratic(), started())
    torch.testing.assert_close(one, other)


def test_gradient_descent_shrinks_each_eigendirection_by_one_minus_rate_times_eigenvalue():
    objective = Quadratic()
    last, _ = run(SGD(0.3), objective, started(), 20)
    eigenvalues, rotation = torch.linalg.eigh(objective.a)
    torch.testing.assert_close(rotation.T @ last, (1 - 0.3 * eigenvalues) ** 20 * (rotation.T @ started()))


LIMITS = [(SGD, (), 2.0)] + [(HeavyBall, (b,), 2 * (1 + b)) for b in (0.0, 0.5, 0.9)]


@pytest.mark.parametrize(("make", "others", "bound"), LIMITS, ids=str)
@pytest.mark.parametrize("largest", [1.0, 37.0])
def test_the_rate_is_stable_just_below_its_limit_and_not_above(make, others, bound, largest):
    """The limit is 2 / lambda_max for gradient descent and 2 (1 + b) / lambda_max for the heavy ball."""
    objective = Quadratic(torch.linspace(0.1, 1.0, P) * largest)
    limit = bound / largest
    _, below = run(make(0.99 * limit, *others), objective, started(), 3000)
    _, above = run(make(1.01 * limit, *others), objective, started(), 3000)
    assert below[-1] < 1e-6 * below[0]
    assert above[-1] > 1e6 * above[0] or not math.isfinite(above[-1])
