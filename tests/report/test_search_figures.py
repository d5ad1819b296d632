"""Figures of a search: drawn without warnings for trials in any state."""

import dataclasses
import random

import matplotlib as mpl
import pytest
from matplotlib.image import imread

from dlopt.analysis.search_axis import SearchAxis, make_choice_axis
from dlopt.analysis.search_record import SearchRecord, TrialRecord
from dlopt.report import search_figures
from dlopt.report.figures import COLOURS, STYLE, save_figure
from dlopt.report.search_map import plot_heat_map
from dlopt.report.search_scales import MARKS

RATE = SearchAxis("optimizer.lr", (), 1e-4, 1.0, log=True)
RATES = make_choice_axis("optimizer.lr", ["0.001", "0.01", "0.1"])
MOMENTUM = SearchAxis("optimizer.momentum", (), 0.0, 0.99)
RULE = SearchAxis("optimizer", ("sgd", "adam", "lion"))
BOTH = SearchAxis("regularization", ("none", r"[l2,a $\frac{ dollar$]"))
SIZE = make_choice_axis("data.train_size", ["100", "200", "500", "1000"])


def search(axes, count, states=("done",), *, higher=False, sd=None, spread=1.0):
    """Return random trials, with these states in turn."""
    rng = random.Random(0)

    def sample(axis):
        return rng.choice(axis.values) if axis.values else axis.low + rng.random() * (axis.high - axis.low)

    trials = []
    for i in range(count):
        state = states[i % len(states)]
        value = 1.0 + rng.random() * spread if state == "done" else None
        trials.append(TrialRecord(i, None, (), {a.key: sample(a) for a in axes}, state, value, sd))
    return SearchRecord(None, tuple(axes), "val/loss", higher, tuple(trials), "random", repeats=1 if sd is None else 3)


def make_trials(values):
    return tuple(TrialRecord(i, None, (), {}, "done", v) for i, v in enumerate(values))


