"""Conjugate gradients against scipy, and where they end."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, cg

from dlopt.linalg.conjugate_gradients import solve

N = 12


def make_matrix(eigenvalues, seed=0):
    """Return a symmetric matrix of these eigenvalues, in float64."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=generator, dtype=torch.float64))[0]
    return q @ torch.diag(torch.as_tensor(eigenvalues, dtype=torch.float64)) @ q.T


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


POSITIVE = make_matrix(np.linspace(1, 20, N))


@pytest.mark.parametrize("iterations", [1, 2, 5, 11])
def test_iterates_are_those_of_scipy(iterations):
    b = draw(N)
    operator = LinearOperator((N, N), matvec=lambda v: POSITIVE.numpy() @ v, dtype=np.float64)
    expected, _ = cg(operator, b.numpy(), rtol=0.0, maxiter=iterations)
    found = solve(lambda v: v @ POSITIVE, b, tolerance=1e-300, max_iterations=iterations)
    torch.testing.assert_close(found.x, torch.from_numpy(expected), rtol=1e-10, atol=1e-12)
    assert found.iterations == iterations
    assert found.residual == pytest.approx(((b - POSITIVE @ found.x).norm() / b.norm()).item(), rel=1e-8)


@pytest.mark.parametrize("different", [1, 3, N])
def test_it_needs_a_product_for_each_different_eigenvalue(different):
    values = np.linspace(1, 20, different).repeat(N // different)
    b, matrix = draw(N), make_matrix(values)
    found = solve(lambda v: v @ matrix, b, tolerance=1e-9, max_iterations=100)
    assert found.iterations == different
    torch.testing.assert_close(found.x, torch.linalg.solve(matrix, b), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("tolerance", [0.5, 1e-2, 1e-6])
def test_it_ends_at_the_first_residual_within_the_tolerance(tolerance):
    b = draw(N)

    def run(k):
        return solve(lambda v: v @ POSITIVE, b, tolerance=1e-300, max_iterations=k).residual

    found = solve(lambda v: v @ POSITIVE, b, tolerance=tolerance, max_iterations=100)
    assert found.iterations == next(k for k in range(100) if run(k) <= tolerance)


def test_negative_curvature_ends_it_with_the_step_so_far():
    """At the first iteration with b itself: Nocedal and Wright 2006, algorithm 7.1."""
    matrix, b = torch.diag(torch.tensor([4.0, 2.0, -0.1], dtype=torch.float64)), torch.ones(3, dtype=torch.float64)
    found = solve(lambda v: v @ matrix, b, tolerance=1e-9, max_iterations=9)
    assert not found.is_convex
    before = solve(lambda v: v @ matrix, b, tolerance=1e-9, max_iterations=int(found.iterations) - 1)
    assert before.is_convex
    assert torch.equal(found.x, before.x)
    first = solve(lambda v: -v, b, tolerance=1e-9, max_iterations=9)
    assert torch.equal(first.x, b)
    assert (first.iterations, first.is_convex) == (1, False)


def test_systems_of_a_batch_are_solved_as_alone():
    """Each has its own matrix and tolerance, and ends on its own: one is zero, one indefinite, one not finite."""
    matrices = torch.stack(
        [POSITIVE, make_matrix(np.linspace(1, 3, N)), make_matrix(np.linspace(-5, 4, N)), POSITIVE, POSITIVE]
    )
    b = draw(5, N)
    b[3] = 0.0
    b[4, 2] = torch.nan
    tolerance = torch.tensor([1e-9, 1e-2, 1e-6, 1e-3, 1e-3], dtype=torch.float64).unsqueeze(-1)
    found = solve(lambda v: (matrices @ v.unsqueeze(-1)).squeeze(-1), b, tolerance=tolerance, max_iterations=30)
    for i in range(5):
        alone = solve(lambda v, i=i: matrices[i] @ v, b[i], tolerance=tolerance[i], max_iterations=30)
        torch.testing.assert_close(found.x[i], alone.x, rtol=1e-8, atol=1e-10, equal_nan=True)
        assert found.iterations[i] == alone.iterations
        assert found.is_convex[i] == alone.is_convex
    assert found.iterations[3] == 0
    assert found.residual[3] == 0.0
    assert torch.equal(found.x[3], b[3])
    assert found.iterations[:2].tolist() == [N, int(found.iterations[1])]


def test_the_matrix_and_b_are_left_alone():
    b = draw(N)
    before = b.clone()
    solve(lambda v: v @ POSITIVE, b, tolerance=1e-9, max_iterations=3)
    assert torch.equal(b, before)
