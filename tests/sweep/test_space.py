"""Axes read from what is typed, points of a space, and what makes two spaces the same."""

import math
import struct
from typing import Any

import numpy as np
import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dlopt.config.compose import groups
from dlopt.config.compose.nested_options import to_hydra
from dlopt.config.problems import Problems
from dlopt.sweep import samplers
from dlopt.sweep.space import Choice, Interval, Space, find_disagreements, parse_space

PARSER = OverridesParser.create(ConfigLoaderImpl(create_config_search_path(str(groups.CONF))))


def parsed(*typed: str) -> list[Any]:
    return PARSER.parse_overrides([to_hydra(word) for word in typed])


def space(*typed: str, grid: bool = False) -> Space:
    problems = Problems()
    found = parse_space(parsed(*typed), grid=grid, problems=problems)
    problems.raise_if_any()
    return found


def said(typed: str, *, grid: bool = False) -> tuple[str, str]:
    """The only problem with an override: its key, and what is said."""
    problems = Problems()
    parse_space(parsed(typed), grid=grid, problems=problems)
    (found,) = problems.errors
    return found


def axis(typed: str) -> Any:
    (found,) = space(typed).axes
    return found


# ------------------------------------------------------------------------------------------------ grids

GRIDS = (
    ["optimizer.lr=0.1,0.01"],
    ["optimizer=sgd,adam", "optimizer.lr=0.1,1e-2,.5"],
    ["optimizer=choice(sgd,adam)", "seed=range(3)", "epochs=5"],
    ["optimizer.lr=range(0.5,0.1,-0.1)", "seed=range(9,0,-4)"],
    ["optimizer.lr=range(0.25,1.5,0.25)"],
    ["schedule=glob(*)"],
    ["optimizer=glob([a*,m*],exclude=adam*)", "seed=1,2"],
    ["regularization=none,l2,[l2,dropout],[]"],
    ["arch.widths=[10],[20,20],[]"],
    ["arch.depth=null,1", "name='a,b',\"c d\",e"],
    ["schedule=warmup", "schedule.then=cosine,step", "schedule.then.final=0.1,0.2"],
    ["schedules.momentum=ramp,cosine"],
    ["+new.key=1,2", "++other=a,b", "~clip"],
    ["~experiment=paper", "seed=1,2"],
    ["seed=1,2", "epochs=7", "seed=5"],
    ["seed=5", "seed=1,2"],
    ["validation={scheme:kfold,k:3},{scheme:holdout}"],
    ["epochs=sort(3,1,2)", "seed=sort(range(4),reverse=true)"],
    ["compile=true,false", "precision=float32,null"],
    ["name=${seed},'${hydra:job.num}'"],
    ["batch_size=16"],
    [],
)


@pytest.mark.parametrize("typed", GRIDS, ids=" ".join)
def test_a_grid_is_that_of_hydras_own_sweeper(typed):
    """In number and in order; but that overrides without alternatives come first."""
    ours = space(*typed, grid=True)
    (theirs,) = BasicSweeper.split_arguments(parsed(*typed), None)
    assert ours.size == len(theirs)
    for number, wanted in enumerate(theirs):
        found = ours.overrides(ours.grid_point(number))
        assert sorted(found) == sorted(word.removesuffix("=") if word.startswith("~") else word for word in wanted)


def test_shuffled_values_are_the_same_in_some_order():
    found = axis("seed=shuffle(range(9))")
    assert sorted(found.values) == [str(n) for n in range(9)]
    assert sorted(axis("seed=shuffle(a,b,c)").values) == ["a", "b", "c"]
    assert isinstance(found, Choice), "a shuffled range has no scale"


@given(st.lists(st.integers(1, 5), max_size=4))
def test_a_grid_is_the_product_of_its_axes_the_last_of_which_varies_fastest(sizes):
    found = Space(tuple(Choice(f"k{i}", tuple(map(str, range(n)))) for i, n in enumerate(sizes)), ())
    assert found.size == math.prod(sizes)
    every = [tuple(map(int, found.grid_point(number))) for number in range(int(found.size))]
    assert every == [tuple(map(int, index)) for index in np.ndindex(*sizes)]


def test_a_grid_of_many_axes_has_the_exact_size():
    """Of 53 axes with three values each: beyond what a float holds."""
    found = Space(tuple(Choice(f"k{i}", ("a", "b", "c")) for i in range(53)), ())
    assert found.size == 3**53
    assert found.grid_point(3**53 - 1) == ("c",) * 53


