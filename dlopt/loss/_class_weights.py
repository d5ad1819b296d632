"""Weights of classes against unbalanced data, for the losses that have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from dlopt.base.data import TargetKind
from dlopt.base.dotted_fields import replace_fields
from dlopt.errors import OptionError
from dlopt.metrics import functional
from dlopt.parts import Loss
from dlopt.ranges import NonNegative

ClassWeights = Literal["balanced"] | list[NonNegative] | None
"""Weights of a loss as they are configured. `fit` replaces them by one number for each class; lanes have a tensor."""


class ClassWeighted(Loss):
    """A loss with a field class_weights, which multiply the losses of the examples of each class.

    The weights are scaled so that their mean over the training examples is one, and the loss of a batch stays the mean
    over its examples: it is unbiased, and the parts of a batch add up to it. torch's cross_entropy divides by the sum
    of the weights in the batch instead, which is the same for the whole training split as one batch.
    """

    class_weights: Any

    def fit(self, kind: TargetKind, counts: Tensor | None) -> Loss:
        if not self.needs_counts or counts is None:
            return self
        if self.class_weights == "balanced":
            if (absent := (counts == 0).nonzero().flatten().tolist()) and counts.sum() > 0:
                wrong = f"balanced needs a training example of each class, and class {absent[0]} has none"
                raise OptionError("class_weights", f"{wrong}; give the weights: [1.0,2.5,...]")
            weights = counts.sum() / (len(counts) * counts.double())
        else:
            weights = torch.tensor(self.class_weights, dtype=torch.float64)
            if len(weights) != len(counts):
                wrong = f"must have one weight for each of {len(counts)} classes, got {len(weights)}"
                raise OptionError("class_weights", wrong)
        mean = (weights * counts).sum() / counts.sum()
        if not mean > 0:
            raise OptionError("class_weights", "every training example has the weight zero; raise one of the weights")
        return replace_fields(self, {"class_weights": (weights / mean).tolist()})

    def check(self, outputs: Tensor) -> None:
        count = outputs.shape[-1]
        if isinstance(self.class_weights, list) and len(self.class_weights) != count:
            wrong = f"must have one weight for each of {count} classes, got {len(self.class_weights)}"
            raise OptionError("class_weights", wrong)

    @property
    def has_distribution(self) -> bool:
        return self.class_weights is None and super().has_distribution

    @property
    def needs_counts(self) -> bool:
        return self.class_weights is not None

    def entropy(self, labels: Tensor) -> float:
        """Return the loss of the best constant probabilities for these labels of the training split, (N,)."""
        counts = labels.bincount()
        weights = self.weights(torch.empty((), dtype=torch.float64))
        return functional.entropy(counts if weights is None else counts * weights[: len(counts)])

    def place(self, like: Tensor) -> Loss:
        return replace_fields(self, {"class_weights": self.weights(like)})

    def weights(self, like: Tensor) -> Tensor | None:
        """Return the weights on the device and in the type of outputs, (classes,); None for equal ones."""
        return None if self.class_weights is None else to_tensor(self.class_weights, like)


def to_tensor(weights: float | Sequence[float] | Tensor, like: Tensor) -> Tensor:
    """Return weights as a tensor of the type and on the device of another; without a copy if they are one already."""
    return torch.as_tensor(weights, dtype=like.dtype, device=like.device)
