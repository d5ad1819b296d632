"""Early stopping."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from dlopt.metrics import higher_is_better
from dlopt.parts import Regularization
from dlopt.ranges import Count, NonNegative, Range


@dataclass(frozen=True)
class EarlyStopping(Regularization):
    """Ends the run when a validation metric has not improved for a while; the results are those of the best weights.

    The run stops after `patience` evaluations in a row, none of which lay more than min_change below (for accuracy,
    top5, AUC and R^2: above) the best before it.

    monitor      the metric, as it is logged: val/loss, val/accuracy, ...
    patience     evaluations without an improvement that are borne (one evaluation each eval_every epochs)
    ignore       first evaluations that are not looked at
    min_change   an improvement by less than this is none

    Source: Goodfellow, Bengio and Courville 2016, algorithm 7.1; Prechelt 1998.
    """

    monitor: str
    patience: Count
    ignore: Annotated[int, Range(ge=0)]
    min_change: NonNegative

    def stop(self, history: Sequence[Mapping[str, float]]) -> bool:
        sign = -1.0 if higher_is_better(self.monitor) else 1.0
        best, since = float("inf"), 0
        for metrics in history[self.ignore :]:
            value = sign * metrics[self.monitor]
            if value < best - self.min_change:
                best, since = value, 0
            else:
                since += 1
        return since >= self.patience
