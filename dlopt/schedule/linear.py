"""Linear decay."""

from dataclasses import dataclass
from typing import Annotated

from dlopt.parts import Schedule, TrainingTime, Unit
from dlopt.ranges import Positive, Range


@dataclass(frozen=True)
class LinearDecay(Schedule):
    """Linear decay.

        factor(t) = (1 - alpha) + alpha final,  alpha = min(t / tau, 1),  t = 0 at the first step

    The factor starts at 1 and is `final` from t = tau on. If tau is the whole run, that is one step after the last.

    final   factor from the end of the line on
    tau     length of the line; null: the whole run
    unit    of tau: steps or epochs

    Source: Goodfellow, Bengio and Courville 2016, equation 8.14.
    """

    final: Annotated[float, Range(ge=0, le=1)]
    tau: Positive | None
    unit: Unit

    def __call__(self, time: TrainingTime) -> float:
        alpha = min(time.step / time.in_steps(self.tau, self.unit), 1.0)
        return (1.0 - alpha) + alpha * self.final

    def span(self, time: TrainingTime) -> float:
        return time.in_steps(self.tau, self.unit)
