"""The space of a sweep: an axis for each override with several values, and the overrides that all of its runs share.

A key that only some options of an axis have, as optimizer.momentum of optimizer=sgd,momentum, has a condition. The runs
with the other options go without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dlopt.config.compose.groups import DATA_FILE_KEYS
from dlopt.config.compose.nested_options import from_hydra
from dlopt.config.problems import Problems
from dlopt.formatting import format_override
from dlopt.sweep.axis import Axis, Choice, ConditionalGrid, Interval, add_steps

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


@dataclass(frozen=True)
class Condition:
    """A key that only the runs with some values of a choice have: optimizer.momentum of optimizer=sgd,momentum."""

    key: str
    parent: str
    values: tuple[str, ...]

    @property
    def options(self) -> str:
        """The values as they are typed: optimizer=momentum,nesterov."""
        return f"{self.parent}={','.join(self.values)}"


@dataclass(frozen=True)
class Space:
    """The axes in the order in which they were typed, and the overrides that every run has.

    A point has a value for each axis: None if the axis, by its condition, does not apply to the other values. Fixed
    overrides can have a condition, too.
    """

    axes: tuple[Axis, ...]
    fixed_overrides: tuple[str, ...]
    conditions: tuple[Condition, ...] = ()

    @cached_property
    def _conditions(self) -> dict[str, Condition]:
        return {condition.key: condition for condition in self.conditions}

    @cached_property
    def _indices(self) -> dict[str, int]:
        """The index of each axis by its key."""
        return {from_hydra(axis.key): i for i, axis in enumerate(self.axes)}

    @cached_property
    def _order(self) -> list[int]:
        """The indices of the axes, each after the one on which it depends."""

        def count_parents(key: str) -> int:
            condition = self._conditions.get(key)
            return 0 if condition is None else 1 + count_parents(condition.parent)

        return sorted(range(len(self.axes)), key=lambda i: count_parents(from_hydra(self.axes[i].key)))

    def _applies(self, key: str, point: Sequence[Any]) -> bool:
        """Return whether a key applies to a point, given the values of the axes on which it depends."""
        condition = self._conditions.get(key)
        return condition is None or point[self._indices[condition.parent]] in condition.values

    @property
    def size(self) -> float:
        """The number of points; infinite if an axis has real numbers."""
        return self._grid.size

    @cached_property
    def _grid(self) -> ConditionalGrid:
        return self._make_grid([axis.size for axis in self.axes])

    def _make_grid(self, sizes: Sequence[float]) -> ConditionalGrid:
        """Return the grid of axes with these numbers of values, which for choices are all."""
        parents: list[tuple[int, frozenset[int]] | None] = []
        for axis in self.axes:
            condition = self._conditions.get(from_hydra(axis.key))
            if condition is None:
                parents.append(None)
                continue
            i = self._indices[condition.parent]
            parent = self.axes[i]
            assert isinstance(parent, Choice)
            parents.append((i, frozenset(map(parent.values.index, condition.values))))
        return ConditionalGrid(sizes, parents)

    def grid_point(self, number: int) -> tuple[Any, ...]:
        """Return a point of the grid by its number; the last axis varies fastest."""
        return _take([axis.values for axis in self.axes if isinstance(axis, Choice)], self._grid.indices(number))

    def describe_conditions(self) -> list[str]:
        """Return for each condition to which values a key applies, or to which it does not if these are fewer."""
        texts = []
        for condition in self.conditions:
            parent = self.axes[self._indices[condition.parent]]
            assert isinstance(parent, Choice)
            others = [value for value in parent.values if value not in condition.values]
            few = f"does not apply to {condition.parent}={','.join(others)}"
            is_long = len(others) < len(condition.values)
            texts.append(f"{condition.key} {few if is_long else f'applies to {condition.options} only'}")
        return texts

    def build_point(self, choose: Callable[[Axis], Any]) -> tuple[Any, ...]:
        """Return the point with the value that a function returns for each axis that applies.

        The function is called for an axis after the axes on which it depends.
        """
        point: list[Any] = [None] * len(self.axes)
        for i in self._order:
            if self._applies(from_hydra(self.axes[i].key), point):
                point[i] = choose(self.axes[i])
        return tuple(point)

    def point_at(self, shares: Sequence[float]) -> tuple[Any, ...]:
        """Return the point at these shares of each axis."""
        by_key = {axis.key: share for axis, share in zip(self.axes, shares, strict=True)}
        return self.build_point(lambda axis: axis.value_at(by_key[axis.key]))

    def point_with(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the point with these values by key, and for other axes the first value to which all of them apply."""
        wanted = dict(values)
        pending = list(values)
        while pending:
            if (condition := self._conditions.get(pending.pop())) is not None:
                wanted.setdefault(condition.parent, condition.values[0])
                pending.append(condition.parent)
        return self.build_point(lambda axis: wanted.get(from_hydra(axis.key), _list_ends(axis)[0]))

    def overrides(self, point: Sequence[Any]) -> list[str]:
        """Return the overrides of a run at this point."""
        fixed = [o for o in self.fixed_overrides if self._applies(from_hydra(o).partition("=")[0], point)]
        return [*fixed, *self._map_values(lambda axis, value: axis.to_override(value), point)]

    def labels(self, point: Sequence[Any]) -> list[str]:
        """Return the overrides that tell a point from others, with few digits."""
        return self._map_values(lambda axis, value: axis.to_label(value), point)

    def _map_values(self, function: Callable[[Axis, Any], str], point: Sequence[Any]) -> list[str]:
        pairs = zip(self.axes, point, strict=True)
        return [function(axis, value) for axis, value in pairs if value is not None]

    def corners(self, most: int) -> list[tuple[Any, ...]]:
        """Return the points that represent all in a check: all combinations of choices and ends, if at most `most`.

        Else each value of each axis once, with the first values of the other axes.
        """
        ends = [_list_ends(axis) for axis in self.axes]
        grid = self._make_grid(list(map(len, ends)))
        if grid.size <= most:
            return [_take(ends, grid.indices(number)) for number in range(int(grid.size))]
        pairs = ((axis, value) for axis, values in zip(self.axes, ends, strict=True) for value in values)
        return list(dict.fromkeys(self.point_with({from_hydra(axis.key): value}) for axis, value in pairs))

    def with_order_of(self, former: Mapping[str, Any]) -> Space:
        """Return this space with axes and values in the order of equal former content, in which ordinals count."""
        axes = {from_hydra(axis.key): axis for axis in self.axes}
        pairs = [
            (axes[content["key"]], content.get("values")) for content in former["axes"]
        ]  # shuffle() changes values
        return replace(self, axes=tuple(replace(a, values=tuple(v)) if isinstance(a, Choice) else a for a, v in pairs))

    def to_dict(self) -> dict[str, Any]:
        """Return the content that tells whether another space is the same, as numbers and text."""
        content: dict[str, Any] = {
            "axes": [axis.to_dict() for axis in self.axes],
            "fixed": [from_hydra(o) for o in self.fixed_overrides],
        }
        if self.conditions:
            content["conditions"] = {condition.key: condition.options for condition in self.conditions}
        return content


