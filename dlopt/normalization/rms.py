"""Root mean square normalization."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlopt.ranges import Positive


@dataclass(frozen=True)
class RMSNormalization:
    """RMS normalization: each example is divided by the root mean square of its own features.

        y = gamma x / sqrt(mean(x^2) + eps) + beta

    The mean is over features and, for convolutions, over positions, as in normalization=layer, of which it is the form
    without the mean. gamma is learned, one for each feature, and so is beta if there is one. It has no running
    statistics: training and inference are the same, for any batch.

    eps    added to the mean square, so that an example of zeros does not divide by zero
    beta   learn a shift: the bias of the layer in the paper. false: none, as in LLaMA; then convolutions before it have
           no bias at all

    Source: Zhang and Sennrich 2019, equation 4. The paper has no eps; that of torch.nn.RMSNorm is inside the root, too.
    """

    eps: Positive
    beta: bool

    def __call__(self, features: int, dims: int) -> nn.Module:
        return RMSNorm(features, self.eps, self.beta)


class RMSNorm(nn.Module):
    """The module, for inputs (batch, features, ...)."""

    normalizes = True
    bias: nn.Parameter | None

    def __init__(self, features: int, eps: float, beta: bool) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features)) if beta else None

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}"

    def forward(self, x: Tensor) -> Tensor:
        y = F.rms_norm(x, x.shape[1:], eps=self.eps)
        shape = (-1, *[1] * (x.ndim - 2))
        y = y * self.weight.view(shape)
        return y if self.bias is None else y + self.bias.view(shape)
