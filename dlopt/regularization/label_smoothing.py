"""Label smoothing."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dlopt.parts import Regularization, TargetKind
from dlopt.ranges import Fraction


@dataclass(frozen=True)
class LabelSmoothing(Regularization):
    """Label smoothing of the training targets: y_k <- (1 - strength) y_k + strength / K for the K class probabilities.

    With cross entropy the outputs stay bounded: at the minimum the right one exceeds the others by
    log((1 - strength) K / strength + 1). The training loss uses the smoothed targets and stays above zero. Validation
    and test use the targets themselves. It needs classes, and a loss that takes probabilities.

    strength   fraction of a target that is spread over all classes; 0.1 in the paper

    Source: Szegedy, Vanhoucke, Ioffe, Shlens and Wojna 2016, section 7.
    """

    kinds: ClassVar[tuple[TargetKind, ...]] = ("classes",)

    strength: Fraction

    @property
    def mixes(self) -> bool:
        return True

    def targets(self, targets: Tensor) -> Tensor:
        return (1.0 - self.strength) * targets + self.strength / targets.shape[-1]
