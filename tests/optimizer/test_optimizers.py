"""Update rules: what holds for every option of the group, trajectories against torch's, and stability by theory."""

import copy
import dataclasses
import functools
import math
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from helpers import build_blobs, list_options, load_weights, make_option, resume_run, train_runs
from torch import nn

from dlopt import prng
from dlopt.activation.tanh import Tanh
from dlopt.arch.mlp import MLP
from dlopt.base.dotted_fields import find_field, get_field, list_fields, replace_fields
from dlopt.base.layout import Layout
from dlopt.linalg import inplace
from dlopt.loss.cross_entropy import CrossEntropy
from dlopt.normalization.batch import BatchNorm
from dlopt.normalization.none import NoNormalization
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.optimizer.adadelta import Adadelta
from dlopt.optimizer.adagrad import Adagrad
from dlopt.optimizer.adam import Adam, AdamState
from dlopt.optimizer.adamw import AdamW
from dlopt.optimizer.amsgrad import AMSGrad
from dlopt.optimizer.coordinate_descent import CoordinateDescent
from dlopt.optimizer.delta_bar_delta import DeltaBarDelta
from dlopt.optimizer.lion import Lion
from dlopt.optimizer.momentum import HeavyBall
from dlopt.optimizer.nadam import NAdam
from dlopt.optimizer.nesterov import Nesterov
from dlopt.optimizer.rmsprop import RMSProp
from dlopt.optimizer.rmsprop_nesterov import RMSPropNesterov
from dlopt.optimizer.rprop import Rprop
from dlopt.optimizer.sgd import SGD
from dlopt.parts import TrainingTime
from dlopt.regularization.l2 import L2
from dlopt.regularization.weight_decay import WeightDecay
from dlopt.schedule.inverse_time import InverseTime
from dlopt.training.checkpointing import from_plain, to_plain

P, STEPS = 8, 50
RULES = {name: make_option("optimizer", name) for name in list_options("optimizer")}
ELSEWHERE = {"schedule_free"}
rules = pytest.mark.parametrize("name", RULES)


