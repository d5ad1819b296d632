"""Update rules: what holds for every option of the group, trajectories against torch's, and stability by theory."""

import dataclasses
import functools
import math

import pytest
import torch
import torch.nn.functional as F
from helpers import blobs, named, options, resumed, trained, weights
from torch import nn

from dlopt import streams
from dlopt.activation.tanh import Tanh
from dlopt.arch.mlp import MLP
from dlopt.checkpoint import plain, restored
from dlopt.loss.cross_entropy import CrossEntropy
from dlopt.normalization.none import NoNormalization
from dlopt.objective import Problem
from dlopt.optimizer.adagrad import Adagrad
from dlopt.optimizer.adam import Adam, Moments
from dlopt.optimizer.momentum import HeavyBall
from dlopt.optimizer.nesterov import Nesterov
from dlopt.optimizer.rmsprop import RMSProp
from dlopt.optimizer.sgd import SGD
from dlopt.weights import Layout

P, STEPS = 8, 50
RULES = {name: named("optimizer", name) for name in options("optimizer")}
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


def rmsprop(p, lr, decay, eps, momentum, centered):
    return torch.optim.RMSprop(p, lr, alpha=decay, eps=eps, momentum=momentum, centered=centered)


PARITY = {
    "sgd": (SGD(0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "momentum": (HeavyBall(0.05, 0.9), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
    "nesterov": (Nesterov(0.05, 0.9), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True)),
    "nesterov, other numbers": (Nesterov(0.3, 0.2), lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.2, nesterov=True)),
    "adagrad": (Adagrad(0.01, 1e-10, 0.0), lambda p: torch.optim.Adagrad(p, lr=0.01)),
    "adagrad, other numbers": (
        Adagrad(0.2, 1e-2, 0.5),
        lambda p: torch.optim.Adagrad(p, lr=0.2, eps=1e-2, initial_accumulator_value=0.5),
    ),
    "adam": (Adam(0.01, 0.9, 0.999, 1e-8), lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.9, 0.999), eps=1e-8)),
    "adam, other numbers": (Adam(0.1, 0.5, 0.9, 1e-3), lambda p: torch.optim.Adam(p, 0.1, (0.5, 0.9), 1e-3)),
} | {
    f"rmsprop {momentum, centered}": (
        RMSProp(0.003, 0.9, 1e-6, momentum, centered),
        functools.partial(rmsprop, lr=0.003, decay=0.9, eps=1e-6, momentum=momentum, centered=centered),
    )
    for momentum in (0.0, 0.7)
    for centered in (False, True)
}


@pytest.mark.parametrize("name", PARITY)
def test_fifty_steps_of_a_small_net_are_those_of_torch(name):
    rule, make = PARITY[name]
    torch.manual_seed(0)
    model = MLP((6,), 3, Tanh(), NoNormalization(), lambda site: None, [5, 4]).double()
    twin = MLP((6,), 3, Tanh(), NoNormalization(), lambda site: None, [5, 4]).double()
    twin.load_state_dict(model.state_dict())
    x, y = torch.randn(STEPS, 10, 6, dtype=torch.float64), torch.randint(3, (STEPS, 10))

    problem = Problem(model, CrossEntropy([]))
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


IN_LANES = {
    "nesterov": (
        Nesterov,
        lambda p, lr, b: torch.optim.SGD(p, lr, momentum=b, nesterov=True),
        [(0.05, 0.9), (0.3, 0.5), (0.5, 0.1)],
    ),
    "adagrad": (
        Adagrad,
        lambda p, lr, eps, start: torch.optim.Adagrad(p, lr, eps=eps, initial_accumulator_value=start),
        [(0.1, 1e-10, 0.0), (0.5, 1e-3, 2.0), (1.0, 0.1, 0.01)],
    ),
} | {
    f"rmsprop, momentum {momenta}, centered {centered}": (
        functools.partial(RMSProp, centered=centered),
        functools.partial(rmsprop, centered=centered),
        [(0.01, 0.9, 1e-8, momenta[0]), (0.003, 0.99, 1e-3, momenta[1]), (0.02, 0.5, 0.1, momenta[2])],
    )
    for momenta in ((0.0, 0.0, 0.0), (0.0, 0.5, 0.9))
    for centered in (False, True)
}


