"""Estimates of diagonals: the dense formula, exact cases and known variances."""

import math

import numpy as np
import torch
from test_conjugate_gradients import draw, make_matrix

from dlopt import prng
from dlopt.linalg.diagonal import estimate_diagonal

N = 12
MATRIX = make_matrix(np.concatenate([np.linspace(-1, 1, N - 2), [5.0, 30.0]]))
LIKE = torch.zeros(N, dtype=torch.float64)
OFF_DIAGONAL = MATRIX - MATRIX.diag().diag()
KEY = prng.key(0, "probes")


def multiply(v):
    return v @ MATRIX


def test_an_estimate_is_the_mean_over_vectors_of_signs_with_its_standard_error():
    v = torch.stack([prng.rademacher(prng.fold_in(KEY, i), (N,)) for i in range(7)]).double()
    assert (v.abs() == 1).all()
    terms = v * (v @ MATRIX)
    estimate = estimate_diagonal(multiply, LIKE, 7, KEY)
    torch.testing.assert_close(estimate.value, terms.mean(0))
    torch.testing.assert_close(estimate.error, terms.std(0) / math.sqrt(7))
    assert estimate_diagonal(multiply, LIKE, 1, KEY).error.isnan().all()


def test_a_diagonal_matrix_has_an_exact_estimate():
    diagonal = draw(N)
    estimate = estimate_diagonal(lambda v: diagonal * v, LIKE, 2, KEY)
    torch.testing.assert_close(estimate.value, diagonal)
    assert estimate.error.max() < 1e-12


def test_estimates_are_unbiased_with_the_known_variances():
    """Over 4,000 keys: the mean within 4.5 standard errors, the variance within 15%."""
    count = 4000
    keys = prng.Key(*(torch.tensor(half) for half in zip(*(prng.key(i, "many") for i in range(count)), strict=True)))
    diagonal = estimate_diagonal(multiply, LIKE.expand(count, N), 2, keys)
    variances = OFF_DIAGONAL.square().sum(1) / 2
    torch.testing.assert_close(diagonal.value.var(0), variances, rtol=0.15, atol=0)
    torch.testing.assert_close(diagonal.error.square().mean(0), variances, rtol=0.15, atol=0)
    assert ((diagonal.value.mean(0) - MATRIX.diag()).abs() < 4.5 * (variances / count).sqrt()).all()


def test_lanes_are_as_alone():
    keys = [prng.key(i, "lane") for i in range(3)]
    batch = prng.Key(*(torch.tensor(half) for half in zip(*keys, strict=True)))
    together = estimate_diagonal(multiply, LIKE.expand(3, N), 6, batch)
    common = estimate_diagonal(multiply, LIKE.expand(3, N), 6, keys[0])
    for i in range(3):
        for a, b in zip(together, estimate_diagonal(multiply, LIKE, 6, keys[i]), strict=True):
            torch.testing.assert_close(a[i], b)
        torch.testing.assert_close(common.value[i], together.value[0])
