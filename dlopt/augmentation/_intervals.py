"""Intervals of hyperparameters, given by two fields: the name with _low and with _high."""

from typing import Any

from torch import Tensor

from dlopt import prng
from dlopt.errors import OptionError
from dlopt.prng import Key


def check_intervals(option: Any, *names: str) -> None:
    """Raise OptionError if the lower end of one of these intervals exceeds the upper end."""
    for name in names:
        low, high = get_interval(option, name)
        if low > high:
            low_key, high_key = (f"{name}_{end}".lstrip("_") for end in ("low", "high"))
            raise OptionError(low_key, f"{low_key} must be at most {high_key}, got {low:g} and {high:g}")


def get_interval(option: Any, name: str) -> tuple[float, float]:
    """Return the ends of an interval; the fields of the name "" are low and high."""
    low, high = (getattr(option, f"{name}_{end}".lstrip("_")) for end in ("low", "high"))
    return low, high


def map_to(interval: tuple[float, float], u: Tensor) -> Tensor:
    """Map numbers in [0, 1) to an interval."""
    low, high = interval
    return low + (high - low) * u


def sample_uniform(key: Key, interval: tuple[float, float], like: Tensor) -> Tensor:
    """Draw a number of an interval for each example of `like`, (B,)."""
    return map_to(interval, prng.uniform(key, (len(like),), like.device).to(like.dtype))
