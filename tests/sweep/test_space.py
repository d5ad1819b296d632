"""Axes read from what is typed, points of a space, and what makes two spaces the same."""

import itertools
import math
import struct
from dataclasses import replace

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
from dlopt.sweep.axis import Choice, Interval
from dlopt.sweep.space import Condition, Space, find_disagreements, parse_space

PARSER = OverridesParser.create(ConfigLoaderImpl(create_config_search_path(str(groups.CONF))))


def parse(*typed):
    return PARSER.parse_overrides([to_hydra(word) for word in typed])


def make_space(*typed, grid=False):
    problems = Problems()
    space = parse_space(parse(*typed), grid=grid, problems=problems)
    problems.raise_if_any()
    return space


def make_axis(typed):
    (axis,) = make_space(typed).axes
    return axis


def find_problem(typed, *, grid=False):
    """Return the only problem of an override: its key and the message."""
    problems = Problems()
    parse_space(parse(typed), grid=grid, problems=problems)
    (problem,) = problems.errors
    return problem


# ------------------------------------------------------------------------------------------------ grids

GRIDS = (
    ["optimizer=sgd,adam", "optimizer.lr=0.1,1e-2,.5"],
    ["optimizer=choice(sgd,adam)", "seed=range(3)", "epochs=5"],
    ["optimizer.lr=range(0.5,0.1,-0.1)", "seed=range(9,0,-4)"],
    ["optimizer.lr=range(0.25,1.5,0.25)"],
    ["schedule=glob(*)"],
    ["optimizer=glob([a*,m*],exclude=adam*)", "seed=1,2"],
    ["regularization=none,l2,[l2,dropout],[]"],
    ["arch.depth=null,1", "name='a,b',\"c d\",e", "arch.widths=[10],[20,20],[]"],
    ["schedule=warmup", "schedule.then=cosine,step", "schedule.then.final=0.1,0.2"],
    ["+new.key=1,2", "++other=a,b", "~clip"],
    ["~experiment=paper", "seed=1,2"],
    ["seed=1,2", "epochs=7", "seed=5"],
    ["seed=5", "seed=1,2"],
    ["validation={scheme:kfold,k:3},{scheme:holdout}"],
    ["epochs=sort(3,1,2)", "seed=sort(range(4),reverse=true)"],
    ["name=${seed},'${hydra:job.num}'", "precision=float32,null"],
    [],
)


@pytest.mark.parametrize("typed", GRIDS, ids=" ".join)
def test_a_grid_equals_that_of_hydras_own_sweeper(typed):
    """In number and order, except that overrides with one value come first."""
    ours = make_space(*typed, grid=True)
    (theirs,) = BasicSweeper.split_arguments(parse(*typed), None)
    assert ours.size == len(theirs)
    for number, expected in enumerate(theirs):
        overrides = ours.overrides(ours.grid_point(number))
        assert sorted(overrides) == sorted(o.removesuffix("=") if o.startswith("~") else o for o in expected)


def test_shuffled_values_are_the_same_in_some_order():
    axis = make_axis("seed=shuffle(range(9))")
    assert sorted(axis.values) == [str(n) for n in range(9)]
    assert sorted(make_axis("seed=shuffle(a,b,c)").values) == ["a", "b", "c"]
    assert isinstance(axis, Choice), "a shuffled range has no scale"


@given(st.lists(st.integers(1, 5), max_size=4))
def test_a_grid_is_the_product_of_its_axes_and_the_last_one_varies_fastest(sizes):
    space = Space(tuple(Choice(f"k{i}", tuple(map(str, range(n)))) for i, n in enumerate(sizes)), ())
    assert space.size == math.prod(sizes)
    points = [tuple(map(int, space.grid_point(number))) for number in range(int(space.size))]
    assert points == [tuple(map(int, index)) for index in np.ndindex(*sizes)]


