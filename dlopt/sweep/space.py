"""The space of a sweep: an axis for each override with several values, and the overrides that all of its runs share.

Axes are written in Hydra's own syntax: `a,b`, choice(), range() and glob() are values; interval() is a range of
numbers, tag(log,interval(a,b)) a range on a logarithmic scale, int(interval(a,b)) a range of whole numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

from dlopt.config.compose.groups import DATA_FILE_KEYS
from dlopt.config.compose.nested_options import from_hydra
from dlopt.config.problems import Problems
from dlopt.formatting import format_override

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
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
        return _add_steps(self.low, min(max(k, 0), int(self.size) - 1), self.step)

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
        return _add_steps(self.low, round((parameter - self.low) / self.step), self.step)

    def to_dict(self) -> dict[str, Any]:
        values = {k: v for k, v in asdict(self).items() if k not in ("key", "whole")}
        return {"key": from_hydra(self.key), "kind": self.kind, **values}


Axis = Choice | Interval


def _add_steps(low: float, k: int, step: float) -> float:
    """Return low + k step in the decimals of both: 0.3, where 3 * 0.1 is not; a whole number if both are whole."""
    if isinstance(low, int) and isinstance(step, int):
        return low + k * step
    return float(Decimal(repr(low)) + k * Decimal(repr(step)))


@dataclass(frozen=True)
class Space:
    """The axes in the order in which they were typed, and the overrides that every run has."""

    axes: tuple[Axis, ...]
    fixed_overrides: tuple[str, ...]

    @property
    def size(self) -> float:
        """The number of points; infinite if an axis has real numbers."""
        return math.prod(axis.size for axis in self.axes)

    def grid_point(self, number: int) -> tuple[Any, ...]:
        """Return a point of the grid by its number; the last axis varies fastest."""
        values: list[Any] = []
        for axis in reversed(self.axes):
            assert isinstance(axis, Choice)
            number, index = divmod(number, axis.size)
            values.append(axis.values[index])
        return tuple(reversed(values))

    def point_at(self, shares: Sequence[float]) -> tuple[Any, ...]:
        """Return the point at these shares of each axis."""
        return tuple(axis.value_at(share) for axis, share in zip(self.axes, shares, strict=True))

    def overrides(self, point: Sequence[Any]) -> list[str]:
        """Return the overrides of a run at this point."""
        return [*self.fixed_overrides, *(axis.to_override(value) for axis, value in zip(self.axes, point, strict=True))]

    def corners(self, most: int) -> list[tuple[Any, ...]]:
        """Return the points that represent all in a check: all combinations of choices and ends, if at most `most`.

        Else each value of each axis once, with the first values of the other axes.
        """
        ends = [axis.values if isinstance(axis, Choice) else (axis.low, axis.high) for axis in self.axes]
        if math.prod(map(len, ends)) <= most:
            return list(itertools.product(*ends))
        first = tuple(values[0] for values in ends)
        others = [(*first[:i], v, *first[i + 1 :]) for i, values in enumerate(ends) for v in values[1:]]
        return [first, *others]

    def with_order_of(self, former: Mapping[str, Any]) -> Space:
        """Return this space with axes and values in the order of equal former content, in which ordinals count."""
        axes = {from_hydra(axis.key): axis for axis in self.axes}
        pairs = [
            (axes[content["key"]], content.get("values")) for content in former["axes"]
        ]  # shuffle() changes values
        return replace(self, axes=tuple(replace(a, values=tuple(v)) if isinstance(a, Choice) else a for a, v in pairs))

    def to_dict(self) -> dict[str, Any]:
        """Return the content that tells whether another space is the same, as numbers and text."""
        return {"axes": [axis.to_dict() for axis in self.axes], "fixed": [from_hydra(o) for o in self.fixed_overrides]}


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
        start, step, last = sweep.start, sweep.step, _add_steps(sweep.start, len(values) - 1, sweep.step)
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
    names = sorted((former.keys() | present.keys()) - {"axes", "fixed"})
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
