"""Whitening, its symmetric form and decorrelation, by what defines them, in float64."""

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dlopt.config.compose import groups


def draw(count, shape):
    torch.manual_seed(0)
    d = torch.Size(shape).numel()
    x = torch.randn(count, d, dtype=torch.float64) @ torch.randn(d, d, dtype=torch.float64)
    return (x + 5 * torch.randn(d, dtype=torch.float64)).view(count, *shape)


def compute_covariance(x):
    centred = (x - x.mean(0)).flatten(1)
    return centred.T @ centred / len(x)


def compute_variances(x):
    """Return the eigenvalues of the covariance, the largest first."""
    return torch.linalg.eigvalsh(compute_covariance(x)).flip(0)


def make(name, **keys):
    return instantiate(OmegaConf.load(groups.CONF / "preprocess" / f"{name}.yaml")[name], **keys)


def fit(name, x, **keys):
    option = make(name, **keys)
    statistics = option.fit(x)
    return lambda z: option.apply(z, statistics)


whitenings = pytest.mark.parametrize("name", ["whiten", "zca"])
shapes = pytest.mark.parametrize("shape", [(6,), (2, 2, 3)])


@whitenings
@shapes
def test_the_covariance_becomes_the_identity(name, shape):
    x = draw(200, shape)
    y = fit(name, x, eps=0.0)(x)
    torch.testing.assert_close(compute_covariance(y), torch.eye(x[0].numel(), dtype=torch.float64))
    torch.testing.assert_close(y.mean(0), torch.zeros(shape, dtype=torch.float64))


@whitenings
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_eps_is_added_to_each_variance_relative_to_the_largest(name, eps):
    x = draw(200, (6,))
    variances = compute_variances(x)
    expected = variances / (variances + eps * variances[0])
    torch.testing.assert_close(compute_variances(fit(name, x, eps=eps)(x)), expected)


@shapes
def test_decorrelation_is_a_rotation_to_a_diagonal_covariance(shape):
    x, other = draw(200, shape), draw(30, shape)
    apply = fit("decorrelate", x)
    torch.testing.assert_close(compute_covariance(apply(x)), compute_variances(x).diag(), rtol=1e-9, atol=1e-9)
    before, after = (torch.pdist(z.flatten(1)) for z in (other, apply(other)))
    torch.testing.assert_close(after, before)


def test_whitening_is_decorrelation_and_then_division_by_deviations():
    x = draw(200, (6,))
    y = fit("decorrelate", x)(x)
    torch.testing.assert_close(fit("whiten", x, eps=0.0)(x), y / y.std(0, correction=0))


@shapes
@pytest.mark.parametrize("eps", [0.0, 0.01])
def test_the_matrix_of_zca_is_the_symmetric_inverse_root_of_the_covariance(shape, eps):
    x = draw(200, shape)
    matrix = make("zca", eps=eps).fit(x)["whitening"]
    torch.testing.assert_close(matrix, matrix.T)
    identity = torch.eye(len(matrix), dtype=torch.float64)
    c = compute_covariance(x) + eps * compute_variances(x)[0] * identity
    torch.testing.assert_close(matrix @ matrix @ c, identity)
    assert (torch.linalg.eigvalsh(matrix) > 0).all()


def test_zca_is_the_whitening_nearest_to_the_data():
    x = draw(200, (6,))
    centred, zca = x - x.mean(0), fit("zca", x, eps=0.0)(x)

    def distance(y):
        return (y - centred).square().sum(1).mean()

    assert distance(zca) < distance(fit("whiten", x, eps=0.0)(x))
    for _ in range(50):
        rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
        assert distance(zca) < distance(zca @ rotation)
        assert distance(zca) < distance(zca @ torch.matrix_exp(1e-3 * (rotation - rotation.T)))


@whitenings
@pytest.mark.parametrize(("eps", "dtype"), [(0.0, torch.float32), (1e-5, torch.float64)])
@pytest.mark.parametrize("count", [2, 8, 9])
def test_directions_without_variance_become_zero_in_new_examples_too(name, eps, count, dtype):
    x = draw(count, (2, 4)).to(dtype)
    apply = fit(name, x, eps=eps)
    y = apply(x)
    assert y.isfinite().all()
    rank = count - 1
    remaining, variances = compute_variances(y.double()), compute_variances(x.double())
    expected = (variances / (variances + eps * variances[0]))[:rank]
    atol = 1e-4 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(remaining[:rank], expected, rtol=0, atol=atol)
    torch.testing.assert_close(remaining[rank:], torch.zeros(8 - rank).double(), rtol=0, atol=1e-6)
    basis = torch.linalg.svd((x - x.mean(0)).flatten(1).double())[2][:rank]
    new = torch.randn(5, 8, dtype=torch.float64)
    orthogonal = new - new @ basis.T @ basis
    moved = apply(x[:1] + 100 * orthogonal.view(5, 2, 4).to(dtype))
    torch.testing.assert_close(moved, y[:1].expand_as(moved), rtol=0, atol=100 * atol if atol > 1e-9 else atol)


@whitenings
def test_a_common_scale_does_not_matter(name):
    x = draw(100, (5,))
    torch.testing.assert_close(fit(name, 1e3 * x)(1e3 * x), fit(name, x)(x))


def test_a_constant_feature_becomes_zero_and_does_not_change_the_others():
    x = draw(100, (5,))
    wide = torch.cat([x[:, :2], torch.full((100, 1), 0.1, dtype=torch.float64), x[:, 2:]], 1)
    y = fit("zca", wide)(wide)
    torch.testing.assert_close(y[:, 2], torch.zeros(100, dtype=torch.float64), rtol=0, atol=1e-13)
    torch.testing.assert_close(y[:, [0, 1, 3, 4, 5]], fit("zca", x)(x))
    torch.testing.assert_close(fit("whiten", wide)(wide)[:, :5], fit("whiten", x)(x))


@pytest.mark.parametrize("name", ["whiten", "zca", "decorrelate"])
def test_constant_data_become_zero(name):
    x = torch.full((4, 3), 0.1)
    assert torch.equal(fit(name, x)(x), torch.zeros(4, 3))
    assert fit(name, x)(x + 1).isfinite().all()
