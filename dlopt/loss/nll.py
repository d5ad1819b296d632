"""Negative log-likelihood."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dlopt.metrics import functional
from dlopt.parts import Loss, TargetKind


@dataclass(frozen=True)
class NegativeLogLikelihood(Loss):
    """loss = - mean of o_y,  for outputs o that are log-probabilities already;  for probabilities y_j  - sum_j y_j o_j.

    It is for nets of one's own that end in nn.LogSoftmax. Of a net without one it would have no lower bound: such
    outputs, whose exponentials do not sum to one, are refused before the run, and loss=cross_entropy is right for them.

    metrics   what is reported beside it: accuracy, error, top5, auc, as for cross_entropy

    Source: Goodfellow, Bengio and Courville 2016, section 5.5.
    """

    metrics: list[functional.ClassificationMetric]

    targets: ClassVar[TargetKind] = "classes"

    def check(self, outputs: Tensor) -> None:
        totals = outputs.exp().sum(-1)
        worst = totals[(totals - 1.0).abs().argmax()].item()
        if not abs(worst - 1.0) < 1e-3:  # what float32 makes of one, with room for thousands of classes
            raise ValueError(
                f"needs log-probabilities, and the exponentials of this net's outputs sum to {worst:.4g}, not to 1; "
                "use loss=cross_entropy, or end the net in nn.LogSoftmax"
            )
        functional.check(self.metrics, outputs)

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if targets.is_floating_point():
            return -(targets * outputs).sum(-1).mean()
        return -outputs.gather(-1, targets.unsqueeze(-1)).mean()

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return functional.compute_by_name(self.metrics, outputs, targets)
