"""Searches read from disk: axes, trials, their states and values, also from damaged and hostile files."""

import json
import math
import statistics
from dataclasses import replace

import pytest
from sweeps import LR_AXIS, OPTIMIZER_AXIS, write_run, write_sweep, write_sweep_json

from dlopt.analysis.search_axis import SearchAxis, canonicalize, make_choice_axis
from dlopt.analysis.search_record import read_search
from dlopt.report.search_text import format_retrain_command
from dlopt.rundir.writer import RunWriter


def test_a_sweep_of_one_run_each(tmp_path):
    points = [({"optimizer.lr": 0.1, "optimizer": "sgd"}, 0.5), ({"optimizer.lr": 0.01, "optimizer": "adam"}, 0.2)]
    search = read_search(write_sweep(tmp_path, [LR_AXIS, OPTIMIZER_AXIS], points, sampler="tpe", trials=7))
    assert [a.key for a in search.axes] == ["optimizer.lr", "optimizer"]
    assert (search.objective, search.higher_is_better, search.sampler, search.n_planned) == (
        "val/loss",
        False,
        "tpe",
        7,
    )
    assert [(t.number, t.point, t.state, t.value, t.sd) for t in search.trials] == [
        (i, point, "done", value, None) for i, (point, value) in enumerate(points)
    ]
    assert search.best is search.trials[1]


@pytest.mark.parametrize(
    ("values", "direction", "ranking"),
    [
        ((0.1, 0.9, 0.5), "minimize", [0, 2, 1]),
        ((0.1, 0.9, 0.5), "maximize", [1, 2, 0]),
        ((1.0,) * 3, "minimize", [0, 1, 2]),
    ],
)
def test_trials_are_ranked_by_value_in_the_direction_of_the_search_and_then_by_number(
    values, direction, ranking, tmp_path
):
    points = [({"optimizer.lr": 0.1}, value) for value in values]
    search = read_search(write_sweep(tmp_path, [LR_AXIS], points, direction=direction))
    assert [t.number for t in search.ranked_trials] == ranking


def test_a_search_in_the_directory_of_another_is_not_a_trial_of_it(tmp_path):
    outer = write_sweep(tmp_path, [LR_AXIS], [({"optimizer.lr": x}, x) for x in (0.1, 0.9)])
    inner = write_sweep(tmp_path / "inner", [LR_AXIS], [({"optimizer.lr": 0.5}, 0.01)])
    assert [(t.number, t.value) for t in read_search(outer).trials] == [(0, 0.1), (1, 0.9)]
    assert [t.value for t in read_search(inner).trials] == [0.01]


def test_the_command_that_trains_the_best_again_has_no_key_that_its_option_lacks(tmp_path):
    points = [({"optimizer.lr": 0.1, "optimizer": "sgd"}, 0.1)]
    more = {"fixed": ["epochs=10", "optimizer.beta1=0.5"], "conditions": {"optimizer.beta1": "optimizer=adam"}}
    search = read_search(write_sweep(tmp_path, [LR_AXIS, OPTIMIZER_AXIS], points, **more))
    command = " ".join(format_retrain_command(search, search.fixed_overrides, 200))
    assert "optimizer=sgd" in command
    assert "beta1" not in command
    free = replace(search, conditions={})
    assert "beta1" in " ".join(format_retrain_command(free, search.fixed_overrides, 200))


ONE, TWO, SIX, GONE = (1.0, "done"), (2.0, "done"), (6.0, "done"), (None, "diverged")
MEDIAN = {"statistic": "median"}
RISES = MEDIAN | {"objective": "val/accuracy", "direction": "maximize"}
DIVERGED = ("diverged", None, None)
REPEATS = {
    "mean": ([ONE, TWO, SIX], {}, ("done", 3.0, statistics.stdev([1.0, 2.0, 6.0]))),
    "median": ([ONE, TWO, SIX], MEDIAN, ("done", 2.0, statistics.stdev([1.0, 2.0, 6.0]))),
    "no mean with one that diverged": ([ONE, TWO, GONE], {}, DIVERGED),
    "one that diverged is the worst for the median": ([ONE, TWO, GONE], MEDIAN, ("done", 2.0, statistics.stdev([1, 2]))),
    "also for a metric that rises": ([ONE, TWO, GONE], RISES, ("done", 1.0, statistics.stdev([1, 2]))),
    "no median with most of them": ([ONE, GONE, GONE], MEDIAN, DIVERGED),
    "nan diverged": ([ONE, TWO, (math.nan, "done")], {}, DIVERGED),
    "inf diverged": ([ONE, TWO, (math.inf, "done")], {}, DIVERGED),
    "nan is the worst": ([ONE, TWO, (math.nan, "done")], MEDIAN, ("done", 2.0, statistics.stdev([1, 2]))),
    "one whose process is gone": ([ONE, (2.0, "running")], {}, ("dead", None, None)),
    **{status: ([ONE, (2.0, status)], {}, (status, None, None)) for status in ("failed", "interrupted", "pruned")},
    "one without the objective": ([ONE, (None, "done")], {}, ("done", None, None)),
    "missing repeats": ([ONE, TWO], {"folds": 5}, ("interrupted", None, None)),
}  # fmt: skip


