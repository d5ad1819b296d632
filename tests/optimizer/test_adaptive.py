"""radam, adan, ademamix, lamb, lars and adafactor against public implementations and papers, step by step."""

import math

import pytest
import pytorch_optimizer
import torch
import torch.nn.functional as F
from helpers import make_option
from layered import draw_batches, make_cnn
from test_optimizers import Given, trace
from torch import nn

from dlopt.base.layout import Factors, Layout, set_factors
from dlopt.optimizer.lars import LARS

STEPS = 50


def make_dense_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(14, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def trace_twin(make_step, model):
    """Return w after each step of a twin; make_step returns a function of t = 1, 2, ... that updates the network."""
    iterates = []
    step = make_step(model)
    for t, (x, y) in enumerate(zip(*draw_batches(STEPS), strict=True), start=1):
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        with torch.no_grad():
            step(t)
        iterates.append(nn.utils.parameters_to_vector(model.parameters()).detach())
    return torch.stack(iterates)


def follow(option, make_step, make_model=make_cnn, **keys):
    """Compare the iterates of an option with those of a twin, and require that they move."""
    ours = trace(make_option("optimizer", option, **keys), make_model(), *draw_batches(STEPS))[0]
    torch.testing.assert_close(ours, trace_twin(make_step, make_model()), rtol=1e-6, atol=1e-9)
    assert (ours[-1] - ours[0]).norm() > 0.01


def wrap(kind, of_weights=None, **keys):
    """Return make_step for a class of torch's form, with keys that only weights have."""

    def make_step(model):
        parameters = list(model.parameters())
        weights = [p for p in parameters if p.ndim > 1]
        others = [p for p in parameters if p.ndim == 1]
        optimizer = kind([{"params": weights, **(of_weights or {})}, {"params": others}], **keys)
        return lambda t: optimizer.step()

    return make_step


RADAM = [
    {"lr": 0.003, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
    {"lr": 0.1, "beta1": 0.5, "beta2": 0.9, "eps": 1e-2},
    {"lr": 0.1, "beta1": 0.9, "beta2": 0.6, "eps": 1e-8},
]
"""rho passes 5 at step 6, at step 7 and never."""


@pytest.mark.parametrize("keys", RADAM)
def test_radam_takes_the_steps_of_torch(keys):
    theirs = {"lr": keys["lr"], "betas": (keys["beta1"], keys["beta2"]), "eps": keys["eps"]}
    follow("radam", wrap(torch.optim.RAdam, **theirs), **keys)


@pytest.mark.parametrize("option", ["radam", "ademamix", "lamb"])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_the_kernel_of_a_single_run_takes_the_steps_of_a_lane(option, dtype, rtol):
    """Neither changes the gradient."""
    torch.manual_seed(0)
    layout, rule = Layout.of(nn.Linear(20, 10)), make_option("optimizer", option)
    one = torch.randn(layout.size, dtype=dtype)
    lane = one[None].clone()
    states = [rule.init(one, layout), rule.init(lane, layout)]
    for _ in range(STEPS):
        g = torch.randn(layout.size, dtype=dtype) * 10.0 ** torch.randint(-3, 4, (layout.size,))
        before = g.clone()
        one, states[0], *_ = rule.step(one, states[0], Given(g, layout))
        lane, states[1], *_ = rule.step(lane, states[1], Given(g[None], layout))
        torch.testing.assert_close(one, lane[0], rtol=rtol, atol=rtol)
        assert torch.equal(g, before)


ADAN = [
    {"lr": 0.003, "beta1": 0.98, "beta2": 0.92, "beta3": 0.99, "eps": 1e-8, "weight_decay": 0.0},
    {"lr": 0.03, "beta1": 0.8, "beta2": 0.6, "beta3": 0.9, "eps": 1e-3, "weight_decay": 2.0},
]


@pytest.mark.parametrize("keys", ADAN)
def test_adan_takes_the_steps_of_a_public_implementation(keys):
    """Its decay is proximal unless it is called decoupled."""
    theirs = {"lr": keys["lr"], "betas": tuple(keys[f"beta{i}"] for i in (1, 2, 3)), "eps": keys["eps"]}
    follow("adan", wrap(pytorch_optimizer.Adan, {"weight_decay": keys["weight_decay"]}, **theirs), **keys)


ADEMAMIX = [
    {"lr": 0.003, "beta1": 0.9, "beta2": 0.999, "beta3": 0.9999, "alpha": 5.0, "eps": 1e-8, "weight_decay": 0.0},
    {"lr": 0.003, "beta1": 0.8, "beta2": 0.9, "beta3": 0.99, "alpha": 3.0, "eps": 1e-3, "weight_decay": 0.5},
]


@pytest.mark.parametrize("keys", ADEMAMIX)
@pytest.mark.parametrize("warmup", [None, 30, 1000])
def test_ademamix_takes_the_steps_of_a_public_implementation(keys, warmup):
    theirs = {
        "lr": keys["lr"], "betas": tuple(keys[f"beta{i}"] for i in (1, 2, 3)), "eps": keys["eps"],
        "alpha": keys["alpha"], "t_alpha_beta3": warmup, "weight_decouple": True,
    }  # fmt: skip
    make_step = wrap(pytorch_optimizer.AdEMAMix, {"weight_decay": keys["weight_decay"]}, **theirs)
    follow("ademamix", make_step, **keys, alpha_warmup=warmup, beta3_warmup=warmup)


def test_the_warm_ups_of_ademamix_are_separate_and_start_at_nothing_and_at_beta1():
    """The half-life of the slow average grows linearly, from 0 if beta1 is 0."""
    for beta1 in (0.0, 0.9):
        rule = make_option("optimizer", "ademamix", beta1=beta1, alpha=4.0, alpha_warmup=8, beta3_warmup=20)
        alphas, weights = zip(*(rule._mix(t) for t in range(1, 30)), strict=True)
        torch.testing.assert_close(alphas, tuple(min(4.0, t / 2) for t in range(1, 30)))
        first, last = (math.log(0.5) / math.log(beta) if beta else 0.0 for beta in (beta1, rule.beta3))
        for t, weight in enumerate(weights, start=1):
            assert math.log(0.5) / math.log1p(-weight) == pytest.approx(first + (last - first) * min(1.0, t / 20))


LAMB = [
    {"lr": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01},
    {"lr": 0.05, "beta1": 0.5, "beta2": 0.9, "eps": 1e-9, "weight_decay": 0.5},
]


@pytest.mark.parametrize("keys", LAMB)
def test_lamb_without_bias_correction_takes_the_steps_of_a_public_implementation(keys):
    """The public one adds eps to the norm of the direction, too.

    adam          a trust ratio of 1
    adam_debias   no division of the step, after the trust ratio, by 1 - beta1^t
    """
    theirs = {"lr": keys["lr"], "betas": (keys["beta1"], keys["beta2"]), "eps": keys["eps"], "weight_decouple": False,
              "adam": True, "adam_debias": True}  # fmt: skip
    of_weights = {"weight_decay": keys["weight_decay"], "adam": False}
    follow("lamb", wrap(pytorch_optimizer.Lamb, of_weights, **theirs), **keys, bias_correction=False)


@pytest.mark.parametrize("keys", LAMB)
def test_lamb_is_algorithm_2_of_the_paper_tensor_by_tensor(keys):
    def make_step(model):
        moments = [(p, torch.zeros_like(p), torch.zeros_like(p)) for p in model.parameters()]

        def step(t):
            for p, m, v in moments:
                m.copy_(keys["beta1"] * m + (1 - keys["beta1"]) * p.grad)
                v.copy_(keys["beta2"] * v + (1 - keys["beta2"]) * p.grad**2)
                r = m / (1 - keys["beta1"] ** t) / ((v / (1 - keys["beta2"] ** t)).sqrt() + keys["eps"])
                if p.ndim > 1:
                    r = r + keys["weight_decay"] * p
                    r = p.norm() / r.norm() * r
                p.sub_(keys["lr"] * r)

        return step

    follow("lamb", make_step, **keys, bias_correction=True)


@pytest.mark.parametrize(("lr", "momentum", "trust", "decay"), [(0.1, 0.9, 0.02, 0.0001), (2.0, 0.5, 0.01, 0.3)])
def test_lars_takes_the_steps_of_a_public_implementation(lr, momentum, trust, decay):
    theirs = {"lr": lr, "momentum": momentum, "trust_coefficient": trust, "weight_decay": decay}
    make_step = wrap(pytorch_optimizer.LARS, **theirs)
    follow("lars", make_step, lr=lr, momentum=momentum, trust=trust, weight_decay=decay)


def test_a_gradient_in_the_velocity_of_lars_keeps_the_learning_rate_of_its_step():
    layout = Layout.of(nn.Linear(3, 2))
    w, g = torch.randn(2, layout.size, dtype=torch.float64)
    state = LARS(1.0, 0.5, 0.1, 0.0).init(w, layout)
    expected, velocity = w.clone(), torch.zeros_like(w)
    for lr in (1.0, 0.25, 3.0):
        w, state, *_ = LARS(lr, 0.5, 0.1, 0.0).step(w, state, Given(g, layout))
        factor = torch.ones_like(g)
        factor[:6] = 0.1 * expected[:6].norm() / g[:6].norm()
        velocity = 0.5 * velocity + lr * factor * g
        expected = expected - velocity
        torch.testing.assert_close(w, expected)


@pytest.mark.parametrize("option", ["lamb", "lars"])
def test_weights_of_zero_leave_zero_in_each_lane_by_itself(option):
    """Their trust ratio is 1."""
    layout, rule = Layout.of(nn.Linear(3, 2)), make_option("optimizer", option, weight_decay=0.1)
    w, g = torch.randn(2, 2, layout.size, dtype=torch.float64)
    w[0, :6] = 0.0
    after = rule.step(w.clone(), rule.init(w, layout), Given(g, layout)).w
    assert after.isfinite().all()
    assert ((after - w)[0].abs() > 1e-4).all()


ADAFACTOR = [
    {"lr": 0.01, "relative_step": True, "scale_parameter": True, "decay_exponent": 0.8, "clip_threshold": 1.0},
    {"lr": 0.5, "relative_step": True, "scale_parameter": True, "decay_exponent": 0.5, "clip_threshold": 2.0},
    {"lr": 0.03, "relative_step": False, "scale_parameter": False, "decay_exponent": 0.8, "clip_threshold": 0.5},
]


@pytest.mark.parametrize("keys", ADAFACTOR[:2])
def test_adafactor_takes_the_steps_of_torch_on_a_network_of_matrices(keys):
    """Without a minimum of V, where eps1 differs."""
    theirs = {"lr": keys["lr"], "beta2_decay": -keys["decay_exponent"], "d": keys["clip_threshold"]}
    make_step = wrap(torch.optim.Adafactor, **theirs, eps=(0.0, 1e-3), weight_decay=0.0)
    follow("adafactor", make_step, make_dense_network, **keys, eps1=1e-300)


@pytest.mark.parametrize("keys", ADAFACTOR)
@pytest.mark.parametrize("eps1", [1e-30, 1e-2])
def test_adafactor_is_algorithms_4_to_6_of_the_paper_tensor_by_tensor(keys, eps1):
    """With sums, on kernels as matrices."""

    def make_step(model):
        rows, columns, squares = {}, {}, {}

        def step(t):
            b = 1 - t ** -keys["decay_exponent"]
            for p in model.parameters():
                g = p.grad.flatten(1) if p.ndim > 1 else p.grad
                square = g**2 + eps1
                if p.ndim > 1:
                    rows[p] = b * rows.get(p, 0.0) + (1 - b) * square.sum(1)
                    columns[p] = b * columns.get(p, 0.0) + (1 - b) * square.sum(0)
                    v = torch.outer(rows[p], columns[p]) / rows[p].sum()
                else:
                    v = squares[p] = b * squares.get(p, 0.0) + (1 - b) * square
                u = g / v.sqrt()
                u = u / max(1.0, u.square().mean().sqrt() / keys["clip_threshold"])
                a = min(keys["lr"], 1 / math.sqrt(t)) if keys["relative_step"] else keys["lr"]
                a = a * max(1e-3, p.square().mean().sqrt()) if keys["scale_parameter"] else a
                p.sub_(a * u.reshape(p.shape))

        return step

    follow("adafactor", make_step, **keys, eps1=eps1, eps2=1e-3)


def test_adafactor_stores_a_number_for_each_row_and_column():
    layout = Layout.of(make_cnn())
    state = make_option("optimizer", "adafactor").init(torch.zeros(5, layout.size), layout)
    shapes = [(p.shape[0], p.size // p.shape[0]) for p in layout if p.kind == "weight"]
    assert [x.shape for x in state[:3]] == [(5, sum(n)) for n in zip(*shapes, strict=True)] + [(5, 4 + 3 + 3)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adafactor_stays_finite_where_a_unit_has_no_gradient_for_a_while(dtype):
    """A unit whose activation is dead has a row of zeros, and an input that is always 0 a column."""
    torch.manual_seed(0)
    layout, rule = Layout.of(nn.Linear(3, 4)), make_option("optimizer", "adafactor")
    w, g = torch.randn(2, layout.size, dtype=dtype)
    state = rule.init(w, layout)
    g[:3], g[3:12:3], g[12] = 0.0, 0.0, 0.0
    for step in range(60):
        before = w.clone()
        w, state, *_ = rule.step(w, state, Given(g if step < 50 else g + 1.0, layout))
        assert torch.equal(w == before, g == 0.0) if step < 50 else (w != before).all()
        assert (w - before).abs().max() < 0.2


@pytest.mark.parametrize("option", ["lamb", "lars"])
@pytest.mark.parametrize("lead", [(), (2,)])
def test_parameters_decay_by_the_factors_of_their_groups(option, lead):
    """In the direction and in the trust ratio of weights, and in the plain step of biases."""
    torch.manual_seed(0)
    model, rule = make_dense_network(), make_option("optimizer", option, lr=0.1, weight_decay=0.7)
    set_factors(model, {"1.weight": Factors(decay=2.0), "3.bias": Factors(decay=0.5)})
    layout = Layout.of(model)
    w, g = torch.randn(2, *lead, layout.size, dtype=torch.float64)
    after = rule.step(w.clone(), rule.init(w, layout), Given(g, layout)).w
    factors = {"1.weight": 2.0, "1.bias": 0.0, "3.weight": 1.0, "3.bias": 0.5}
    for p in layout:
        w_, g_ = w[..., p.slice], g[..., p.slice]
        decay = 0.7 * factors[p.name]
        norm = w_.norm(dim=-1, keepdim=True)
        if option == "lamb":
            step = g_ / (g_.abs() + rule.eps) + decay * w_
            ratio = norm / step.norm(dim=-1, keepdim=True)
        else:
            step = g_ + decay * w_
            ratio = rule.trust * norm / (g_.norm(dim=-1, keepdim=True) + decay * norm)
        expected = w_ - 0.1 * (ratio if p.kind == "weight" else 1.0) * step
        torch.testing.assert_close(after[..., p.slice], expected)
