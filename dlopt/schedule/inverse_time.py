"""Inverse-time decay."""

from dataclasses import dataclass

from dlopt.parts import Schedule, TrainingTime, Unit
from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class InverseTime(Schedule):
    """Inverse-time decay: factor(t) = 1 / (1 + k t), t = 0 at the first step.

    The rates sum to infinity and their squares do not: the conditions of Robbins and Monro 1951 for convergence with a
    noisy gradient. With lr = a0 and k = a0 lambda it is Bottou's rate for an objective of strong convexity lambda.

    k      decay: the learning rate is halved when k t = 1
    unit   of time: steps or epochs

    Source: Bottou 2012, Stochastic gradient descent tricks, section 5.2.
    """

    k: NonNegative
    unit: Unit

    def __call__(self, time: TrainingTime) -> float:
        return 1.0 / (1.0 + self.k * time.t(self.unit))
