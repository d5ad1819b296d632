"""Mean squared error."""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dlopt import prng
from dlopt.metrics import functional
from dlopt.parts import Loss, TargetKind
from dlopt.prng import Key


@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """Mean squared error: loss = mean of (o - y)^2 over examples and outputs.

    It is the loss of data with numbers as targets, unless another one is chosen.

    metrics   also reported: r2 = 1 - (squared error) / (variance of y), 1 for perfect predictions and 0 for the mean of
              the targets; NaN if the targets do not vary. mae: the mean of |o - y|. With data.standardize_target, loss
              and mae are of standardized targets; dlopt evaluate prints the errors in units of the target, too

    Slip: The CMU and KTH lectures sum the loss over the batch where they mean its average. With a sum, the step grows
    with batch_size.

    Source: Goodfellow, Bengio and Courville 2016, section 6.2.2.1.
    """

    metrics: list[functional.RegressionMetric]

    targets: ClassVar[TargetKind] = "numbers"

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().mean(-1)

    def sample_targets(self, outputs: Tensor, key: Key) -> Tensor:
        """Return outputs plus or minus sqrt(outputs / 2): signs have the covariance of Gaussian noise and vary less."""
        signs = prng.rademacher(key, tuple(outputs.shape), outputs.device).to(outputs.dtype)
        return outputs.detach() + math.sqrt(outputs.shape[-1] / 2) * signs

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return functional.compute_by_name(self.metrics, outputs, targets)
