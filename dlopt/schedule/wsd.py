"""Warm-up, stable, decay."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from dlopt.parts import Schedule, TrainingTime
from dlopt.ranges import NonNegative, Range


@dataclass(frozen=True)
class WarmupStableDecay(Schedule):
    """Warm-up, stable, decay (WSD): a trapezoid with a decay of several shapes.

        factor(t) = (t + 1) / n                   at the steps t = 0, ..., n - 1 of the warm-up
                  = 1                             up to the step T - m
                  = final + (1 - final) f(x)      at the last m steps, x = (t - (T - m)) / m

        linear           f(x) = 1 - x
        cosine           f(x) = (1 + cos(pi x)) / 2
        one_minus_sqrt   f(x) = 1 - sqrt(x)

    T is the number of steps of the run, m the length of the decay. The factor would be `final` at t = T, one step after
    the last. A run with a checkpoint from the stable part can be resumed for longer: the decay then comes later.

    warmup   n, rounded to whole steps; 0: no warm-up
    decay    m, rounded to whole steps; 0: no decay
    shape    shape of the decay
    final    factor at the end of the decay
    unit     of warmup and decay: steps, epochs, or run for a fraction of the run (0.2: its last fifth)

    Raises ValueError if the run is shorter than warm-up and decay together.

    Source: Hu et al. 2024, MiniCPM, section 4.2: a decay of 10% of the run, exponential, which has no end; Hägele et
    al. 2024, section 3: linear and 1 - sqrt, of 10 to 20%, with which it is as good as a cosine.
    """

    warmup: NonNegative
    decay: NonNegative
    shape: Literal["linear", "cosine", "one_minus_sqrt"]
    final: Annotated[float, Range(ge=0, le=1)]
    unit: Literal["steps", "epochs", "run"]

    def __call__(self, time: TrainingTime) -> float:
        n, m = self._count_steps(time)
        if time.step < n:
            return (time.step + 1) / n
        if time.step < time.steps - m or m == 0:
            return 1.0
        x = 1.0 - (time.steps - time.step) / m
        f = {"linear": 1.0 - x, "cosine": 0.5 * (1.0 + math.cos(math.pi * x)), "one_minus_sqrt": 1.0 - math.sqrt(x)}
        return self.final + (1.0 - self.final) * f[self.shape]

    def _count_steps(self, time: TrainingTime) -> tuple[int, int]:
        """Return the numbers of steps of the warm-up and of the decay."""
        n, m = (time.in_steps(length, self.unit) for length in (self.warmup, self.decay))
        if n + m > time.steps * (1 + 1e-9):
            raise ValueError(
                f"a warm-up of {n:.10g} steps and a decay of {m:.10g} are longer than the run, {time.steps}; make "
                "warmup or decay smaller"
            )
        return round(n), min(round(m), time.steps - round(n))
