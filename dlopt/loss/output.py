"""The network's outputs as the loss."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dlopt.parts import Loss, TargetKind


@dataclass(frozen=True)
class OutputLoss(Loss):
    """The mean of the network's outputs o: loss = mean of o over examples and outputs. Targets are ignored.

    For networks that compute their own loss, such as arch=surface and arch=quadratic. It has no other metrics.

    Source: DeepOBS (Schneider, Balles and Hennig 2019) treats its quadratic problems in this way.
    """

    targets: ClassVar[TargetKind] = "numbers"
    uses_targets: ClassVar[bool] = False

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.mean(-1)