def _list_ends(axis: Axis) -> tuple[Any, ...]:
    """Return the values of a choice, or the ends of an interval."""
    return axis.values if isinstance(axis, Choice) else (axis.low, axis.high)


def _take(values: Sequence[Sequence[Any]], indices: Sequence[int | None]) -> tuple[Any, ...]:
    """Return the value of each axis at its index; None for axes that do not apply."""
    return tuple(None if i is None else of_axis[i] for of_axis, i in zip(values, indices, strict=True))


def parse_space(overrides: Iterable[Override], *, grid: bool, problems: Problems) -> Space:
    """Return the space of parsed overrides, and add the problems of its axes."""
    axes: dict[str, Axis] = {}
    fixed: dict[str, str] = {}
    for override in overrides:
        key = override.get_key_element()
        axes.pop(key, None)  # the last of two overrides of a key counts, as in Hydra
        fixed.pop(key, None)
        if not override.is_sweep_override():
            value = override.get_value_element_as_str()
            fixed[key] = f"{key}={value}" if value or not override.is_delete() else key
            continue
        axis = _parse_axis(key, override, grid, problems)
        if axis is not None:
            axes[key] = axis
    return Space(tuple(axes.values()), tuple(fixed.values()))


def _parse_axis(key: str, override: Override, grid: bool, problems: Problems) -> Axis | None:
    sweep: Any = override.value()
    tags = set(getattr(sweep, "tags", None) or ())
    unknown = sorted(tags - {"log"})
    values = () if override.is_interval_sweep() else tuple(override.sweep_string_iterator())
    repeated = next((v for i, v in enumerate(values) if v in values[:i]), None)
    problem = None
    if unknown:
        problem = f"there is no tag '{unknown[0]}'; an interval can have one, log"
    elif override.is_interval_sweep():
        problem = _check_interval(sweep.start, sweep.end, "log" in tags, grid)
    elif tags:
        problem = "the tag log goes with interval(), as tag(log,interval(1e-4,1e-1))"
    elif not values:
        problem = f"{override.input_line} has no value in it".replace(f"{key}=", "")
    elif repeated is not None:
        problem = f"has the value {repeated} twice; name each once"
    if problem is not None:
        problems.add(from_hydra(key).lstrip("+"), problem)
        return None
    if override.is_interval_sweep():
        whole = isinstance(sweep.start, int) and isinstance(sweep.end, int)
        return Interval(key, sweep.start, sweep.end, "log" in tags, 1 if whole else None, whole)
    if not grid and override.is_range_sweep() and not sweep.shuffle:
        start, step, last = sweep.start, sweep.step, add_steps(sweep.start, len(values) - 1, sweep.step)
        whole = isinstance(start, int) and isinstance(step, int)
        return Interval(key, min(start, last), max(start, last), log=False, step=abs(step), whole=whole)
    return Choice(key, values)