def test_a_grid_beyond_the_precision_of_a_float_has_the_exact_size():
    space = Space(tuple(Choice(f"k{i}", ("a", "b", "c")) for i in range(53)), ())
    assert space.size == 3**53
    assert space.grid_point(3**53 - 1) == ("c",) * 53


# ------------------------------------------------------------------------------------------------ conditions


@st.composite
def conditional_spaces(draw):
    """Draw a space of small choices, some of which apply to certain values of an earlier or later one."""
    order = draw(st.permutations(range(draw(st.integers(1, 5)))))
    sizes = [draw(st.integers(1, 3)) for _ in order]
    conditions = []
    for place, axis in enumerate(order[1:], 1):
        if draw(st.booleans()):
            parent = draw(st.sampled_from(order[:place]))
            values = draw(st.sets(st.integers(0, sizes[parent] - 1), min_size=1))
            conditions.append(Condition(f"k{axis}", f"k{parent}", tuple(map(str, sorted(values)))))
    axes = (Choice(f"k{i}", tuple(map(str, range(n)))) for i, n in enumerate(sizes))
    return Space(tuple(axes), (), tuple(conditions))


def restrict(space, values):
    """Return the point of a product of all axes: axes that do not apply to it have None."""
    conditions = {c.key: c for c in space.conditions}

    def applies(key):
        c = conditions.get(key)
        return c is None or (applies(c.parent) and values[int(c.parent[1:])] in c.values)

    return tuple(v if applies(f"k{i}") else None for i, v in enumerate(values))


@given(conditional_spaces())
def test_a_conditional_grid_has_each_distinct_point_of_the_product_once(space):
    expected = {restrict(space, values) for values in itertools.product(*(axis.values for axis in space.axes))}
    points = [space.grid_point(number) for number in range(space.size)]
    assert len(points) == len(expected)
    assert set(points) == expected
    assert sorted(points, key=str) == sorted(space.corners(len(points)), key=str)
    shares = np.random.default_rng(0).random((40, len(space.axes)))
    assert {space.point_at(row) for row in shares} <= expected
    tried = [list(column) for column in zip(*space.corners(len(points) - 1), strict=True)]
    assert all(value in column for axis, column in zip(space.axes, tried, strict=True) for value in axis.values)
    assert set(space.corners(len(points) - 1)) <= expected


SPEEDS = Space(
    (Choice("optimizer.momentum", ("0.5", "0.9")), Choice("optimizer.lr", ("1", "2")), Choice("optimizer", ("sgd", "momentum"))),
    ("optimizer.dampening=0.1", "epochs=5"),
    (Condition("optimizer.momentum", "optimizer", ("momentum",)), Condition("optimizer.dampening", "optimizer", ("momentum",))),
)  # fmt: skip


def test_a_conditional_axis_varies_with_the_axis_on_which_it_depends_and_the_last_axis_fastest():
    assert [SPEEDS.overrides(SPEEDS.grid_point(number)) for number in range(SPEEDS.size)] == [
        [*fixed, "epochs=5", *words]
        for lr in ("optimizer.lr=1", "optimizer.lr=2")
        for fixed, words in (
            ([], [lr, "optimizer=sgd"]),
            (["optimizer.dampening=0.1"], ["optimizer.momentum=0.5", lr, "optimizer=momentum"]),
            (["optimizer.dampening=0.1"], ["optimizer.momentum=0.9", lr, "optimizer=momentum"]),
        )
    ]
    assert SPEEDS.labels((None, "2", "sgd")) == ["optimizer.lr=2", "optimizer=sgd"]


def test_conditions_are_described_by_the_options_that_have_a_key_or_by_the_fewer_that_lack_it():
    rules = Choice("optimizer", ("sgd", "momentum", "sam", "nesterov"))
    conditions = [("optimizer.momentum", ("momentum", "nesterov")), ("optimizer.lr", ("momentum", "nesterov", "sgd"))]
    space = Space((rules,), (), tuple(Condition(key, "optimizer", values) for key, values in conditions))
    assert space.describe_conditions() == [
        "optimizer.momentum applies to optimizer=momentum,nesterov only", "optimizer.lr does not apply to optimizer=sam"
    ]  # fmt: skip


