"""The space that a sweep searches: an axis for each override with several values, and what all of its runs share.

Axes are read from Hydra's own syntax: `a,b`, choice(), range() and glob() are values; interval() is a range of
numbers, tag(log,interval(a,b)) one on a logarithmic scale, int(interval(a,b)) one of whole numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar

from dlopt.config.compose.nested_options import from_hydra
from dlopt.config.problems import Problems
from dlopt.formatting import format_override

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial as OptunaTrial

MAX_CATEGORIES = 50
"""Values of a choice up to which a study knows them by name."""


@dataclass(frozen=True)
class Choice:
    """One of some values, which are kept as they are typed: numbers, options of a group, lists of options."""

    kind: ClassVar[str] = "choice"

    key: str
    values: tuple[str, ...]

    @property
    def size(self) -> int:
        return len(self.values)

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that stand for all of them in a check."""
        return self.values

    def value_at(self, share: float) -> str:
        """The value at a share in [0, 1) of the axis, of which each value has an equal part."""
        return self.values[min(int(share * self.size), self.size - 1)]

    def to_override(self, value: Any) -> str:
        return f"{self.key}={value}"

    to_label = to_override

    def with_order_of(self, former: Mapping[str, Any]) -> Choice:
        """The same with its values in the order of this content of it: shuffle() draws another each time."""
        return replace(self, values=tuple(former["values"]))

    def distribution(self) -> BaseDistribution:
        """That of a parameter in the study: the value, or of very many its index, lest each trial hold all of them."""
        from optuna.distributions import CategoricalDistribution, IntDistribution

        return (
            CategoricalDistribution(self.values) if self.size <= MAX_CATEGORIES else IntDistribution(0, self.size - 1)
        )

    def suggest(self, trial: OptunaTrial, name: str) -> Any:
        """Return the parameter that the sampler of a trial proposes."""
        if self.size <= MAX_CATEGORIES:
            return trial.suggest_categorical(name, self.values)
        return trial.suggest_int(name, 0, self.size - 1)

    def parameter(self, value: str) -> Any:
        """The parameter of a value."""
        return value if self.size <= MAX_CATEGORIES else self.values.index(value)

    def value(self, parameter: Any) -> str:
        """The value of a parameter."""
        return parameter if self.size <= MAX_CATEGORIES else self.values[int(parameter)]

    def to_dict(self) -> dict[str, Any]:
        return {"key": from_hydra(self.key), "kind": self.kind, "values": list(self.values)}