# ------------------------------------------------------------------------------------------------ axes


@pytest.mark.parametrize(
    ("typed", "low", "high", "log", "step", "whole"),
    [
        ("x=interval(1,3)", 1.0, 3.0, False, None, False),
        ("x=interval(-1e-4,2.5)", -1e-4, 2.5, False, None, False),
        ("x=int(interval(1,8))", 1, 8, False, 1, True),
        ("x=int(interval(-8,-2))", -8, -2, False, 1, True),
        ("x=tag(log,interval(1e-4,1e-1))", 1e-4, 1e-1, True, None, False),
        ("x=tag(log,int(interval(1,512)))", 1, 512, True, 1, True),
        ("x=int(tag(log,interval(1,512)))", 1, 512, True, 1, True),
        ("x=range(1,9)", 1, 8, False, 1, True),
        ("x=range(9,0,-4)", 1, 9, False, 4, True),
        ("x=range(0,1,0.1)", 0, 0.9, False, 0.1, False),
        ("x=range(0,0.3,0.1)", 0, 0.2, False, 0.1, False),
        ("x=range(0.7,0.2,-0.2)", 0.3, 0.7, False, 0.2, False),
    ],
)
def test_intervals(typed, low, high, log, step, whole):
    assert axis(typed) == Interval("x", low, high, log, step, whole)
    assert axis(typed).to_dict() == {
        "key": "x", "kind": "int" if whole else "float", "low": low, "high": high, "log": log, "step": step
    }  # fmt: skip


@pytest.mark.parametrize(
    "typed", ["range(0,1,0.1)", "range(0.1,2,0.3)", "range(5,-5,-0.7)", "range(1,9)", "range(9,1,-3)"]
)
def test_a_range_has_the_numbers_of_a_grid_in_a_search_too(typed):
    """To the digits that are typed."""
    (override,) = parsed(f"x={typed}")
    wanted = sorted(map(float, override.sweep_string_iterator()))
    found = axis(f"x={typed}")
    assert found.size == len(wanted)
    numbers = [found.value_at((k + 0.5) / len(wanted)) for k in range(len(wanted))]
    assert numbers == pytest.approx(wanted, abs=1e-12)
    assert max(len(found.to_override(x)) for x in numbers) <= len("x=-0.1")
    assert all(found.distribution()._contains(x) for x in numbers)


@pytest.mark.parametrize(
    ("typed", "grid", "message"),
    [
        ("x=interval(1,1)", False, "interval(1.0,1.0) is empty; the second end must be larger than the first"),
        ("x=interval(2,1)", False, "interval(2.0,1.0) runs backwards; write interval(1.0,2.0)"),
        ("x=tag(log,interval(0,1))", False, "interval(0.0,1.0) on a logarithmic scale must lie above zero, got 0.0"),
        ("x=tag(log,interval(-1,1))", False, "interval(-1.0,1.0) on a logarithmic scale must lie above zero, got -1.0"),
        ("x=tag(log,int(interval(0,8)))", False, "interval(0,8) on a logarithmic scale must lie above zero, got 0"),
        ("x=interval(0,inf)", False, "interval(0.0,inf) must have finite ends"),
        ("x=interval(-inf,0)", False, "interval(-inf,0.0) must have finite ends"),
        ("x=interval(nan,1)", False, "interval(nan,1.0) must have finite ends"),
        ("x=int(interval(1.2,1.9))", False, "interval(1,1) is empty; the second end must be larger than the first"),
        ("x=tag(lin,interval(0,1))", False, "there is no tag 'lin'; an interval can have one, log"),
        ("x=tag(log,a,interval(1,2))", False, "there is no tag 'a'; an interval can have one, log"),
        ("x=tag(log,choice(1,2))", False, "the tag log goes with interval(), as tag(log,interval(1e-4,1e-1))"),
        ("x=tag(log,range(1,3))", True, "the tag log goes with interval(), as tag(log,interval(1e-4,1e-1))"),
        ("x=interval(0,1)", True, "interval(0.0,1.0) has no grid: name the values, or search it with hydra/sweeper=random, tpe or qmc"),
        ("x=range(1,1)", True, "range(1,1) has no value in it"),
        ("x=range(1,5,-1)", False, "range(1,5,-1) has no value in it"),
        ("schedule=glob(nothing*)", True, "glob(nothing*) has no value in it"),
        ("x=1,2,1", True, "has the value 1 twice; name each once"),
        ("x=a,'b',a", False, "has the value a twice; name each once"),
    ],
)  # fmt: skip
def test_axes_that_are_none(typed, grid, message):
    assert said(typed, grid=grid) == (typed.partition("=")[0], message)


