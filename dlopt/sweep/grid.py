"""The distinct points of a grid in which some axes apply to certain values of others only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache


class ConditionalGrid:
    """A grid of axes with these sizes, in the order of its axes; the last one varies fastest.

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
