"""Stochastic gradient descent."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dlopt.linalg.inplace import axpy_
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Positive


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent.

        w <- w - lr g,  g the gradient of the mean loss of a mini-batch plus penalties

    With batch_size=full this is gradient descent. On a quadratic it is stable for lr < 2 / lambda_max.

    lr   learning rate

    Slip: the CMU and KTH lectures sum over the mini-batch where they mean its average. With the sum, the same learning
    rate takes larger steps with larger batches: lr / batch_size there is lr here.

    Slip: the Georgia Tech lecture calls back-propagation a recursive application of gradient descent. It is the chain
    rule, applied from the loss backwards. It computes g; the optimizer takes the step.

    Source: Robbins and Monro 1951; Goodfellow, Bengio and Courville 2016, algorithm 8.1.
    """

    lr: Positive

    def step(self, w: Tensor, state: Any, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        return Step(axpy_(w, -self.lr, g), state, loss, g)

    def stability_limit(self, state: Any) -> float | Tensor:
        return 2 / self.lr
