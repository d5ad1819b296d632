"""Cross entropy of a softmax."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from dlopt import prng
from dlopt.loss._class_weights import ClassWeighted, ClassWeights
from dlopt.metrics import functional
from dlopt.parts import TargetKind
from dlopt.prng import Key


@dataclass(frozen=True)
class CrossEntropy(ClassWeighted):
    """Cross entropy of a softmax: the negative log-likelihood of the right class, in nats.

        loss = mean over examples of  log sum_j exp(o_j) - o_y,  or for probabilities y_j  - sum_j y_j log softmax(o)_j

    It is a differentiable surrogate of the error (the 0-1 loss), which is reported with it. The loss of an untrained
    network is near log(classes).

    class_weights   factors of the losses of each class, for unbalanced classes. balanced: N / (C N_c) for N training
                    examples, N_c of them of the class, and C classes, as in scikit-learn; or a list with one for each.
                    They are scaled to a mean of one over the training examples. The reported loss has them, too
    metrics         also reported: accuracy, error = 1 - accuracy, top5 (the class is among the five largest outputs;
                    needs at least six classes), auc (area under the ROC curve of each class against the rest,
                    averaged), average_precision (area under the precision-recall curve, averaged in the same way), f1,
                    precision and recall (averaged over the classes), balanced_accuracy (mean recall), calibration_error
                    (of the probability of the predicted class, in 15 bins). Of two classes, f1, precision, recall and
                    average_precision are those of the second. For probabilities, the class is the largest

    Slip: The CMU and KTH lectures sum the loss over the batch where they mean its average. With a sum, the step grows
    with batch_size.

    Source: Goodfellow, Bengio and Courville 2016, section 6.2.2.3; auc: Hanley and McNeil 1982; calibration_error: Guo,
    Pleiss, Sun and Weinberger 2017; class_weights: King and Zeng 2001.
    """

    metrics: list[functional.ClassificationMetric]
    class_weights: ClassWeights

    targets: ClassVar[TargetKind] = "classes"

    def check(self, outputs: Tensor) -> None:
        super().check(outputs)
        functional.check(self.metrics, outputs)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, self.weights(outputs), reduction="none")

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.class_weights is not None:
            return super().__call__(outputs, targets)
        return F.cross_entropy(outputs, targets)  # the mean of `losses`, in one kernel

    def sample_targets(self, outputs: Tensor, key: Key) -> Tensor:
        return prng.categorical(key, outputs.softmax(-1))

    def constant_loss(self, labels: Tensor) -> float:
        return self.entropy(labels)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return functional.compute_by_name(self.metrics, outputs, targets)
