"""The focal loss."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from dlopt.errors import OptionError
from dlopt.loss._class_weights import to_tensor
from dlopt.metrics import functional
from dlopt.parts import Loss, TargetKind
from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class Focal(Loss):
    """The focal loss of a softmax: cross entropy in which examples that are already right count less, in nats.

        loss = mean over examples of  - a_y (1 - p_y)^gamma log p_y,   p = softmax(o)

    For probabilities y_j it is the mean of their sum over j of  - y_j a_j (1 - p_j)^gamma log p_j. With gamma = 0 and
    without alpha it is the cross entropy. The paper has one sigmoid for each class in place of the softmax; with two
    classes, the two agree if o is the difference of our outputs.

    gamma     how fast the weight falls with the probability of the class; 2 in the paper
    alpha     a, the weights of the classes: a list with one for each; of two classes also a number, the weight of the
              second, and 1 - alpha that of the first, as in the paper (0.25); null: 1
    metrics   also reported, as for cross_entropy

    Source: Lin, Goyal, Girshick, He and Dollar 2017, equation 5.
    """

    gamma: NonNegative
    alpha: NonNegative | list[NonNegative] | None
    metrics: list[functional.ClassificationMetric]

    targets: ClassVar[TargetKind] = "classes"

    def check(self, outputs: Tensor) -> None:
        count = outputs.shape[-1]
        if isinstance(self.alpha, list) and len(self.alpha) != count:
            raise OptionError("alpha", f"must have one weight for each of {count} classes, got {len(self.alpha)}")
        if isinstance(self.alpha, float | int) and not (count == 2 and self.alpha <= 1):
            wrong = f"a number is for two classes, and at most 1; got {self.alpha:g} for {count} classes"
            raise OptionError("alpha", f"{wrong}: give a list with a weight for each")
        functional.check(self.metrics, outputs)

    def place(self, like: Tensor) -> Loss:
        return self if self.alpha is None else replace(self, alpha=to_tensor(self.alpha, like))  # type: ignore[arg-type]

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        log_p = outputs.log_softmax(-1)
        rest = -log_p.expm1()
        # A power below 2 has no finite second derivative at zero, which is multiplied by log p = 0.
        each = -log_p * rest.clamp(min=torch.finfo(rest.dtype).eps) ** self.gamma
        if self.alpha is not None:
            alpha = to_tensor(self.alpha, outputs)
            each = each * (torch.stack([1.0 - alpha, alpha]) if alpha.ndim == 0 else alpha)
        if targets.is_floating_point():
            return (targets * each).sum(-1)
        return each.gather(-1, targets.unsqueeze(-1)).squeeze(-1)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return functional.compute_by_name(self.metrics, outputs, targets)
