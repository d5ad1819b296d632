"""Cross entropy of a softmax."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from dlopt.parts import Kind


@dataclass(frozen=True)
class CrossEntropy:
    """The negative log-likelihood of the right class under a softmax of the outputs, in nats, averaged over examples.

        loss = mean of  log sum_j exp(o_j) - o_y,   for probabilities y_j of the classes  - sum_j y_j log softmax(o)_j

    It is the surrogate that is minimized; accuracy and error (the 0-1 loss) are reported beside it, for probabilities
    against the largest. An untrained net starts near log(classes).
    """

    targets: ClassVar[Kind] = "classes"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        classes = targets.argmax(-1) if targets.is_floating_point() else targets
        accuracy = (outputs.argmax(-1) == classes).to(outputs.dtype).mean(-1)
        return {"accuracy": accuracy, "error": 1.0 - accuracy}
