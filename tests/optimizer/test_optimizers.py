"""Optimizers: properties of every option, trajectories of torch, formulas of the sources, and theory."""

import copy
import dataclasses
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
from dlopt.base.dotted_fields import get_field, list_fields, replace_fields
from dlopt.base.layout import Layout
from dlopt.linalg import inplace
from dlopt.loss.cross_entropy import CrossEntropy
from dlopt.normalization.batch import BatchNorm
from dlopt.normalization.none import NoNormalization
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.optimizer.adadelta import Adadelta
from dlopt.optimizer.adagrad import Adagrad
from dlopt.optimizer.adam import Adam
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

P, STEPS = 8, 30
RULES = {name: make_option("optimizer", name) for name in list_options("optimizer")}
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
        self.queries = []

    def value(self, w):
        return 0.5 * (w @ self.a * w).sum(-1)

    def gradient(self, w):
        self.queries.append(w.clone())
        return self.value(w), w @ self.a

    def hvp(self, w, v):
        return v @ self.a

    def gauss_newton_product(self, w, v):
        return self.hvp(w, v)

    def hessian(self, w):
        return self.a.expand(*w.shape[:-1], P, P)

    def kronecker_factors(self, w, *, sampled):
        """Of a linear layer with one output: A x 1."""
        return [(self.hessian(w), torch.ones(*w.shape[:-1], 1, 1, dtype=w.dtype))]

    def gauss_newton_diagonal(self, w):
        return self.hessian(w).diagonal(dim1=-2, dim2=-1).to(w)

    def random_key(self, name):
        return prng.key(0, name)


class Quartic(Quadratic):
    """w'Aw / 2 + sum of w^4 / 4, with another curvature at each point."""

    def value(self, w):
        return super().value(w) + (w**4).sum(-1) / 4

    def gradient(self, w):
        self.queries.append(w.clone())
        return self.value(w), w @ self.a + w**3

    def hvp(self, w, v):
        return super().hvp(w, v) + 3 * w**2 * v

    def hessian(self, w):
        return super().hessian(w) + torch.diag_embed(3 * w**2)


def draw_start(lead=()):
    return torch.randn(*lead, P, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def run(rule, objective, w, steps=STEPS):
    """Return the last iterate, and the values at all iterates."""
    w, values = w.clone(), []
    state = rule.init(w, objective.layout)
    for _ in range(steps):
        values.append(objective.value(w).clone())
        w, state, *_ = rule.step(w, state, objective)
    return w, torch.stack([*values, objective.value(w)])


@rules
def test_a_convex_quadratic_falls(name):
    _, values = run(RULES[name], Quadratic(), draw_start())
    assert values[-1] < values[0]
    assert values.isfinite().all()


def list_floats(part):
    """Return the dotted names of all float fields of a component and of those inside it."""
    fields = {name: getattr(part, name) for name in list_fields(part)}
    inner = [f"{name}.{n}" for name, value in fields.items() for n in list_floats(value)]
    return [name for name, value in fields.items() if type(value) is float] + inner


LANES = {name: rule for name, rule in RULES.items() if rule.lanes} | {
    "momentum, dampening": HeavyBall(0.3, 0.9, 0.8),
    "rmsprop, momentum": RMSProp(0.003, 0.9, 1e-6, 0.7, False),
    "rmsprop, centered": RMSProp(0.003, 0.9, 1e-6, 0.7, True),
    "adagrad, accumulator": Adagrad(0.2, 1e-2, 0.5),
    "rprop, bounds": Rprop(0.02, 0.3, 1.7, 0.2, 3.0),
    "mars, exact": make_option("optimizer", "mars", exact=True),
    "prodigy, decay": make_option("optimizer", "prodigy", d0=1e-2, weight_decay=0.1),
}
lanes = pytest.mark.parametrize("name", LANES)


@lanes
@pytest.mark.parametrize("own", ["every number", "lr"])
def test_lanes_with_numbers_of_their_own_equal_runs_alone(name, own):
    rule = LANES[name]
    numbers = [n for n in list_floats(rule) if own == "every number" or n.rpartition(".")[2] == own]
    columns = {n: torch.tensor([[1.0], [0.9], [0.5]]).double() * get_field(rule, n) for n in numbers}
    w = draw_start((3,))
    last, values = run(replace_fields(rule, columns), Quadratic(), w)
    for i in range(3):
        alone = replace_fields(rule, {n: column[i].item() for n, column in columns.items()})
        solo, solo_values = run(alone, Quadratic(), w[i])
        torch.testing.assert_close(last[i], solo, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(values[:, i], solo_values, rtol=1e-9, atol=1e-12)


class Tilted(Quadratic):
    """A linear function, with the same gradient everywhere, and products that tests of averages of curvatures need."""

    slope = torch.linspace(-2.0, 3.0, P, dtype=torch.float64)

    def value(self, w):
        return w @ self.slope.to(w)

    def gradient(self, w):
        return self.value(w), self.slope.to(w).expand(w.shape).clone()

    def hvp(self, w, v):
        return self.slope.to(w) * v


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if hasattr(rule, "beta2")])
@pytest.mark.parametrize("kind", ["solo", "shared betas", "own betas"])
def test_steps_with_betas_near_one_are_as_exact_in_float32_as_its_digits(name, kind):
    """1 - beta^t and 1 - mu are then small differences."""
    rule = replace_fields(RULES[name], {"lr": 0.5, "beta2": 0.9999})
    rule = replace_fields(rule, {"beta1": 0.9999} if hasattr(rule, "beta1") else {})
    twin, lead = rule, () if kind == "solo" else (2,)
    if kind == "own betas":
        columns = {n: torch.full((2, 1), get_field(rule, n)) for n in list_floats(rule) if n.startswith("beta")}
        twin = replace_fields(rule, {n: column[0].item() for n, column in columns.items()})
        rule = replace_fields(rule, columns)
    for steps in (1, 2, 10):
        w, _ = run(rule, Tilted(), torch.zeros(*lead, P), steps)
        exact, _ = run(twin, Tilted(), torch.zeros(P, dtype=torch.float64), steps)
        torch.testing.assert_close(w.double(), exact.expand(w.shape), rtol=5e-6, atol=0)


