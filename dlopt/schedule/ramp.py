"""A ramp."""

from dataclasses import dataclass
from typing import Literal

from dlopt.errors import OptionError
from dlopt.parts import Schedule, TrainingTime, Unit
from dlopt.ranges import NonNegative, Positive


@dataclass(frozen=True)
class Ramp(Schedule):
    """Ramp: a factor that changes from start to end, for hyperparameters that grow or fade.

        linear      factor(t) = (1 - x) start + x end,  x = min(t / n, 1),  t = 0 at the first step
        geometric   factor(t) = start^(1 - x) end^x

    The factor is `end` from t = n on. If the length is the whole run, that is one step after the last. The geometric
    shape changes by the same factor at each step, which suits ranges over powers of ten.

    start    factor at the first step
    end      factor from the end of the ramp on
    shape    linear or geometric
    length   n; null: the whole run
    unit     of length: steps or epochs

    Raises OptionError if the shape is geometric and an end is zero.

    Source: Sutskever et al. 2013, for momentum that grows.
    """

    start: NonNegative
    end: NonNegative
    shape: Literal["linear", "geometric"]
    length: Positive | None
    unit: Unit

    def __post_init__(self) -> None:
        for key in ("start", "end"):
            if self.shape == "geometric" and getattr(self, key) == 0:
                raise OptionError(key, "must be > 0 with shape=geometric, got 0")

    def __call__(self, time: TrainingTime) -> float:
        x = min(time.step / time.in_steps(self.length, self.unit), 1.0)
        if self.shape == "geometric":
            return float(self.start ** (1.0 - x) * self.end**x)
        return (1.0 - x) * self.start + x * self.end

    def span(self, time: TrainingTime) -> float:
        return time.in_steps(self.length, self.unit)
