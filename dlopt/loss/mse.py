"""Mean squared error."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dlopt.metrics import functional
from dlopt.parts import Loss, TargetKind


@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """loss = mean of (o - y)^2 over examples and outputs.

    metrics   what is reported beside it: r2, R^2 = 1 - (squared error) / (variance of y). It is 1 for perfect
              predictions, 0 for those no better than the mean of the targets; not a number where these do not vary

    Slip: The CMU and KTH lectures sum the loss over the batch where they mean its average; a sum makes the step grow
    with batch_size, so that it and the rate trade off.

    Source: Goodfellow, Bengio and Courville 2016, section 6.2.2.1.
    """

    metrics: list[functional.RegressionMetric]

    targets: ClassVar[TargetKind] = "numbers"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().mean()

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return functional.compute_by_name(self.metrics, outputs, targets)