@pytest.mark.parametrize("name", IN_LANES)
def test_lanes_with_numbers_of_their_own_take_the_steps_of_torch(name):
    make, make_torchs, numbers = IN_LANES[name]
    columns = [torch.tensor(column, dtype=torch.float64).unsqueeze(-1) for column in zip(*numbers, strict=True)]
    columns = [column[0].item() if (column == column[0]).all() else column for column in columns]  # as the loop has it
    rule, objective, w = make(*columns), Quadratic(), started((3,))
    twins = [nn.Parameter(w[i].clone()) for i in range(3)]
    theirs = [make_torchs([p], *own) for p, own in zip(twins, numbers, strict=True)]
    state = rule.init(w, objective.layout)
    for _ in range(STEPS):
        w, state, *_ = rule.step(w, state, objective)
        for p, optimizer in zip(twins, theirs, strict=True):
            p.grad = objective.gradient(p.detach())[1]
            optimizer.step()
        torch.testing.assert_close(w, torch.stack([p.detach() for p in twins]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in RULES if hasattr(RULES[name], "fused")])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_a_fused_kernel_is_the_textbook_form(name, dtype, rtol):
    torch.manual_seed(0)
    rule = RULES[name]
    one = torch.randn(200, dtype=dtype)
    other = one.clone()
    states = [rule.init(one, Quadratic.layout), rule.init(other, Quadratic.layout)]
    for _ in range(STEPS):
        g = torch.randn(200, dtype=dtype) * 10.0 ** torch.randint(-3, 4, (200,))
        before = g.clone()
        one, states[0] = rule.fused(one, states[0], g)
        other, states[1] = rule.textbook(other, states[1], g)
        torch.testing.assert_close(one, other, rtol=rtol, atol=rtol)
        torch.testing.assert_close(states[0], states[1], rtol=rtol, atol=rtol * 1e-3)
        assert torch.equal(g, before)


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


class Slope(Quadratic):
    """A plane: the same gradient everywhere."""

    def __init__(self, slope=1.0):
        self.slope = slope

    def gradient(self, w):
        return self.slope * w.sum(-1), torch.full_like(w, self.slope)


def moves(rule, objective, steps):
    """How far each weight falls in each step, (steps, P)."""
    w, found = started(), []
    state = rule.init(w, objective.layout)
    for _ in range(steps):
        before = w.clone()
        w, state, *_ = rule.step(w, state, objective)
        found.append(before - w)
    return torch.stack(found)


@pytest.mark.parametrize("make", [HeavyBall, Nesterov])
def test_momentum_under_a_constant_gradient_approaches_its_terminal_speed(make):
    last = moves(make(0.1, 0.9), Slope(), 400)[-1]
    torch.testing.assert_close(last, torch.full_like(last, 0.1 / (1 - 0.9)))


@pytest.mark.parametrize("slope", [1e-3, 1.0, 1e3])
def test_adagrad_under_a_constant_gradient_steps_by_the_rate_over_the_root_of_the_steps(slope):
    found = moves(Adagrad(0.1, 1e-12, 0.0), Slope(slope), 50)
    roots = torch.arange(1, 51, dtype=torch.float64).sqrt().unsqueeze(-1)
    torch.testing.assert_close(found, (0.1 / roots).expand_as(found), rtol=1e-6, atol=0)