def list_leaves(state):
    """Return the tensors and numbers of a state and of the states inside it."""
    return [leaf for x in state for leaf in (list_leaves(x) if isinstance(x, tuple) else [x])]


def list_kinds(state):
    """Return the type of each leaf, with the shape of a tensor."""
    return [(leaf.dtype, leaf.shape) if isinstance(leaf, torch.Tensor) else type(leaf) for leaf in list_leaves(state)]


@lanes
@pytest.mark.parametrize("lead", [(), (3,)])
def test_the_state_is_a_tuple_of_tensors_of_each_lane_or_of_all(name, lead):
    rule, objective, w = LANES[name], Quadratic(), draw_start(lead)
    state = rule.init(w, objective.layout)
    for _ in range(3):
        assert isinstance(state, tuple)
        for leaf in list_leaves(state):
            assert isinstance(leaf, int) or leaf.ndim == 0 or leaf.shape[: len(lead)] == lead
        before = type(state), list_kinds(state)
        w, state, *_ = rule.step(w, state, objective)
        assert (type(state), list_kinds(state)) == before
        assert w.shape == (*lead, P)
        assert w.dtype == torch.float64


@rules
def test_a_step_reports_loss_and_gradient_where_it_draw_start(name):
    """At w; schedule_free, which never queries at w, at the point of its first query. Only ADOPT's first step waits."""
    rule, objective = RULES[name], Quadratic()
    w = draw_start()
    state = rule.init(w, objective.layout)
    for _ in range(3):
        before = w.clone()
        objective.queries.clear()
        moment = rule.step(w, state, objective)
        if name == "schedule_free":
            before = objective.queries[0]
        torch.testing.assert_close(moment.loss, objective.value(before))
        torch.testing.assert_close(moment.gradient, before @ objective.a)
        assert not torch.equal(moment.w, before) or (name == "adopt" and state.t == 0)
        w, state = moment.w, moment.state


@rules
def test_a_restored_state_resumes_with_the_same_bits(name):
    """After every step, as checkpoints do it, and with w at another address."""
    rule, objective = RULES[name], Quadratic()
    whole, _ = run(rule, objective, draw_start(), 10)
    w = draw_start()
    state = rule.init(w, objective.layout)
    for _ in range(10):
        w, state, *_ = rule.step(w, state, objective)
        w, saved = w.clone(), to_plain(state, 0, solo=True)
        state = from_plain(rule.init(w, objective.layout), saved, w.device)
    assert torch.equal(w, whole)


