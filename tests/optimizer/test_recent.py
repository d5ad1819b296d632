"""ADOPT, MARS, Prodigy and Sophia, against pytorch_optimizer and the algorithms of the papers."""

import pytest
import pytorch_optimizer
import torch
import torch.nn.functional as F
from helpers import assert_build_refused, build_blobs, make_option, read_rows, train_runs
from test_optimizers import P, Quartic, draw_start, run, trace
from torch import nn
from torch.func import functional_call, grad

from dlopt.activation.tanh import Tanh
from dlopt.arch.mlp import MLP
from dlopt.linalg.diagonal import estimate_diagonal
from dlopt.normalization.none import NoNormalization

STEPS = 50


@pytest.fixture(autouse=True)
def _exact_scalars():
    """pytorch_optimizer keeps scalars in the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def compare(rule, make, objective, prepare=lambda twin, p: {}):
    """Compare w after each step with an optimizer of pytorch_optimizer; return the last state."""
    w, p = draw_start(), nn.Parameter(draw_start())
    state, twin = rule.init(w, objective.layout), make([p])
    for _ in range(STEPS):
        p.grad = objective.gradient(p.detach())[1]
        twin.step(**prepare(twin, p))
        w, state, *_ = rule.step(w, state, objective)
        torch.testing.assert_close(w, p.detach(), rtol=1e-6, atol=1e-7)
    return state


@pytest.mark.parametrize("keys", [{}, {"lr": 0.05, "beta1": 0.5, "beta2": 0.9, "eps": 0.3}])
def test_adopt_takes_the_steps_of_pytorch_optimizer(keys):
    """Its limit is that of algorithm 2 if it counts from the second step."""
    rule = make_option("optimizer", "adopt", **keys)

    def make(params):
        return pytorch_optimizer.ADOPT(
            params, rule.lr, (rule.beta1, rule.beta2), eps=rule.eps, clip_lambda=lambda t: (t - 1) ** 0.25
        )

    compare(rule, make, Quartic())


def test_adopt_clips_the_second_gradient_by_one_and_later_ones_by_the_fourth_root():
    class Growing(Quartic):
        def gradient(self, w):
            self.queries.append(w)
            return w.sum(-1), torch.full_like(w, 100.0 ** len(self.queries))

    rule, w, objective = make_option("optimizer", "adopt", lr=1.0, beta1=0.0, beta2=0.0), draw_start(), Growing()
    state = rule.init(w, objective.layout)
    sizes = []
    for _ in range(5):
        before = w.clone()
        w, state, *_ = rule.step(w, state, objective)
        sizes.append((before - w)[0].item())
    assert sizes == pytest.approx([0.0, 1.0, 2**0.25, 3**0.25, 4**0.25])


@pytest.mark.parametrize("keys", [{}, {"lr": 0.05, "beta1": 0.5, "beta2": 0.9, "gamma": 1.0}])
def test_mars_takes_the_steps_of_pytorch_optimizer(keys):
    """The approximate form, from a first gradient without a correction. Its eps is inside of the bias correction."""
    rule = make_option("optimizer", "mars", eps=1e-14, **keys)

    def prepare(twin, p):
        if not twin.state[p]:
            zeros = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
            twin.state[p] = {**zeros, "last_grad": p.grad.clone()}
        return {}

    betas = (rule.beta1, rule.beta2)
    make = lambda p: pytorch_optimizer.MARS(  # noqa: E731
        p, rule.lr, betas, rule.gamma, optimize_1d=True, weight_decay=0.0, eps=rule.eps
    )
    compare(rule, make, Quartic(), prepare)


def make_network():
    torch.manual_seed(0)
    return MLP((6,), 3, Tanh(), NoNormalization(), lambda site: None, [5, 4], None, None)


def draw_batches():
    torch.manual_seed(1)
    return torch.randn(STEPS, 10, 6), torch.randint(3, (STEPS, 10))


@pytest.mark.parametrize(("exact", "gamma"), [(True, 1.0), (True, 0.025), (False, 0.3)])
def test_mars_corrects_gradients_as_the_paper_does(exact, gamma):
    """Yuan et al. 2024, algorithm 2, with the mini-batch at the iterate before or with the gradient before."""
    rule = make_option("optimizer", "mars", lr=0.05, gamma=gamma, exact=exact, eps=0.01)
    network, (x, y) = make_network(), draw_batches()
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    shapes, names = [p.shape for p in parameters.values()], list(parameters)

    def loss(w, t):
        pieces = w.split([shape.numel() for shape in shapes])
        views = {n: piece.view(shape) for n, piece, shape in zip(names, pieces, shapes, strict=True)}
        return F.cross_entropy(functional_call(network, views, (x[t],)), y[t])

    w = last = torch.cat([p.flatten() for p in parameters.values()])
    m = v = torch.zeros_like(w)
    expected, clipped = [], 0
    for t in range(STEPS):
        g = grad(loss)(w, t)
        other = grad(loss)(last, t if exact else max(t - 1, 0))
        c = g + gamma * rule.beta1 / (1 - rule.beta1) * (g - other)
        clipped += int(c.norm() > 1)
        c = c / c.norm().clamp(min=1.0)
        m = rule.beta1 * m + (1 - rule.beta1) * c
        v = rule.beta2 * v + (1 - rule.beta2) * c**2
        corrected = (m / (1 - rule.beta1 ** (t + 1)), v / (1 - rule.beta2 ** (t + 1)))
        last, w = w, w - rule.lr * corrected[0] / (corrected[1].sqrt() + rule.eps)
        expected.append(w)
    assert 0 < clipped < STEPS or gamma < 1
    ours, *_ = trace(rule, make_network(), x, y)
    torch.testing.assert_close(ours, torch.stack(expected), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("keys", [{}, {"lr": 0.5, "beta1": 0.5, "beta2": 0.9, "d0": 1e-3, "d_coef": 2.0}])
def test_prodigy_takes_the_steps_of_pytorch_optimizer(keys, decay):
    """Its eps is multiplied by the next d."""
    rule = make_option("optimizer", "prodigy", weight_decay=decay, eps=1e-14, **keys)
    betas = (rule.beta1, rule.beta2)

    def make(p):
        return pytorch_optimizer.Prodigy(
            p, rule.lr, betas, d0=rule.d0, d_coef=rule.d_coef, weight_decay=decay, eps=rule.eps, foreach=False
        )

    state = compare(rule, make, Quartic())
    assert state.d.item() > 30 * rule.d0


def test_prodigy_multiplies_eps_by_the_estimate():
    """Mishchenko and Defazio 2024, algorithm 4, written out."""
    rule = make_option("optimizer", "prodigy", d0=0.01, eps=0.3)
    objective, w, (b1, b2, d) = Quartic(), draw_start(), (rule.beta1, rule.beta2, rule.d0)
    m = v = s = torch.zeros(P)
    start, r = w, 0.0
    for _ in range(STEPS):
        g = objective.gradient(w)[1]
        m = b1 * m + (1 - b1) * d * g
        v = b2 * v + (1 - b2) * d**2 * g**2
        r = b2**0.5 * r + (1 - b2**0.5) * d**2 * (g @ (start - w))
        s = b2**0.5 * s + (1 - b2**0.5) * d**2 * g
        w = w - d * m / (v.sqrt() + d * rule.eps)
        d = max(d, r / s.abs().sum())
    last, _ = run(rule, Quartic(), draw_start(), STEPS)
    torch.testing.assert_close(last, w, rtol=1e-9, atol=1e-10)


def test_prodigy_estimates_each_lane_by_itself_and_logs_the_estimate(tmp_path):
    common = ("optimizer=prodigy", "steps=40", "schedule=constant", "log_every=1")
    _, lanes = train_runs(tmp_path, *(build_blobs(*common, f"optimizer.d0={d0}") for d0 in (1e-7, 1e-3)))
    estimates = [[row["recent/optimizer/d"] for row in read_rows(lane)] for lane in lanes]
    assert all(a <= b for d in estimates for a, b in zip(d, d[1:], strict=False))
    assert estimates[0][0] < 1e-6 < estimates[1][0]
    assert estimates[0][-1] > 1e-5


@pytest.mark.parametrize("keys", [{}, {"lr": 0.05, "beta1": 0.5, "beta2": 0.9, "gamma": 0.7, "update_every": 3}])
@pytest.mark.parametrize("estimator", ["gauss_newton", "hutchinson"])
def test_sophia_takes_the_steps_of_pytorch_optimizer(keys, estimator):
    rule, objective = make_option("optimizer", "sophia", estimator=estimator, **keys), Quartic()
    steps = iter(range(STEPS))

    def prepare(twin, p):
        if next(steps) % rule.update_every:
            return {}
        w = p.detach()
        e = objective.gauss_newton_diagonal(w)
        if estimator == "hutchinson":
            e = estimate_diagonal(lambda z: objective.hvp(w, z), w, 1, objective.random_key("sophia")).value
        return {"hessian": [rule.gamma * e]}

    def make(p):
        twin = pytorch_optimizer.SophiaH(p, rule.lr, (rule.beta1, rule.beta2), 0.0, p=1.0, eps=rule.eps)
        twin.update_period = 10**9  # only with the curvatures that it is given
        return twin

    compare(rule, make, objective, prepare)


def test_sophia_reports_how_many_entries_it_clips():
    class Scaled(Quartic):
        def gauss_newton_diagonal(self, w):
            return torch.tensor([1e3] * 3 + [1e-3] * (P - 3))

    rule, w = make_option("optimizer", "sophia", update_every=2), draw_start()
    state = rule.init(w, Scaled.layout)
    first = rule.step(w, state, Scaled())
    assert first.info["clipped"] == (P - 3) / P
    assert not rule.step(first.w, first.state, Scaled()).info


def test_sophia_takes_newtons_step_along_entries_that_it_does_not_clip():
    """With m = g, and with the diagonal of a diagonal Hessian, where hutchinson is exact."""
    objective = Quartic()
    objective.a = torch.diag(torch.linspace(1.0, 2.0, P))
    rule = make_option(
        "optimizer", "sophia", lr=1.0, beta1=0.0, beta2=0.0, gamma=1.0, update_every=1, estimator="hutchinson"
    )
    start = 0.5 * draw_start()
    last, _ = run(rule, objective, start, 1)
    newton = objective.gradient(start)[1] / objective.hessian(start).diagonal()
    torch.testing.assert_close(last, start - newton.clamp(-1, 1))
    last, _ = run(rule, objective, start, 40)
    torch.testing.assert_close(last, torch.zeros(P), rtol=0, atol=1e-9)


def test_sophia_names_the_estimator_for_losses_without_a_distribution():
    chosen = ("optimizer=lookahead", "optimizer@optimizer.base_optimizer=sophia", "loss=hinge")
    other = "optimizer.base_optimizer.estimator=hutchinson"
    assert_build_refused(lambda: build_blobs(*chosen), "optimizer.base_optimizer.estimator", f"use {other}")
    assert build_blobs(*chosen, other)
