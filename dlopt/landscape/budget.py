"""The budget of tuning: a range of learning rates, and how many of them are tried. Does not import torch."""

from __future__ import annotations

import math
from typing import NamedTuple

from dlopt.config.problems import ConfigError

CANDIDATES = 16
"""Learning rates that are tried for each optimizer, log-spaced in the range."""
CRITERION = (
    "most starts that converge to f - f* <= 1e-6, then the fewest evaluations to it, then the lowest f at the end"
)


class LearningRateRange(NamedTuple):
    """A range of learning rates, with 0 < low < high."""

    low: float
    high: float

    def spread(self, count: int) -> list[float]:
        """Return log-spaced learning rates from low to high, with three digits."""
        ratio = self.high / self.low
        return [float(f"{self.low * ratio ** (i / (count - 1)):.3g}") for i in range(count)]


def parse_range(text: str) -> LearningRateRange:
    """Parse lr=1e-4:1. Raise ConfigError with the remedy."""
    name, _, ends = text.partition("=")
    low, colon, high = ends.partition(":")
    if not colon or name != "lr":
        got = f", got {text}" if text else ""
        raise ConfigError([("--tune", f"needs a range of learning rates: --tune lr=1e-4:1{got}")])
    try:
        tuned = LearningRateRange(float(low), float(high))
    except ValueError:
        tuned = LearningRateRange(0.0, 0.0)
    if not 0 < tuned.low < tuned.high < math.inf:
        wrong = "must go from a positive number to a larger one, such as lr=1e-4:1"
        raise ConfigError([("--tune", f"{wrong}, got {text}")])
    return tuned
