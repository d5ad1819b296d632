"""Fields of a part, and of the parts that it holds: `lr`, or `base.lr` where the rule inside has the rate."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import reduce
from typing import Any


def find_field(part: Any, name: str) -> str | None:
    """Where a part has a field of this name: its own, else that of the first part it holds that has one; else None."""
    if name in list_fields(part):
        return name
    for held in list_fields(part):
        inner = find_field(getattr(part, held), name)
        if inner is not None:
            return f"{held}.{inner}"
    return None


def get_field(part: Any, path: str) -> Any:
    """The field at a dotted path."""
    return reduce(getattr, path.split("."), part)


def replace_fields(part: Any, values: Mapping[str, Any]) -> Any:
    """The part with other values at these dotted paths."""
    for path, new in values.items():
        name, _, rest = path.partition(".")
        part = dataclasses.replace(part, **{name: replace_fields(getattr(part, name), {rest: new}) if rest else new})
    return part


def list_fields(part: Any) -> list[str]:
    """The names of a part's fields; none where it is no dataclass."""
    return [f.name for f in dataclasses.fields(part)] if dataclasses.is_dataclass(part) else []
