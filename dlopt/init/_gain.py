"""The gain of initial weights."""

from typing import Literal

from dlopt.ranges import Positive

Gain = Positive | Literal["auto"]
"""A factor, or auto: the gain of the activation."""


def resolve_gain(chosen: Gain, of_activation: float) -> float:
    """Return the factor of an init, given the gain of the activation."""
    return of_activation if chosen == "auto" else float(chosen)
