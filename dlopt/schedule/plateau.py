"""Decay on a plateau."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from dlopt.metrics.names import higher_is_better
from dlopt.parts import Schedule, TrainingTime
from dlopt.ranges import NonNegative, Range


@dataclass(frozen=True)
class Plateau(Schedule):
    """max(factor^n, min_factor) after n falls; one comes when more than `patience` evaluations in a row were no better.

    An evaluation is better when it lies more than threshold below (for accuracy and R^2: above) the best before it. A
    fall takes effect at the step after the evaluation, and the count begins anew; for `cooldown` evaluations it then
    stays at zero. Behind a warm-up, the evaluations made in it count. The rate depends on what was measured, so runs in
    lanes may each have another.

    monitor      the metric, as it is logged: val/loss, val/accuracy, ...
    factor       of each fall
    patience     evaluations without an improvement that are borne (one evaluation each eval_every epochs)
    threshold   an improvement by less than this is none
    cooldown     evaluations after a fall that are not counted
    min_factor        the smallest factor

    Source: Krizhevsky, Sutskever and Hinton 2012, section 5, where it was done by hand; the rules are those of torch's
    ReduceLROnPlateau with threshold_mode="abs" and eps=0.
    """

    monitor: str
    factor: Annotated[float, Range(gt=0, lt=1)]
    patience: Annotated[int, Range(ge=0)]
    threshold: NonNegative
    cooldown: Annotated[int, Range(ge=0)]
    min_factor: Annotated[float, Range(ge=0, le=1)]
    _latest: list[tuple[Sequence[Mapping[str, float]], float]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )
    """The latest history and its factor: from one evaluation to the next nothing is computed."""

    def __call__(self, time: TrainingTime) -> float:
        if not self._latest or self._latest[0][0] is not time.history:
            self._latest[:] = [(time.history, self.after([row[self.monitor] for row in time.history]))]
        return self._latest[0][1]

    def after(self, values: Sequence[float]) -> float:
        """The factor after evaluations with these values of the metric."""
        sign = -1.0 if higher_is_better(self.monitor) else 1.0
        best, worse, cooling, found = math.inf, 0, 0, 1.0
        for value in values:
            if sign * value < best - self.threshold:
                best, worse = sign * value, 0
            else:
                worse += 1
            if cooling > 0:
                cooling, worse = cooling - 1, 0
            if worse > self.patience:
                found, cooling, worse = max(found * self.factor, self.min_factor), self.cooldown, 0
        return found
