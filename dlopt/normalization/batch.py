"""Batch normalization."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlopt.parts import BatchStatisticsModule
from dlopt.ranges import Fraction, Positive


@dataclass(frozen=True)
class BatchNormalization:
    """Batch normalization: each feature is standardized by the mean and variance of the mini-batch.

        y = gamma (x - mean) / sqrt(var + eps) + beta

    mean and var (the biased one) are over the batch and, for convolutions, over positions; gamma and beta are learned.
    Inference uses moving averages of the mean and of the unbiased variance:
    stored <- (1 - momentum) stored + momentum batch, once per step (torch's convention for momentum).
    Without positions, a mini-batch of one example would give y = beta for any x, and is refused. With micro_batch_size,
    each part of a mini-batch is standardized by itself, and the means of their statistics are stored.

    eps         added to the variance, so that a constant feature does not divide by zero
    momentum    weight of the newest batch in the stored statistics

    Slip: The KTH lecture calls Sigma the standard deviation of the batch, but its formula gives the variance; it then
    takes the root of the variance plus eps.

    Source: Ioffe and Szegedy 2015, algorithms 1 and 2.
    """

    eps: Positive
    momentum: Fraction

    def __call__(self, features: int, dims: int) -> nn.Module:
        return BatchNorm(features, self.eps, self.momentum)


class BatchNorm(BatchStatisticsModule):
    """The module, for inputs (batch, features, ...), with the parameter names of torch.nn.BatchNorm1d, 2d and 3d.

    Steps of sequences are inputs (batch, features) with a mask (batch,) of those that are not padding.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, eps={self.eps}, momentum={self.momentum}"

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        x = x.to(self.weight.dtype)  # bfloat16 is too coarse for statistics
        if mask is not None:
            return self._normalize_masked(x, mask)
        # This kernel also returns the statistics: one pass over the data in place of two.
        y, mean, inverse = torch.native_batch_norm(x, self.weight, self.bias, None, None, True, 0.0, self.eps)
        count = x.numel() // x.shape[1]
        var = inverse.detach().pow(-2).sub_(self.eps).clamp(min=0.0)  # rounding can give a tiny negative number
        self.batch_stats.update(running_mean=mean.detach(), running_var=var.mul_(count / max(count - 1, 1)))
        return y

    def _normalize_masked(self, x: Tensor, mask: Tensor) -> Tensor:
        """Normalize x, (batch, features), by the statistics of the rows that the mask (batch,) selects."""
        chosen = mask.unsqueeze(-1)
        count = mask.sum().to(x.dtype)
        mean = torch.where(chosen, x, 0.0).sum(0) / count
        deviation = x - mean
        var = torch.where(chosen, deviation, 0.0).square().sum(0) / count
        unbiased = var.detach() * (count / (count - 1.0).clamp(min=1.0))
        self.batch_stats.update(running_mean=mean.detach(), running_var=unbiased)
        return deviation * ((var + self.eps).rsqrt() * self.weight) + self.bias
