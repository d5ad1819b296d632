"""Fields of a component and of its inner components by dotted paths: `lr`, or `base.lr` of an inner optimizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import reduce
from typing import Any


def find_field(part: Any, name: str) -> str | None:
    """Return the path of a field: of the component, else of the first inner component that has it; else None."""
    if name in list_fields(part):
        return name
    for outer in list_fields(part):
        inner = find_field(getattr(part, outer), name)
        if inner is not None:
            return f"{outer}.{inner}"
    return None


def find_part(part: Any, kind: type) -> str | None:
    """Return the path of the first inner component of a class; else None."""
    for name in list_fields(part):
        value = getattr(part, name)
        if isinstance(value, kind):
            return name
        inner = find_part(value, kind)
        if inner is not None:
            return f"{name}.{inner}"
    return None


def get_field(part: Any, path: str) -> Any:
    """Return the field at a dotted path."""
    return reduce(getattr, path.split("."), part)


def replace_fields(part: Any, values: Mapping[str, Any]) -> Any:
    """Return a copy of the component with new values at these dotted paths."""
    for path, new in values.items():
        name, _, rest = path.partition(".")
        part = dataclasses.replace(part, **{name: replace_fields(getattr(part, name), {rest: new}) if rest else new})
    return part


def list_fields(part: Any) -> list[str]:
    """Return the names of a dataclass's fields; none for other objects."""
    return [f.name for f in dataclasses.fields(part)] if dataclasses.is_dataclass(part) else []
