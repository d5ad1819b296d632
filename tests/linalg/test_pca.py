"""Principal axes against their definition, in float64."""

import pytest
import torch

from dlopt.linalg.pca import inverse_roots, principal_axes, transform
from dlopt.storage.memory import NotEnoughMemoryError


def drawn(count, shape, seed=0):
    """Correlated examples far from the origin."""
    draw = torch.Generator().manual_seed(seed)
    d = int(torch.tensor(shape).prod())
    mix = torch.randn(d, d, generator=draw, dtype=torch.float64) / d**0.5
    x = torch.randn(count, d, generator=draw, dtype=torch.float64) @ mix + 5 * torch.randn(d, generator=draw)
    return x.view(count, *shape)


def covariance(x):
    centred = (x - x.mean(0)).flatten(1)
    return centred.T @ centred / len(x)


shapes = pytest.mark.parametrize("shape", [(6,), (2, 3), (2, 2, 3), (1,)])


@shapes
def test_directions_are_orthonormal_eigenvectors_of_the_covariance_the_largest_variance_first(shape):
    x = drawn(100, shape)
    mean, directions, variances = principal_axes(x)
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(directions.T @ directions, torch.eye(len(variances), dtype=torch.float64))
    torch.testing.assert_close(covariance(x) @ directions, directions * variances)
    assert (variances.diff() <= 0).all()
    assert (variances >= 0).all()


@shapes
def test_signs_are_fixed_and_the_order_of_examples_does_not_matter(shape):
    x = drawn(100, shape)
    one, other, mirrored = principal_axes(x), principal_axes(x.flip(0)), principal_axes(-x)
    largest = one.directions.gather(0, one.directions.abs().argmax(0, keepdim=True))
    assert (largest > 0).all()
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(mirrored.directions, one.directions)


def test_float32_is_computed_as_float64():
    x = drawn(100, (5,)).float()
    assert all(torch.equal(a, b) for a, b in zip(principal_axes(x), principal_axes(x.double()), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("count", "rank"), [(1, 0), (2, 1), (4, 3), (8, 7), (9, 8), (50, 8)])
def test_what_rounding_makes_of_no_variance_is_none(dtype, count, rank):
    """N examples span N - 1 directions at most, whatever their scale and however far they lie from the origin."""
    for scale, offset in ((1.0, 0.0), (1e-6, 0.0), (1e6, 1e7), (1.0, 1e4)):
        x = (scale * drawn(count, (8,)) + offset).to(dtype)
        variances = principal_axes(x).variances
        assert int((variances > 0).sum()) == rank
        assert (variances[rank:] == 0).all()


def test_a_repeated_and_a_constant_feature_have_no_variance_of_their_own():
    x = drawn(100, (5,))
    x = torch.cat([x, x[:, :2], torch.full((100, 1), 0.1, dtype=torch.float64)], 1)
    assert int((principal_axes(x).variances > 0).sum()) == 5


def test_inverse_roots_are_bounded_by_eps_and_zero_where_nothing_varies():
    variances = torch.tensor([4.0, 1.0, 1e-30, 0.0], dtype=torch.float64)
    torch.testing.assert_close(inverse_roots(variances, 0.0), torch.tensor([0.5, 1.0, 1e15, 0.0], dtype=torch.float64))
    torch.testing.assert_close(inverse_roots(variances, 0.25), torch.tensor([5**-0.5, 2**-0.5, 1.0, 0.0]).double())
    assert torch.equal(inverse_roots(torch.zeros(3), 0.1), torch.zeros(3))


def test_an_example_is_a_vector_that_comes_back_in_its_shape():
    x, matrix = torch.randn(7, 2, 3, dtype=torch.float64), torch.randn(6, 6, dtype=torch.float64)
    mean = torch.randn(2, 3, dtype=torch.float64)
    y = transform(x, mean, matrix)
    for i in range(7):
        torch.testing.assert_close(y[i].flatten(), matrix.T @ (x[i] - mean).flatten())


def test_a_covariance_for_which_there_is_no_memory_is_refused_before_it_is_made():
    with pytest.raises(NotEnoughMemoryError, match="the covariance of 10000000 features needs"):
        principal_axes(torch.zeros(1, 1).expand(2, 10**7))
