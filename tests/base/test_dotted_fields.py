"""Fields by their dotted paths."""

from dataclasses import dataclass
from typing import Any

import pytest

from dlopt.base.dotted_fields import find_field, get_field, replace_fields


@dataclass(frozen=True)
class Inner:
    lr: float


@dataclass(frozen=True)
class Outer:
    share: Any
    base: Any


INNER = Outer(0.5, Inner(0.1))
PLACES = [
    (Inner(0.1), "lr", "lr"),
    (INNER, "share", "share"),
    (INNER, "lr", "base.lr"),
    (Outer(0.5, INNER), "lr", "base.base.lr"),
    (Outer(0.5, INNER), "share", "share"),
    (Outer(Inner(0.2), Inner(0.1)), "lr", "share.lr"),
    (INNER, "momentum", None),
    (Outer(0.5, "base"), "lr", None),
]


@pytest.mark.parametrize(("part", "name", "path"), PLACES, ids=str)
def test_a_field_is_found_in_the_component_or_in_its_first_inner_component(part, name, path):
    assert find_field(part, name) == path


def test_fields_are_replaced_at_dotted_paths_in_a_copy():
    part = Outer(0.5, INNER)
    other = replace_fields(part, {"base.base.lr": 0.7, "share": 0.9, "base.share": 0.8})
    assert other == Outer(0.9, Outer(0.8, Inner(0.7)))
    assert get_field(other, "base.base.lr") == 0.7
    assert part == Outer(0.5, INNER)
    assert replace_fields(part, {}) is part