@pytest.mark.parametrize("name", REPEATS)
def test_state_value_and_deviation_of_a_trial_over_its_repeats(name, tmp_path):
    repeats, options, expected = REPEATS[name]
    write_sweep_json(tmp_path, [LR_AXIS], seeds=list(range(len(repeats))), **options)
    for i, (value, status) in enumerate(repeats):
        metric = options.get("objective", "val/loss")
        write_run(tmp_path / "0" / f"seed-{i}", {"optimizer.lr": 0.1, "seed": i}, value, status, metric=metric)
    (trial,) = read_search(tmp_path).trials
    assert (trial.state, trial.value, trial.sd) == pytest.approx(expected)


def test_a_running_trial_is_running(tmp_path):
    write_sweep_json(tmp_path, [LR_AXIS])
    run = RunWriter.create(tmp_path / "0", {"optimizer.lr": 0.1})
    assert [t.state for t in read_search(tmp_path).trials] == ["running"]
    run.finish("done", {"val/loss": 1.0})
    assert [t.state for t in read_search(tmp_path).trials] == ["done"]


def test_without_a_validation_split_training_is_compared(tmp_path):
    write_sweep_json(tmp_path, [LR_AXIS])
    write_run(tmp_path / "0", {"optimizer.lr": 0.1}, 0.3, metric="train/loss")
    search = read_search(tmp_path)
    assert (search.objective, search.best.value) == ("train/loss", 0.3)


def test_axes_of_numbers_and_of_text():
    assert make_choice_axis("x", ["0.1", "1e-2", "0.010", "1"]) == SearchAxis(
        "x", (0.01, 0.1, 1.0), 0.01, 1.0, True, False
    )
    assert make_choice_axis("x", ["1", "2", "3"]) == SearchAxis("x", (1.0, 2.0, 3.0), 1.0, 3.0, False, True)
    assert make_choice_axis("x", ["0", "0.1", "0.2"]).log is False
    assert make_choice_axis("x", ["100", "200", "500", "1000", "2000"]).log is True
    assert (make_choice_axis("x", ["0.1", "0.01"]).log, make_choice_axis("x", ["1", "2"]).log) == (True, False)
    assert make_choice_axis("x", ["null", "0.1"]) == SearchAxis("x", ("null", "0.1"))
    assert [canonicalize(v) for v in (0.1, "1e-1", None, True, "[l2, dropout]", "nan", 3)] == [
        "0.1", "0.1", "null", "true", "[l2,dropout]", "nan", "3",
    ]  # fmt: skip


def test_values_of_a_choice_are_read_from_the_settings(tmp_path):
    axes = [
        {"key": "clip.norm", "kind": "choice", "values": ["null", "1e-1"]},
        {"key": "regularization", "kind": "choice", "values": ["none", "[l2, dropout]"]},
        {"key": "+schedule@schedule.then", "kind": "choice", "values": ["cosine"]},
        {"key": "optimizer.beta1", "kind": "float", "low": 0.0, "high": 1.0, "log": False, "step": None},
    ]
    points = [{"clip.norm": None, "regularization": "none", "schedule.then": "cosine"},
              {"clip.norm": 0.1, "regularization": "[l2,dropout]", "optimizer.beta1": 0.5}]  # fmt: skip
    one, other = read_search(write_sweep(tmp_path, axes, [(p, 1.0) for p in points])).trials
    assert one.point == {"clip.norm": "null", "regularization": "none", "schedule.then": "cosine"}
    assert other.point == {"clip.norm": "0.1", "regularization": "[l2,dropout]", "optimizer.beta1": 0.5}


def test_without_sweep_json_the_axes_are_the_settings_that_vary(tmp_path):
    """Runs that differ only in the seed are repeats."""
    places = [(lr, seed) for lr in (0.1, 0.01) for seed in (0, 1)]
    for i, (lr, seed) in enumerate(places):
        write_run(tmp_path / str(i), {"optimizer.lr": lr, "seed": seed}, lr + seed)
    search = read_search(tmp_path)
    assert search.axes == (SearchAxis("optimizer.lr", (0.01, 0.1), 0.01, 0.1, True, False),)
    assert [(t.number, t.value, len(t.runs)) for t in search.trials] == [(0, pytest.approx(0.6), 2), (2, 0.51, 2)]
    assert (search.seeds, search.notice, search.fixed_overrides) == (2, "", None)
    assert search.best.path == tmp_path / "2"


