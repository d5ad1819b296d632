"""Early stopping."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from dlopt.metrics.names import higher_is_better
from dlopt.parts import History, Regularization
from dlopt.ranges import Count, NonNegative, Range


class _State(NamedTuple):
    """The state after some evaluations: the best check, the checks since it, and the values of the latest checks."""

    n_rows: int = 0
    best: float = math.inf
    since: int = 0
    checks: tuple[float, ...] = ()


@dataclass(frozen=True)
class EarlyStopping(Regularization):
    """Early stopping: ends the run when a validation metric stops improving; the results are those of the best weights.

    After `warmup_evaluations` evaluations it checks every `check_every`-th one. With v_1, ..., v_t the metric at the
    checks so far (negated for accuracy, top5, AUC, R^2 and what a custom loss declares as "max", so that lower is
    better), the run stops if either holds:

        patience     none of the last `patience` checks was more than
                     min_delta below the best before it
        cumulative   the last n one-step differences v_s - v_(s-1) have
                     a sum above zero: v_t is worse than n checks ago

    The sum telescopes to v_t - v_(t-n). Only two checks decide, so with a small n one bad check ends the run.

    monitor              the metric as it is logged: val/loss, val/accuracy, ..., or average/val/loss with an
                         averaging; evaluations before the first averaged iterate do not count
    patience             checks without improvement before the run ends; null: no limit
    cumulative           n, the number of differences; null: off
    warmup_evaluations   evaluations ignored at the start (there is one every eval_every epochs)
    check_every          evaluations between two checks
    min_delta            for patience: smallest decrease that counts as an improvement

    Raises ValueError if patience and cumulative are both null.

    Slip: the KTH lecture stops by the test error and chooses the strength of a penalty by it; right is the validation
    error. A test error that was used for a choice is no longer an unbiased estimate.

    Slip: the Ren lecture calls halting by early stopping dropping into a local minimum; the run halts on its way, where
    the gradient of the training loss may be large.

    Source: Goodfellow, Bengio and Courville 2016, algorithm 7.1; Prechelt 1998; cumulative: the CMU lecture.
    """

    monitor: str
    patience: Count | None
    cumulative: Count | None
    warmup_evaluations: Annotated[int, Range(ge=0)]
    check_every: Count
    min_delta: NonNegative

    def __post_init__(self) -> None:
        if self.patience is None and self.cumulative is None:
            raise ValueError("never stops with patience and cumulative both null; set one of them")

    def stop(self, history: Sequence[Mapping[str, float]]) -> bool:
        history = History.of(history)
        sign = -1.0 if higher_is_better(self.monitor, history.directions) else 1.0

        def update(state: _State, row: Mapping[str, float]) -> _State:
            if self.monitor not in row:  # the average does not exist yet
                return state
            n_rows = state.n_rows + 1
            if n_rows <= self.warmup_evaluations or (n_rows - self.warmup_evaluations) % self.check_every:
                return state._replace(n_rows=n_rows)
            value = sign * row[self.monitor]
            checks = (*state.checks, value)[-1 - (self.cumulative or 0) :]
            if value < state.best - self.min_delta:
                return _State(n_rows, value, 0, checks)
            return _State(n_rows, state.best, state.since + 1, checks)

        _, _, since, checks = history.fold(self, update, _State())
        has_grown = self.cumulative is not None and len(checks) > self.cumulative and checks[-1] - checks[0] > 0
        return has_grown or (self.patience is not None and since >= self.patience)
