"""The Lanczos process against dense matrices and scipy."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh
from test_conjugate_gradients import draw, make_matrix

from dlopt.linalg.lanczos import tridiagonalize
from dlopt.linalg.symmetric import eigh_or_nan

N = 40
MATRIX = make_matrix(np.concatenate([np.linspace(-1, 1, N - 4), [-9.0, 6.0, 7.0, 30.0]]))


@pytest.mark.parametrize("steps", [1, 2, 7, N, N + 10])
def test_the_rows_are_orthonormal_and_t_is_the_matrix_between_them(steps):
    """Also in float32, where rounding would lose orthogonality without the second pass."""
    for dtype, atol in ((torch.float64, 1e-11), (torch.float32, 1e-4)):
        matrix, start = MATRIX.to(dtype), draw(N).to(dtype)
        found = tridiagonalize(lambda v, matrix=matrix: v @ matrix, start, steps)
        k = min(steps, N)
        q = found.basis
        assert q.shape == (k, N)
        torch.testing.assert_close(q @ q.T, torch.eye(k, dtype=dtype), rtol=0, atol=atol)
        torch.testing.assert_close(q @ matrix @ q.T, found.matrix(), rtol=0, atol=10 * atol)
        torch.testing.assert_close(q[0], start / start.norm())


def test_extreme_eigenvalues_are_those_of_scipy():
    largest, smallest = (eigsh(MATRIX.numpy(), 1, which=which)[0][0] for which in ("LA", "SA"))
    values = torch.linalg.eigvalsh(tridiagonalize(lambda v: v @ MATRIX, draw(N), 20).matrix())
    assert values[-1] == pytest.approx(largest, rel=1e-10)
    assert values[0] == pytest.approx(smallest, rel=1e-10)


@pytest.mark.parametrize("steps", [1, 5, 20, N])
def test_ritz_pairs_have_their_residuals_and_bound_an_eigenvalue(steps):
    values, vectors, residuals = tridiagonalize(lambda v: v @ MATRIX, draw(N), steps).ritz_pairs()
    exact = (vectors @ MATRIX - values.unsqueeze(-1) * vectors).norm(dim=-1)
    torch.testing.assert_close(residuals, exact, rtol=1e-6, atol=1e-8)
    distances = (torch.linalg.eigvalsh(MATRIX) - values.unsqueeze(-1)).abs().amin(-1)
    assert (distances <= residuals + 1e-8).all()
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(len(values)).double(), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "values", [[2.0] * 6, [1.0, 1.0, 1.0, 5.0, 5.0, -3.0], [0.0] * 6, [0.0, 0.0, 0.0, 0.0, 0.0, 4.0]]
)
def test_after_an_invariant_space_another_direction_brings_the_other_eigenvalues(values):
    matrix = make_matrix(values)
    found = tridiagonalize(lambda v: v @ matrix, draw(6), 6)
    torch.testing.assert_close(
        torch.linalg.eigvalsh(found.matrix()), torch.tensor(sorted(values)).double(), atol=1e-9, rtol=0
    )
    torch.testing.assert_close(found.basis @ found.basis.T, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-10)
    assert (found.beta == 0).sum() == max(map(values.count, values)) - 1


def test_lanes_are_as_alone():
    matrices, start = torch.stack([MATRIX, make_matrix([3.0] * N), MATRIX @ MATRIX]), draw(3, N)
    found = tridiagonalize(lambda v: (matrices @ v.unsqueeze(-1)).squeeze(-1), start, 8)
    for i in range(3):
        alone = tridiagonalize(lambda v, i=i: matrices[i] @ v, start[i], 8)
        for a, b in zip(found, alone, strict=True):
            torch.testing.assert_close(a[i], b, rtol=1e-9, atol=1e-9)


def test_a_matrix_that_is_not_finite_leaves_the_others_their_eigenvalues():
    matrices = torch.stack([MATRIX, MATRIX, MATRIX])
    matrices[1, 3, 4] = torch.nan
    values, vectors = eigh_or_nan(matrices)
    expected = torch.linalg.eigh(MATRIX)
    assert values[1].isnan().all()
    for i in (0, 2):
        torch.testing.assert_close(values[i], expected[0])
        torch.testing.assert_close(vectors[i] @ torch.diag(values[i]) @ vectors[i].T, MATRIX, rtol=0, atol=1e-10)