def test_a_conditional_interval_makes_a_space_infinite_and_its_ends_are_checked():
    rate = Interval("optimizer.momentum", 0.0, 0.9, log=False, step=None, whole=False)
    space = replace(SPEEDS, axes=(rate, *SPEEDS.axes[1:]))
    assert space.size == math.inf
    assert {point[0] for point in space.corners(100)} == {point[0] for point in space.corners(1)} == {None, 0.0, 0.9}


# ------------------------------------------------------------------------------------------------ axes


@pytest.mark.parametrize(
    ("typed", "low", "high", "log", "step", "whole"),
    [
        ("interval(-1e-4,2.5)", -1e-4, 2.5, False, None, False),
        ("interval(1,3)", 1.0, 3.0, False, None, False),
        ("int(interval(-8,-2))", -8, -2, False, 1, True),
        ("tag(log,interval(1e-4,1e-1))", 1e-4, 1e-1, True, None, False),
        ("tag(log,int(interval(1,512)))", 1, 512, True, 1, True),
        ("int(tag(log,interval(1,512)))", 1, 512, True, 1, True),
        ("range(1,9)", 1, 8, False, 1, True),
        ("range(9,0,-4)", 1, 9, False, 4, True),
        ("range(0,1,0.1)", 0, 0.9, False, 0.1, False),
        ("range(0.7,0.2,-0.2)", 0.3, 0.7, False, 0.2, False),
    ],
)
def test_intervals(typed, low, high, log, step, whole):
    assert make_axis(f"x={typed}") == Interval("x", low, high, log, step, whole)
    assert make_axis(f"x={typed}").to_dict() == {
        "key": "x", "kind": "int" if whole else "float", "low": low, "high": high, "log": log, "step": step
    }  # fmt: skip


@pytest.mark.parametrize(
    "typed", ["range(0,1,0.1)", "range(0.1,2,0.3)", "range(5,-5,-0.7)", "range(1,9)", "range(9,1,-3)"]
)
def test_a_range_has_the_numbers_of_a_grid_to_the_typed_digits(typed):
    (override,) = parse(f"x={typed}")
    expected = sorted(map(float, override.sweep_string_iterator()))
    axis = make_axis(f"x={typed}")
    assert axis.size == len(expected)
    numbers = [axis.value_at((k + 0.5) / len(expected)) for k in range(len(expected))]
    assert numbers == pytest.approx(expected, abs=1e-12)
    assert max(len(axis.to_override(x)) for x in numbers) <= len("x=-0.1")
    assert all(axis.distribution()._contains(x) for x in numbers)


@pytest.mark.parametrize(
    ("typed", "grid", "words"),
    [
        ("x=interval(1,1)", False, "interval(1.0,1.0) is empty"),
        ("x=int(interval(1.2,1.9))", False, "interval(1,1) is empty"),
        ("x=interval(2,1)", False, "interval(1.0,2.0)"),
        ("x=tag(log,interval(0,1))", False, "above zero, got 0.0"),
        ("x=tag(log,int(interval(0,8)))", False, "above zero, got 0"),
        ("x=interval(0,inf)", False, "finite"),
        ("x=interval(nan,1)", False, "finite"),
        ("x=tag(lin,interval(0,1))", False, "'lin'"),
        ("x=tag(log,a,interval(1,2))", False, "'a'"),
        ("x=tag(log,choice(1,2))", False, "interval()"),
        ("x=tag(log,range(1,3))", True, "interval()"),
        ("x=interval(0,1)", True, "hydra/sweeper=random"),
        ("x=range(1,5,-1)", False, "range(1,5,-1) has no value"),
        ("schedule=glob(nothing*)", True, "glob(nothing*) has no value"),
        ("x=a,'b',a", False, "a twice"),
        ("schedules.momentum=ramp,ramp", True, "ramp twice"),
        ("++new=1,1", True, "1 twice"),
    ],
)
def test_problems_name_the_key_as_typed_and_what_is_wrong(typed, grid, words):
    key, message = find_problem(typed, grid=grid)
    assert key == typed.partition("=")[0].lstrip("+")
    assert words in message