def _check_interval(low: float, high: float, log: bool, grid: bool) -> str | None:
    """Return the problem of an interval, or None."""
    start, end = format_override(low), format_override(high)
    typed = f"interval({start},{end})"
    if grid:
        return f"{typed} has no grid: name the values, or search it with hydra/sweeper=random, tpe or qmc"
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{typed} must have finite ends"
    if low > high:
        return f"{typed} runs backwards; write interval({end},{start})"
    if low == high:
        return f"{typed} is empty; the second end must be larger than the first"
    return f"{typed} on a logarithmic scale must lie above zero, got {start}" if log and low <= 0 else None


OPTION_KEYS = {
    "sampler": "hydra/sweeper",
    "seed": "hydra.sweeper.seed",
    "repeats": "hydra.sweeper.seeds",
    "statistic": "hydra.sweeper.statistic",
    "pruner": "hydra.sweeper.pruner",
}
"""The keys that are part of a study besides its points."""


def find_disagreements(former: Mapping[str, Any], present: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return where a study's former content and the present one differ: pairs of a key and a message."""
    old, new = (
        {**dict(o.partition("=")[::2] for o in content["fixed"]), **{axis["key"]: axis for axis in content["axes"]}}
        for content in (former, present)
    )
    names = sorted((former.keys() | present.keys()) - {"axes", "fixed", "conditions"})
    others = {OPTION_KEYS.get(name, name): (former.get(name), present.get(name)) for name in names if name != "data"}
    data_files = {f"data.{key}" for key in DATA_FILE_KEYS}
    has_digests = former.get("data") and present.get("data")  # then the content of a file counts, not its place
    differing: list[tuple[str, str, str]] = []
    for key in dict.fromkeys([*old, *new]):
        was, now = old.get(key), new.get(key)
        is_fixed = not isinstance(was, Mapping) and not isinstance(now, Mapping)
        is_compared = not is_fixed or not (key in others or (key in data_files and has_digests))
        if key.partition(".")[0] not in ("device", "threads", "name") and is_compared and not _is_same(was, now):
            differing.append((key, _format_value(was), _format_value(now)))
    has_other_folds = any(key == "validation.k" for key, _, _ in differing)  # which names the cause of other repeats
    for key, (was, now) in others.items():
        if was != now and not (key == OPTION_KEYS["repeats"] and has_other_folds):
            differing.append((key, format_override(was), format_override(now)))
    if not differing:  # else the options may differ, and with them the conditions
        before, after = (content.get("conditions", {}) for content in (former, present))
        changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
        scopes = [[f"for {c[key]} only" if key in c else "for all runs" for key in changed] for c in (before, after)]
        differing = list(zip(changed, *scopes, strict=True))
    disagreements = [(key, f"was {was} in this study, and is {now} now") for key, was, now in differing]
    had, has = former.get("data"), present.get("data")
    if not disagreements and had is not None and had != has:  # earlier versions wrote none
        disagreements.append(
            ("data.path", "the files have changed since this study began, so results would not compare")
        )
    return disagreements


def _is_same(a: Any, b: Any) -> bool:
    """Return whether two axes or values are equal, regardless of the order of values, which shuffle() changes."""
    if isinstance(a, Mapping) and isinstance(b, Mapping) and a.get("kind") == b.get("kind") == "choice":
        return sorted(a["values"]) == sorted(b["values"])
    return a == b


def _format_value(value: Any) -> str:
    """Return an axis, or a value, as it would be typed."""
    if not isinstance(value, Mapping):
        return "not given" if value is None else str(value)
    if value["kind"] == "choice":
        return ",".join(value["values"])
    interval = f"interval({format_override(value['low'])},{format_override(value['high'])})"
    interval = f"int({interval})" if value["kind"] == "int" else interval
    return f"tag(log,{interval})" if value["log"] else interval
