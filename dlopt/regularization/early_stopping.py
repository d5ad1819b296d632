"""Early stopping."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from dlopt.metrics.names import higher_is_better
from dlopt.parts import Regularization
from dlopt.ranges import Count, NonNegative, Range


@dataclass(frozen=True)
class EarlyStopping(Regularization):
    """Ends the run when a validation metric has not improved for a while; the results are those of the best weights.

    After the evaluations to warmup_evaluations it looks at every `check_every`-th one. With v_1, ..., v_t the metric at the looks so
    far (its negative for accuracy, top5, AUC and R^2, so that less is better), the run stops when either holds:

        patience     none of the last `patience` looks lay more than
                     min_delta below the best before it
        cumulative   the last n one-step differences v_s - v_(s-1) have
                     a sum above zero: it is worse than n looks ago

    The sum telescopes: it is v_t - v_(t-n), whatever lay between. Two looks decide, and where n is small a single bad
    one ends the run.

    monitor      the metric, as it is logged: val/loss, val/accuracy, ...
    patience     looks without an improvement that are borne; null: any number
    cumulative   n, the differences that are summed; null: none. One of the two must be a number
    warmup_evaluations       first evaluations that are not looked at (one evaluation each eval_every epochs)
    check_every     evaluations from one look to the next
    min_delta   for patience: an improvement by less than this is none

    Slip: the KTH lecture stops by the test error, and chooses the strength of a penalty by it; right is validation, for
    what the test error has chosen it can no longer judge.

    Slip: in the Ren lecture halting by early stopping is dropping into a local minimum; the run halts somewhere on its
    way, where the gradient of the training loss may be large.

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
        sign = -1.0 if higher_is_better(self.monitor) else 1.0
        looks = [
            sign * metrics[self.monitor]
            for metrics in history[self.warmup_evaluations :][self.check_every - 1 :: self.check_every]
        ]
        return self._is_out_of_patience(looks) or self._has_grown(looks)

    def _is_out_of_patience(self, looks: Sequence[float]) -> bool:
        best, since = float("inf"), 0
        for value in looks:
            if value < best - self.min_delta:
                best, since = value, 0
            else:
                since += 1
        return self.patience is not None and since >= self.patience

    def _has_grown(self, looks: Sequence[float]) -> bool:
        n = self.cumulative
        return n is not None and len(looks) > n and looks[-1] - looks[-1 - n] > 0