EVERY = ("done", "diverged", "failed", "pruned", "running", "dead", "interrupted")
CASES = {
    "one axis": search([RATE], 20), "a grid": search([RATES], 20), "two": search([RATE, MOMENTUM], 20, EVERY),
    "a grid of two": search([RATES, RULE], 30, EVERY, sd=0.1), "only choices": search([RULE, BOTH], 30, EVERY),
    "all failed": search([RATE, RULE], 5, ["failed"]), "all failed in an interval": search([RATE, MOMENTUM], 5, ["failed"]),
    "one trial": search([RATE, RULE, RATES], 1), "one trial of one number": search([make_choice_axis("a", ["3"])], 1),
    "one that runs": search([RATES, RULE], 1, ["running"]), "none that varies": search([], 3),
    "a thousand": search([RATE, RULE, MOMENTUM], 1000, EVERY), "many values": search([make_choice_axis("a", [str(i) for i in range(300)]), RULE], 300),
    "equal values": search([RATES, RULE], 9, spread=0.0), "learning curve": search([SIZE], 4, sd=0.2),
    "more is better": search([RATES, RULE], 30, EVERY, higher=True), "thirty axes": search([SearchAxis(f"a{i}", (), 0.0, 1.0) for i in range(30)], 9),
    "a far outlier": search([RATE, RULE], 30, spread=1.0)
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_figures_are_drawn(name):
    figures = search_figures.plot_search(CASES[name], name)
    assert list(figures) == ["history", "effects", "map"][: 1 + min(len(CASES[name].axes), 2)]
    for figure in figures.values():
        with mpl.rc_context(STYLE):
            figure.draw_without_rendering()  # lays out and formats all texts
        assert all(2 < inches < 47 for inches in figure.get_size_inches())


def test_the_map_is_over_hyperparameters_that_most_trials_have():
    record = search([RULE, MOMENTUM, RATE], 40)
    for trial in record.trials:
        if trial.point["optimizer"] != "sgd":
            del trial.point["optimizer.momentum"]
    figures = search_figures.plot_search(record, "")
    (axes, *_) = figures["map"].axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("optimizer", "optimizer.lr")
    (chosen, *_) = search_figures.plot_search(record, "", heat=["optimizer.momentum", "optimizer.lr"])["map"].axes
    assert (chosen.get_xlabel(), chosen.get_ylabel()) == ("optimizer.momentum", "optimizer.lr")
    for figure in figures.values():
        with mpl.rc_context(STYLE):
            figure.draw_without_rendering()


def test_figures_are_saved(tmp_path):
    for name, figure in search_figures.plot_search(CASES["only choices"], r"a $\frac{ dollar$").items():
        save_figure(figure, tmp_path / f"{name}.png")
        height, width = imread(tmp_path / f"{name}.png").shape[:2]
        assert 300 < height < 7000
        assert 300 < width < 7000


def get_offsets(figure, label):
    """Return the points with this label in the first panel."""
    (points,) = [c for c in figure.axes[0].collections if c.get_label() == label]
    return points.get_offsets().tolist()


def test_the_best_so_far_only_improves():
    values = [3.0, 4.0, 1.0, 2.0, 0.5]
    trials = (*make_trials(values), TrialRecord(5, None, (), {}, "pruned", None))
    for higher, best in ((False, [3.0, 3.0, 1.0, 1.0, 0.5, 0.5]), (True, [3.0, 4.0, 4.0, 4.0, 4.0, 4.0])):
        figure = search_figures.plot_history(SearchRecord(None, (), "val/accuracy", higher, trials), "")
        (line,) = [x for x in figure.axes[0].lines if x.get_label() == "best so far"]
        assert line.get_xdata().tolist() == [0, 1, 2, 3, 4, 5]
        assert line.get_ydata().tolist() == best
        assert ("more is better" in figure.axes[0].get_ylabel()) == higher


@pytest.mark.parametrize("higher", [False, True])
def test_trials_without_a_value_are_marked_at_the_worse_edge(higher):
    record = search([RATE], 20, EVERY, higher=higher)
    figure = search_figures.plot_history(record, "")
    low, high = figure.axes[0].get_ylim()
    worst = search_figures.compute_limits([t.value for t in record.ranked_trials], higher)[0 if higher else 1]
    marks = {state: {y for _, y in get_offsets(figure, state)} for state in MARKS}
    assert all(len(heights) == 1 for heights in marks.values())
    assert len(set.union(*marks.values())) == 3
    for (y,) in marks.values():
        assert (low < y < worst) if higher else (worst < y < high)
    assert [x for x, _ in get_offsets(figure, "diverged")] == [1.0, 8.0, 15.0]


def test_one_far_value_leaves_room_for_the_others():
    values = [1.0, 1.1, 1.2, 1.3, 1.4, 900.0]
    low, high = search_figures.compute_limits(values, higher=False)
    assert 0.9 < low < 1.0
    assert 1.4 < high < 3.0
    low, high = search_figures.compute_limits([-v for v in values], higher=True)
    assert -3.0 < low < -1.4
    trials = make_trials(values)
    figure = search_figures.plot_history(SearchRecord(None, (), "val/loss", False, trials), "")
    assert [x for x, _ in get_offsets(figure, "worse than shown")] == [5.0]


def test_the_map_has_the_named_keys_or_the_most_important_ones():
    record = search([RATES, RULE, MOMENTUM], 30)
    for options, keys in (
        ({}, ("optimizer.lr", "optimizer")),
        ({"order": ["optimizer.momentum", "optimizer.lr"]}, ("optimizer.momentum", "optimizer.lr")),
        ({"heat": ["optimizer", "optimizer.momentum"]}, ("optimizer", "optimizer.momentum")),
    ):
        axes = search_figures.plot_search(record, "", **options)["map"].axes[0]
        assert (axes.get_xlabel(), axes.get_ylabel()) == keys


def test_cells_show_the_mean_the_number_of_trials_and_those_that_diverged():
    points = [("sgd", 0.01, 1.0), ("sgd", 0.01, 3.0), ("adam", 0.01, 0.5), ("adam", 0.1, None)]
    trials = tuple(
        TrialRecord(i, None, (), {"optimizer": o, "optimizer.lr": lr}, "diverged" if v is None else "done", v)
        for i, (o, lr, v) in enumerate(points)
    )
    record = SearchRecord(None, (RATES, RULE), "val/loss", False, trials)
    axes = plot_heat_map(record, RATES, RULE, "").axes[0]
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (0, 0): "2.0000\nof 2", (0, 1): "0.5000", (1, 1): "1 diverged",
    }  # fmt: skip
    (frame,) = axes.patches
    assert frame.get_xy() == (-0.5, 0.5)


