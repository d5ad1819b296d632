"""Negative log-likelihood."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dlopt import prng
from dlopt.loss._class_weights import ClassWeighted, ClassWeights
from dlopt.metrics import functional
from dlopt.parts import TargetKind
from dlopt.prng import Key


@dataclass(frozen=True)
class NegativeLogLikelihood(ClassWeighted):
    """Negative log-likelihood of outputs o that are log-probabilities.

        loss = - mean of o_y,  or for probabilities y_j  - mean of sum_j y_j o_j

    Use it for custom networks that end in nn.LogSoftmax, and loss=cross_entropy for all others, for which this loss has
    no lower bound.

    class_weights   as for cross_entropy
    metrics         also reported, as for cross_entropy

    Raises ValueError before a run if the exponentials of the outputs do not sum to 1.

    Source: Goodfellow, Bengio and Courville 2016, section 5.5.
    """

    metrics: list[functional.ClassificationMetric]
    class_weights: ClassWeights

    targets: ClassVar[TargetKind] = "classes"

    def check(self, outputs: Tensor) -> None:
        totals = outputs.exp().sum(-1)
        worst = totals[(totals - 1.0).abs().argmax()].item()
        if not abs(worst - 1.0) < 1e-3:  # the error of float32, for thousands of classes
            raise ValueError(
                f"needs log-probabilities, and the exponentials of this net's outputs sum to {worst:.4g}, not to 1; "
                "use loss=cross_entropy, or end the net in nn.LogSoftmax"
            )
        super().check(outputs)
        functional.check(self.metrics, outputs)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        weights = self.weights(outputs)
        if weights is not None:
            outputs = outputs * weights
        if targets.is_floating_point():
            return -(targets * outputs).sum(-1)
        return -outputs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)

    def sample_targets(self, outputs: Tensor, key: Key) -> Tensor:
        return prng.categorical(key, outputs.exp())

    def constant_loss(self, labels: Tensor) -> float:
        return self.entropy(labels)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return functional.compute_by_name(self.metrics, outputs, targets)