class Quadratic:
    """f(w) = w'Aw / 2 with eigenvalues from 0.1 to 1, for any leading dimensions."""

    layout = Layout.of(nn.Linear(P, 1, bias=False))
    bounds: ClassVar = {}

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

    def random_key(self, name):
        return prng.key(0, name)


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
    lr = find_field(rule, "lr")
    if lr:
        column = torch.tensor(factors, dtype=torch.float64).unsqueeze(-1) * get_field(rule, lr)
        together = replace_fields(rule, {lr: column})
        alone = [replace_fields(rule, {lr: rate}) for rate in column.flatten().tolist()]
    w = started((3,))
    last, values = run(together, Quadratic(), w)
    for i, one in enumerate(alone):
        solo, solo_values = run(one, Quadratic(), w[i])
        torch.testing.assert_close(last[i], solo, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(values[:, i], solo_values, rtol=1e-10, atol=1e-12)


def floats(part):
    """The places of all numbers of a part, and of the parts in it."""
    found = {name: getattr(part, name) for name in list_fields(part)}
    inner = [f"{name}.{n}" for name, held in found.items() for n in floats(held)]
    return [name for name, number in found.items() if type(number) is float] + inner


@rules
def test_lanes_may_differ_in_every_number(name):
    rule = RULES[name]
    numbers = floats(rule)
    if not rule.lanes or not numbers:
        pytest.skip("the rule has nothing in which lanes could differ")
    lower = {n: [get_field(rule, n) * c for c in (1.0, 0.9, 0.5)] for n in numbers}
    together = replace_fields(rule, {n: torch.tensor(v).double().unsqueeze(-1) for n, v in lower.items()})
    w = started((3,))
    last, _ = run(together, Quadratic(), w)
    for i in range(3):
        exact = {n: float(torch.tensor(v).double()[i]) for n, v in lower.items()}
        solo, _ = run(replace_fields(rule, exact), Quadratic(), w[i])
        torch.testing.assert_close(last[i], solo, rtol=1e-9, atol=1e-12)


def kinds(state):
    """The type of each leaf, with its shape where it has one."""
    return [(leaf.dtype, leaf.shape) if isinstance(leaf, torch.Tensor) else type(leaf) for leaf in state]


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
            assert isinstance(leaf, (torch.Tensor, int))
            assert isinstance(leaf, int) or leaf.ndim == 0 or leaf.shape[: len(lead)] == lead
        classes = type(state), kinds(state)
        w, state, *_ = rule.step(w, state, objective)
        assert (type(state), kinds(state)) == classes
        assert w.shape == (*lead, P)
        assert w.dtype == torch.float64


@rules
def test_a_step_reports_loss_and_gradient_where_it_started(name):
    """At w, and where a rule never asks at w, at the point where it asked first."""
    rule, objective = RULES[name], Quadratic()
    w = started()
    state = rule.init(w, objective.layout)
    for _ in range(3):
        before = w.clone()
        objective.asked.clear()
        moment = rule.step(w, state, objective)
        if name in ELSEWHERE:
            before = objective.asked[0]
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
        w, saved = w.clone(), to_plain(state, 0, solo=True)
        state = from_plain(rule.init(w, objective.layout), saved, w.device)
    assert torch.equal(w, whole)


@rules
@pytest.mark.parametrize("lead", [(), (3,)])
def test_a_long_vector_is_worked_on_in_portions_to_the_same_end(name, lead, monkeypatch):
    rule = RULES[name]
    if lead and not rule.lanes:
        pytest.skip("the rule declares lanes = False")
    whole, _ = run(rule, Quadratic(), started(lead), 10)
    monkeypatch.setattr(inplace, "CHUNK_SIZE", 3)
    in_portions, _ = run(rule, Quadratic(), started(lead), 10)
    torch.testing.assert_close(in_portions, whole, rtol=1e-12, atol=1e-14)


@rules
def test_a_stationary_point_is_left_where_it_is(name):
    w, _ = run(RULES[name], Quadratic(), torch.zeros(P, dtype=torch.float64), 5)
    assert not w.any()


# ------------------------------------------------------------------------------------------- against torch


def rmsprop(p, lr, decay, eps, momentum, centered):
    return torch.optim.RMSprop(p, lr, alpha=decay, eps=eps, momentum=momentum, centered=centered)


def rprop(p, lr, eta_minus, eta_plus, step_min, step_max):
    return torch.optim.Rprop(p, lr, etas=(eta_minus, eta_plus), step_sizes=(lr * step_min, lr * step_max))


PARITY = {
    "sgd": (SGD(0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "momentum": (HeavyBall(0.05, 0.9, 0.0), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)),
    "momentum, dampening": (
        HeavyBall(0.3, 0.9, 0.8),
        lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.9, dampening=0.8),
    ),
    "nesterov": (Nesterov(0.05, 0.9), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True)),
    "nesterov, other numbers": (Nesterov(0.3, 0.2), lambda p: torch.optim.SGD(p, lr=0.3, momentum=0.2, nesterov=True)),
    "adagrad": (Adagrad(0.01, 1e-10, 0.0), lambda p: torch.optim.Adagrad(p, lr=0.01)),
    "adagrad, other numbers": (
        Adagrad(0.2, 1e-2, 0.5),
        lambda p: torch.optim.Adagrad(p, lr=0.2, eps=1e-2, initial_accumulator_value=0.5),
    ),
    "adam": (Adam(0.01, 0.9, 0.999, 1e-8), lambda p: torch.optim.Adam(p, lr=0.01, betas=(0.9, 0.999), eps=1e-8)),
    "adam, other numbers": (Adam(0.1, 0.5, 0.9, 1e-3), lambda p: torch.optim.Adam(p, 0.1, (0.5, 0.9), 1e-3)),
    "amsgrad": (AMSGrad(0.01, 0.9, 0.999, 1e-8), lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True)),
    "amsgrad, other numbers": (
        AMSGrad(0.1, 0.5, 0.6, 1e-3),
        lambda p: torch.optim.Adam(p, 0.1, (0.5, 0.6), 1e-3, amsgrad=True),
    ),
    "nadam": (NAdam(0.01, 0.9, 0.999, 1e-8, 0.004), lambda p: torch.optim.NAdam(p, lr=0.01)),
    "nadam, other numbers": (
        NAdam(0.1, 0.5, 0.9, 1e-3, 2.0),
        lambda p: torch.optim.NAdam(p, 0.1, (0.5, 0.9), 1e-3, momentum_decay=2.0),
    ),
    "adadelta": (Adadelta(1.0, 0.9, 1e-6), torch.optim.Adadelta),
    "adadelta, other numbers": (Adadelta(0.7, 0.5, 1e-2), lambda p: torch.optim.Adadelta(p, 0.7, 0.5, 1e-2)),
    "rprop": (Rprop(0.01, 0.5, 1.2, 1e-4, 5e3), lambda p: torch.optim.Rprop(p, lr=0.01)),
    "rprop at its bounds": (Rprop(0.02, 0.3, 1.7, 0.2, 3.0), lambda p: rprop(p, 0.02, 0.3, 1.7, 0.2, 3.0)),
} | {
    f"rmsprop {momentum, centered}": (
        RMSProp(0.003, 0.9, 1e-6, momentum, centered),
        functools.partial(rmsprop, lr=0.003, decay=0.9, eps=1e-6, momentum=momentum, centered=centered),
    )
    for momentum in (0.0, 0.7)
    for centered in (False, True)
}


