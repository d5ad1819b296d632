"""Cycles of straight lines."""

from dataclasses import dataclass
from typing import Annotated, Literal

from dlopt.parts import Schedule, TrainingTime, Unit
from dlopt.ranges import Positive, Range


@dataclass(frozen=True)
class Triangular(Schedule):
    """Cyclical learning rates: straight lines up from low to 1 and down again.

        factor(t) = low + (1 - low) s x,  x from 0 to 1 during `up`, then from 1 to 0 during `down`, and again

        triangular    s = 1
        triangular2   s = 2^-c,  c = 0, 1, ... the number of completed cycles
        exp_range     s = gamma^t

    t = 0 at the first step, whose factor is low. lr is the upper bound. A run should end with a cycle, where the factor
    is low: a notice is printed otherwise.

    low     lower bound, as a fraction of lr: 1/4 or 1/3 in the paper
    up      length of a rise, the stepsize of the paper: 2 to 10 epochs
    down    length of a fall; null: as long as a rise
    mode    triangular, triangular2 or exp_range
    gamma   of exp_range: factor of the height per step or epoch
    unit    of up, down and t: steps or epochs; the paper and torch's CyclicLR count t of exp_range in steps

    Source: Smith 2017, sections 3.1 and 3.2; torch's CyclicLR, where the lengths of rise and fall may differ.
    """

    low: Annotated[float, Range(ge=0, le=1)]
    up: Positive
    down: Positive | None
    mode: Literal["triangular", "triangular2", "exp_range"]
    gamma: Annotated[float, Range(gt=0, le=1)]
    unit: Unit

    def __call__(self, time: TrainingTime) -> float:
        t, fall = time.t(self.unit), self.up if self.down is None else self.down
        cycles, within = divmod(t, self.up + fall)
        x = within / self.up if within <= self.up else 1.0 - (within - self.up) / fall
        scale = {"triangular": 1.0, "triangular2": 0.5**cycles, "exp_range": self.gamma**t}[self.mode]
        return float(self.low + (1.0 - self.low) * scale * x)

    def span(self, time: TrainingTime) -> float:
        """Return the steps up to the end of the last cycle of the run."""
        cycle = time.in_steps(self.up + (self.up if self.down is None else self.down), self.unit)
        return cycle * -(-time.steps // cycle)
