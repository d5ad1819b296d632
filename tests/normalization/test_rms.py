"""RMS normalization, against torch's own and against the formula written out."""

import pytest
import torch
from torch import nn

from dlopt.base.layout import Layout
from dlopt.normalization.rms import RMSNormalization


@pytest.mark.parametrize("shape", [(5, 6), (3, 6, 7), (2, 6, 3, 5)])
@pytest.mark.parametrize("beta", [True, False])
def test_outputs_and_gradients_are_those_of_the_formula(shape, beta):
    """Zhang and Sennrich 2019, equation 4, one example at a time."""
    torch.manual_seed(0)
    module = RMSNormalization(1e-3, beta)(6, len(shape) - 2).double()
    assert {p.kind for p in Layout.of(module)} == {"norm"}
    assert len(list(module.parameters())) == 1 + beta
    with torch.no_grad():
        for p in module.parameters():
            p.normal_()
    x = (3 * torch.randn(shape, dtype=torch.float64) + 1).requires_grad_()
    y = module(x)
    for i, example in enumerate(x):
        for c in range(6):
            z = module.weight[c] * example[c] / (example.square().mean() + 1e-3).sqrt()
            torch.testing.assert_close(y[i, c], z + module.bias[c] if beta else z)
    assert torch.autograd.gradcheck(module, (x,))
    if len(shape) == 2 and not beta:
        twin = nn.RMSNorm(6, 1e-3).double()
        twin.load_state_dict(module.state_dict())
        torch.testing.assert_close(y, twin(x))
    assert torch.equal(module.eval()(x), y)
    zero = torch.zeros_like(x, requires_grad=True)
    assert torch.autograd.grad(module(zero).sum(), zero)[0].isfinite().all()
