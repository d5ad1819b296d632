"""Polynomial decay."""

from dataclasses import dataclass
from typing import Annotated

from dlopt.parts import Schedule, TrainingTime, Unit
from dlopt.ranges import Positive, Range


@dataclass(frozen=True)
class Polynomial(Schedule):
    """Polynomial decay.

        factor(t) = final + (1 - final) (1 - min(t / n, 1))^power,  t = 0 at the first step

    The factor starts at 1 and is `final` from t = n on. If n is the whole run, that is one step after the last.

    power    1: a straight line; larger: most of the fall comes first; smaller: most of it comes last
    final    factor at the end
    length   n; null: the whole run
    unit     of length: steps or epochs

    Source: Chen et al. 2018, DeepLab: power 0.9, final 0, the whole run.
    """

    power: Positive
    final: Annotated[float, Range(ge=0, le=1)]
    length: Positive | None
    unit: Unit

    def __call__(self, time: TrainingTime) -> float:
        left = 1.0 - min(time.step / time.in_steps(self.length, self.unit), 1.0)
        return self.final + (1.0 - self.final) * left**self.power

    def span(self, time: TrainingTime) -> float:
        return time.in_steps(self.length, self.unit)
