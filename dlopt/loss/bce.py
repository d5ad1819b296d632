"""Binary cross entropy."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from dlopt import prng
from dlopt.errors import OptionError
from dlopt.loss._class_weights import to_tensor
from dlopt.metrics import functional, labels
from dlopt.parts import Loss, TargetKind
from dlopt.prng import Key
from dlopt.ranges import Positive


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """Binary cross entropy of sigmoids: the negative log-likelihood of independent yes-or-no labels, in nats.

        loss = mean over examples and outputs of  - (q y log s(o) + (1 - y) log(1 - s(o))),   s(o) = 1 / (1 + exp(-o))

    The outputs o are logits. The targets y are numbers from 0 to 1, one for each output: a column of 0 and 1
    (data.kind=numbers), or several labels for each example. Classes are one-hot rows: each output tells its class from
    the rest. The loss of an untrained network is near log(2) for q = 1. It is torch's BCEWithLogitsLoss.

    pos_weight   q, the weight of the label 1: a number, or a list with one for each output; the ratio of the examples
                 without and with a label balances the two; null: 1
    metrics      also reported. Of classes: as for cross_entropy, with the logits as scores and their sigmoids as
                 probabilities. Of labels: accuracy = the fraction of right labels, error, and balanced_accuracy, f1,
                 precision, recall, auc, average_precision (averaged over the labels) and calibration_error

    Raises ValueError before a run if the targets are not from 0 to 1.

    Source: Goodfellow, Bengio and Courville 2016, section 6.2.2.2; for classes: Wightman, Touvron and Jegou 2021.
    """

    pos_weight: Positive | list[Positive] | None
    metrics: list[functional.ClassificationMetric]

    targets: ClassVar[TargetKind | Literal["both"]] = "both"

    def fit(self, kind: TargetKind, counts: Tensor | None) -> Loss:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return OneAgainstRest(**values) if kind == "classes" else self

    def place(self, like: Tensor) -> Loss:
        if self.pos_weight is None:
            return self
        return replace(self, pos_weight=to_tensor(self.pos_weight, like))  # type: ignore[arg-type]

    def check(self, outputs: Tensor) -> None:
        count = outputs.shape[-1]
        if isinstance(self.pos_weight, list) and len(self.pos_weight) != count:
            raise OptionError("pos_weight", f"must have one weight for each of {count} outputs, got {self.pos_weight}")
        self._check_metrics(outputs)

    def _check_metrics(self, outputs: Tensor) -> None:
        if "top5" in self.metrics:
            raise OptionError("metrics", "top5 is for classes, and the targets of this data are labels; leave it out")

    def check_targets(self, targets: Tensor) -> None:
        if targets.is_floating_point():
            check_range(targets)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        y = to_labels(targets, outputs)
        weight = None if self.pos_weight is None else to_tensor(self.pos_weight, outputs)
        return F.binary_cross_entropy_with_logits(outputs, y, pos_weight=weight, reduction="none").mean(-1)

    @property
    def has_distribution(self) -> bool:
        return self.pos_weight is None

    def sample_targets(self, outputs: Tensor, key: Key) -> Tensor:
        """Return s(o) plus or minus sqrt(outputs s(o) (1 - s(o))): signs have the covariance of labels."""
        p = outputs.detach().sigmoid()
        signs = prng.rademacher(key, tuple(outputs.shape), outputs.device).to(outputs.dtype)
        return p + signs * (outputs.shape[-1] * p * (1.0 - p)).sqrt()

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return labels.compute_by_name(self.metrics, outputs, targets)


@dataclass(frozen=True)
class OneAgainstRest(BinaryCrossEntropy):
    """Binary cross entropy of classes: their metrics are those of the class with the largest output."""

    def _check_metrics(self, outputs: Tensor) -> None:
        functional.check(self.metrics, outputs)

    def check_targets(self, targets: Tensor) -> None:
        """Accept all classes."""

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return labels.compute_of_classes(self.metrics, outputs, targets)


def to_labels(targets: Tensor, outputs: Tensor) -> Tensor:
    """Return classes (...,) as one-hot rows like the outputs; other targets unchanged."""
    if targets.is_floating_point():
        return targets
    # one_hot checks the range of the classes, and waits for the device
    return (targets.unsqueeze(-1) == functional.number_classes(outputs)).to(outputs.dtype)


def check_range(targets: Tensor) -> None:
    """Raise ValueError if labels are not from 0 to 1; NaN is the padding of sequences."""
    known = targets[~targets.isnan()]
    low, high = known.min().item(), known.max().item()
    if low < 0 or high > 1 or math.isnan(low):
        wrong = f"needs labels from 0 to 1, and the targets of this data are from {low:.4g} to {high:.4g}"
        raise ValueError(f"{wrong}: use loss=mse, or for labels of a table data.standardize_target=false")