@dataclass(frozen=True)
class Interval:
    """A number from low to high, both of them possible, on a linear or a logarithmic scale.

    step is null for real numbers; whole numbers, and those of a range(), are low + k step.
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
        """How many numbers there are; infinite for real ones."""
        return math.inf if self.step is None else round((self.high - self.low) / self.step) + 1

    @property
    def ends(self) -> tuple[Any, ...]:
        return (self.low, self.high)

    def value_at(self, share: float) -> float:
        """The number at a share in [0, 1) of the axis, in its own scale; every whole number has an equal part of it.

        On a logarithmic scale the part of a whole number n is that of the interval [n - 1/2, n + 1/2).
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
        return _step_value(self.low, min(max(k, 0), int(self.size) - 1), self.step)

    def to_override(self, value: Any) -> str:
        return f"{self.key}={round(value) if self.whole else float(value)!r}"

    def to_label(self, value: Any) -> str:
        """The same with as many digits as tell one point from another."""
        return self.to_override(value) if self.whole else f"{self.key}={value:.4g}"

    def with_order_of(self, former: Mapping[str, Any]) -> Interval:
        """Itself: numbers have one order."""
        return self

    def distribution(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            return IntDistribution(round(self.low), round(self.high), log=self.log, step=round(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def suggest(self, trial: OptunaTrial, name: str) -> float:
        """Return the parameter that the sampler of a trial proposes."""
        if self.whole:
            return trial.suggest_int(name, round(self.low), round(self.high), log=self.log, step=round(self.step or 1))
        return trial.suggest_float(name, self.low, self.high, log=self.log, step=self.step)

    def parameter(self, value: float) -> float:
        """The parameter of a value in the study."""
        return value

    def value(self, parameter: float) -> float:
        """The value of a parameter: of numbers with a step the one that is typed, and not 0.30000000000000004."""
        if self.step is None:
            return parameter
        return _step_value(self.low, round((parameter - self.low) / self.step), self.step)

    def to_dict(self) -> dict[str, Any]:
        own = {k: v for k, v in asdict(self).items() if k not in ("key", "whole")}
        return {"key": from_hydra(self.key), "kind": self.kind, **own}


Axis = Choice | Interval


def _step_value(low: float, k: int, step: float) -> float:
    """low + k step, in the decimals in which both are typed: 0.3, where 3 * 0.1 is not; whole if both are."""
    if isinstance(low, int) and isinstance(step, int):
        return low + k * step
    return float(Decimal(repr(low)) + k * Decimal(repr(step)))


@dataclass(frozen=True)
class Space:
    """axes in the order in which they were typed; fixed are the overrides that every run has."""

    axes: tuple[Axis, ...]
    fixed_overrides: tuple[str, ...]

    @property
    def size(self) -> float:
        """The number of points; infinite where an axis has real numbers."""
        return math.prod(axis.size for axis in self.axes)

    def grid_point(self, number: int) -> tuple[Any, ...]:
        """A point by its number, of which the last axis varies fastest."""
        found: list[Any] = []
        for axis in reversed(self.axes):
            assert isinstance(axis, Choice)
            number, index = divmod(number, axis.size)
            found.append(axis.values[index])
        return tuple(reversed(found))

    def point_at(self, shares: Sequence[float]) -> tuple[Any, ...]:
        """The point at these shares of each axis."""
        return tuple(axis.value_at(share) for axis, share in zip(self.axes, shares, strict=True))

    def overrides(self, point: Sequence[Any]) -> list[str]:
        """What a run at this point is given."""
        return [*self.fixed_overrides, *(axis.to_override(value) for axis, value in zip(self.axes, point, strict=True))]

    def corners(self, most: int) -> list[tuple[Any, ...]]:
        """Points that stand for all in a check: choices and ends of intervals, in every combination up to `most`.

        Beyond, each value of each axis once, beside the first ones of the others.
        """
        ends = [axis.ends for axis in self.axes]
        if math.prod(map(len, ends)) <= most:
            return list(itertools.product(*ends))
        first = tuple(values[0] for values in ends)
        found = [first]
        for i, values in enumerate(ends):
            found += [(*first[:i], value, *first[i + 1 :]) for value in values[1:]]
        return found

    def with_order_of(self, former: Mapping[str, Any]) -> Space:
        """The same with axes and values in the order of this content, with which it agrees: ordinals count in it."""
        axes = {from_hydra(axis.key): axis for axis in self.axes}
        return replace(self, axes=tuple(axes[known["key"]].with_order_of(known) for known in former["axes"]))

    def to_dict(self) -> dict[str, Any]:
        """What says, in plain numbers and text, whether another space is the same."""
        return {"axes": [axis.to_dict() for axis in self.axes], "fixed": [from_hydra(o) for o in self.fixed_overrides]}


def parse_space(overrides: Iterable[Override], *, grid: bool, problems: Problems) -> Space:
    """The space of parsed overrides; what is wrong with an axis is added to the problems."""
    axes: dict[str, Axis] = {}
    fixed: dict[str, str] = {}
    for override in overrides:
        key = override.get_key_element()
        axes.pop(key, None)  # of two for one key the last counts, as Hydra has it
        fixed.pop(key, None)
        if not override.is_sweep_override():
            value = override.get_value_element_as_str()
            fixed[key] = f"{key}={value}" if value or not override.is_delete() else key
            continue
        axis = _axis(key, override, grid, problems)
        if axis is not None:
            axes[key] = axis
    return Space(tuple(axes.values()), tuple(fixed.values()))


def _axis(key: str, override: Override, grid: bool, problems: Problems) -> Axis | None:
    at = from_hydra(key).lstrip("+")
    sweep: Any = override.value()
    tags = set(getattr(sweep, "tags", None) or ())
    unknown = sorted(tags - {"log"})
    if unknown:
        problems.add(at, f"there is no tag '{unknown[0]}'; an interval can have one, log")
        return None
    if override.is_interval_sweep():
        return _interval(key, at, sweep.start, sweep.end, "log" in tags, grid, problems)
    if tags:
        problems.add(at, "the tag log goes with interval(), as tag(log,interval(1e-4,1e-1))")
        return None
    values = tuple(override.sweep_string_iterator())
    if not values:
        problems.add(at, f"{override.input_line} has no value in it".replace(f"{key}=", ""))
        return None
    repeated = next((v for i, v in enumerate(values) if v in values[:i]), None)
    if repeated is not None:
        problems.add(at, f"has the value {repeated} twice; name each once")
        return None
    if not grid and override.is_range_sweep() and not sweep.shuffle:
        start, step, last = sweep.start, sweep.step, _step_value(sweep.start, len(values) - 1, sweep.step)
        whole = isinstance(start, int) and isinstance(step, int)
        low, high = min(start, last), max(start, last)
        return Interval(key, low, high, log=False, step=abs(step), whole=whole)
    return Choice(key, values)


def _interval(key: str, at: str, low: float, high: float, log: bool, grid: bool, problems: Problems) -> Interval | None:
    typed = f"interval({format_override(low)},{format_override(high)})"
    if grid:
        problems.add(at, f"{typed} has no grid: name the values, or search it with hydra/sweeper=random, tpe or qmc")
    elif not (math.isfinite(low) and math.isfinite(high)):
        problems.add(at, f"{typed} must have finite ends")
    elif low > high:
        problems.add(at, f"{typed} runs backwards; write interval({format_override(high)},{format_override(low)})")
    elif low == high:
        problems.add(at, f"{typed} is empty; the second end must be larger than the first")
    elif log and low <= 0:
        problems.add(at, f"{typed} on a logarithmic scale must lie above zero, got {format_override(low)}")
    else:
        whole = isinstance(low, int) and isinstance(high, int)
        return Interval(key, low, high, log, 1 if whole else None, whole)
    return None


OPTION_KEYS = {
    "sampler": "hydra/sweeper",
    "seed": "hydra.sweeper.seed",
    "repeats": "hydra.sweeper.seeds",
    "statistic": "hydra.sweeper.statistic",
    "pruner": "hydra.sweeper.pruner",
}
"""The keys of what a study was made with besides its points."""


def find_disagreements(former: Mapping[str, Any], present: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Where a study's former content and the present one differ: pairs of a key and what is said of it."""
    differ: list[tuple[str, str]] = []
    axes = [{axis["key"]: axis for axis in found["axes"]} for found in (former, present)]
    fixed = [dict(o.partition("=")[::2] for o in found["fixed"]) for found in (former, present)]
    old, new = ({**f, **a} for f, a in zip(fixed, axes, strict=True))
    others = {
        OPTION_KEYS.get(name, name): name for name in sorted((former.keys() | present.keys()) - {"axes", "fixed"})
    }
    for key in dict.fromkeys([*old, *new]):
        was, now = old.get(key), new.get(key)
        below = key in others and not isinstance(was, Mapping) and not isinstance(now, Mapping)
        if key.partition(".")[0] in ("device", "threads", "name") or below or _same(was, now):
            continue
        differ.append((key, f"was {_format_value(was)} in this study, and is {_format_value(now)} now"))
    for key, name in others.items():
        was, now = former.get(name), present.get(name)
        folds = name == "repeats" and any(told == "validation.k" for told, _ in differ)  # which says it better
        if was != now and not folds:
            differ.append((key, f"was {format_override(was)} in this study, and is {format_override(now)} now"))
    return differ


def _same(a: Any, b: Any) -> bool:
    """Equal, where the order of values, which shuffle() draws anew, does not count."""
    if isinstance(a, Mapping) and isinstance(b, Mapping) and a.get("kind") == b.get("kind") == "choice":
        return sorted(a["values"]) == sorted(b["values"])
    return a == b


def _format_value(found: Any) -> str:
    """An axis, or a value, as it would be typed."""
    if not isinstance(found, Mapping):
        return "not given" if found is None else str(found)
    if found["kind"] == "choice":
        return ",".join(found["values"])
    inside = f"interval({format_override(found['low'])},{format_override(found['high'])})"
    inside = f"int({inside})" if found["kind"] == "int" else inside
    return f"tag(log,{inside})" if found["log"] else inside
