"""Stochastic gradient descent."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dlopt.linalg.inplace import axpy_
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Positive


@dataclass(frozen=True)
class SGD(Optimizer):
    """w <- w - lr g, with g the gradient of the mean loss of a mini-batch plus penalties.

    With batch_size=full it is gradient descent, stable on a quadratic for lr < 2 / lambda_max.

    Slip: the CMU and KTH lectures sum over the mini-batch where its mean is meant. A rate then means another step for
    each batch size; with the sum lr / batch_size is this rule's lr.

    Slip: the Georgia Tech lecture calls back-propagation a recursive application of gradient descent. It is the chain
    rule, applied from the loss backwards, and gives g to whichever rule then takes the step.

    lr   learning rate

    Source: Robbins and Monro 1951; Goodfellow, Bengio and Courville 2016, algorithm 8.1.
    """

    lr: Positive

    def step(self, w: Tensor, state: Any, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        return Step(axpy_(w, -self.lr, g), state, loss, g)