def test_the_last_of_two_overrides_of_a_key_counts():
    assert make_space("x=1,2", "x=3") == Space((), ("x=3",))
    assert make_space("x=3", "x=1,2") == Space((Choice("x", ("1", "2")),), ())


# ------------------------------------------------------------------------------------------------ values as typed


def read_back(typed):
    (override,) = parse(typed)
    return override.value()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_is_typed_so_that_hydra_reads_its_exact_bits(x):
    typed = Interval("x", -1.0, 1.0, log=False, step=None, whole=False).to_override(x)
    assert struct.pack("d", read_back(typed)) == struct.pack("d", x)


@given(st.integers(-(2**53), 2**53))
def test_a_whole_number_is_typed_as_one(n):
    axis = Interval("x", 0, 1, log=False, step=1, whole=True)
    for value in (n, float(n)):  # as storages may return it
        assert read_back(axis.to_override(value)) == n
        assert isinstance(read_back(axis.to_override(value)), int)


@pytest.mark.parametrize(
    "value", ["1", "1e-3", "null", "true", "[l2,dropout]", "'a,b'", '"a b"', "{a:1,b:[1,2]}", "''"]
)
def test_a_choice_is_typed_as_it_was(value):
    axis = make_axis(f"x={value},other")
    assert axis.values[1] == "other"
    assert read_back(axis.to_override(axis.values[0])) == read_back(f"x={value}")


# ------------------------------------------------------------------------------------------------ points by shares

N_DRAWS = 2_000


def draw(typed):
    """Return points of random search in a space with only this axis."""
    axis = make_axis(typed)
    return [axis.value_at(*samplers.sample_uniform(1, 12, ordinal)) for ordinal in range(N_DRAWS)]


@pytest.mark.parametrize(
    ("typed", "distribution"),
    [("x=interval(-3,5)", stats.uniform(-3, 8)), ("x=tag(log,interval(1e-5,10))", stats.loguniform(1e-5, 10))],
)
def test_real_numbers_are_uniform_on_their_scale(typed, distribution):
    assert stats.kstest(draw(typed), distribution.cdf).pvalue > 1e-3


def compute_log_probabilities(low, high):
    """Return the probability of each whole number n: the part of [n - 1/2, n + 1/2) on a logarithmic scale."""
    total = math.log((high + 0.5) / (low - 0.5))
    return {n: math.log((n + 0.5) / (n - 0.5)) / total for n in range(low, high + 1)}


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("x=a,b,c", {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}),
        ("x=int(interval(-3,4))", dict.fromkeys(range(-3, 5), 1 / 8)),
        ("x=range(1,10,2)", dict.fromkeys((1, 3, 5, 7, 9), 1 / 5)),
        ("x=range(0,1,0.25)", {n / 4: 1 / 4 for n in range(4)}),
        ("x=tag(log,int(interval(3,20)))", compute_log_probabilities(3, 20)),
    ],
)
def test_single_values_have_their_probabilities(typed, expected):
    values = draw(typed)
    assert set(values) <= set(expected)
    counts = [values.count(value) for value in expected]
    assert stats.chisquare(counts, [N_DRAWS * p for p in expected.values()]).pvalue > 1e-3