class Twins:
    """A small net of ours, and the same one to be trained by torch alone, on the same mini-batches."""

    def __init__(self, *penalties):
        torch.manual_seed(0)
        self.model = MLP((6,), 3, Tanh(), NoNormalization(), lambda site: None, [5, 4], None, None).double()
        self.twin = copy.deepcopy(self.model)
        self.x = torch.randn(STEPS, 10, 6, dtype=torch.float64)
        self.y = torch.randint(3, (STEPS, 10))
        self.problem = Problem(self.model, CrossEntropy([]), penalties)
        self.layout = self.problem.layout
        self.start = self.problem.layout.flatten(dict(self.model.named_parameters())).detach().clone()

    def groups(self, **of_weights):
        """The twin's weights with these options, and its other parameters without."""
        own = dict(self.twin.named_parameters())
        kinds = {kind: [own[p.name] for p in self.layout if (p.kind == "weight") == kind] for kind in (True, False)}
        return [{"params": kinds[True], **of_weights}, {"params": kinds[False]}]

    def loss(self, step):
        return F.cross_entropy(self.twin(self.x[step]), self.y[step])

    def agree(self, rule, theirs, penalty=lambda: 0.0, after=lambda w, before, lr: w, at=lambda rule, step: rule):
        """Fifty steps of both, weights and losses compared after each."""
        w = self.problem.bind(self.start)
        state = rule.init(w, self.layout)
        for step in range(STEPS):
            now, before = at(rule, step), w.clone()
            objective = MiniBatchObjective(self.problem, self.x[step], self.y[step], prng.key(0, step))
            w, state, loss, *_ = now.step(w, state, objective)
            w = after(w, before, rule.lr)
            theirs.zero_grad()
            other = self.loss(step) + penalty()
            other.backward()
            theirs.step()
            expected = nn.utils.parameters_to_vector(self.twin.parameters()).detach()
            torch.testing.assert_close(w, expected, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(loss, other.detach(), rtol=1e-10, atol=1e-10)
        assert w is self.problem.bound_w


@pytest.fixture
def exact_scalars():
    """torch's rules keep their scalars in the default type: in float32 NAdam's product of momenta is off by 1e-7."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("exact_scalars")
@pytest.mark.parametrize("name", PARITY)
def test_fifty_steps_of_a_small_net_are_those_of_torch(name):
    rule, make = PARITY[name]
    twins = Twins()
    twins.agree(rule, make(twins.twin.parameters()))


@pytest.mark.usefixtures("exact_scalars")
@pytest.mark.parametrize("name", PARITY)
def test_with_the_l2_penalty_they_are_those_of_torch_with_its_weight_decay(name):
    """On weights alone, which is a group of their own there. torch's Rprop has none: its loss has the penalty."""
    rule, make = PARITY[name]
    twins = Twins(L2(0.1))
    weights, others = twins.groups(weight_decay=0.1)

    def penalty():
        return 0.05 * sum(p.square().sum() for p in weights["params"])

    if name.startswith("rprop"):
        twins.agree(rule, make([{"params": weights["params"]}, others]), penalty)
    else:
        twins.agree(rule, make([weights, others]), lambda: penalty().detach())


DECOUPLED = {
    "adamw": (AdamW(0.01, 0.9, 0.999, 1e-8, 0.4), lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.0)),
    "adamw, other numbers": (
        AdamW(0.1, 0.5, 0.9, 1e-3, 0.4),
        lambda p: torch.optim.AdamW(p, 0.1, (0.5, 0.9), 1e-3, 0.0),
    ),
    "adam": (Adam(0.01, 0.9, 0.999, 1e-8), lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.0)),
    "amsgrad": (
        AMSGrad(0.01, 0.9, 0.999, 1e-8),
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.0, amsgrad=True),
    ),
    "nadam": (
        NAdam(0.01, 0.9, 0.999, 1e-8, 0.004),
        lambda p: torch.optim.NAdam(p, lr=0.01, decoupled_weight_decay=True),
    ),
}


