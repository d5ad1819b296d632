"""Mean squared error."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dlopt.parts import Kind


@dataclass(frozen=True)
class MeanSquaredError:
    """loss = mean of (o - y)^2 over examples and outputs; beside it R^2 = 1 - (squared error) / (variance of y).

    R^2 is 1 for perfect predictions, 0 for those no better than the mean of the targets; it is not a number where
    the targets do not vary.
    """

    targets: ClassVar[Kind] = "numbers"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().mean()

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        residual = (outputs - targets).square().sum((-2, -1))
        spread = (targets - targets.mean(-2, keepdim=True)).square().sum((-2, -1))
        return {"r2": 1.0 - residual / spread}