def test_a_grid_of_two_hyperparameters_has_a_line_for_each_value_of_the_other():
    figure = search_figures.plot_effects(search([SIZE, RULE], 60, sd=0.1), [SIZE, RULE], "")
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels == ["optimizer=sgd", "optimizer=adam", "optimizer=lion"]
    assert figure.axes[0].get_xscale() == "log"
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["100", "200", "500", "1000"]


def test_a_grid_of_three_has_a_line_for_each_combination_of_the_others():
    """At most six; and none if trials of one place differ in a hyperparameter that some lack."""
    both, size = SearchAxis("init.frozen", ("false", "true")), SearchAxis("init.run", ("a", "b"))
    record = search([SIZE, size, both], 60, sd=0.1)
    labels = search_figures.plot_effects(record, [SIZE], "").axes[0].get_legend_handles_labels()[1]
    assert labels == [f"init.run={run}  init.frozen={frozen}" for run in "ab" for frozen in ("false", "true")]
    lacking = dataclasses.replace(record.trials[0], point={"data.train_size": 100.0, "init.run": "a"})
    for other in (
        search([SIZE, size, both, RULE], 90, sd=0.1),
        dataclasses.replace(record, trials=(*record.trials, lacking)),
    ):
        labels = search_figures.plot_effects(other, [SIZE], "").axes[0].get_legend_handles_labels()[1]
        assert labels == ["a trial", "mean ± sd"]


@pytest.mark.parametrize("name", ["learning curve", "a grid of two"])
def test_the_ends_of_bars_are_inside_the_frame(name):
    record = CASES[name]
    low, high = search_figures.plot_effects(record, record.axes, "").axes[0].get_ylim()
    values = [trial.value for trial in record.trials if trial.value is not None]
    sd = record.trials[0].sd
    assert low < min(values) - sd
    assert max(values) + sd < high


@pytest.mark.parametrize("sampler", ["grid", "random", "tpe", "qmc", ""])
def test_only_a_search_whose_order_means_something_has_a_history(sampler):
    record = dataclasses.replace(CASES["a grid"], sampler=sampler)
    assert ("history" in search_figures.plot_search(record, "")) == (sampler not in ("grid", ""))
    assert list(search_figures.plot_search(dataclasses.replace(record, axes=()), "")) == ["history"]


@pytest.mark.parametrize(("count", "boxes"), [(4, 0), (5, 1)])
def test_a_few_trials_of_a_choice_have_no_box(count, boxes):
    figure = search_figures.plot_effects(
        search([SearchAxis("optimizer", ("sgd",))], count), [SearchAxis("optimizer", ("sgd",))], ""
    )
    assert sum(line.get_color() == COLOURS[1] and line.get_linewidth() == 1.8 for line in figure.axes[0].lines) == boxes


def test_only_states_that_occur_take_space():
    """The strip for marks is as high as the lanes in it and one more."""
    heights = []
    for states in (("done",), ("done", "failed"), ("done", "failed", "pruned")):
        trials = make_trials([1.0, 2.0])
        trials = (*trials, *(TrialRecord(9, None, (), {}, s, None) for s in states[1:]))
        low, high = (
            search_figures.plot_history(SearchRecord(None, (), "val/loss", False, trials), "").axes[0].get_ylim()
        )
        heights.append((high - low) / 1.12)  # of the values with their margins
    assert heights == pytest.approx([1.0, 1.0 + 2 * search_figures.LANE, 1.0 + 3 * search_figures.LANE])


def test_the_frame_of_a_map_is_explained():
    record = CASES["a grid of two"]
    (legend,) = plot_heat_map(record, *record.axes, "").legends
    assert [text.get_text() for text in legend.get_texts()] == ["contains the best trial"]
