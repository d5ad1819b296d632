"""REX."""

from dataclasses import dataclass
from typing import Annotated

from dlopt.parts import Schedule, TrainingTime, Unit
from dlopt.ranges import Fraction, Positive, Range


@dataclass(frozen=True)
class Rex(Schedule):
    """REX, reflected exponential: decays late, which suits runs of any length.

        factor(t) = final + (1 - final) (1 - z) / ((1 - beta) + beta (1 - z)),  z = min(t / n, 1)

    t = 0 at the first step, where the factor is 1. It is `final` from t = n on. If n is the whole run, that is one step
    after the last.

    beta     0: a straight line; larger: more of the fall comes last
    final    factor at the end
    length   n; null: the whole run
    unit     of length: steps or epochs

    Source: Chen, Wolfe and Kyrillidis 2022, with beta 1/2 and final 0.
    """

    beta: Fraction
    final: Annotated[float, Range(ge=0, le=1)]
    length: Positive | None
    unit: Unit

    def __call__(self, time: TrainingTime) -> float:
        z = min(time.step / time.in_steps(self.length, self.unit), 1.0)
        return self.final + (1.0 - self.final) * (1.0 - z) / (1.0 - self.beta * z)

    def span(self, time: TrainingTime) -> float:
        return time.in_steps(self.length, self.unit)