def test_trials_with_other_names_get_the_next_numbers(tmp_path):
    write_sweep_json(tmp_path, [LR_AXIS])
    for name in ("3", "lr=0.1", "9" * 50, "12"):
        write_run(tmp_path / name, {"optimizer.lr": 0.1}, 1.0)
    numbers = {t.path.name: t.number for t in read_search(tmp_path).trials}
    assert numbers == {"3": 3, "12": 12, "lr=0.1": 13, "9" * 50: 14}


def test_other_files_and_folders_are_not_trials(tmp_path):
    folder = write_sweep(tmp_path, [LR_AXIS], [({"optimizer.lr": 0.1}, 1.0)])
    (folder / "0" / "mean").mkdir()
    (folder / "7").mkdir()
    (folder / "x.txt").write_text("x")
    assert len(read_search(folder).trials) == 1


DAMAGE = [
    "", "[]", "{", "null", '{"format": 2}', '{"format": 1}', "\x00", '{"format": 1' + " " * (1 << 21) + "}",
    *(json.dumps({"format": 1, "objective": "val/loss", "direction": "minimize", "axes": []} | wrong) for wrong in (
        {"axes": 3}, {"axes": [3]}, {"axes": [{}]}, {"axes": [{"key": "a", "kind": "choice", "values": []}]},
        {"axes": [{"key": "a", "kind": "float", "low": 1, "high": 0}]}, {"axes": [{"key": "a", "kind": "float"}]},
        {"axes": [{"key": "a", "kind": "float", "low": -1, "high": 1, "log": True}]}, {"axes": [LR_AXIS, LR_AXIS]},
        {"axes": [{"key": "a", "kind": "float", "low": 0, "high": 1e200}]}, {"seeds": 5}, {"folds": "x"},
        {"folds": -1}, {"trials": 1.5}, {"fixed": [1]}, {"command": "x"}, {"statistic": "mode"},
        {"direction": "sideways"}, {"objective": ""}, {"objective": 3}, {"sampler": [1]}, {"fixed": [[1] * 9999]},
    )),
]  # fmt: skip


def test_a_damaged_sweep_json_is_named_and_the_runs_are_shown(tmp_path):
    write_sweep(tmp_path, [LR_AXIS], [({"optimizer.lr": 0.1}, 1.0), ({"optimizer.lr": 0.2}, 0.5)])
    for content in DAMAGE:
        (tmp_path / "sweep.json").write_text(content)
        search = read_search(tmp_path)
        assert "sweep.json" in search.notice, content[:200]
        assert len(search.notice) < 600
        assert [a.key for a in search.axes] == ["optimizer.lr"]
        assert search.best.number == 1


def test_damaged_runs_are_failed_trials(tmp_path):
    """The other trials are read."""
    folder = write_sweep(tmp_path, [LR_AXIS], [({"optimizer.lr": 0.1}, 1.0)] * 4)
    (folder / "1" / "status.json").write_text("{")
    (folder / "2" / "summary.json").write_text('{"val/loss": "x"}')
    odd = json.loads((folder / "3" / "status.json").read_text())
    (folder / "3" / "status.json").write_text(json.dumps(odd | {"settings": {"optimizer.lr": [1]}}))
    (folder / "3" / "summary.json").write_text('{"val/loss": 1e300}')
    trials = read_search(folder).trials
    assert [(t.state, t.value) for t in trials] == [("done", 1.0), ("failed", None), ("done", None), ("done", None)]
    assert [t.point for t in trials] == [{"optimizer.lr": 0.1}, {}, {"optimizer.lr": 0.1}, {}]


def test_texts_of_sweep_json_contain_no_control_sequences(tmp_path):
    evil = "a\x1b[31m"
    axes = [{"key": evil, "kind": "choice", "values": [evil, "b"]}]
    search = read_search(write_sweep(tmp_path, axes, [({evil: evil}, 1.0)], sampler=evil, fixed=[evil], command=[evil]))
    (axis,), (trial,) = search.axes, search.trials
    texts = [axis.key, *axis.values, search.sampler, *search.fixed_overrides, *search.command, *trial.point.values()]
    assert all(str(text).isprintable() for text in texts)


def test_the_scale_of_an_axis():
    axis = SearchAxis("x", (), 1e-4, 1.0, True)
    assert [axis.share(x) for x in (1e-4, 1e-2, 1.0)] == pytest.approx([0.0, 0.5, 1.0])
    assert [axis.value({"x": x}) for x in (0.5, 0.0, -1.0, "much")] == [0.5, None, None, None]
    assert SearchAxis("x", (), 2.0, 6.0).share(3.0) == 0.25
    assert SearchAxis("x", (3.0,), 3.0, 3.0).share(3.0) == 0.0
