"""Whitening, its symmetric form and decorrelation, by what defines them, in float64."""

import pytest
import torch
from helpers import compose_config
from hydra.utils import instantiate


def part(name, **keys):
    return instantiate({**compose_config(f"preprocess={name}").preprocess[name], **keys})


def drawn(count, shape):
    torch.manual_seed(0)
    d = int(torch.tensor(shape).prod())
    x = torch.randn(count, d, dtype=torch.float64) @ torch.randn(d, d, dtype=torch.float64)
    return (x + 5 * torch.randn(d, dtype=torch.float64)).view(count, *shape)


def covariance(x):
    centred = (x - x.mean(0)).flatten(1)
    return centred.T @ centred / len(x)


def fitted(name, x, **keys):
    made = part(name, **keys)
    statistics = made.fit(x)
    return lambda z: made.apply(z, statistics)


whitenings = pytest.mark.parametrize("name", ["whiten", "zca"])
shapes = pytest.mark.parametrize("shape", [(6,), (2, 4), (2, 2, 3)])


@whitenings
@shapes
def test_the_covariance_becomes_the_identity(name, shape):
    x = drawn(200, shape)
    y = fitted(name, x, eps=0.0)(x)
    d = x[0].numel()
    torch.testing.assert_close(covariance(y), torch.eye(d, dtype=torch.float64))
    torch.testing.assert_close(y.mean(0), torch.zeros(shape, dtype=torch.float64))


@whitenings
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_eps_takes_from_each_variance_its_share_of_the_largest(name, eps):
    x = drawn(200, (6,))
    variances = torch.linalg.eigvalsh(covariance(x)).flip(0)
    left = torch.linalg.eigvalsh(covariance(fitted(name, x, eps=eps)(x))).flip(0)
    torch.testing.assert_close(left, variances / (variances + eps * variances[0]))


@shapes
def test_decorrelation_is_a_rotation_after_which_the_covariance_is_diagonal(shape):
    x, other = drawn(200, shape), drawn(30, shape)
    apply = fitted("decorrelate", x)
    found = covariance(apply(x))
    variances = torch.linalg.eigvalsh(covariance(x)).flip(0)
    torch.testing.assert_close(found, variances.diag(), rtol=1e-9, atol=1e-9)
    apart = torch.randint(30, (2, 100))
    for before, after in zip(other[apart].diff(dim=0)[0], apply(other)[apart].diff(dim=0)[0], strict=True):
        torch.testing.assert_close(after.norm(), before.norm())


def test_whitening_is_decorrelation_and_then_division_by_deviations():
    x = drawn(200, (6,))
    y = fitted("decorrelate", x)(x)
    torch.testing.assert_close(fitted("whiten", x, eps=0.0)(x), y / y.std(0, correction=0))


@shapes
@pytest.mark.parametrize("eps", [0.0, 0.01])
def test_zca_is_symmetric_and_undoes_the_root_of_the_covariance(shape, eps):
    x = drawn(200, shape)
    matrix = part("zca", eps=eps).fit(x)["whitening"]
    torch.testing.assert_close(matrix, matrix.T)
    c = covariance(x)
    c += eps * torch.linalg.eigvalsh(c)[-1] * torch.eye(len(c), dtype=torch.float64)
    torch.testing.assert_close(matrix @ matrix @ c, torch.eye(len(c), dtype=torch.float64))
    assert (torch.linalg.eigvalsh(matrix) > 0).all()


def test_zca_is_nearest_to_the_data_of_all_whitenings():
    x = drawn(200, (6,))
    centred, zca = x - x.mean(0), fitted("zca", x, eps=0.0)(x)

    def distance(y):
        return (y - centred).square().sum(1).mean()

    assert distance(zca) < distance(fitted("whiten", x, eps=0.0)(x))
    for _ in range(50):
        rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
        assert distance(zca) < distance(zca @ rotation)
        small = torch.matrix_exp(1e-3 * (rotation - rotation.T))
        assert distance(zca) < distance(zca @ small)


@whitenings
@pytest.mark.parametrize("eps", [0.0, 1e-5])
@pytest.mark.parametrize("count", [2, 5, 8, 9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_directions_without_variance_are_left_at_zero_in_examples_not_seen_too(name, eps, count, dtype):
    x = drawn(count, (2, 4)).to(dtype)
    apply = fitted(name, x, eps=eps)
    rank = min(count - 1, 8)
    y = apply(x)
    assert y.isfinite().all()
    found = torch.linalg.eigvalsh(covariance(y.double())).flip(0)
    variances = torch.linalg.eigvalsh(covariance(x.double())).flip(0)
    left = (variances / (variances + eps * variances[0]))[:rank]
    torch.testing.assert_close(found[:rank], left, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-9)
    torch.testing.assert_close(found[rank:], torch.zeros(8 - rank).double(), rtol=0, atol=1e-6)
    spanned = torch.linalg.svd((x - x.mean(0)).flatten(1).double())[2][:rank]
    new = torch.randn(5, 8, dtype=torch.float64)
    across = new - new @ spanned.T @ spanned
    moved = apply(x[:1] + 100 * across.view(5, 2, 4).to(dtype))
    torch.testing.assert_close(moved, y[:1].expand_as(moved), rtol=0, atol=1e-2 if dtype == torch.float32 else 1e-9)


@whitenings
def test_the_scale_of_all_features_together_does_not_matter(name):
    x = drawn(100, (5,))
    torch.testing.assert_close(fitted(name, 1e3 * x)(1e3 * x), fitted(name, x)(x))


def test_a_constant_feature_stays_at_zero_and_the_others_are_whitened_without_it():
    x = drawn(100, (5,))
    wide = torch.cat([x[:, :2], torch.full((100, 1), 0.1, dtype=torch.float64), x[:, 2:]], 1)
    y = fitted("zca", wide)(wide)
    torch.testing.assert_close(y[:, 2], torch.zeros(100, dtype=torch.float64), rtol=0, atol=1e-13)
    torch.testing.assert_close(y[:, [0, 1, 3, 4, 5]], fitted("zca", x)(x))
    torch.testing.assert_close(fitted("whiten", wide)(wide)[:, :5], fitted("whiten", x)(x))


@pytest.mark.parametrize("name", ["whiten", "zca", "decorrelate"])
def test_no_spread_at_all_makes_zeros(name):
    x = torch.full((4, 3), 0.1)
    assert torch.equal(fitted(name, x)(x), torch.zeros(4, 3))
    assert fitted(name, x)(x + 1).isfinite().all()
