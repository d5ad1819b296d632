"""The Huber loss."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dlopt.metrics import functional
from dlopt.parts import Loss, TargetKind
from dlopt.ranges import Positive


@dataclass(frozen=True)
class Huber(Loss):
    """The Huber loss: the squared error of small residuals and the absolute error of large ones.

        loss = mean over examples and outputs of  r^2 / 2 if |r| <= delta,  else delta (|r| - delta / 2),   r = o - y

    The gradient of an outlier is bounded by delta. Without outliers it is half of loss=mse. It is torch's HuberLoss.

    delta     the residual from which on the loss is linear, in the units of the targets: standard deviations with
              data.standardize_target
    metrics   also reported: r2, mae, as for mse

    Source: Huber 1964.
    """

    delta: Positive
    metrics: list[functional.RegressionMetric]

    targets: ClassVar[TargetKind] = "numbers"

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        residual = outputs - targets
        size = residual.abs()
        linear = self.delta * (size - 0.5 * self.delta)
        return torch.where(size <= self.delta, 0.5 * residual.square(), linear).mean(-1)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return functional.compute_by_name(self.metrics, outputs, targets)
