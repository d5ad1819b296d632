"""Decay on a plateau."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from dlopt.metrics.names import higher_is_better
from dlopt.parts import History, Schedule, TrainingTime
from dlopt.ranges import NonNegative, Range


class _PlateauState(NamedTuple):
    """The state after some evaluations; best is negated if higher is better."""

    best: float = math.inf
    worse: int = 0
    cooling: int = 0
    factor: float = 1.0


@dataclass(frozen=True)
class Plateau(Schedule):
    """Decay on a plateau: max(factor^n, min_factor) after n reductions.

    A reduction comes when more than `patience` evaluations in a row bring no improvement. An improvement lies more than
    `threshold` below the best value so far, or above it for accuracy, top5, AUC, R^2 and what a custom loss declares as
    "max". A reduction takes effect at the next step and restarts the count, which then stays at zero for `cooldown`
    evaluations. Evaluations during a warm-up count. In lanes, each run follows its own metric.

    monitor      the metric, as it is logged: val/loss, val/accuracy, ..., or average/val/loss with an averaging;
                 evaluations before the first averaged iterate do not count
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

    def __call__(self, time: TrainingTime) -> float:
        history = History.of(time.history)

        def update(state: _PlateauState, row: Mapping[str, float]) -> _PlateauState:
            if self.monitor not in row:  # the average does not exist yet
                return state
            best, worse, cooling, factor = state
            value = -row[self.monitor] if higher_is_better(self.monitor, history.directions) else row[self.monitor]
            best, worse = (value, 0) if value < best - self.threshold else (best, worse + 1)
            if cooling > 0:
                cooling, worse = cooling - 1, 0
            if worse > self.patience:
                factor, cooling, worse = max(factor * self.factor, self.min_factor), self.cooldown, 0
            return _PlateauState(best, worse, cooling, factor)

        return history.fold(self, update, _PlateauState()).factor
