"""Value ranges: what a hyperparameter may be, written once in its type.

    lr: Annotated[float, Range(gt=0)]

The validator refuses what lies outside, `dlopt list` prints the range, and no other code checks again.
"""

import math
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """An interval of the real line; each bound is optional. NaN and the infinities lie in no range."""

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
"""A share, or a decay factor of a moving average: zero is allowed, one would never end."""
Count = Annotated[int, Range(ge=1)]
