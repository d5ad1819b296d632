"""Cross entropy of a softmax."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from dlopt.parts import Kind


@dataclass(frozen=True)
class CrossEntropy:
    """The negative log-likelihood of the right class under a softmax of the outputs, in nats, averaged over examples.

        loss = mean of  log sum_j exp(o_j) - o_y

    It is the surrogate that is minimized; accuracy and error (the 0-1 loss) are reported beside it.
    An untrained net starts near log(classes).
    """

    targets: ClassVar[Kind] = "classes"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        accuracy = (outputs.argmax(-1) == targets).to(outputs.dtype).mean(-1)
        return {"accuracy": accuracy, "error": 1.0 - accuracy}
