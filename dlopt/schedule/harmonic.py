"""Decay by time."""

from dataclasses import dataclass

from dlopt.parts import Schedule, TrainingTime, Unit
from dlopt.ranges import Positive


@dataclass(frozen=True)
class Harmonic(Schedule):
    """factor(t) = offset / k,  k = offset + t,  t = 0 at the first step.

    The rate is c / k, and lr, the rate of the first step, is c / offset: with offset = 1 in steps it is c / k for
    k = 1, 2, .... It is inverse_time with k = 1 / offset, told by the number of the step. The rates sum to infinity, so
    that any point can be reached, and their squares do not, so that noise dies out. The error falls as 1 / k where the
    objective is strongly convex, of constant mu, and c > 1 / (2 mu); with a smaller c it falls far more slowly.

    Slip: the Ren lecture gives O(1 / k) as the rate of stochastic gradient descent without a condition, beside
    Nesterov's momentum; it is that of strongly convex objectives, and of other convex ones it is O(1 / sqrt(k)), as the
    lecture's own page on convergence has it.

    offset   k at the first step
    unit     of time and of offset: steps or epochs

    Source: Robbins and Monro 1951.
    """

    offset: Positive
    unit: Unit

    def __call__(self, time: TrainingTime) -> float:
        return self.offset / (self.offset + time.t(self.unit))
