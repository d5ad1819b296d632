"""Polynomial decay."""

from dataclasses import dataclass
from typing import Annotated

from dlopt.parts import Schedule, TrainingTime, Unit
from dlopt.ranges import Positive, Range


@dataclass(frozen=True)
class Polynomial(Schedule):
    """factor(t) = final + (1 - final) (1 - min(t / n, 1))^power,  t = 0 at the first step.

    It starts at 1 and is `final` from t = n on: where the length is the whole run, one step after the last.

    power    1 is a straight line; with a larger one most of the fall comes first, with a smaller one last
    final    the factor at the end
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
