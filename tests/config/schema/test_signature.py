"""Values against type hints."""

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from torch import nn

from dlopt.config.schema.signature import describe, describe_mismatch, read_signature
from dlopt.ranges import Count, Fraction, Positive, Range

FITS = [
    (1, float), (1.5, float), (2, int), (True, bool), ("a", str), (None, int | None), (3, int | None), ([1, 2], list[int]),
    ([], list[int]), ({}, dict), ([1, None], tuple[float, float | None]), (0.5, float | nn.Module), ("x", Path | None), ([1.5, 2], tuple[float, ...]), ("auto", Positive | Literal["auto"]), (0.5, Positive | Literal["auto"]),
    (0, Fraction), (1, Count), (object(), Any), ({}, dict[str, int]), ({"a": 1}, dict[str, Count]), ("wrap", Literal["wrap", "edge"]),
]  # fmt: skip
FAILS = [
    ("1", float), (True, float), (True, int), (1.0, int), (1, bool), (3, str), (None, int), ([1, "a"], list[int]), (3, list[int]),
    ("aut", Positive | Literal["auto"]), (0, Positive), (-0.0, Positive), (1, Fraction), (0, Count), (1.5, Count),
    (float("nan"), float), (float("inf"), float), (float("nan"), Positive), ("zero", Literal["wrap", "edge"]),
    ([1.0], tuple[float, float]), ([1, "a"], tuple[float, float]), ("a", float | nn.Module), (True, float | nn.Module), (3, dict[str, int]),
    (1, Literal["wrap"]), ([0], list[Count]), ("???", float), (True, Literal[1]), ({"a": 0}, dict[str, Count]),
]  # fmt: skip


@pytest.mark.parametrize(("value", "hint"), FITS)
def test_a_value_that_fits(value, hint):
    assert describe_mismatch(value, hint) is None


@pytest.mark.parametrize(("value", "hint"), FAILS)
def test_a_value_that_does_not_fit(value, hint):
    assert describe_mismatch(value, hint)


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Positive, "a number > 0"),
        (Fraction, "a number >= 0 and < 1"),
        (Count | None, "a whole number >= 1 or null"),
        (Count | Literal["full"], "a whole number >= 1 or full"),
        (Literal["a", "b"], "one of a, b"),
        (list[Count], "a list [...] of a whole number >= 1"),
        (Annotated[float, Range(ge=0, le=1)], "a number >= 0 and <= 1"),
        (bool, "true or false"),
        (tuple[float, int], "a list [a number, a whole number]"),
        (tuple[float, ...], "a list [...] of a number"),
        (dict[str, Any], "keys with values"),
        (dict[str, Positive], "keys, each with a number > 0"),
    ],
)
def test_a_hint_in_words(hint, words):
    assert describe(hint) == words


def test_the_parameters_of_functions_classes_and_dataclasses():
    import torch

    from dlopt.optimizer.adam import Adam

    assert list(read_signature(Adam).parameters) == ["lr", "beta1", "beta2", "eps"]
    assert read_signature(Adam).parameters["lr"].required

    linear = read_signature(torch.nn.Linear).parameters
    assert linear["in_features"].hint is int
    assert not linear["bias"].required

    def anything(x: int, **more: Any) -> None: ...

    assert read_signature(anything).takes_any_keyword
