"""Distance of the weights from the initial weights and from the weights of the last evaluation."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.parts import Diagnostic, StepRecord


class ReferenceWeights(NamedTuple):
    initial: Tensor  # (..., P)
    evaluated: Tensor  # (..., P)


@dataclass(frozen=True)
class Distance(Diagnostic):
    """Euclidean distance of the weights after the step from earlier ones.

        distance/init         |w - w_0|, from the initial weights
        distance/relative     |w - w_0| / |w_0|, 0 if w_0 is 0
        distance/evaluation   |w - w_e|, from the weights of the evaluation before this step, at first w_0

    It measures at evaluations, too. If the option is added when a run resumes, w_0 are the weights there. Hoffer et al.
    model SGD at first as a random walk in a random potential: distance/init then grows like the logarithm of the number
    of steps.

    Cost: three passes over the weights per measurement, and two copies of the weights in memory and in checkpoints.

    Measured on one core: 0.1 ms and 2.6 ms, 0.1% and 0.3% of a run with the defaults (CNN of MNIST-1D, MLP of 1.9
    million weights).

    Source: Hoffer, Hubara and Soudry 2017, Train longer, generalize better, section 3.
    """

    at_evaluations: ClassVar[bool] = True

    def init(self, w: Tensor, layout: Layout) -> ReferenceWeights:
        return ReferenceWeights(w.clone(), w.clone())

    def measure(self, record: StepRecord, memory: Any) -> tuple[dict[str, Tensor], Any]:
        w, (initial, evaluated) = record.after, memory
        moved, size = (torch.linalg.vector_norm(x, dim=-1) for x in (w - initial, initial))
        tags = {
            "distance/init": moved,
            "distance/relative": torch.where(size > 0, moved / size, 0.0),
            "distance/evaluation": torch.linalg.vector_norm(w - evaluated, dim=-1),
        }
        return tags, ReferenceWeights(initial, w.clone() if record.evaluates else evaluated)
