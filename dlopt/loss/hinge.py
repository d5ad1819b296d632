"""The multi-class hinge loss."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from dlopt.loss._class_weights import ClassWeighted, ClassWeights
from dlopt.metrics import functional
from dlopt.parts import TargetKind
from dlopt.ranges import Positive


@dataclass(frozen=True)
class Hinge(ClassWeighted):
    """The multi-class hinge loss.

        loss = mean over examples of  (1 / C) sum over j != y of  max(0, margin - o_y + o_j)^power,  for C outputs o

    An example whose class leads every other by the margin adds nothing. The loss is a surrogate of the 0-1 loss, which
    is reported with it as error. Weston and Watkins do not divide by C; this is torch's MultiMarginLoss.

    margin          lead that the right output needs
    power           1, or 2: the squared hinge, which is differentiable and penalizes large violations more
    class_weights   as for cross_entropy
    metrics         also reported, as for cross_entropy; calibration_error takes the softmax of margins

    Source: Weston and Watkins 1999; the square: Tang 2013.
    """

    margin: Positive
    power: Literal[1, 2]
    metrics: list[functional.ClassificationMetric]
    class_weights: ClassWeights

    targets: ClassVar[TargetKind] = "classes"

    def check(self, outputs: Tensor) -> None:
        super().check(outputs)
        functional.check(self.metrics, outputs)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        right = targets.unsqueeze(-1)
        violations = (self.margin - outputs.gather(-1, right) + outputs).clamp(min=0.0) ** self.power
        losses = violations.scatter(-1, right, 0.0).mean(-1)
        weights = self.weights(outputs)
        return losses if weights is None else losses * weights[targets]

    @property
    def has_curvature(self) -> bool:
        return self.power > 1

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return functional.compute_by_name(self.metrics, outputs, targets)
