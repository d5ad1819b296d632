"""Ranges of hyperparameters, declared in their types.

    lr: Annotated[float, Range(gt=0)]

The validator refuses values outside the range, and `dlopt list` prints it. annotated_types also declares bounds, but it
neither checks nor prints them: both methods of Range would remain, and its import adds 11 ms to each command.
"""

import math
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """An interval of the real line; each bound is optional. NaN and infinite values lie in no range."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None

    def __contains__(self, x: float) -> bool:
        return (
            abs(x) < math.inf
            and (self.gt is None or x > self.gt)
            and (self.ge is None or x >= self.ge)
            and (self.lt is None or x < self.lt)
            and (self.le is None or x <= self.le)
        )

    def __str__(self) -> str:
        bounds = ((">", self.gt), (">=", self.ge), ("<", self.lt), ("<=", self.le))
        return (
            " and ".join(f"{sign} {bound:.10g}" for sign, bound in bounds if bound is not None) or "any finite number"
        )


Positive = Annotated[float, Range(gt=0)]
NonNegative = Annotated[float, Range(ge=0)]
Fraction = Annotated[float, Range(ge=0, lt=1)]
"""A fraction, or the decay factor of a moving average, which must be less than one."""
Probability = Annotated[float, Range(ge=0, le=1)]
Count = Annotated[int, Range(ge=1)]
