"""Mean absolute error."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dlopt.metrics import functional
from dlopt.parts import Loss, TargetKind


@dataclass(frozen=True)
class AbsoluteError(Loss):
    """Mean absolute error: loss = mean of |o - y| over examples and outputs, in the units of the targets.

    The best constant output is the median. The derivative at o = y is zero, and second derivatives by o are zero
    everywhere: optimizers that use a Gauss-Newton matrix see none. It is torch's L1Loss.

    metrics   also reported: r2, mae, as for mse

    Source: Goodfellow, Bengio and Courville 2016, section 6.2.1.2.
    """

    metrics: list[functional.RegressionMetric]

    targets: ClassVar[TargetKind] = "numbers"

    @property
    def has_curvature(self) -> bool:
        return False

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).abs().mean(-1)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return functional.compute_by_name(self.metrics, outputs, targets)