@pytest.mark.usefixtures("exact_scalars")
@pytest.mark.parametrize("name", DECOUPLED)
def test_with_decoupled_decay_they_are_those_of_torch(name):
    rule, make = DECOUPLED[name]
    twins = Twins()
    decay = WeightDecay(0.0 if isinstance(rule, AdamW) else 0.4)
    twins.agree(
        rule,
        make(twins.groups(weight_decay=0.4)),
        after=lambda w, before, lr: decay.after(w, before, lr, twins.layout),
    )


def test_adagrad_by_inverse_time_is_torchs_with_its_decay_of_the_rate():
    twins, schedule = Twins(), InverseTime(0.3, "steps")
    theirs = torch.optim.Adagrad(twins.twin.parameters(), lr=0.1, lr_decay=0.3)
    twins.agree(
        Adagrad(0.1, 1e-10, 0.0),
        theirs,
        at=lambda rule, step: dataclasses.replace(rule, lr=0.1 * schedule(TrainingTime(step, STEPS, 1))),
    )


IN_LANES = {
    "momentum": (
        HeavyBall,
        lambda p, lr, b, d: torch.optim.SGD(p, lr, momentum=b, dampening=d),
        [(0.05, 0.9, 0.0), (0.3, 0.5, 0.5), (0.5, 0.1, 0.9)],
    ),
    "adamw": (
        AdamW,
        lambda p, lr, b1, b2, eps, decay: torch.optim.AdamW(p, lr, (b1, b2), eps, decay),
        [(0.01, 0.9, 0.999, 1e-8, 0.1), (0.03, 0.5, 0.9, 1e-3, 0.0), (0.02, 0.9, 0.9, 1e-2, 2.0)],
    ),
    "amsgrad": (
        AMSGrad,
        lambda p, lr, b1, b2, eps: torch.optim.Adam(p, lr, (b1, b2), eps, amsgrad=True),
        [(0.01, 0.9, 0.999, 1e-8), (0.1, 0.5, 0.9, 1e-3), (0.02, 0.9, 0.5, 1e-2)],
    ),
    "nadam": (
        NAdam,
        lambda p, lr, b1, b2, eps, psi: torch.optim.NAdam(p, lr, (b1, b2), eps, momentum_decay=psi),
        [(0.01, 0.9, 0.999, 1e-8, 0.004), (0.03, 0.5, 0.9, 1e-3, 1.0), (0.02, 0.9, 0.9, 1e-2, 0.0)],
    ),
    "adadelta": (
        Adadelta,
        torch.optim.Adadelta,
        [(1.0, 0.9, 1e-6), (0.5, 0.95, 1e-2), (2.0, 0.5, 1e-4)],
    ),
    "rprop": (Rprop, rprop, [(0.1, 0.5, 1.2, 0.01, 10.0), (0.2, 0.3, 1.5, 0.3, 2.0), (0.01, 0.9, 1.1, 1e-4, 5e3)]),
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


@pytest.mark.usefixtures("exact_scalars")
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
        torch.testing.assert_close(w, torch.stack([p.detach() for p in twins]), rtol=1e-10, atol=1e-10)


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
        one, states[0] = rule.update_fused(one, states[0], g)
        other, states[1] = rule.update_textbook(other, states[1], g)
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
        w, state = rule.update_textbook(w, state, gradients[t - 1])
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
    for update in (rule.update_fused, rule.update_textbook):
        after, _ = update(w.clone(), AdamState(torch.zeros_like(w), torch.zeros_like(w), torch.zeros(())), g)
        torch.testing.assert_close(after, w - 0.01 * g.sign(), rtol=1e-6, atol=1e-8)


class Slope(Quadratic):
    """A plane: the same gradient everywhere."""

    def __init__(self, slope=1.0):
        self.slope = slope

    def gradient(self, w):
        return self.slope * w.sum(-1), torch.full_like(w, self.slope)


class Given:
    """An oracle that says what it was given."""

    def __init__(self, g, layout=Quadratic.layout, step=0, key=None):
        self.g, self.layout, self.key = g, layout, key or prng.key(0, step)

    def gradient(self, w):
        return torch.zeros(w.shape[:-1], dtype=w.dtype), self.g

    def random_key(self, name):
        return prng.fold_in(self.key, name)


def moves(rule, objective, steps):
    """How far each weight falls in each step, (steps, P)."""
    w, found = started(), []
    state = rule.init(w, objective.layout)
    for _ in range(steps):
        before = w.clone()
        w, state, *_ = rule.step(w, state, objective)
        found.append(before - w)
    return torch.stack(found)


@pytest.mark.parametrize(
    ("rule", "speed"),
    [
        (HeavyBall(0.1, 0.9, 0.0), 0.1 / (1 - 0.9)),
        (HeavyBall(0.1, 0.9, 0.6), 0.1 * (1 - 0.6) / (1 - 0.9)),
        (Nesterov(0.1, 0.9), 0.1 / (1 - 0.9)),
    ],
)
def test_momentum_under_a_constant_gradient_approaches_its_terminal_speed(rule, speed):
    last = moves(rule, Slope(), 400)[-1]
    torch.testing.assert_close(last, torch.full_like(last, speed))


def test_momentum_dampened_by_itself_is_an_average_that_starts_at_the_first_gradient():
    found = moves(HeavyBall(0.1, 0.9, 0.9), Slope(), 20)
    torch.testing.assert_close(found, torch.full_like(found, 0.1))


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
        w, state = rule.update_textbook(w, state, g)
    torch.testing.assert_close(before - w, 1e-6 * g / 1e-3, rtol=1e-3, atol=0)


def test_rmsprop_is_its_formula_over_the_whole_history():
    """The averages written as sums over all gradients so far."""
    torch.manual_seed(0)
    gradients = torch.randn(20, P, dtype=torch.float64)
    rule = RMSProp(0.01, 0.9, 1e-6, 0.5, True)
    w = expected = started()
    w, state, v = w.clone(), rule.init(w, Quadratic.layout), torch.zeros(P, dtype=torch.float64)
    for t in range(1, 21):
        w, state = rule.update_textbook(w, state, gradients[t - 1])
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


class Quartic(Quadratic):
    """Curvature that changes from place to place."""

    def gradient(self, w):
        self.asked.append(w.clone())
        return self.value(w), w @ self.a + w**3


def test_nesterov_is_the_textbooks_form_seen_from_its_look_ahead_points():
    """Sutskever, Martens, Dahl and Hinton 2013, equations 3 and 4, with v in units of gradients: x <- x - lr v."""
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
    assert not torch.allclose(ours.asked[2], lecture.asked[2], rtol=1e-2)  # the sign that one lecture has


def test_rmsprop_with_nesterovs_momentum_is_the_textbooks_form_seen_from_its_look_ahead_points():
    """Goodfellow, Bengio and Courville 2016, algorithm 8.6, line by line, with RMSProp's eps."""
    epsilon, alpha, rho, eps = 0.01, 0.8, 0.9, 0.1
    ours, textbook = Quartic(), Quartic()
    run(RMSPropNesterov(epsilon, rho, eps, alpha), ours, started())
    theta, v, r = started(), torch.zeros(P, dtype=torch.float64), torch.zeros(P, dtype=torch.float64)
    for _ in range(STEPS):
        _, g = textbook.gradient(theta + alpha * v)
        r = rho * r + (1 - rho) * g * g
        v = alpha * v - epsilon / (r.sqrt() + eps) * g
        theta = theta + v
    torch.testing.assert_close(torch.stack(ours.asked), torch.stack(textbook.asked), rtol=1e-12, atol=1e-12)


def test_rmsprop_with_nesterovs_momentum_zero_is_rmsprop():
    one, _ = run(RMSPropNesterov(0.01, 0.9, 1e-6, 0.0), Quadratic(), started())
    other, _ = run(RMSProp(0.01, 0.9, 1e-6, 0.0, False), Quadratic(), started())
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_nadam_is_its_formula_over_the_whole_history():
    """Dozat 2016, algorithm 2, the average of gradients with a constant decay as torch has it; mu by its section 4."""
    lr, b1, b2, eps, psi = 0.01, 0.9, 0.99, 1e-6, 0.5
    torch.manual_seed(0)
    gradients = torch.randn(20, P, dtype=torch.float64)
    rule, w, expected = NAdam(lr, b1, b2, eps, psi), started(), started()
    mu = [b1 * (1 - 0.5 * 0.96 ** (t * psi)) for t in range(1, 22)]
    state = rule.init(w, Quadratic.layout)
    for t in range(1, 21):
        w, state, *_ = rule.step(w, state, Given(gradients[t - 1]))
        age = torch.arange(t - 1, -1, -1, dtype=torch.float64).unsqueeze(-1)
        m = ((1 - b1) * b1**age * gradients[:t]).sum(0)
        v = ((1 - b2) * b2**age * gradients[:t].square()).sum(0) / (1 - b2**t)
        ahead = mu[t] * m / (1 - math.prod(mu[: t + 1])) + (1 - mu[t - 1]) * gradients[t - 1] / (1 - math.prod(mu[:t]))
        expected = expected - lr * ahead / (v.sqrt() + eps)
        torch.testing.assert_close(w, expected)


def test_on_reddis_problem_adam_climbs_and_amsgrad_descends():
    """Reddi, Kale and Kumar 2018, theorem 1: gradients C, -1, -1, ..., of mean (C - 2) / 3 > 0, and beta1 = 0 with
    beta2 = 1 / (1 + C^2). Adam forgets C before the next."""
    c = 3.0
    b2 = 1 / (1 + c**2)

    def climb(rule):
        w = torch.zeros(1, dtype=torch.float64)
        state = rule.init(w, Quadratic.layout)
        for t in range(300):
            w, state, *_ = rule.step(w, state, Given(torch.tensor([c if t % 3 == 0 else -1.0], dtype=torch.float64)))
        return w.item()

    assert climb(Adam(0.01, 0.0, b2, 1e-8)) > 0.5
    assert climb(AMSGrad(0.01, 0.0, b2, 1e-8)) < -0.3


@pytest.mark.parametrize("slope", [1e-1, 1.0, 1e3])
def test_adadeltas_first_step_is_made_of_eps(slope):
    found = moves(Adadelta(1.0, 0.9, 1e-8), Slope(slope), 1)
    torch.testing.assert_close(found, torch.full_like(found, math.sqrt(1e-8 / 0.1)), rtol=1e-4, atol=0)


def test_rprop_is_igels_and_huskens_rule_weight_by_weight():
    """iRprop-: on a change of sign the size falls and the gradient counts as zero; only signs matter."""
    lr, minus, plus, least, most = 0.05, 0.4, 1.3, 0.1, 2.0
    objective = Quartic()
    ours = Quartic()
    last, _ = run(Rprop(lr, minus, plus, least, most), ours, started())
    w, size, before = started().tolist(), [lr] * P, [0.0] * P
    for _ in range(STEPS):
        g = objective.gradient(torch.tensor(w, dtype=torch.float64))[1].tolist()
        for i in range(P):
            if g[i] * before[i] > 0:
                size[i] = min(size[i] * plus, most * lr)
            elif g[i] * before[i] < 0:
                size[i] = max(size[i] * minus, least * lr)
                g[i] = 0.0
            w[i] -= size[i] * math.copysign(1.0, g[i]) if g[i] else 0.0
        before = g
    torch.testing.assert_close(last, torch.tensor(w, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_rprops_second_step_is_the_first_that_grows_whatever_the_gradients_size():
    for slope in (1e-30, 1.0, 1e30):
        found = moves(Rprop(0.01, 0.5, 1.2, 1e-4, 5e3), Slope(slope), 3)
        expected = 0.01 * torch.tensor([1.0, 1.2, 1.44], dtype=torch.float64).unsqueeze(-1).expand_as(found)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


def test_delta_bar_delta_is_jacobss_rule_weight_by_weight():
    """Jacobs 1988: epsilon(t+1) = epsilon(t) + kappa, or (1 - phi) epsilon(t), by the sign of the trace of the steps
    before times that of delta(t); w(t+1) = w(t) - epsilon(t+1) delta(t); then the trace takes in delta(t)."""
    lr, kappa, phi, theta = 0.02, 0.5, 0.3, 0.7
    ours, objective = Quartic(), Quartic()
    last, _ = run(DeltaBarDelta(lr, kappa, phi, theta), ours, started())
    w, epsilon, trace = started().tolist(), [lr] * P, [0.0] * P
    fell = 0
    for _ in range(STEPS):
        delta = objective.gradient(torch.tensor(w, dtype=torch.float64))[1].tolist()
        for i in range(P):
            if trace[i] * delta[i] > 0:
                epsilon[i] += lr * kappa
            elif trace[i] * delta[i] < 0:
                epsilon[i] *= 1 - phi
                fell += 1
            w[i] -= epsilon[i] * delta[i]
            trace[i] = (1 - theta) * delta[i] + theta * trace[i]
    assert fell > P
    torch.testing.assert_close(last, torch.tensor(w, dtype=torch.float64), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rule", [Rprop(0.05, 0.5, 1.2, 0.5, 3.0), DeltaBarDelta(0.05, 0.3, 0.2, 0.7)])
def test_a_rate_that_moves_scales_all_steps_and_may_be_zero(rule):
    objective, w = Quartic(), started()
    state = rule.init(w, objective.layout)
    for _ in range(10):
        w, state, *_ = rule.step(w, state, objective)

    def moved(rate):
        copies = type(state)(*(x.clone() for x in state))
        return w - dataclasses.replace(rule, lr=rate).step(w.clone(), copies, objective).w

    torch.testing.assert_close(moved(0.005), moved(0.05) / 10, rtol=1e-10, atol=1e-14)
    assert not moved(0.0).any()


def test_lion_is_its_program():
    """Chen et al. 2023, algorithm 2 without its decay, the averages as sums over all gradients so far."""
    lr, b1, b2 = 0.01, 0.8, 0.95
    torch.manual_seed(0)
    gradients = torch.randn(20, P, dtype=torch.float64)
    rule, w, expected = Lion(lr, b1, b2), started(), started()
    state = rule.init(w, Quadratic.layout)
    for t in range(20):
        w, state, *_ = rule.step(w, state, Given(gradients[t]))
        age = torch.arange(t - 1, -1, -1, dtype=torch.float64).unsqueeze(-1)
        m = ((1 - b2) * b2**age * gradients[:t]).sum(0)
        expected = expected - lr * (b1 * m + (1 - b1) * gradients[t]).sign()
        torch.testing.assert_close(w, expected, rtol=1e-12, atol=1e-12)


def test_cyclic_descent_by_exact_coordinates_is_gauss_seidel():
    """x_i <- -(sum over j != i of A_ij x_j) / A_ii, one i after another, where all A_ii are the same."""
    objective = Quadratic()
    d = objective.a.diagonal().rsqrt()
    objective.a = d.unsqueeze(-1) * objective.a * d * 4.0
    found, _ = run(CoordinateDescent(0.25, 1, "cyclic"), objective, started(), 2 * P)
    x = started()
    for i in 2 * [*range(P)]:
        x[i] = -(objective.a[i] @ x - 4.0 * x[i]) / 4.0
    torch.testing.assert_close(found, x, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("a", [0.01, 0.1, 1.0])
def test_coordinates_that_hold_each_other_fast_fall_by_one_over_one_plus_a_squared(a):
    """(x1 - x2)^2 + a (x1^2 + x2^2), from x1 = x2 / (1 + a), where a cycle of exact steps leaves off."""
    objective = Quadratic()
    objective.layout = Layout.of(nn.Linear(2, 1, bias=False))
    objective.a = 2 * torch.tensor([[1 + a, -1.0], [-1.0, 1 + a]], dtype=torch.float64)
    start = torch.tensor([1 + a, 1.0], dtype=torch.float64)
    found, _ = run(CoordinateDescent(0.5 / (1 + a), 1, "cyclic"), objective, start, 2)
    torch.testing.assert_close(found, start / (1 + a) ** 2)


@pytest.mark.parametrize(("blocks", "sizes"), [("layers", [20, 15, 12, 4]), (16, [16, 16, 16, 3]), (100, [51])])
@pytest.mark.parametrize("order", ["cyclic", "random"])
def test_each_step_of_coordinate_descent_moves_one_block_as_gradient_descent_would(blocks, sizes, order):
    layout = Layout.of(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 1)))
    w = torch.randn(layout.size, dtype=torch.float64)
    rule, seen = CoordinateDescent(0.1, blocks, order), []
    state = rule.init(w, layout)
    for step in range(40):
        before, g = w.clone(), torch.randn(layout.size, dtype=torch.float64)
        w, state, *_ = rule.step(w, state, Given(g, layout, step))
        moved = (w != before).split(sizes)
        (k,) = [i for i, m in enumerate(moved) if m.any()]
        assert moved[k].all()
        torch.testing.assert_close(w, torch.where(torch.cat(moved), before - 0.1 * g, before))
        seen.append(k)
    if order == "cyclic":
        assert seen == [i % len(sizes) for i in range(40)]
    else:
        assert set(seen) == set(range(len(sizes)))
        assert len(sizes) == 1 or seen != [i % len(sizes) for i in range(40)]


def test_each_lane_of_coordinate_descent_draws_its_own_blocks_and_may_have_its_own_size():
    """In lanes the stream's key has a half for each of them, as in training."""
    layout, w = Layout.of(nn.Linear(40, 1, bias=False)), torch.randn(3, 40, dtype=torch.float64)
    gradients = torch.randn(30, 3, 40, dtype=torch.float64)
    sizes = [1, 7, 40]
    together = CoordinateDescent(0.1, torch.tensor(sizes, dtype=torch.float64).unsqueeze(-1), "random")
    last, state = w.clone(), together.init(w, layout)
    for step in range(30):
        keys = [prng.key(i, step) for i in range(3)]
        batch = prng.Key(*(torch.tensor(half) for half in zip(*keys, strict=True)))
        last, state, *_ = together.step(last, state, Given(gradients[step], layout, key=batch))
    for i, size in enumerate(sizes):
        rule, alone = CoordinateDescent(0.1, size, "random"), w[i].clone()
        state = rule.init(alone, layout)
        for step in range(30):
            alone, state, *_ = rule.step(alone, state, Given(gradients[step, i], layout, key=prng.key(i, step)))
        torch.testing.assert_close(last[i], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("lead", [(), (2,)])
def test_adamws_decay_leaves_biases_and_normalizations_alone(lead):
    layout = Layout.of(nn.Sequential(nn.Linear(4, 3), BatchNorm(3), nn.Linear(3, 2)))
    w = torch.randn(*lead, layout.size, dtype=torch.float64)
    rule = AdamW(torch.full((*lead, 1), 0.1).double() if lead else 0.1, 0.9, 0.999, 1e-8, 0.5)
    after = rule.step(w.clone(), rule.init(w, layout), Given(torch.zeros_like(w), layout)).w
    expected = {p.name: 0.95 if p.kind == "weight" else 1.0 for p in layout}
    for p in layout:
        torch.testing.assert_close(after[..., p.slice], expected[p.name] * w[..., p.slice])


@pytest.mark.parametrize("rule", [HeavyBall(0.3, 0.0, 0.0), Nesterov(0.3, 0.0)])
def test_momentum_zero_is_gradient_descent(rule):
    one, _ = run(rule, Quadratic(), started())
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
    for limit in (
        (HeavyBall, (b, 0.0), 2 * (1 + b)),
        (HeavyBall, (b, 0.7), 2 * (1 + b) / (1 - 0.7)),
        (Nesterov, (b,), 2 * (1 + b) / (1 + 2 * b)),
    )
]


@pytest.mark.parametrize(("make", "others", "bound"), LIMITS, ids=str)
@pytest.mark.parametrize("largest", [1.0, 37.0])
def test_the_rate_is_stable_just_below_its_limit_and_not_above(make, others, bound, largest):
    """The limit is 2 / lambda_max for gradient descent, 2 (1 + b) / ((1 - d) lambda_max) for the heavy ball with
    dampening d, and 2 (1 + b) / ((1 + 2 b) lambda_max) for Nesterov's gradient."""
    objective = Quadratic(torch.linspace(0.1, 1.0, P) * largest)
    limit = bound / largest
    _, below = run(make(0.99 * limit, *others), objective, started(), 3000)
    _, above = run(make(1.01 * limit, *others), objective, started(), 3000)
    assert below[-1] < 1e-6 * below[0]
    assert above[-1] > 1e6 * above[0] or not math.isfinite(above[-1])


def test_a_lane_without_momentum_that_shared_a_velocity_goes_on_alone(tmp_path):
    rule = ("optimizer=rmsprop", "schedule=constant", "precision=float64")
    momenta = ("optimizer.momentum=0.0", "optimizer.momentum=0.9")
    _, lanes = train_runs(tmp_path / "lanes", *(build_blobs(*rule, momentum) for momentum in momenta))
    for lane, momentum in zip(lanes, momenta, strict=True):
        _, (whole,) = train_runs(tmp_path / momentum, build_blobs(*rule, momentum, "epochs=6"))
        _, again = resume_run(lane.path, build_blobs(*rule, momentum, "epochs=6"))
        torch.testing.assert_close(load_weights(again), load_weights(whole), rtol=1e-9, atol=1e-9)
