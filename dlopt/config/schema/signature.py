"""Read the parameters of a target from its signature and type hints, and check values against them.

The checks before a run and `dlopt list` both use it. Custom classes are read in the same way.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union

from dlopt.formatting import format_override
from dlopt.ranges import Range


@dataclasses.dataclass(frozen=True)
class TargetParameter:
    """A parameter: its type hint, Any without one, and its default if it is not required."""

    name: str
    hint: Any
    required: bool
    default: Any = None


@dataclasses.dataclass(frozen=True)
class Signature:
    parameters: Mapping[str, TargetParameter]
    takes_any_keyword: bool
    """The target has **keywords."""


def read_signature(target: Any) -> Signature:
    """Return the parameters that can be given by name. Raises TypeError if the target is not callable."""
    reader = _read_cached if inspect.isclass(target) else _read
    return reader(target)


def _read(target: Any) -> Signature:
    is_plain_class = inspect.isclass(target) and not dataclasses.is_dataclass(target)
    try:
        hints = typing.get_type_hints(target.__init__ if is_plain_class else target, include_extras=True)
    except Exception:  # hints that cannot be evaluated allow everything
        hints = {}
    parameters, takes_any = {}, False
    for p in inspect.signature(target).parameters.values():
        if p.kind is p.VAR_KEYWORD:
            takes_any = True
        elif p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
            required, default = p.default is p.empty, None if p.default is p.empty else p.default
            parameters[p.name] = TargetParameter(p.name, hints.get(p.name, Any), required, default)
    return Signature(parameters, takes_any)


_read_cached = functools.lru_cache(maxsize=256)(_read)  # a run needs the signatures of its classes several times


def describe_mismatch(value: Any, hint: Any) -> str | None:
    """Return how a value violates a type hint, or None. Hints that are not about plain values allow all."""
    if isinstance(value, str) and value == "???":
        return f"needs a value: {describe(hint)}" if hint is not Any else "needs a value"
    if _fits(value, hint):
        return None
    kind, limits = _unwrap_annotated(hint)
    if isinstance(value, float) and not math.isfinite(value):
        return f"must be {describe(hint)}, and finite; got {value}"
    if kind in (int, float) and _fits(value, kind):
        return f"must be {limits or describe(hint)}, got {format_value(value)}"
    return f"must be {describe(hint)}, got {format_value(value)}"


def describe(hint: Any) -> str:
    """Return a hint in words: `number > 0`, `whole number >= 1 or null`, `one of wrap, edge, zero`."""
    kind, limits = _unwrap_annotated(hint)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(h) for h in inner)
    if origin is Literal:
        return str(inner[0]) if len(inner) == 1 else "one of " + ", ".join(map(str, inner))
    if _is_fixed_tuple(kind):
        return f"a list [{', '.join(describe(h) for h in inner)}]"
    if origin in (list, tuple, Sequence) or kind in (list, tuple):
        return f"a list [...] of {describe(inner[0])}" if inner else "a list"
    if origin in (dict, Mapping) or kind is dict:
        return "keys with values" if not inner or inner[1] is Any else f"keys, each with {describe(inner[1])}"
    words = {
        float: "a number",
        int: "a whole number",
        bool: "true or false",
        str: "text",
        type(None): "null",
        Any: "anything",
    }
    return words.get(kind, getattr(kind, "__name__", str(kind))) + (f" {limits}" if limits else "")


def _unwrap_annotated(hint: Any) -> tuple[Any, str]:
    """Return the hint without Annotated, and its range in words."""
    if typing.get_origin(hint) is Annotated:
        return hint.__origin__, " and ".join(str(m) for m in hint.__metadata__ if isinstance(m, Range))
    return hint, ""


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        ranges = [m for m in hint.__metadata__ if isinstance(m, Range)]
        number = isinstance(value, (int, float))
        return _fits(value, hint.__origin__) and (not number or all(value in r for r in ranges))
    if origin in (Union, types.UnionType):
        plain = [h for h in inner if _is_plain(h)] if isinstance(value, (str, int, float)) else []
        return any(_fits(value, h) for h in plain or inner)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in inner)
    if _is_fixed_tuple(hint):
        has_same_length = isinstance(value, (list, tuple)) and len(value) == len(inner)
        return has_same_length and all(_fits(v, h) for v, h in zip(value, inner, strict=True))
    if origin in (dict, Mapping) or hint is dict:
        return isinstance(value, dict) and all(_fits(v, inner[1]) for v in value.values() if inner)
    if origin in (list, tuple, Sequence) or hint in (list, tuple):
        return isinstance(value, (list, tuple)) and all(_fits(v, inner[0]) for v in value if inner)
    if hint is float:
        # Even without a range, a number must be finite: NaN is never intended.
        return isinstance(value, (int, float)) and not isinstance(value, bool) and value in Range()
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    if hint is type(None):
        return value is None
    return True


def _is_fixed_tuple(hint: Any) -> bool:
    """Return whether a hint is a tuple of fixed length."""
    inner = typing.get_args(hint)
    return typing.get_origin(hint) is tuple and Ellipsis not in inner and inner != ((),)


def _is_plain(hint: Any) -> bool:
    """Return whether a hint is text, bool, number or Literal. A class in a union with one allows no plain value."""
    kind, _ = _unwrap_annotated(hint)
    return kind in (str, int, float, bool) or typing.get_origin(kind) is Literal


def format_value(value: Any) -> str:
    """Return a value as it is written in YAML, text in quotes."""
    return repr(value) if isinstance(value, str) else format_override(value)
