"""Cross entropy of a softmax."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from dlopt.metrics import functional
from dlopt.parts import Loss, TargetKind


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """The negative log-likelihood of the right class under a softmax of the outputs, in nats, averaged over examples.

        loss = mean of  log sum_j exp(o_j) - o_y,   for probabilities y_j of the classes  - sum_j y_j log softmax(o)_j

    It is the surrogate that is minimized; the metrics beside it tell what is wanted, accuracy and error (the 0-1 loss)
    above all, for probabilities against the largest. An untrained net starts near log(classes).

    metrics   what is reported beside it: accuracy, error = 1 - accuracy, top5 (the class is among the five largest
              outputs; needs six classes or more), auc (the area under the ROC curve of each class against the rest,
              averaged over classes)

    Slip: The CMU and KTH lectures sum the loss over the batch where they mean its average; a sum makes the step grow
    with batch_size, so that it and the rate trade off.

    Source: Goodfellow, Bengio and Courville 2016, section 6.2.2.3; auc: Hanley and McNeil 1982.
    """

    metrics: list[functional.ClassificationMetric]

    targets: ClassVar[TargetKind] = "classes"

    def check(self, outputs: Tensor) -> None:
        functional.check(self.metrics, outputs)

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return functional.compute_by_name(self.metrics, outputs, targets)
