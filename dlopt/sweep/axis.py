"""The axes of a sweep: a choice of values, or an interval of numbers; and the distinct points of their grid.

Axes are written in Hydra's own syntax: `a,b`, choice(), range() and glob() are values; interval() is a range of
numbers, tag(log,interval(a,b)) a range on a logarithmic scale, int(interval(a,b)) a range of whole numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from dlopt.config.compose.nested_options import from_hydra

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial as OptunaTrial

MAX_CATEGORIES = 50
"""A study stores the values of a choice up to this number, and the index of the value beyond it."""


@dataclass(frozen=True)
class Choice:
    """One of several values, which stay as they were typed: numbers, options of a group, lists of options.

    Its parameter in a study is the value; with many values, which each trial would store, the index of the value.
    """

    kind: ClassVar[str] = "choice"

    key: str
    values: tuple[str, ...]

    @property
    def size(self) -> int:
        return len(self.values)

    def value_at(self, share: float) -> str:
        """Return the value at a share in [0, 1) of the axis; each value has an equal part."""
        return self.values[min(int(share * self.size), self.size - 1)]

    def to_override(self, value: Any) -> str:
        return f"{self.key}={value}"

    to_label = to_override

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution, IntDistribution

        return CategoricalDistribution(self.values) if self._has_categories else IntDistribution(0, self.size - 1)

    def suggest(self, trial: OptunaTrial, name: str) -> Any:
        """Return the parameter that the sampler of a trial proposes."""
        if self._has_categories:
            return trial.suggest_categorical(name, self.values)
        return trial.suggest_int(name, 0, self.size - 1)

    def parameter(self, value: str) -> Any:
        """Return the parameter of a value in the study."""
        return value if self._has_categories else self.values.index(value)

    def value(self, parameter: Any) -> str:
        """Return the value of a parameter."""
        return parameter if self._has_categories else self.values[int(parameter)]

    def to_dict(self) -> dict[str, Any]:
        return {"key": from_hydra(self.key), "kind": self.kind, "values": list(self.values)}

    @property
    def _has_categories(self) -> bool:
        return self.size <= MAX_CATEGORIES


@dataclass(frozen=True)
class Interval:
    """A number from low to high, both included, on a linear or a logarithmic scale.

    step is None for real numbers; whole numbers, and the numbers of a range(), are low + k step.
    """

    key: str
    low: float
    high: float
    log: bool
    step: float | None
    whole: bool

    @property
    def kind(self) -> str:
        return "int" if self.whole else "float"

    @property
    def size(self) -> float:
        """The number of values; infinite for real numbers."""
        return math.inf if self.step is None else round((self.high - self.low) / self.step) + 1

    def value_at(self, share: float) -> float:
        """Return the number at a share in [0, 1) of the axis, on its scale; each whole number has an equal part.

        On a logarithmic scale, the whole number n has the part of the interval [n - 1/2, n + 1/2).
        """
        if self.step is None:
            low, high = (math.log(x) if self.log else x for x in (self.low, self.high))
            x = low + share * (high - low)
            return min(max(math.exp(x) if self.log else x, self.low), self.high)
        if self.log:
            low, high = math.log(self.low - self.step / 2), math.log(self.high + self.step / 2)
            k = round((math.exp(low + share * (high - low)) - self.low) / self.step)
        else:
            k = int(share * self.size)
        return add_steps(self.low, min(max(k, 0), int(self.size) - 1), self.step)

    def to_override(self, value: Any) -> str:
        return f"{self.key}={round(value) if self.whole else float(value)!r}"

    def to_label(self, value: Any) -> str:
        """Return the override with the digits that tell one point from another."""
        return self.to_override(value) if self.whole else f"{self.key}={value:.4g}"

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution, IntDistribution

        return IntDistribution(**self._whole_range) if self.whole else FloatDistribution(**self._range)

    def suggest(self, trial: OptunaTrial, name: str) -> float:
        """Return the parameter that the sampler of a trial proposes."""
        return trial.suggest_int(name, **self._whole_range) if self.whole else trial.suggest_float(name, **self._range)

    @property
    def _range(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high, "log": self.log, "step": self.step}

    @property
    def _whole_range(self) -> dict[str, Any]:
        return {"low": round(self.low), "high": round(self.high), "log": self.log, "step": round(self.step or 1)}

    def parameter(self, value: float) -> float:
        """Return the parameter of a value in the study."""
        return value

    def value(self, parameter: float) -> float:
        """Return the value of a parameter; with a step, the number as it is typed: 0.3, not 0.30000000000000004."""
        if self.step is None:
            return parameter
        return add_steps(self.low, round((parameter - self.low) / self.step), self.step)

    def to_dict(self) -> dict[str, Any]:
        values = {k: v for k, v in asdict(self).items() if k not in ("key", "whole")}
        return {"key": from_hydra(self.key), "kind": self.kind, **values}


Axis = Choice | Interval


def add_steps(low: float, k: int, step: float) -> float:
    """Return low + k step in the decimals of both: 0.3, where 3 * 0.1 is not; a whole number if both are whole."""
    if isinstance(low, int) and isinstance(step, int):
        return low + k * step
    return float(Decimal(repr(low)) + k * Decimal(repr(step)))


class ConditionalGrid:
    """The distinct points of a grid in which some axes apply to certain values of others only.

    It has axes with these sizes, in the order of its axes; the last one varies fastest.

    A parent is the index of an axis and the indices of its values to which an axis applies; None: it applies to all.
    An axis varies with its parent: sgd, momentum 0.5, momentum 0.9. So each distinct point occurs once, and the size is
    a sum over the values of each parent, a product over axes that do not depend on each other.
    """

    def __init__(self, sizes: Sequence[float], parents: Sequence[tuple[int, frozenset[int]] | None]) -> None:
        self._sizes = sizes
        self._parents = parents
        self._axes = [axis for axis, parent in enumerate(parents) if parent is None]
        self._has_children = {parent[0] for parent in parents if parent is not None}
        self._count_axis = cache(self._count_values)

    @property
    def size(self) -> float:
        """The number of points; infinite if an axis is."""
        return self._count(self._axes)

    def indices(self, number: int) -> list[int | None]:
        """Return the index of the value of each axis at a point, given its number; None for axes that do not apply."""
        found: list[int | None] = [None] * len(self._sizes)
        self._find(self._axes, number, found)
        return found

    def _find(self, axes: Sequence[int], number: int, found: list[int | None]) -> None:
        for axis in reversed(axes):
            number, index = divmod(number, int(self._count_axis(axis)))
            if axis not in self._has_children:
                found[axis] = index
                continue
            value = 0
            while index >= (count := int(self._count(self._list_children(axis, value)))):
                index, value = index - count, value + 1
            found[axis] = value
            self._find(self._list_children(axis, value), index, found)

    def _count(self, axes: Sequence[int]) -> float:
        return math.prod(map(self._count_axis, axes))

    def _count_values(self, axis: int) -> float:
        """Return the number of values of an axis, each with the points of the axes that apply to it."""
        if axis not in self._has_children:
            return self._sizes[axis]
        return sum(self._count(self._list_children(axis, value)) for value in range(int(self._sizes[axis])))

    def _list_children(self, axis: int, value: int) -> list[int]:
        """Return the axes that apply to a value of an axis."""
        return [i for i, p in enumerate(self._parents) if p is not None and p[0] == axis and value in p[1]]
