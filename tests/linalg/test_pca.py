"""Principal component analysis against its definition, in float64."""

import pytest
import torch

from dlopt.linalg.pca import inverse_roots, principal_axes, transform
from dlopt.storage.memory import NotEnoughMemoryError


def draw(count, shape, seed=0):
    """Correlated examples far from the origin."""
    g = torch.Generator().manual_seed(seed)
    d = int(torch.tensor(shape).prod())
    mix = torch.randn(d, d, generator=g, dtype=torch.float64) / d**0.5
    x = torch.randn(count, d, generator=g, dtype=torch.float64) @ mix + 5 * torch.randn(d, generator=g)
    return x.view(count, *shape)


def covariance(x):
    centred = (x - x.mean(0)).flatten(1)
    return centred.T @ centred / len(x)


shapes = pytest.mark.parametrize("shape", [(6,), (2, 3), (2, 2, 3), (1,)])


@shapes
def test_directions_are_sorted_orthonormal_eigenvectors_of_the_covariance(shape):
    x = draw(100, shape)
    mean, directions, variances = principal_axes([x])
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(directions.T @ directions, torch.eye(len(variances), dtype=torch.float64))
    torch.testing.assert_close(covariance(x) @ directions, directions * variances)
    assert (variances.diff() <= 0).all()
    assert (variances >= 0).all()
    torch.testing.assert_close(principal_axes(x.split(13)), (mean, directions, variances))


@shapes
def test_signs_are_fixed_and_the_order_of_examples_does_not_matter(shape):
    x = draw(100, shape)
    one, other, mirrored = principal_axes([x]), principal_axes([x.flip(0)]), principal_axes([-x])
    largest = one.directions.gather(0, one.directions.abs().argmax(0, keepdim=True))
    assert (largest > 0).all()
    torch.testing.assert_close(one, other)
    torch.testing.assert_close(mirrored.directions, one.directions)


def test_float32_is_computed_as_float64():
    x = draw(100, (5,)).float()
    assert all(torch.equal(a, b) for a, b in zip(principal_axes([x]), principal_axes([x.double()]), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("count", "rank"), [(1, 0), (2, 1), (4, 3), (8, 7), (9, 8), (50, 8)])
def test_variances_within_rounding_of_zero_are_zero(dtype, count, rank):
    """N examples span at most N - 1 directions, at any scale and any distance from the origin."""
    for scale, offset in ((1.0, 0.0), (1e-6, 0.0), (1e6, 1e7), (1.0, 1e4)):
        x = (scale * draw(count, (8,)) + offset).to(dtype)
        variances = principal_axes([x]).variances
        assert int((variances > 0).sum()) == rank
        assert (variances[rank:] == 0).all()


def test_repeated_and_constant_features_add_no_variance():
    x = draw(100, (5,))
    x = torch.cat([x, x[:, :2], torch.full((100, 1), 0.1, dtype=torch.float64)], 1)
    assert int((principal_axes([x]).variances > 0).sum()) == 5


def test_inverse_roots_are_bounded_by_eps_and_zero_without_variance():
    variances = torch.tensor([4.0, 1.0, 1e-30, 0.0], dtype=torch.float64)
    torch.testing.assert_close(inverse_roots(variances, 0.0), torch.tensor([0.5, 1.0, 1e15, 0.0], dtype=torch.float64))
    torch.testing.assert_close(inverse_roots(variances, 0.25), torch.tensor([5**-0.5, 2**-0.5, 1.0, 0.0]).double())
    assert torch.equal(inverse_roots(torch.zeros(3), 0.1), torch.zeros(3))


def test_examples_are_transformed_as_vectors_and_keep_their_shape():
    x, matrix = torch.randn(7, 2, 3, dtype=torch.float64), torch.randn(6, 6, dtype=torch.float64)
    mean = torch.randn(2, 3, dtype=torch.float64)
    y = transform(x, mean, matrix)
    for i in range(7):
        torch.testing.assert_close(y[i].flatten(), matrix.T @ (x[i] - mean).flatten())


def test_a_covariance_that_exceeds_the_memory_is_refused():
    with pytest.raises(NotEnoughMemoryError, match="the covariance of 10000000 features needs"):
        principal_axes([torch.zeros(1, 1).expand(2, 10**7)])
