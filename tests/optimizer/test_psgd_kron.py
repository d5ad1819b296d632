"""PSGD with Kronecker factors, against pytorch_optimizer's in float64 with the same noise, and its theory."""

import pytest
import pytorch_optimizer
import torch
import torch.nn.functional as F
from helpers import make_option
from layered import check_lanes_and_resume, draw_batches, make_cnn
from pytorch_optimizer.optimizer import psgd
from test_optimizers import trace
from torch import nn

from dlopt import prng
from dlopt.base.layout import Layout
from dlopt.optimizer import psgd_kron
from dlopt.optimizer.psgd_kron import bound_spectral_norm, precondition, update_factors_

STEPS = 50


def make_rule(**keys):
    return make_option("optimizer", "psgd_kron", **keys)


def trace_public(rule, model, x, y, monkeypatch):
    """Return w after each step of pytorch_optimizer's Kron, with our noise and without its conversions to float32.

    Kernels are given to it as matrices.
    """
    own = list(model.parameters())
    layout = Layout.of(model)
    shadows = [nn.Parameter(p.detach().flatten(1) if p.ndim > 1 else p.detach()) for p in own]
    noise = []

    def solve(x, a):
        return torch.linalg.solve_triangular(a, x, upper=True, left=False)

    monkeypatch.setattr(psgd, "solve_triangular_right", solve)
    monkeypatch.setattr(torch, "randn_like", lambda like, dtype: noise.pop(0).reshape(like.shape))
    theirs = pytorch_optimizer.Kron(
        shadows, lr=rule.lr, momentum=rule.momentum, max_size_triangular=rule.max_size, balance_prob=0.0,
        precondition_dtype=torch.float64, pre_conditioner_update_probability=lambda t: 1 / rule._get_interval(t),
    )  # fmt: skip
    for group in theirs.param_groups:
        group.update(precondition_lr=rule.precondition_lr, precondition_init_scale=rule.init_scale)
    iterates = []
    for step in range(STEPS):
        model.zero_grad()
        F.cross_entropy(model(x[step]), y[step]).backward()
        key = prng.fold_in(prng.key(0, step), "psgd_kron")
        drawn = prng.normal(key, (layout.size,)).double()
        noise[:] = [drawn[p.slice] for p in layout]
        for p, shadow in zip(own, shadows, strict=True):
            shadow.grad = p.grad.reshape(shadow.shape)
        theirs.step()
        with torch.no_grad():
            for p, shadow in zip(own, shadows, strict=True):
                p.copy_(shadow.reshape(p.shape))
        iterates.append(nn.utils.parameters_to_vector(own).detach().clone())
    return torch.stack(iterates)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"lr": 0.02, "momentum": 0.5, "precondition_lr": 0.5, "init_scale": 3.0, "max_size": 4},
        {"lr": 0.02, "full_updates": 5, "growth": 7, "max_interval": 4},
    ],
)
def test_steps_are_those_of_the_public_implementation(keys, monkeypatch):
    """Ours balances its factors at the first step, and multiplies triangular ones by blocks: it changes no step."""
    monkeypatch.setattr(psgd_kron, "ROWS", 2)
    rule = make_rule(**keys)
    ours, state, _ = trace(rule, make_cnn(), *draw_batches(STEPS))
    expected = trace_public(rule, make_cnn(), *draw_batches(STEPS), monkeypatch)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-7)
    assert state.t == STEPS


def test_the_factors_come_to_whiten_gradients():
    """Li 2018: at the minimum of E[g'Pg + z'P^-1 z], P E[g g'] P = I; E[g g'] is a Kronecker product here."""
    torch.manual_seed(0)
    left, right = torch.randn(4, 4, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)
    factors = [torch.eye(4).double(), torch.eye(3).double()]
    for step in range(1000):
        gradient = left @ torch.randn(4, 3, dtype=torch.float64) @ right
        update_factors_(factors, gradient, torch.randn(4, 3, dtype=torch.float64), 0.5 / (1 + step / 30))
    whole = torch.kron(left, right.T.contiguous())
    p = torch.stack([precondition(factors, e.view(4, 3)).flatten() for e in torch.eye(12).double()])
    assert (p @ whole @ whole.T @ p - torch.eye(12)).norm() < 0.25 * 12**0.5
    assert all(torch.equal(q, q.triu()) for q in factors)


def test_the_bound_lies_below_the_spectral_norm_and_above_the_longest_row():
    torch.manual_seed(0)
    a = torch.randn(20, 6, 6, dtype=torch.float64)
    a = a @ a.mT
    bound, norm = bound_spectral_norm(a).flatten(), torch.linalg.matrix_norm(a, 2)
    assert (bound <= norm * (1 + 1e-12)).all()
    assert (bound >= a.norm(dim=-1).amax(-1) * (1 - 1e-12)).all()
    assert not bound_spectral_norm(torch.zeros(6, 6)).any()


def test_parameters_without_gradients_stay_and_their_factors_stay_finite():
    """A factor without gradients grows at each update; in float32 there is little room."""
    q = [torch.eye(3), torch.eye(2)]
    torch.manual_seed(0)
    for _ in range(2000):
        update_factors_(q, torch.zeros(3, 2), torch.randn(3, 2), 0.1)
    assert all(x.isfinite().all() for x in q)
    assert not precondition(q, torch.zeros(3, 2)).any()


def test_a_run_resumes_and_lanes_equal_runs_alone(tmp_path):
    """One lane diverges at once and leaves the others; the run stops between two updates of the factors."""
    common = ("optimizer=psgd_kron", "precision=float64", "epochs=2", "optimizer.full_updates=2", "optimizer.growth=1")
    variants = [
        ("optimizer.momentum=0.5", "optimizer.init_scale=2.0", "schedule=cosine"),
        ("optimizer.lr=1e300",),
        ("optimizer.lr=0.03", "optimizer.precondition_lr=0.3", "optimizer.max_rms=0.7", "seed=1"),
    ]
    check_lanes_and_resume(tmp_path, common, variants, stop_at=4)
