"""Estimates of traces and diagonals: dense twins, exact cases, known variances, and PyHessian."""

import copy
import math

import numpy as np
import pytest
import torch
from objectives import build_net, draw_data
from pyhessian import hessian as PyHessian
from test_conjugate_gradients import draw, make_matrix
from torch.nn.functional import cross_entropy

from dlopt import prng
from dlopt.linalg.lanczos import extreme_eigenvalues
from dlopt.linalg.trace import estimate_diagonal, estimate_trace, estimate_trace_hutch_plus_plus
from dlopt.loss.cross_entropy import CrossEntropy
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem

N = 12
MATRIX = make_matrix(np.concatenate([np.linspace(-1, 1, N - 2), [5.0, 30.0]]))
LIKE = torch.zeros(N, dtype=torch.float64)
OFF_DIAGONAL = MATRIX - MATRIX.diag().diag()
KEY = prng.key(0, "probes")


def multiply(v):
    return v @ MATRIX


def draw_vectors(key, count):
    return torch.stack([prng.rademacher(prng.fold_in(key, i), (N,)) for i in range(count)]).double()


def test_estimates_are_means_over_vectors_of_signs_with_their_standard_errors():
    v = draw_vectors(KEY, 7)
    assert (v.abs() == 1).all()
    for found, terms in (
        (estimate_trace(multiply, LIKE, 7, KEY), (v * (v @ MATRIX)).sum(1)),
        (estimate_diagonal(multiply, LIKE, 7, KEY), v * (v @ MATRIX)),
    ):
        torch.testing.assert_close(found.value, terms.mean(0))
        torch.testing.assert_close(found.error, terms.std(0) / math.sqrt(7))
    assert estimate_trace(multiply, LIKE, 1, KEY).error.isnan()


def test_hutch_plus_plus_is_its_dense_formula():
    q = torch.linalg.qr(MATRIX @ draw_vectors(prng.fold_in(KEY, "space"), 3).T)[0]
    outside = torch.eye(N).double() - q @ q.T
    v = draw_vectors(prng.fold_in(KEY, "remainder"), 3)
    terms = (v @ outside @ MATRIX @ outside * v).sum(1)
    found = estimate_trace_hutch_plus_plus(multiply, LIKE, 11, KEY)
    torch.testing.assert_close(found.value, (q.T @ MATRIX @ q).trace() + terms.mean())
    torch.testing.assert_close(found.error, terms.std() / math.sqrt(3))


def test_a_diagonal_matrix_has_exact_estimates():
    diagonal = draw(N)
    found = estimate_trace(lambda v: diagonal * v, LIKE, 2, KEY)
    torch.testing.assert_close(found.value, diagonal.sum())
    assert found.error < 1e-12
    torch.testing.assert_close(estimate_diagonal(lambda v: diagonal * v, LIKE, 1, KEY).value, diagonal)


@pytest.mark.parametrize("values", [[3.0, -2.0, 1.0], [4.0, 0.5], [0.0]])
def test_hutch_plus_plus_is_exact_for_a_low_rank(values):
    matrix = make_matrix(values + [0.0] * (N - len(values)))
    found = estimate_trace_hutch_plus_plus(lambda v: v @ matrix, LIKE, 9, KEY)
    assert found.value == pytest.approx(sum(values), abs=1e-12)
    assert found.error < 1e-12


def test_estimates_are_unbiased_with_the_known_variances():
    """Over 4,000 keys: the mean within four standard errors, the variance within a tenth."""
    count = 4000
    keys = prng.Key(*(torch.tensor(half) for half in zip(*(prng.key(i, "many") for i in range(count)), strict=True)))
    many = LIKE.expand(count, N)
    variance = 2 * OFF_DIAGONAL.square().sum() / 2
    trace = estimate_trace(multiply, many, 2, keys)
    assert trace.value.mean().item() == pytest.approx(MATRIX.trace().item(), abs=4 * (variance / count).sqrt().item())
    assert trace.value.var().item() == pytest.approx(variance.item(), rel=0.1)
    assert trace.error.square().mean().item() == pytest.approx(variance.item(), rel=0.1)
    diagonal = estimate_diagonal(multiply, many, 2, keys)
    variances = OFF_DIAGONAL.square().sum(1) / 2
    torch.testing.assert_close(diagonal.value.var(0), variances, rtol=0.15, atol=0)
    assert ((diagonal.value.mean(0) - MATRIX.diag()).abs() < 4.5 * (variances / count).sqrt()).all()
    better = estimate_trace_hutch_plus_plus(multiply, many, 6, keys)
    assert better.value.mean().item() == pytest.approx(MATRIX.trace().item(), abs=0.1)
    assert better.value.var() < 0.2 * variance / 3, "Hutchinson from as many products"


def test_lanes_are_as_alone():
    keys = [prng.key(i, "lane") for i in range(3)]
    batch = prng.Key(*(torch.tensor(half) for half in zip(*keys, strict=True)))
    for estimate in (estimate_trace, estimate_diagonal, estimate_trace_hutch_plus_plus):
        together = estimate(multiply, LIKE.expand(3, N), 6, batch)
        common = estimate(multiply, LIKE.expand(3, N), 6, keys[0])
        for i in range(3):
            for a, b in zip(together, estimate(multiply, LIKE, 6, keys[i]), strict=True):
                torch.testing.assert_close(a[i], b)
            torch.testing.assert_close(common.value[i], together.value[0])


def test_too_few_products_for_hutch_plus_plus_are_refused():
    with pytest.raises(ValueError, match="at least 3 products, got 2"):
        estimate_trace_hutch_plus_plus(multiply, LIKE, 2, KEY)


@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")
@pytest.mark.parametrize("arch", ["mlp", "cnn"])
def test_trace_and_largest_eigenvalue_of_a_network_are_those_of_pyhessian(arch):
    """Its trace is an estimate, too, so both are compared within their errors."""
    model, (x, y) = build_net(arch), draw_data(arch)
    problem = Problem(copy.deepcopy(model), CrossEntropy([]))
    w = problem.layout.flatten(dict(problem.model.named_parameters())).detach()
    objective = MiniBatchObjective(problem, x, y, KEY)
    dense = objective.hessian(w)
    trace = estimate_trace(lambda v: objective.hvp(w, v), w, 100, KEY)
    assert trace.value.item() == pytest.approx(dense.trace().item(), abs=4 * trace.error.item())
    torch.manual_seed(0)
    theirs = PyHessian(model.float(), cross_entropy, data=(x.float(), y), cuda=False)
    samples = np.array(theirs.trace(maxIter=100, tol=0.0))
    margin = 4 * math.hypot(trace.error.item(), samples.std() / math.sqrt(len(samples)))
    assert trace.value.item() == pytest.approx(samples.mean(), abs=margin)
    largest = theirs.eigenvalues(maxIter=200, tol=1e-6)[0][0]
    ours = extreme_eigenvalues(lambda v: objective.hvp(w, v), draw(len(w)), 30)
    assert ours[-1].item() == pytest.approx(largest, rel=1e-3)
    torch.testing.assert_close(ours, torch.linalg.eigvalsh(dense)[[0, -1]], rtol=1e-6, atol=1e-8)
