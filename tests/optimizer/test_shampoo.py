"""Shampoo, against pytorch_optimizer's and against the papers' algorithm written out matrix by matrix."""

import copy

import pytest
import pytorch_optimizer
import torch
import torch.nn.functional as F
from helpers import make_option
from layered import check_lanes_and_resume, draw_batches, make_cnn
from pytorch_optimizer.optimizer.utils.graft import LayerWiseGrafting
from test_optimizers import trace
from torch import nn

from dlopt.optimizer.shampoo import invert_root

STEPS = 50


def make_shampoo(**keys):
    return make_option("optimizer", "shampoo", **keys)


def make_square(*, bias):
    """Square matrices, whose factors have full rank from the first gradient on."""
    torch.manual_seed(0)
    layers = [nn.Linear(6, 6, bias=bias), nn.Tanh(), nn.Linear(6, 6, bias=bias), nn.Tanh()]
    return nn.Sequential(*layers).double()


def trace_public(theirs, model, x, y):
    """Return w after each step of an optimizer of torch's interface."""
    iterates = []
    for step in range(len(x)):
        model.zero_grad()
        F.cross_entropy(model(x[step]), y[step]).backward()
        theirs.step()
        iterates.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
    return torch.stack(iterates)


def test_sums_without_grafting_are_the_first_paper_s():
    """Gupta, Koren and Singer 2018, algorithm 1."""
    model, batches = make_square(bias=False), draw_batches(STEPS, 20, (6,), 6)
    theirs = copy.deepcopy(model)
    rule = make_shampoo(lr=0.1, beta1=0.0, beta2=1.0, ridge=1e-14, graft="none", precondition_frequency=1)
    expected = trace_public(pytorch_optimizer.Shampoo(theirs.parameters(), lr=0.1, matrix_eps=1e-20), theirs, *batches)
    torch.testing.assert_close(trace(rule, model, *batches)[0], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("block_size", [8, 3])
def test_blocks_and_grafting_are_the_second_paper_s(block_size, bias):
    """Anil et al. 2020, with the norm of the gradient; their momentum is another."""
    model, batches = make_square(bias=bias), draw_batches(STEPS, 20, (6,), 6)
    theirs = copy.deepcopy(model)
    optimizer = pytorch_optimizer.ScalableShampoo(
        theirs.parameters(), lr=0.1, betas=(0.0, 0.9), start_preconditioning_step=1, preconditioning_compute_steps=1,
        block_size=block_size, shape_interpretation=False, graft_type=LayerWiseGrafting.SGD, nesterov=False,
        matrix_eps=1e-20, use_svd=True,
    )  # fmt: skip
    rule = make_shampoo(
        lr=0.1, beta1=0.0, beta2=0.9, ridge=1e-14, graft="sgd", precondition_frequency=1, block_size=block_size
    )
    expected = trace_public(optimizer, theirs, *batches)
    torch.testing.assert_close(trace(rule, model, *batches)[0], expected, rtol=1e-6, atol=1e-7)


def compute_root(a, ridge):
    """Return (a + ridge lambda_max I)^(-1/4) by two square roots of a, each from a singular value decomposition."""
    u, values, _ = torch.linalg.svd(a)
    return u @ torch.diag((values + ridge * values.max()).rsqrt().sqrt()) @ u.T


def trace_papers(rule, model, x, y):
    """Shi et al. 2023, for each parameter by itself and each block of a matrix by itself."""
    own = list(model.parameters())
    sizes = [(len(p), p.numel() // len(p)) for p in own]
    m, v = ([torch.zeros(size).double() for size in sizes] for _ in range(2))
    factors, roots, iterates = {}, {}, []
    for t in range(1, STEPS + 1):
        model.zero_grad()
        F.cross_entropy(model(x[t - 1]), y[t - 1]).backward()
        for i, p in enumerate(own):
            g = p.grad.reshape(sizes[i])
            m[i] = rule.beta1 * m[i] + (1 - rule.beta1) * g
            v[i] = rule.beta2 * v[i] + (1 - rule.beta2) * g**2
            mean = m[i] / (1 - rule.beta1**t)
            d = mean if rule.graft == "sgd" else mean / ((v[i] / (1 - rule.beta2**t)).sqrt() + rule.eps)
            if p.ndim > 1:
                u, (rows, columns), b = torch.zeros(sizes[i]).double(), sizes[i], rule.block_size
                for r, c in ((r, c) for r in range(0, rows, b) for c in range(0, columns, b)):
                    x_, at = g[r : r + b, c : c + b], (i, r, c)
                    for k, product in enumerate((x_ @ x_.T, x_.T @ x_)):
                        before = factors.get((*at, k), 0.0 * product)
                        factors[(*at, k)] = rule.beta2 * before + (1 - rule.beta2) * product
                        if t == 1 or t % rule.precondition_frequency == 0:
                            roots[(*at, k)] = compute_root(factors[(*at, k)] / (1 - rule.beta2**t), rule.ridge)
                    u[r : r + b, c : c + b] = roots[(*at, 0)] @ mean[r : r + b, c : c + b] @ roots[(*at, 1)]
                d = u if rule.graft == "none" else u * d.norm() / u.norm()
            with torch.no_grad():
                p.sub_(rule.lr * d.reshape(p.shape))
        iterates.append(nn.utils.parameters_to_vector(own).detach())
    return torch.stack(iterates)


@pytest.mark.parametrize(
    "keys",
    [
        {"precondition_frequency": 1},
        {"precondition_frequency": 7, "block_size": 3, "beta2": 0.9},
        {"graft": "sgd", "beta1": 0.5, "ridge": 1e-3, "block_size": 2},
        {"graft": "none", "eps": 0.1},
    ],
)
def test_steps_are_those_of_the_papers(keys):
    rule = make_shampoo(lr=0.02, **keys)
    ours = trace(rule, make_cnn(), *draw_batches(STEPS, 20))[0]
    torch.testing.assert_close(ours, trace_papers(rule, make_cnn(), *draw_batches(STEPS, 20)), rtol=1e-6, atol=1e-7)


def test_a_diverged_lane_does_not_disturb_the_others_and_zeros_have_finite_roots():
    torch.manual_seed(0)
    g = torch.randn(3, 4, 4, dtype=torch.float64)
    factors = g @ g.mT
    expected = compute_root(factors[0], 1e-6)
    factors[1], factors[2] = float("nan"), 0.0
    roots = invert_root(factors, 1e-6)
    torch.testing.assert_close(roots[0], expected)
    assert not roots[1].isfinite().any()
    assert roots[2].isfinite().all()


def test_a_run_resumes_and_lanes_equal_runs_alone(tmp_path):
    """One lane sums its factors, one diverges at once and leaves the others."""
    common = ("optimizer=shampoo", "optimizer.precondition_frequency=4", "optimizer.block_size=5", "precision=float64",
              "epochs=2")  # fmt: skip
    variants = [
        ("optimizer.beta2=1.0", "schedule=cosine"),
        ("optimizer.lr=1e300",),
        ("optimizer.lr=0.03", "optimizer.beta1=0.5", "optimizer.ridge=1e-4", "seed=1"),
    ]
    check_lanes_and_resume(tmp_path, common, variants)
