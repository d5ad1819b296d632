"""Mean and deviation over dimensions, against numpy's."""

import numpy as np
import pytest
import torch

from dlopt.preprocess._feature_stats import mean_and_std


@pytest.mark.parametrize("dims", [(0,), (0, 2), (0, 2, 3), (1,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_they_are_numpys(dims, dtype):
    x = (torch.randn(9, 3, 4, 5) * 3 + 2).to(dtype)
    mu, sigma = mean_and_std(x, dims)
    assert mu.dtype == sigma.dtype == dtype
    exact = x.double().numpy()
    torch.testing.assert_close(mu, torch.from_numpy(np.asarray(exact.mean(dims, keepdims=True))).to(dtype))
    torch.testing.assert_close(sigma, torch.from_numpy(np.asarray(exact.std(dims, keepdims=True))).to(dtype))


def test_the_deviation_of_a_constant_is_one_and_that_of_a_small_spread_its_own():
    x = torch.tensor([[0.1, 0.1], [0.1, 0.1001], [0.1, 0.1]])
    _, sigma = mean_and_std(x, (0,))
    assert sigma[0, 0] == 1.0
    assert 4e-5 < sigma[0, 1] < 6e-5