def test_problems_name_keys_as_they_are_typed():
    assert said("schedules.momentum=ramp,ramp")[0] == "schedules.momentum"
    assert said("+new=1,1")[0] == said("++new=1,1")[0] == "new"


def test_the_last_of_two_overrides_of_a_key_counts():
    assert space("x=1,2", "x=3") == Space((), ("x=3",))
    assert space("x=3", "x=1,2") == Space((Choice("x", ("1", "2")),), ())


# ------------------------------------------------------------------------------------------------ values as typed


def reread(typed: str) -> Any:
    (override,) = parsed(typed)
    return override.value()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_is_typed_so_that_hydra_reads_its_very_bits(x):
    typed = Interval("x", -1.0, 1.0, log=False, step=None, whole=False).to_override(x)
    assert struct.pack("d", reread(typed)) == struct.pack("d", x)


@given(st.integers(-(2**53), 2**53))
def test_a_whole_number_is_typed_as_one(n):
    whole = Interval("x", 0, 1, log=False, step=1, whole=True)
    for value in (n, float(n)):  # as storages may give it back
        found = reread(whole.to_override(value))
        assert found == n
        assert isinstance(found, int)


@pytest.mark.parametrize(
    "value", ["1", "1e-3", "null", "true", "[l2,dropout]", "'a,b'", '"a b"', "{a:1,b:[1,2]}", "''"]
)
def test_a_choice_is_typed_as_it_was(value):
    found = axis(f"x={value},other")
    assert found.values[1] == "other"
    assert reread(found.to_override(found.values[0])) == reread(f"x={value}")


# ------------------------------------------------------------------------------------------------ points by shares

DRAWS = 2_000


def drawn(typed: str) -> list[Any]:
    """Points of random search in a space of this axis alone."""
    found = axis(typed)
    return [found.value_at(*samplers.sample_uniform(1, 12, ordinal)) for ordinal in range(DRAWS)]


def test_real_numbers_are_uniform_in_their_scale():
    found = stats.kstest(drawn("x=interval(-3,5)"), stats.uniform(-3, 8).cdf)
    assert found.pvalue > 1e-3
    found = stats.kstest(drawn("x=tag(log,interval(1e-5,10))"), stats.loguniform(1e-5, 10).cdf)
    assert found.pvalue > 1e-3


def logarithmic(low: int, high: int) -> dict[int, float]:
    """The probability of each whole number: the part of [n - 1/2, n + 1/2) on a logarithmic scale."""
    whole = math.log((high + 0.5) / (low - 0.5))
    return {n: math.log((n + 0.5) / (n - 0.5)) / whole for n in range(low, high + 1)}


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("x=a,b,c", {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}),
        ("x=int(interval(-3,4))", dict.fromkeys(range(-3, 5), 1 / 8)),
        ("x=range(1,10,2)", dict.fromkeys((1, 3, 5, 7, 9), 1 / 5)),
        ("x=range(0,1,0.25)", {n / 4: 1 / 4 for n in range(4)}),
        ("x=tag(log,int(interval(1,12)))", logarithmic(1, 12)),
        ("x=tag(log,int(interval(3,20)))", logarithmic(3, 20)),
    ],
)
def test_single_values_have_their_probabilities(typed, wanted):
    found = drawn(typed)
    assert set(found) <= set(wanted)
    seen = [found.count(value) for value in wanted]
    assert stats.chisquare(seen, [DRAWS * p for p in wanted.values()]).pvalue > 1e-3


