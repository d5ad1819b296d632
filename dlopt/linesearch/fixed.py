"""A step of a fixed length."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.linalg.inplace import axpy_
from dlopt.parts import LineSearch, LineStep, ObjectiveOracle
from dlopt.ranges import Positive


@dataclass(frozen=True)
class Fixed(LineSearch):
    """No search: w <- w + lr d.

    It evaluates nothing, so it does not see a step to a larger value. A schedule changes lr.

    lr   step length; 1 is the step of a quasi-Newton method

    Source: Nocedal and Wright 2006, section 3.1.
    """

    decides_on_host = False

    lr: Positive

    def search(
        self,
        w: Tensor,
        d: Tensor,
        loss: Tensor,
        g: Tensor,
        objective: ObjectiveOracle,
        first: Tensor,
        c2: float = 0.9,
    ) -> LineStep:
        nothing = torch.zeros_like(loss)
        return LineStep(torch.ones_like(first) * self.lr, axpy_(w, self.lr, d), None, None, nothing, nothing)
