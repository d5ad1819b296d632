"""Losses: the mean loss of a mini-batch and its metrics. Distillation: the distance from a trained network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dlopt.base.data import TargetKind
from dlopt.base.group import Group
from dlopt.base.sequences import mask_targets
from dlopt.base.wrapper import overrides
from dlopt.metrics.names import Direction
from dlopt.prng import Key


def flatten_steps(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the steps that have a target as examples, (n, outputs) and (n[, outputs]); examples without steps as such.

    outputs are (N, T, outputs) or (N, outputs), of one network.
    """
    if outputs.ndim == 2:
        return outputs, targets
    valid = mask_targets(targets)
    return outputs[valid], targets[valid]


@Group("loss", must_subclass=True, needed_for_inference=True, lanes="class")
class Loss:
    """The mean loss of a mini-batch, and metrics.

    Define `losses`, or `__call__` if the loss of a batch is not a mean over its examples. Only a loss with `losses`
    takes data with a target for each step of a sequence.

    targets is the supported kind of targets, or both. A loss for classes may also accept probabilities, floats of shape
    (..., N, outputs), with the same value for one-hot rows as for classes: then augmentations may mix targets.

    uses_targets is False if the loss compares the outputs with nothing, as for a network that computes its own loss.

    directions says of each metric of its own whether it improves by falling or by rising: {"f1": "max"}. A metric
    without a direction is logged, and cannot select weights, stop a run or rank runs. The directions of the loss and of
    the metrics of dlopt.metrics.functional are known.
    """

    targets: ClassVar[TargetKind | Literal["both"]]
    uses_targets: ClassVar[bool] = True
    directions: ClassVar[Mapping[str, Direction]] = {}

    def check(self, outputs: Tensor) -> None:
        """Raise ValueError, before a run starts, if the loss is not defined for such outputs, (B, outputs)."""

    def check_targets(self, targets: Tensor) -> None:
        """Raise ValueError, before a run starts, if the loss is not defined for these targets of the training split."""

    def fit(self, kind: TargetKind, counts: Tensor | None) -> Loss:
        """Return the loss for targets of this kind. counts: the training examples of each class, (outputs,), if any.

        counts may be None if `needs_counts` is False. Raise OptionError if the loss cannot be fitted.
        """
        return self

    def place(self, like: Tensor) -> Loss:
        """Return the loss with its tensors in the type and on the device of `like`: a copy waits for the device."""
        return self

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each example, (B,), of outputs (B, outputs) and targets (B,) or (B, outputs)."""
        raise NotImplementedError

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss, shape (), of outputs (B, outputs) and the targets of a batch."""
        return self.losses(outputs, targets).mean()

    def mean(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss, shape (), of outputs (B, outputs) or (B, T, outputs) with a target for each step.

        The loss of a sequence is the mean over its steps that have a target. The loss of a batch is the mean over its
        sequences, so it is the mean of the losses that they have alone, whatever their lengths.
        """
        return self(outputs, targets) if outputs.ndim == 2 else self._losses_of_sequences(outputs, targets).mean()

    def _losses_of_sequences(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sequence, (B,)."""
        valid = mask_targets(targets)
        padding = ~valid.unsqueeze(-1) if targets.is_floating_point() else ~valid
        known = targets.masked_fill(padding, 0)  # any value that a loss takes: a NaN would reach the gradient
        losses = self.losses(outputs.flatten(0, 1), known.flatten(0, 1)).unflatten(0, valid.shape)
        return torch.where(valid, losses, 0.0).sum(-1) / valid.sum(-1)

    def sample_targets(self, outputs: Tensor, key: Key) -> Tensor:
        """Return random targets (B[, outputs]) of the model with outputs (B, outputs), for its Fisher information.

        The loss is the negative log-likelihood of this model, up to a constant: for each example, the gradient by the
        outputs then has the mean zero, and the Hessian of the loss as its covariance. Override it for losses that have
        such a model.
        """
        raise NotImplementedError

    @property
    def needs_counts(self) -> bool:
        """Return whether `fit` needs the numbers of training examples, which are then stored in checkpoints."""
        return False

    @property
    def has_curvature(self) -> bool:
        """Return whether any second derivative by the outputs is not zero."""
        return True

    @property
    def has_distribution(self) -> bool:
        """Return whether `sample_targets` is defined for these hyperparameters."""
        return overrides(self, "sample_targets", Loss)

    def predict(self, outputs: Tensor) -> Tensor:
        """Return what outputs (..., outputs) predict: probabilities of the classes, or numbers like the targets."""
        return outputs if self.targets == "numbers" else outputs.softmax(-1)

    def constant_loss(self, labels: Tensor) -> float | None:
        """Return the mean loss of the best constant output for these labels, (N,); None if it is not known."""
        return None

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return metrics, shape (...), of outputs (..., N, outputs) and targets (..., N[, outputs]).

        dlopt.metrics.functional has the usual ones.
        """
        return {}


@Group("distillation", optional=True, must_subclass=True, lanes="value")
class Distillation:
    """A term of the objective that compares the student with the teacher: (1 - weight) loss + weight mean of `losses`.

    A subclass is a dataclass with the fields `teacher`, a run, `trust`, whether code that this run names may execute,
    and `weight`, from 0 to 1. With weight 0 training is the same as without a teacher, bit for bit. With weight 1 the
    loss is only measured.

    The teacher is the best checkpoint of its run, in inference, and is never trained. At each step it is evaluated once
    on the student's mini-batch: after the augmentation, before the noise that regularizations add.

    compares_layers is True if a layer of the student is compared with one of the teacher, instead of the outputs. Such
    an option also has the fields of dlopt.distillation.hint.Hint, and `losses` gets the outputs of a regressor after
    the student's layer. The regressor is trained with the student, and is not a part of its network.
    """

    compares_layers: ClassVar[bool] = False

    teacher: str | None
    trust: bool
    weight: float

    def losses(self, student: Tensor, teacher: Tensor, kind: TargetKind) -> Tensor:
        """Return the distance of each example, (B,), of outputs (B, outputs), or of entries of layers (B, entries)."""
        raise NotImplementedError