@pytest.mark.parametrize(
    "typed",
    ["x=interval(0.1,0.7)", "x=tag(log,interval(1e-7,3e-1))", "x=int(interval(3,9))", "x=tag(log,int(interval(3,900)))",
     "x=range(0.1,0.9,0.1)", "x=range(7,100,3)"],
)  # fmt: skip
def test_the_ends_of_an_axis_are_reached_and_never_passed(typed):
    found = axis(typed)
    first, last = found.value_at(0.0), found.value_at(math.nextafter(1.0, 0.0))
    assert first == pytest.approx(found.low, rel=1e-12)
    assert last == pytest.approx(found.high, rel=1e-12)
    shares = [0.0, 1e-300, 1e-12, *np.linspace(0, 1, 999, endpoint=False)[1:], 1 - 1e-12, math.nextafter(1.0, 0.0)]
    values = [found.value_at(share) for share in shares]
    assert values == sorted(values)
    assert all(found.low <= value <= found.high for value in values)
    assert all(found.distribution()._contains(value) for value in values)


def test_the_parts_of_a_choice_are_equal_and_in_order():
    found = axis("x=a,b,c,d")
    assert [found.value_at(share) for share in (0, 0.2499, 0.25, 0.4999, 0.5, 0.75, math.nextafter(1, 0))] == list(
        "aabbcdd"
    )


def test_corners_are_every_combination_or_each_value_once():
    found = space("a=1,2,3", "b=interval(0,1)", "c=x,y")
    assert len(found.corners(12)) == 12
    few = found.corners(11)
    assert few == [("1", 0.0, "x"), ("2", 0.0, "x"), ("3", 0.0, "x"), ("1", 1.0, "x"), ("1", 0.0, "y")]


# ------------------------------------------------------------------------------------------------ the same space


def content(*typed: str, **more: Any) -> dict[str, Any]:
    return {**space(*typed).to_dict(), "seed": 0, **more}


BASE = ("optimizer.lr=tag(log,interval(1e-4,1e-1))", "optimizer=sgd,adam", "epochs=5")


@pytest.mark.parametrize(
    ("typed", "more", "key", "former", "present"),
    [
        ((*BASE[:2], "epochs=6"), {}, "epochs", "5", "6"),
        ((*BASE[:2],), {}, "epochs", "5", "not given"),
        ((*BASE, "clip.norm=1"), {}, "clip.norm", "not given", "1"),
        (("optimizer.lr=interval(1e-4,1e-1)", *BASE[1:]), {}, "optimizer.lr",
         "tag(log,interval(0.0001,0.1))", "interval(0.0001,0.1)"),
        (("optimizer.lr=0.1", *BASE[1:]), {}, "optimizer.lr", "tag(log,interval(0.0001,0.1))", "0.1"),
        ((BASE[0], "optimizer=sgd,muon", BASE[2]), {}, "optimizer", "sgd,adam", "sgd,muon"),
        ((BASE[0], BASE[2]), {}, "optimizer", "sgd,adam", "not given"),
        ((*BASE, "seed=int(interval(1,3))"), {}, "seed", "not given", "int(interval(1,3))"),
        (BASE, {"seed": 1}, "hydra.sweeper.seed", "0", "1"),
        (BASE, {"repeats": [["seed=0"]]}, "hydra.sweeper.seeds", "null", "[[seed=0]]"),
        ((*BASE, "objective=val/accuracy"), {"objective": "val/accuracy"}, "objective", "null", "val/accuracy"),
        ((*BASE, "objective=val/loss,train/loss"), {}, "objective", "not given", "val/loss,train/loss"),
    ],
)  # fmt: skip
def test_each_difference_is_named(typed, more, key, former, present):
    ((at, message),) = find_disagreements(content(*BASE), content(*typed, **more))
    assert at == key
    assert message == f"was {former} in this study, and is {present} now"


def test_what_changes_no_result_may_differ():
    base = content(*BASE, "device=cpu")
    assert find_disagreements(base, base) == []
    assert find_disagreements(base, content(*BASE, "threads=1", "name=x", "device=cuda")) == []
    assert find_disagreements(base, content(*BASE, "device.kind=cuda")) == []
    assert find_disagreements(content("x=1,2,3"), content("x=shuffle(3,1,2)")) == []
    assert find_disagreements(content(*BASE), content(*reversed(BASE))) == []


def test_a_space_that_agrees_takes_on_the_former_order():
    """A study's ordinals count in the order of its first command: axes may be typed, and shuffled, in another."""
    former = space("schedules.momentum=ramp,cosine", "y=a,b,c", "z=interval(0,1)")
    present = space("z=interval(0,1)", "y=c,a,b", "schedules.momentum=cosine,ramp")
    assert find_disagreements(former.to_dict(), present.to_dict()) == []
    assert present.with_order_of(former.to_dict()) == former
