"""Losses: the mean loss of a mini-batch and its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from dlopt.base.data import TargetKind
from dlopt.base.group import Group
from dlopt.metrics.names import Direction
from dlopt.prng import Key


@Group("loss", must_subclass=True, needed_for_inference=True, lanes="class")
class Loss:
    """The mean loss of a mini-batch, and metrics.

    targets is the supported kind of targets. A loss for classes may also accept probabilities, floats of shape
    (..., N, outputs), with the same value for one-hot rows as for classes: then augmentations may mix targets.

    uses_targets is False if the loss compares the outputs with nothing, as for a network that computes its own loss.

    directions says of each metric of its own whether it improves by falling or by rising: {"f1": "max"}. A metric
    without a direction is logged, and cannot select weights, stop a run or rank runs. The directions of loss, error,
    accuracy, top5, auc and r2 are known.
    """

    targets: ClassVar[TargetKind]
    uses_targets: ClassVar[bool] = True
    directions: ClassVar[Mapping[str, Direction]] = {}

    def check(self, outputs: Tensor) -> None:
        """Raise ValueError, before a run starts, if the loss is not defined for such outputs, (B, outputs)."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss, shape (), of outputs (B, outputs) and the targets of a batch."""
        raise NotImplementedError

    def sample_targets(self, outputs: Tensor, key: Key) -> Tensor:
        """Return random targets (B[, outputs]) of the model with outputs (B, outputs), for its Fisher information.

        The loss is the negative log-likelihood of this model, up to a constant: for each example, the gradient by the
        outputs then has the mean zero, and the Hessian of the loss as its covariance. Override it for losses that have
        such a model.
        """
        raise NotImplementedError

    def constant_loss(self, labels: Tensor) -> float | None:
        """Return the mean loss of the best constant output for these labels, (N,); None if it is not known."""
        return None

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return metrics, shape (...), of outputs (..., N, outputs) and targets (..., N[, outputs]).

        dlopt.metrics.functional has the usual ones.
        """
        return {}
