"""Decay as c / k."""

from dataclasses import dataclass

from dlopt.parts import Schedule, TrainingTime, Unit
from dlopt.ranges import Positive


@dataclass(frozen=True)
class Harmonic(Schedule):
    """Decay as c / k, the rates of Robbins and Monro.

        factor(t) = offset / k,  k = offset + t,  t = 0 at the first step

    The learning rate is c / k with c = lr offset: with offset = 1 in steps it is lr / k for k = 1, 2, ... It equals
    inverse_time with k = 1 / offset. The rates sum to infinity, so any point can be reached; their squares do not, so
    noise dies out. The error falls as 1 / k if the objective is strongly convex with constant mu and c > 1 / (2 mu);
    with a smaller c it falls far more slowly.

    offset   k at the first step
    unit     of time and of offset: steps or epochs

    Slip: the Ren lecture gives O(1 / k) as the rate of stochastic gradient descent without a condition. It holds for
    strongly convex objectives; for other convex ones the rate is O(1 / sqrt(k)), as the lecture's own page on
    convergence has it.

    Source: Robbins and Monro 1951.
    """

    offset: Positive
    unit: Unit

    def __call__(self, time: TrainingTime) -> float:
        return self.offset / (self.offset + time.t(self.unit))
