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
    """Decay on a plateau: max(factor^n, min_factor) after n reductions.

    A reduction comes when more than `patience` evaluations in a row bring no improvement. An improvement lies more than
    `threshold` below the best value so far (above it for accuracy, top5, AUC and R^2). A reduction takes effect at the
    next step and restarts the count, which then stays at zero for `cooldown` evaluations. Evaluations during a warm-up
    count. In lanes, each run follows its own metric.

    monitor      the metric, as it is logged: val/loss, val/accuracy, ...
    factor       factor of each reduction
    patience     evaluations without improvement before a reduction (one every eval_every epochs)
    threshold    smallest change that counts as an improvement
    cooldown     evaluations ignored after a reduction
    min_factor   minimum of the factor

    Source: Krizhevsky, Sutskever and Hinton 2012, section 5, by hand; the algorithm is torch's ReduceLROnPlateau with
    threshold_mode="abs" and eps=0.
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
    """The latest history and its factor, so that nothing is computed between evaluations."""

    def __call__(self, time: TrainingTime) -> float:
        if not self._latest or self._latest[0][0] is not time.history:
            self._latest[:] = [(time.history, self.after([row[self.monitor] for row in time.history]))]
        return self._latest[0][1]

    def after(self, values: Sequence[float]) -> float:
        """Return the factor after evaluations with these values of the metric."""
        sign = -1.0 if higher_is_better(self.monitor) else 1.0
        best, worse, cooling, factor = math.inf, 0, 0, 1.0
        for value in values:
            if sign * value < best - self.threshold:
                best, worse = sign * value, 0
            else:
                worse += 1
            if cooling > 0:
                cooling, worse = cooling - 1, 0
            if worse > self.patience:
                factor, cooling, worse = max(factor * self.factor, self.min_factor), self.cooldown, 0
        return factor
