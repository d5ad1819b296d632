"""DeepOBS's stochastic quadratic against a rebuild of its recipe."""

import numpy as np
import pytest
import torch
from helpers import build_experiment, make_arch, make_option

from dlopt.arch.quadratic import sample_rotation


def rebuild_hessian():
    """Return eigenvalues and Q as the recipe states them: draws of one generator, the rotation by the subgroup method."""
    generator = np.random.RandomState(42)
    eigenvalues = np.concatenate([generator.uniform(0, 1, 90), generator.uniform(30, 60, 10)])
    t = 2 * np.pi * generator.uniform()
    r = np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]])
    for d in range(2, 100):
        v = generator.normal(size=(d + 1, 1))
        e = np.eye(d + 1)[:, :1]
        x = (e - v / np.linalg.norm(v)) / np.linalg.norm(e - v / np.linalg.norm(v))
        r = (np.eye(d + 1) - 2 * x @ x.T) @ np.block([[np.eye(1), np.zeros((1, d))], [np.zeros((d, 1)), r]])
    return eigenvalues, r.T @ np.diag(eigenvalues) @ r


def test_the_hessian_is_that_of_the_recipe():
    eigenvalues, expected = rebuild_hessian()
    hessian = make_arch("quadratic", (100,)).hessian.numpy()
    np.testing.assert_allclose(hessian, expected, rtol=0, atol=1e-12)
    found = np.linalg.eigvalsh(hessian)
    np.testing.assert_allclose(found, np.sort(eigenvalues), rtol=0, atol=1e-12)
    assert found[89] < 1
    assert 30 < found[90] < found[-1] < 60


@pytest.mark.parametrize("n", [2, 3, 4, 9])
def test_a_rotation_keeps_lengths_and_orientation(n):
    rotation = sample_rotation(n, np.random.RandomState(n))
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(n), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)


def test_the_points_are_those_of_the_recipe():
    dataset = make_option("data", "quadratic").load()
    for split, seed in ((dataset.train, 42), (dataset.test, 43)):
        expected = np.float32(np.random.RandomState(seed).normal(0.0, 0.6, (1000, 100)))
        assert np.array_equal(split.inputs.numpy(), expected)


def test_a_run_minimizes_the_mean_of_the_quadratics_around_the_points():
    experiment = build_experiment("experiment=quadratic", "precision=float64")
    assert experiment.w.tolist() == [1.0] * 100
    assert (len(experiment.train), experiment.validation, experiment.settings.batch_size, experiment.drop_last) == (
        1000,
        None,
        128,
        True,
    )
    x, _ = experiment.train.gather()
    q = torch.from_numpy(rebuild_hessian()[1])
    difference = 1 - x.double()
    expected = torch.stack([d @ q @ d / 2 for d in difference])
    outputs = experiment.model.double()(x.double())
    torch.testing.assert_close(outputs.squeeze(1), expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(experiment.loss(outputs, torch.zeros(1000, 1)), expected.mean(), rtol=1e-12, atol=0)


def test_inputs_of_another_size_are_refused():
    with pytest.raises(ValueError, match="100 features"):
        make_arch("quadratic", (99,))
