"""Label smoothing."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dlopt.parts import Regularization, TargetKind
from dlopt.ranges import Fraction


@dataclass(frozen=True)
class LabelSmoothing(Regularization):
    """In training y_k <- (1 - strength) y_k + strength / K for the probabilities y of the K classes.

    With cross entropy the outputs then no longer grow without end: at the minimum the right one lies above the others
    by log((1 - strength) K / strength + 1). The loss of training is that of the smoothed targets, and stays above zero;
    validation and test use the targets as they are. It is for classes; a loss that takes none but sure ones refuses it.

    strength   share of a target that goes to all classes alike; 0.1 in the paper

    Source: Szegedy, Vanhoucke, Ioffe, Shlens and Wojna 2016, section 7.
    """

    kinds: ClassVar[tuple[TargetKind, ...]] = ("classes",)

    strength: Fraction

    @property
    def mixes(self) -> bool:
        return True

    def targets(self, targets: Tensor) -> Tensor:
        return (1.0 - self.strength) * targets + self.strength / targets.shape[-1]