@lanes
@pytest.mark.parametrize("lead", [(), (3,)])
def test_a_long_vector_is_processed_in_chunks_with_the_same_result(name, lead, monkeypatch):
    whole, _ = run(LANES[name], Quadratic(), draw_start(lead), 10)
    monkeypatch.setattr(inplace, "CHUNK_SIZE", 3)
    in_chunks, _ = run(LANES[name], Quadratic(), draw_start(lead), 10)
    torch.testing.assert_close(in_chunks, whole, rtol=1e-12, atol=1e-14)


@rules
def test_a_stationary_point_is_not_left(name):
    w, _ = run(RULES[name], Quadratic(), torch.zeros(P, dtype=torch.float64), 5)
    assert not w.any()


# ------------------------------------------------------------------------------------------- against torch


BETAS = {"betas": (0.5, 0.9), "eps": 1e-3}
PARITY = {
    "sgd": (SGD(0.1), "SGD", {"lr": 0.1}),
    "momentum": (HeavyBall(0.05, 0.9, 0.0), "SGD", {"lr": 0.05, "momentum": 0.9}),
    "momentum, dampening": (HeavyBall(0.3, 0.9, 0.8), "SGD", {"lr": 0.3, "momentum": 0.9, "dampening": 0.8}),
    "nesterov": (Nesterov(0.05, 0.9), "SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "adagrad": (Adagrad(0.2, 1e-2, 0.5), "Adagrad", {"lr": 0.2, "eps": 1e-2, "initial_accumulator_value": 0.5}),
    "adam": (Adam(0.01, 0.9, 0.999, 1e-8), "Adam", {"lr": 0.01}),
    "adam, other numbers": (Adam(0.1, 0.5, 0.9, 1e-3), "Adam", {"lr": 0.1, **BETAS}),
    "amsgrad": (AMSGrad(0.1, 0.5, 0.9, 1e-3), "Adam", {"lr": 0.1, **BETAS, "amsgrad": True}),
    "nadam": (NAdam(0.1, 0.5, 0.9, 1e-3, 2.0), "NAdam", {"lr": 0.1, **BETAS, "momentum_decay": 2.0}),
    "adadelta": (Adadelta(1.0, 0.9, 1e-6), "Adadelta", {}),
    "adadelta, other numbers": (Adadelta(0.7, 0.5, 1e-2), "Adadelta", {"lr": 0.7, "rho": 0.5, "eps": 1e-2}),
    "rprop": (Rprop(0.01, 0.5, 1.2, 1e-4, 5e3), "Rprop", {"lr": 0.01}),
    "rprop, bounds": (
        Rprop(0.02, 0.3, 1.7, 0.2, 3.0),
        "Rprop",
        {"lr": 0.02, "etas": (0.3, 1.7), "step_sizes": (0.004, 0.06)},
    ),
} | {
    f"rmsprop {momentum, centered}": (
        RMSProp(0.003, 0.9, 1e-6, momentum, centered),
        "RMSprop",
        {"lr": 0.003, "alpha": 0.9, "eps": 1e-6, "momentum": momentum, "centered": centered},
    )
    for momentum in (0.0, 0.7)
    for centered in (False, True)
}
"""An optimizer, its class in torch.optim, and the arguments of that class."""


def trace(rule, model, x, y, *penalties):
    """Return w after each step on these mini-batches, the last state, and the problem."""
    problem = Problem(model, CrossEntropy([], None), penalties)
    w = problem.bind(problem.layout.flatten(dict(model.named_parameters())).detach().clone())
    state, iterates = rule.init(w, problem.layout), []
    for step in range(len(x)):
        w, state, *_ = rule.step(w, state, MiniBatchObjective(problem, x[step], y[step], prng.key(0, step)))
        iterates.append(w.clone())
    return torch.stack(iterates), state, problem


class Twins:
    """A small network for dlopt and its copy for torch, on the same mini-batches."""

    def __init__(self, *penalties):
        self.model = MLP((6,), 3, Tanh(), NoNormalization(), lambda site: None, [5, 4], None, None).double()
        self.twin = copy.deepcopy(self.model)
        self.x, self.y = torch.randn(STEPS, 10, 6, dtype=torch.float64), torch.randint(3, (STEPS, 10))
        self.problem = Problem(self.model, CrossEntropy([], None), penalties)
        self.layout = self.problem.layout

    def split_parameters(self, **of_weights):
        """Return the parameter groups of weights, with these options, and of all other parameters."""
        own = dict(self.twin.named_parameters())
        kinds = {kind: [own[p.name] for p in self.layout if (p.kind == "weight") == kind] for kind in (True, False)}
        return [{"params": kinds[True], **of_weights}, {"params": kinds[False]}]

    def compare(self, rule, theirs, penalize=lambda: 0.0, after=lambda w, before, lr: w, at=lambda rule, step: rule):
        """Compare weights and losses after each step."""
        w = self.problem.bind(self.layout.flatten(dict(self.model.named_parameters())).detach().clone())
        state = rule.init(w, self.layout)
        for step in range(STEPS):
            now, before = at(rule, step), w.clone()
            objective = MiniBatchObjective(self.problem, self.x[step], self.y[step], prng.key(0, step))
            w, state, loss, *_ = now.step(w, state, objective)
            w = after(w, before, rule.lr)
            theirs.zero_grad()
            other = F.cross_entropy(self.twin(self.x[step]), self.y[step]) + penalize()
            other.backward()
            theirs.step()
            expected = nn.utils.parameters_to_vector(self.twin.parameters()).detach()
            torch.testing.assert_close(w, expected, rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(loss, other.detach(), rtol=1e-10, atol=1e-10)
        assert w is self.problem.bound_w


@pytest.fixture
def exact_scalars():
    """torch keeps scalars in the default type: in float32, NAdam's product of momenta is off by 1e-7."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("exact_scalars")
@pytest.mark.parametrize("name", PARITY)
@pytest.mark.parametrize("strength", [0.0, 0.1])
def test_steps_on_a_small_network_are_those_of_torch_with_an_l2_penalty_or_without(name, strength):
    """On weights only, which are a group of their own in torch. torch's Rprop takes the penalty in its loss."""
    rule, cls, arguments = PARITY[name]
    twins = Twins(L2(strength))
    in_loss = name.startswith("rprop")
    weights, others = twins.split_parameters(**{} if in_loss else {"weight_decay": strength})

    def penalize():
        value = strength / 2 * sum(p.square().sum() for p in weights["params"])
        return value if in_loss else value.detach()

    twins.compare(rule, getattr(torch.optim, cls)([weights, others], **arguments), penalize)


DECOUPLED = {
    "adamw": (AdamW(0.1, 0.5, 0.9, 1e-3, 0.4), "AdamW", {"lr": 0.1, **BETAS}),
    "adam": (Adam(0.01, 0.9, 0.999, 1e-8), "AdamW", {"lr": 0.01}),
    "amsgrad": (AMSGrad(0.1, 0.5, 0.9, 1e-3), "AdamW", {"lr": 0.1, **BETAS, "amsgrad": True}),
    "nadam": (NAdam(0.01, 0.9, 0.999, 1e-8, 0.004), "NAdam", {"lr": 0.01, "decoupled_weight_decay": True}),
}


@pytest.mark.usefixtures("exact_scalars")
@pytest.mark.parametrize("name", DECOUPLED)
def test_steps_with_decoupled_decay_are_those_of_torch(name):
    rule, cls, arguments = DECOUPLED[name]
    twins = Twins()
    decay = WeightDecay(0.0 if isinstance(rule, AdamW) else 0.4)
    others = twins.split_parameters(weight_decay=0.4)
    others[1]["weight_decay"] = 0.0
    twins.compare(
        rule,
        getattr(torch.optim, cls)(others, **arguments),
        after=lambda w, before, lr: decay.after(w, before, lr, twins.layout),
    )


def test_adagrad_by_inverse_time_is_torchs_with_its_decay_of_the_rate():
    twins, schedule = Twins(), InverseTime(0.3, "steps")
    theirs = torch.optim.Adagrad(twins.twin.parameters(), lr=0.1, lr_decay=0.3)
    twins.compare(
        Adagrad(0.1, 1e-10, 0.0),
        theirs,
        at=lambda rule, step: dataclasses.replace(rule, lr=0.1 * schedule(TrainingTime(step, STEPS, 1))),
    )


FUSED = ["adam", "adamw", "amsgrad", "adagrad", "momentum", "nesterov", "rmsprop", "schedule_free", "muon", "prodigy"]


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_a_fused_kernel_takes_the_steps_of_the_formula(name, dtype, rtol):
    """A single run takes the kernel, a lane the formula. Neither changes the gradient."""
    layout = Layout.of(nn.Linear(20, 10, bias=False))
    rule, one = RULES[name], torch.randn(200, dtype=dtype)
    assert inplace.fused_available(one)
    lane = one[None].clone()
    states = [rule.init(one, layout), rule.init(lane, layout)]
    for _ in range(STEPS):
        g = torch.randn(200, dtype=dtype) * 10.0 ** torch.randint(-3, 4, (200,))
        before = g.clone()
        one, states[0], *_ = rule.step(one, states[0], Given(g, layout))
        lane, states[1], *_ = rule.step(lane, states[1], Given(g[None], layout))
        torch.testing.assert_close(one, lane[0], rtol=rtol, atol=rtol)
        for a, b in zip(*states, strict=True):
            torch.testing.assert_close(a.flatten(), b.flatten(), rtol=rtol, atol=rtol * 1e-3)
        assert torch.equal(g, before)


# ------------------------------------------------------------------------------------------- theory


def average(gradients, decay):
    """Return the moving average of all gradients, as a sum."""
    age = torch.arange(len(gradients) - 1, -1, -1, dtype=torch.float64).unsqueeze(-1)
    return ((1 - decay) * decay**age * gradients).sum(0)


def step_adam(g):
    """Kingma and Ba 2015, algorithm 1."""
    t = len(g)
    return 0.01 * average(g, 0.9) / (1 - 0.9**t) / ((average(g.square(), 0.99) / (1 - 0.99**t)).sqrt() + 1e-6)


def step_nadam(g):
    """Dozat 2016, algorithm 2, the average of gradients with a constant decay as in torch; mu by its section 4."""
    t = len(g)
    mu = [0.9 * (1 - 0.5 * 0.96 ** (k * 0.5)) for k in range(1, t + 2)]
    n = mu[t] * average(g, 0.9) / (1 - math.prod(mu)) + (1 - mu[t - 1]) * g[-1] / (1 - math.prod(mu[:t]))
    return 0.01 * n / ((average(g.square(), 0.99) / (1 - 0.99**t)).sqrt() + 1e-6)


def step_lion(g):
    """Chen et al. 2023, algorithm 2 without its decay."""
    return 0.01 * (0.8 * average(g[:-1], 0.95) + 0.2 * g[-1]).sign()


def step_rmsprop(g):
    """Centered, with a velocity."""
    directions = []
    for t in range(1, len(g) + 1):
        variance = average(g[:t].square(), 0.9) - average(g[:t], 0.9).square()
        directions.append(0.5 ** (len(g) - t) * g[t - 1] / (variance.sqrt() + 1e-6))
    return 0.01 * sum(directions)


FORMULAS = [
    (Adam(0.01, 0.9, 0.99, 1e-6), step_adam),
    (NAdam(0.01, 0.9, 0.99, 1e-6, 0.5), step_nadam),
    (Lion(0.01, 0.8, 0.95), step_lion),
    (RMSProp(0.01, 0.9, 1e-6, 0.5, True), step_rmsprop),
]


@pytest.mark.parametrize(("rule", "compute_step"), FORMULAS)
@pytest.mark.parametrize("lead", [(), (1,)])
def test_a_step_is_its_formula_over_the_whole_history(rule, compute_step, lead):
    gradients = torch.randn(15, P, dtype=torch.float64)
    w, expected = draw_start(lead), draw_start(lead)
    state = rule.init(w, Quadratic.layout)
    for t, g in enumerate(gradients, start=1):
        w, state, *_ = rule.step(w, state, Given(g.expand_as(w).clone()))
        expected = expected - compute_step(gradients[:t])
        torch.testing.assert_close(w, expected)


class Slope(Quadratic):
    """A plane: the same gradient everywhere."""

    def __init__(self, slope):
        self.slope = slope

    def gradient(self, w):
        return self.slope * w.sum(-1), torch.full_like(w, self.slope)


class Given:
    """An oracle with a fixed gradient."""

    def __init__(self, g, layout=Quadratic.layout, step=0, key=None):
        self.g, self.layout, self.key = g, layout, key or prng.key(0, step)

    def gradient(self, w):
        return torch.zeros(w.shape[:-1], dtype=w.dtype), self.g

    def random_key(self, name):
        return prng.fold_in(self.key, name)


FLAT = RMSProp(0.01, 0.9, 1e-12, 0.0, False)
CONSTANT_GRADIENT = {
    "the heavy ball tends to lr / (1 - momentum)": (HeavyBall(0.1, 0.9, 0.0), 1.0, 400, 0.1 / (1 - 0.9)),
    "dampening scales the speed": (HeavyBall(0.1, 0.9, 0.6), 1.0, 400, 0.1 * (1 - 0.6) / (1 - 0.9)),
    "dampened by momentum, v is an average": (HeavyBall(0.1, 0.9, 0.9), 1.0, 20, 0.1),
    "that average starts at the first gradient": (HeavyBall(0.1, 0.9, 0.9), 1.0, 1, 0.1),
    "Nesterov tends to lr / (1 - momentum)": (Nesterov(0.1, 0.9), 1.0, 400, 0.1 / (1 - 0.9)),
    "Adagrad steps by lr / sqrt(t)": (Adagrad(0.1, 1e-12, 0.0), 1e-3, 20, 0.1 / math.sqrt(20)),
    "whatever the gradient's size": (Adagrad(0.1, 1e-12, 0.0), 1e3, 20, 0.1 / math.sqrt(20)),
    "RMSProp's first step is lr / sqrt(1 - decay)": (FLAT, 1e-3, 1, 0.01 / math.sqrt(1 - 0.9)),
    "RMSProp tends to lr": (FLAT, 1e3, 400, 0.01),
    "or to lr / (1 - momentum)": (dataclasses.replace(FLAT, momentum=0.5), 1e-3, 400, 0.01 / (1 - 0.5)),
    "Adadelta's first step is made of eps": (Adadelta(1.0, 0.9, 1e-8), 1e3, 1, math.sqrt(1e-8 / 0.1)),
    "Adam's first step is lr": (Adam(0.01, 0.9, 0.999, 1e-12), 1e-3, 1, 0.01),
    "Rprop's second step is the first that grows": (Rprop(0.01, 0.5, 1.2, 1e-4, 5e3), 1e-30, 2, 0.01 * 1.2),
    "Rprop uses only the sign": (Rprop(0.01, 0.5, 1.2, 1e-4, 5e3), 1e30, 3, 0.01 * 1.2**2),
}
"""An optimizer, a gradient, a number of steps, and the length of the last one."""


@pytest.mark.parametrize("case", CONSTANT_GRADIENT)
def test_steps_under_a_constant_gradient(case):
    rule, slope, steps, expected = CONSTANT_GRADIENT[case]
    w, objective = draw_start(), Slope(slope)
    state = rule.init(w, objective.layout)
    for _ in range(steps):
        before = w.clone()
        w, state, *_ = rule.step(w, state, objective)
    torch.testing.assert_close(before - w, torch.full_like(w, expected), rtol=1e-6, atol=1e-12)


def test_a_variance_that_rounding_makes_negative_is_zero():
    """Under a constant gradient E - m^2 tends to zero, in rounding from below too; torch's rule makes NaN here."""
    g = torch.linspace(0.1, 1.0, 1000, dtype=torch.float64)
    w, rule = torch.zeros_like(g), RMSProp(1e-6, 0.3, 1e-3, 0.0, True)
    state = rule.init(w, Quadratic.layout)
    for _ in range(100):
        before = w.clone()
        w, state, *_ = rule.step(w, state, Given(g))
    torch.testing.assert_close(before - w, 1e-6 * g / 1e-3, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("momentum", "centered", "sizes"), [(0.0, False, [P, 0, 0]), (0.0, True, [P, P, 0]), (0.5, False, [P, 0, P])]
)
def test_rmsprop_stores_no_more_than_it_uses(momentum, centered, sizes):
    state = RMSProp(0.1, 0.9, 1e-8, momentum, centered).init(draw_start((3,)), Quadratic.layout)
    assert [x.shape[-1] for x in state] == sizes


def test_nesterov_is_the_textbooks_form_seen_from_its_look_ahead_points():
    """Sutskever, Martens, Dahl and Hinton 2013, equations 3 and 4, with v in units of gradients: x <- x - lr v."""
    lr, b = 0.05, 0.8
    ours, textbook, lecture = Quartic(), Quartic(), Quartic()
    run(Nesterov(lr, b), ours, draw_start())
    for objective, ahead in ((textbook, -lr * b), (lecture, b)):
        x, v = draw_start(), torch.zeros(P, dtype=torch.float64)
        for _ in range(STEPS):
            _, g = objective.gradient(x + ahead * v)
            v = b * v + g
            x = x - lr * v
    torch.testing.assert_close(torch.stack(ours.queries), torch.stack(textbook.queries), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(ours.queries[2], lecture.queries[2], rtol=1e-2)  # the sign that one lecture has


def test_rmsprop_with_nesterovs_momentum_is_the_textbooks_form_seen_from_its_look_ahead_points():
    """Goodfellow, Bengio and Courville 2016, algorithm 8.6, line by line, with RMSProp's eps."""
    epsilon, alpha, rho, eps = 0.01, 0.8, 0.9, 0.1
    ours, textbook = Quartic(), Quartic()
    run(RMSPropNesterov(epsilon, rho, eps, alpha), ours, draw_start())
    theta, v, r = draw_start(), torch.zeros(P, dtype=torch.float64), torch.zeros(P, dtype=torch.float64)
    for _ in range(STEPS):
        _, g = textbook.gradient(theta + alpha * v)
        r = rho * r + (1 - rho) * g * g
        v = alpha * v - epsilon / (r.sqrt() + eps) * g
        theta = theta + v
    torch.testing.assert_close(torch.stack(ours.queries), torch.stack(textbook.queries), rtol=1e-12, atol=1e-12)


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


def test_rprop_is_igels_and_huskens_rule_weight_by_weight():
    """iRprop-: on a change of sign the size falls and the gradient counts as zero; only signs matter."""
    lr, minus, plus, least, most = 0.05, 0.4, 1.3, 0.1, 2.0
    objective = Quartic()
    ours = Quartic()
    last, _ = run(Rprop(lr, minus, plus, least, most), ours, draw_start())
    w, size, before = draw_start().tolist(), [lr] * P, [0.0] * P
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


def test_delta_bar_delta_is_jacobss_rule_weight_by_weight():
    """Jacobs 1988: epsilon(t+1) = epsilon(t) + kappa, or (1 - phi) epsilon(t), by the sign of the trace of the steps
    before times that of delta(t); w(t+1) = w(t) - epsilon(t+1) delta(t); then the trace takes in delta(t)."""
    lr, kappa, phi, theta = 0.02, 0.5, 0.3, 0.7
    ours, objective = Quartic(), Quartic()
    last, _ = run(DeltaBarDelta(lr, kappa, phi, theta), ours, draw_start())
    w, epsilon, trace = draw_start().tolist(), [lr] * P, [0.0] * P
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
    objective, w = Quartic(), draw_start()
    state = rule.init(w, objective.layout)
    for _ in range(10):
        w, state, *_ = rule.step(w, state, objective)

    def compute_change(lr):
        copies = type(state)(*(x.clone() for x in state))
        return w - dataclasses.replace(rule, lr=lr).step(w.clone(), copies, objective).w

    torch.testing.assert_close(compute_change(0.005), compute_change(0.05) / 10, rtol=1e-10, atol=1e-14)
    assert not compute_change(0.0).any()


def test_cyclic_descent_by_exact_coordinates_is_gauss_seidel():
    """x_i <- -(sum over j != i of A_ij x_j) / A_ii, one i after another, where all A_ii are the same."""
    objective = Quadratic()
    d = objective.a.diagonal().rsqrt()
    objective.a = d.unsqueeze(-1) * objective.a * d * 4.0
    last, _ = run(CoordinateDescent(0.25, 1, "cyclic"), objective, draw_start(), 2 * P)
    x = draw_start()
    for i in 2 * [*range(P)]:
        x[i] = -(objective.a[i] @ x - 4.0 * x[i]) / 4.0
    torch.testing.assert_close(last, x, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("a", [0.01, 1.0])
def test_strongly_coupled_coordinates_fall_by_one_over_one_plus_a_squared(a):
    """(x1 - x2)^2 + a (x1^2 + x2^2), from x1 = x2 / (1 + a), where a cycle of exact steps leaves off."""
    objective = Quadratic()
    objective.layout = Layout.of(nn.Linear(2, 1, bias=False))
    objective.a = 2 * torch.tensor([[1 + a, -1.0], [-1.0, 1 + a]], dtype=torch.float64)
    start = torch.tensor([1 + a, 1.0], dtype=torch.float64)
    last, _ = run(CoordinateDescent(0.5 / (1 + a), 1, "cyclic"), objective, start, 2)
    torch.testing.assert_close(last, start / (1 + a) ** 2)


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


def test_each_lane_of_coordinate_descent_draws_its_own_blocks_of_its_own_size():
    """In lanes the key holds a column for each half, as in training."""
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
def test_the_decay_of_adamw_leaves_biases_and_normalizations_alone(lead):
    layout = Layout.of(nn.Sequential(nn.Linear(4, 3), BatchNorm(3), nn.Linear(3, 2)))
    w = torch.randn(*lead, layout.size, dtype=torch.float64)
    rule = AdamW(torch.full((*lead, 1), 0.1).double() if lead else 0.1, 0.9, 0.999, 1e-8, 0.5)
    after = rule.step(w.clone(), rule.init(w, layout), Given(torch.zeros_like(w), layout)).w
    expected = {p.name: 0.95 if p.kind == "weight" else 1.0 for p in layout}
    for p in layout:
        torch.testing.assert_close(after[..., p.slice], expected[p.name] * w[..., p.slice])


@pytest.mark.parametrize(
    ("rule", "plain"),
    [
        (HeavyBall(0.3, 0.0, 0.0), SGD(0.3)),
        (Nesterov(0.3, 0.0), SGD(0.3)),
        (RMSPropNesterov(0.01, 0.9, 1e-6, 0.0), RMSProp(0.01, 0.9, 1e-6, 0.0, False)),
    ],
)
def test_momentum_zero_is_the_rule_without_momentum(rule, plain):
    one, _ = run(rule, Quadratic(), draw_start())
    other, _ = run(plain, Quadratic(), draw_start())
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_gradient_descent_shrinks_each_eigendirection_by_one_minus_rate_times_eigenvalue():
    objective = Quadratic()
    last, _ = run(SGD(0.3), objective, draw_start(), 20)
    eigenvalues, rotation = torch.linalg.eigh(objective.a)
    torch.testing.assert_close(rotation.T @ last, (1 - 0.3 * eigenvalues) ** 20 * (rotation.T @ draw_start()))


LIMITS = [(SGD, (), 2.0)] + [
    limit
    for b in (0.5, 0.9)
    for limit in (
        (HeavyBall, (b, 0.0), 2 * (1 + b)),
        (HeavyBall, (b, 0.7), 2 * (1 + b) / (1 - 0.7)),
        (Nesterov, (b,), 2 * (1 + b) / (1 + 2 * b)),
    )
]


@pytest.mark.parametrize(("make", "others", "bound"), LIMITS, ids=str)
def test_the_rate_is_stable_just_below_its_limit_and_not_above(make, others, bound):
    """The limit is 2 / lambda_max for gradient descent, 2 (1 + b) / ((1 - d) lambda_max) for the heavy ball with
    dampening d, and 2 (1 + b) / ((1 + 2 b) lambda_max) for Nesterov's gradient."""
    objective = Quadratic(torch.linspace(0.1, 1.0, P) * 37.0)
    limit = bound / 37.0
    _, below = run(make(0.99 * limit, *others), objective, draw_start(), 800)
    _, above = run(make(1.01 * limit, *others), objective, draw_start(), 800)
    assert below[-1] < 1e-6 * below[0]
    assert above[-1] > 1e6 * above[0] or not math.isfinite(above[-1])


def test_a_lane_without_momentum_that_shared_a_velocity_resumes_alone(tmp_path):
    rule = ("optimizer=rmsprop", "schedule=constant", "precision=float64")
    momenta = ("optimizer.momentum=0.0", "optimizer.momentum=0.9")
    _, lanes = train_runs(tmp_path / "lanes", *(build_blobs(*rule, momentum) for momentum in momenta))
    for lane, momentum in zip(lanes, momenta, strict=True):
        _, (whole,) = train_runs(tmp_path / momentum, build_blobs(*rule, momentum, "epochs=6"))
        _, again = resume_run(lane.path, build_blobs(*rule, momentum, "epochs=6"))
        torch.testing.assert_close(load_weights(again), load_weights(whole), rtol=1e-9, atol=1e-9)