@pytest.mark.parametrize(
    "typed",
    ["x=interval(0.1,0.7)", "x=tag(log,interval(1e-7,3e-1))", "x=int(interval(3,9))", "x=tag(log,int(interval(3,900)))",
     "x=range(0.1,0.9,0.1)", "x=range(7,100,3)"],
)  # fmt: skip
def test_the_ends_of_an_axis_are_reached_and_never_passed(typed):
    axis = make_axis(typed)
    shares = [0.0, 1e-300, 1e-12, *np.linspace(0, 1, 300, endpoint=False)[1:], 1 - 1e-12, math.nextafter(1.0, 0.0)]
    values = [axis.value_at(share) for share in shares]
    assert values[0] == pytest.approx(axis.low, rel=1e-12)
    assert values[-1] == pytest.approx(axis.high, rel=1e-12)
    assert values == sorted(values)
    assert all(axis.low <= value <= axis.high and axis.distribution()._contains(value) for value in values)


def test_the_parts_of_a_choice_are_equal_and_in_order():
    axis = make_axis("x=a,b,c,d")
    shares = (0, 0.2499, 0.25, 0.4999, 0.5, 0.75, math.nextafter(1, 0))
    assert "".join(axis.value_at(share) for share in shares) == "aabbcdd"


def test_corners_are_every_combination_or_each_value_once():
    space = make_space("a=1,2,3", "b=interval(0,1)", "c=x,y")
    assert len(space.corners(12)) == 12
    assert space.corners(11) == [("1", 0.0, "x"), ("2", 0.0, "x"), ("3", 0.0, "x"), ("1", 1.0, "x"), ("1", 0.0, "y")]


# ------------------------------------------------------------------------------------------------ the same space


def make_content(*typed, **more):
    return {**make_space(*typed).to_dict(), "seed": 0, **more}


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
        ((*BASE, "seed=int(interval(1,3))"), {}, "seed", "not given", "int(interval(1,3))"),
        (BASE, {"seed": 1}, "hydra.sweeper.seed", "0", "1"),
        (BASE, {"repeats": [["seed=0"]]}, "hydra.sweeper.seeds", "null", "[[seed=0]]"),
        ((*BASE, "objective=val/accuracy"), {"objective": "val/accuracy"}, "objective", "null", "val/accuracy"),
        ((*BASE, "objective=val/loss,train/loss"), {}, "objective", "not given", "val/loss,train/loss"),
        ((*BASE, "validation.k=3"), {"repeats": [["validation.fold=0"]]}, "validation.k", "not given", "3"),
    ],
)  # fmt: skip
def test_each_difference_is_named(typed, more, key, former, present):
    ((at, message),) = find_disagreements(make_content(*BASE), make_content(*typed, **more))
    assert at == key
    assert f"was {former} in" in message
    assert f"is {present} now" in message


def test_other_conditions_are_another_search():
    """An option may have got a key since the study began: its ordinals would be other points."""
    content, free = SPEEDS.to_dict(), replace(SPEEDS, conditions=SPEEDS.conditions[1:]).to_dict()
    assert find_disagreements(content, content) == []
    message = "was for optimizer=momentum only in this study, and is for all runs now"
    assert find_disagreements(content, free) == [("optimizer.momentum", message)]
    assert "conditions" not in Space(SPEEDS.axes, ()).to_dict(), "as in studies of earlier versions"


def test_what_changes_no_result_may_differ():
    base = make_content(*BASE, "device=cpu")
    for other in ((*BASE, "threads=1", "name=x", "device=cuda"), (*BASE, "device.kind=cuda"), tuple(reversed(BASE))):
        assert find_disagreements(base, make_content(*other)) == []


def test_an_equal_space_takes_the_former_order():
    """A study's ordinals count in the order of its first command: axes may be typed, or shuffled, in another order."""
    former = make_space("schedules.momentum=ramp,cosine", "y=a,b,c", "z=interval(0,1)")
    present = make_space("z=interval(0,1)", "y=shuffle(c,a,b)", "schedules.momentum=cosine,ramp")
    assert find_disagreements(former.to_dict(), present.to_dict()) == []
    assert present.with_order_of(former.to_dict()) == former
    swapped = replace(SPEEDS, axes=(Choice("optimizer", ("momentum", "sgd")), *SPEEDS.axes[:2]))
    assert swapped.with_order_of(SPEEDS.to_dict()) == SPEEDS