@pytest.mark.parametrize("slope", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_rmsprop_under_a_constant_gradient_steps_by_the_rate_whatever_its_size(slope, momentum):
    found = moves(RMSProp(0.01, 0.9, 1e-12, momentum, False), Slope(slope), 400)
    torch.testing.assert_close(found[0], torch.full((P,), 0.01 / math.sqrt(1 - 0.9)).double())
    torch.testing.assert_close(found[-1], torch.full((P,), 0.01 / (1 - momentum)).double())


def test_a_variance_that_rounding_makes_negative_is_zero():
    """Under a constant gradient E - m^2 tends to zero, in rounding from below too; torch's rule makes NaN here."""
    g = torch.linspace(0.1, 1.0, 1000, dtype=torch.float64)
    w, rule = torch.zeros_like(g), RMSProp(1e-6, 0.3, 1e-3, 0.0, True)
    state = rule.init(w, Quadratic.layout)
    for _ in range(100):
        before = w.clone()
        w, state = rule.textbook(w, state, g)
    torch.testing.assert_close(before - w, 1e-6 * g / 1e-3, rtol=1e-3, atol=0)


def test_rmsprop_is_its_formula_over_the_whole_history():
    """The averages written as sums over all gradients so far."""
    torch.manual_seed(0)
    gradients = torch.randn(20, P, dtype=torch.float64)
    rule = RMSProp(0.01, 0.9, 1e-6, 0.5, True)
    w = expected = started()
    w, state, v = w.clone(), rule.init(w, Quadratic.layout), torch.zeros(P, dtype=torch.float64)
    for t in range(1, 21):
        w, state = rule.textbook(w, state, gradients[t - 1])
        share = 0.1 * 0.9 ** torch.arange(t - 1, -1, -1, dtype=torch.float64).unsqueeze(-1)
        square, mean = (share * gradients[:t].square()).sum(0), (share * gradients[:t]).sum(0)
        v = 0.5 * v + gradients[t - 1] / ((square - mean.square()).sqrt() + 1e-6)
        expected = expected - 0.01 * v
        torch.testing.assert_close(w, expected)


def test_rmsprop_keeps_no_more_than_it_uses():
    w = started((3,))
    sizes = {
        (momentum, centered): [
            x.shape[-1] for x in RMSProp(0.1, 0.9, 1e-8, momentum, centered).init(w, Quadratic.layout)
        ]
        for momentum in (0.0, 0.5)
        for centered in (False, True)
    }
    expected = {(0.0, False): [P, 0, 0], (0.0, True): [P, P, 0], (0.5, False): [P, 0, P], (0.5, True): [P, P, P]}
    assert sizes == expected


def test_nesterov_is_the_textbooks_form_seen_from_its_look_ahead_points():
    """Sutskever, Martens, Dahl and Hinton 2013, equations 3 and 4, with v in units of gradients: x <- x - lr v."""

    class Quartic(Quadratic):
        def gradient(self, w):
            self.asked.append(w.clone())
            return self.value(w), w @ self.a + w**3

    lr, b = 0.05, 0.8
    ours, textbook, lecture = Quartic(), Quartic(), Quartic()
    run(Nesterov(lr, b), ours, started())
    for objective, ahead in ((textbook, -lr * b), (lecture, b)):
        x, v = started(), torch.zeros(P, dtype=torch.float64)
        for _ in range(STEPS):
            _, g = objective.gradient(x + ahead * v)
            v = b * v + g
            x = x - lr * v
    torch.testing.assert_close(torch.stack(ours.asked), torch.stack(textbook.asked), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(ours.asked[2], lecture.asked[2], rtol=1e-2)  # the sign that some lectures have


@pytest.mark.parametrize("make", [HeavyBall, Nesterov])
def test_momentum_zero_is_gradient_descent(make):
    one, _ = run(make(0.3, 0.0), Quadratic(), started())
    other, _ = run(SGD(0.3), Quadratic(), started())
    torch.testing.assert_close(one, other)


def test_gradient_descent_shrinks_each_eigendirection_by_one_minus_rate_times_eigenvalue():
    objective = Quadratic()
    last, _ = run(SGD(0.3), objective, started(), 20)
    eigenvalues, rotation = torch.linalg.eigh(objective.a)
    torch.testing.assert_close(rotation.T @ last, (1 - 0.3 * eigenvalues) ** 20 * (rotation.T @ started()))


LIMITS = [(SGD, (), 2.0)] + [
    limit
    for b in (0.0, 0.5, 0.9)
    for limit in ((HeavyBall, (b,), 2 * (1 + b)), (Nesterov, (b,), 2 * (1 + b) / (1 + 2 * b)))
]


@pytest.mark.parametrize(("make", "others", "bound"), LIMITS, ids=str)
@pytest.mark.parametrize("largest", [1.0, 37.0])
def test_the_rate_is_stable_just_below_its_limit_and_not_above(make, others, bound, largest):
    """The limit is 2 / lambda_max for gradient descent, 2 (1 + b) / lambda_max for the heavy ball, and
    2 (1 + b) / ((1 + 2 b) lambda_max) for Nesterov's gradient."""
    objective = Quadratic(torch.linspace(0.1, 1.0, P) * largest)
    limit = bound / largest
    _, below = run(make(0.99 * limit, *others), objective, started(), 3000)
    _, above = run(make(1.01 * limit, *others), objective, started(), 3000)
    assert below[-1] < 1e-6 * below[0]
    assert above[-1] > 1e6 * above[0] or not math.isfinite(above[-1])


def test_a_lane_without_momentum_that_shared_a_velocity_goes_on_alone(tmp_path):
    rule = ("optimizer=rmsprop", "schedule=constant", "precision=float64")
    momenta = ("optimizer.momentum=0.0", "optimizer.momentum=0.9")
    _, lanes = trained(tmp_path / "lanes", *(blobs(*rule, momentum) for momentum in momenta))
    for lane, momentum in zip(lanes, momenta, strict=True):
        _, (whole,) = trained(tmp_path / momentum, blobs(*rule, momentum, "epochs=6"))
        _, again = resumed(lane.path, blobs(*rule, momentum, "epochs=6"))
        torch.testing.assert_close(weights(again), weights(whole), rtol=1e-9, atol=1e-9)
