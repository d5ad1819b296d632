"""Fields by their dotted paths."""

from dataclasses import dataclass
from typing import Any

import pytest

from dlopt.base.dotted_fields import find_field, get_field, replace_fields


@dataclass(frozen=True)
class Rate:
    lr: float


@dataclass(frozen=True)
class Around:
    share: Any
    base: Any


INNER = Around(0.5, Rate(0.1))
PLACES = [
    (Rate(0.1), "lr", "lr"),
    (INNER, "share", "share"),
    (INNER, "lr", "base.lr"),
    (Around(0.5, INNER), "lr", "base.base.lr"),
    (Around(0.5, INNER), "share", "share"),
    (Around(Rate(0.2), Rate(0.1)), "lr", "share.lr"),
    (INNER, "momentum", None),
    (Around(0.5, "base"), "lr", None),
]


@pytest.mark.parametrize(("part", "name", "path"), PLACES, ids=str)
def test_a_field_is_the_parts_own_or_that_of_the_first_part_it_holds(part, name, path):
    assert find_field(part, name) == path


def test_what_is_put_at_a_path_is_there_and_all_else_is_as_before():
    part = Around(0.5, INNER)
    other = replace_fields(part, {"base.base.lr": 0.7, "share": 0.9, "base.share": 0.8})
    assert other == Around(0.9, Around(0.8, Rate(0.7)))
    assert get_field(other, "base.base.lr") == 0.7
    assert part == Around(0.5, INNER)
    assert replace_fields(part, {}) is part
