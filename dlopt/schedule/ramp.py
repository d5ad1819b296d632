"""A ramp."""

from dataclasses import dataclass
from typing import Literal

from dlopt.errors import OptionError
from dlopt.parts import Schedule, TrainingTime, Unit
from dlopt.ranges import NonNegative, Positive


@dataclass(frozen=True)
class Ramp(Schedule):
    """factor(t) = (1 - x) start + x end, x = min(t / n, 1), t = 0 at the first step; geometric: start^(1 - x) end^x.

    Up or down, for what is to grow or to fade: momentum from small to large, a penalty's strength from none to all of
    it. It is `end` from t = n on: where the length is the whole run, one step after the last. Geometric it changes by
    the same share at each step, which suits what spans powers of ten, and neither end can be zero.

    start    the factor at the first step
    end      the factor at the end of the ramp, and from there on
    shape    linear or geometric
    length   n; null: the whole run
    unit     of length: steps or epochs

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
                raise OptionError(key, "must be > 0 where the shape is geometric: no share of zero is more than zero")

    def __call__(self, time: TrainingTime) -> float:
        x = min(time.step / time.in_steps(self.length, self.unit), 1.0)
        if self.shape == "geometric":
            return float(self.start ** (1.0 - x) * self.end**x)
        return (1.0 - x) * self.start + x * self.end

    def span(self, time: TrainingTime) -> float:
        return time.in_steps(self.length, self.unit)
