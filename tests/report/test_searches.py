"""A search as it lies on the disk: axes, trials, their states and values, whatever the files hold."""

import json
import math
import statistics
import time

import pytest
from sweeps import LR_AXIS, OPTIMIZER_AXIS, write_run, write_sweep, write_sweep_json

from dlopt.analysis.search_axis import SearchAxis, canonicalize, make_choice_axis
from dlopt.analysis.search_record import read_search
from dlopt.rundir.writer import RunWriter


def test_a_sweep_of_one_run_each(tmp_path):
    points = [({"optimizer.lr": 0.1, "optimizer": "sgd"}, 0.5), ({"optimizer.lr": 0.01, "optimizer": "adam"}, 0.2)]
    found = read_search(write_sweep(tmp_path, [LR_AXIS, OPTIMIZER_AXIS], points, sampler="tpe", trials=7))
    assert [a.key for a in found.axes] == ["optimizer.lr", "optimizer"]
    assert (found.objective, found.higher_is_better, found.sampler, found.n_planned) == ("val/loss", False, "tpe", 7)
    assert [(t.number, t.point, t.state, t.value, t.sd) for t in found.trials] == [
        (i, point, "done", value, None) for i, (point, value) in enumerate(points)
    ]
    assert found.best is found.trials[1]


def test_more_is_better_where_the_search_says_so(tmp_path):
    found = read_search(
        write_sweep(tmp_path, [LR_AXIS], [({"optimizer.lr": x}, x) for x in (0.1, 0.9, 0.5)], direction="maximize")
    )
    assert [t.number for t in found.ranked_trials] == [1, 2, 0]


def test_of_equal_trials_the_earlier_is_the_better(tmp_path):
    found = read_search(write_sweep(tmp_path, [LR_AXIS], [({"optimizer.lr": x}, 1.0) for x in (0.1, 0.9, 0.5)]))
    assert [t.number for t in found.ranked_trials] == [0, 1, 2]


def test_a_search_in_the_directory_of_another_is_no_trial_of_it(tmp_path):
    rates = [({"optimizer.lr": x}, x) for x in (0.1, 0.9)]
    outer, inner = (
        write_sweep(tmp_path, [LR_AXIS], rates),
        write_sweep(tmp_path / "inner", [LR_AXIS], [({"optimizer.lr": 0.5}, 0.01)]),
    )
    assert [(t.number, t.value) for t in read_search(outer).trials] == [(0, 0.1), (1, 0.9)]
    assert [t.value for t in read_search(inner).trials] == [0.01]


def repeated(folder, *repeats, **more):
    """A sweep of one trial with these repeats, (value, status) each; what is read of it."""
    write_sweep_json(folder, [LR_AXIS], seeds=list(range(len(repeats))), **more)
    for i, (value, status) in enumerate(repeats):
        metric = more.get("objective", "val/loss")
        write_run(folder / "0" / f"seed-{i}", {"optimizer.lr": 0.1, "seed": i}, value, status, metric=metric)
    (trial,) = read_search(folder).trials
    return trial.state, trial.value, trial.sd


def test_a_trial_is_the_mean_over_its_repeats(tmp_path):
    sd = statistics.stdev([1.0, 2.0, 6.0])
    values = [(1.0, "done"), (2.0, "done"), (6.0, "done")]
    assert repeated(tmp_path / "a", *values) == pytest.approx(("done", 3.0, sd))
    assert repeated(tmp_path / "b", *values, statistic="median") == pytest.approx(("done", 2.0, sd))


def test_a_repeat_that_diverged_is_the_worst_for_the_median_and_leaves_no_mean(tmp_path):
    one, two = (1.0, "done"), (2.0, "done")
    gone = (None, "diverged")
    assert repeated(tmp_path / "a", one, two, gone) == ("diverged", None, None)
    assert repeated(tmp_path / "b", one, two, gone, statistic="median")[:2] == ("done", 2.0)
    rises = {"objective": "val/accuracy", "direction": "maximize"}
    assert repeated(tmp_path / "c", one, two, gone, statistic="median", **rises)[:2] == ("done", 1.0)
    assert repeated(tmp_path / "d", one, gone, gone, statistic="median") == ("diverged", None, None)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_repeat_whose_value_is_no_number_counts_as_one_that_diverged(value, tmp_path):
    values = [(1.0, "done"), (2.0, "done"), (value, "done")]
    assert repeated(tmp_path / "a", *values) == ("diverged", None, None)
    assert repeated(tmp_path / "b", *values, statistic="median")[:2] == ("done", 2.0)


@pytest.mark.parametrize(
    ("status", "state"),
    [("running", "dead"), ("failed", "failed"), ("interrupted", "interrupted"), ("pruned", "pruned")],
)
def test_a_trial_whose_repeats_are_not_all_done_has_no_value(status, state, tmp_path):
    assert repeated(tmp_path, (1.0, "done"), (2.0, status)) == (state, None, None)


def test_a_repeat_without_the_objective_leaves_no_value(tmp_path):
    assert repeated(tmp_path, (1.0, "done"), (None, "done")) == ("done", None, None)


def test_a_trial_that_lacks_repeats_is_interrupted(tmp_path):
    assert repeated(tmp_path, (1.0, "done"), (2.0, "done"), folds=5)[0] == "interrupted"


def test_a_running_trial_is_running(tmp_path):
    write_sweep_json(tmp_path, [LR_AXIS])
    made = RunWriter.create(tmp_path / "0", {"optimizer.lr": 0.1})
    assert [t.state for t in read_search(tmp_path).trials] == ["running"]
    made.finish("done", {"val/loss": 1.0})
    assert [t.state for t in read_search(tmp_path).trials] == ["done"]


def test_a_done_trial_without_the_objective_has_no_value(tmp_path):
    found = read_search(write_sweep(tmp_path, [LR_AXIS], [({"optimizer.lr": 0.1}, None), ({"optimizer.lr": 0.2}, 1.0)]))
    assert [(t.state, t.value) for t in found.trials] == [("done", None), ("done", 1.0)]


def test_without_a_validation_split_training_is_compared(tmp_path):
    write_sweep_json(tmp_path, [LR_AXIS])
    write_run(tmp_path / "0", {"optimizer.lr": 0.1}, 0.3, metric="train/loss")
    found = read_search(tmp_path)
    assert (found.objective, found.best.value) == ("train/loss", 0.3)


def test_numbers_and_text_as_they_are_typed():
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


def test_values_of_a_choice_are_found_in_the_settings(tmp_path):
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


def test_a_sweep_of_an_earlier_version_is_described_by_what_varies(tmp_path):
    """Without sweep.json; runs that differ in the seed alone are repeats."""
    places = [(lr, seed) for lr in (0.1, 0.01) for seed in (0, 1)]
    for i, (lr, seed) in enumerate(places):
        write_run(tmp_path / str(i), {"optimizer.lr": lr, "seed": seed}, lr + seed)
    found = read_search(tmp_path)
    assert found.axes == (SearchAxis("optimizer.lr", (0.01, 0.1), 0.01, 0.1, True, False),)
    assert [(t.number, t.value, len(t.runs)) for t in found.trials] == [(0, pytest.approx(0.6), 2), (2, 0.51, 2)]
    assert (found.seeds, found.notice, found.fixed_overrides) == (2, "", None)
    assert found.best.path == tmp_path / "2"


def test_trials_by_other_names_are_numbered_behind_the_others(tmp_path):
    write_sweep_json(tmp_path, [LR_AXIS])
    for name in ("3", "lr=0.1", "9" * 50, "12"):
        write_run(tmp_path / name, {"optimizer.lr": 0.1}, 1.0)
    assert {t.path.name: t.number for t in read_search(tmp_path).trials} == {
        "3": 3,
        "12": 12,
        "lr=0.1": 13,
        "9" * 50: 14,
    }


def test_what_is_no_run_is_no_trial(tmp_path):
    found = write_sweep(tmp_path, [LR_AXIS], [({"optimizer.lr": 0.1}, 1.0)])
    (found / "0" / "mean").mkdir()
    (found / "7").mkdir()
    (found / "x.txt").write_text("x")
    assert len(read_search(found).trials) == 1


DAMAGE = [
    "", "[]", "{", "null", '{"format": 2}', '{"format": 1}', "\x00", '{"format": 1' + " " * (1 << 21) + "}",
    *(json.dumps({"format": 1, "objective": "val/loss", "direction": "minimize", "axes": []} | wrong) for wrong in (
        {"axes": 3}, {"axes": [3]}, {"axes": [{}]}, {"axes": [{"key": "a", "kind": "choice", "values": []}]},
        {"axes": [{"key": "a", "kind": "float", "low": 1, "high": 0}]}, {"axes": [{"key": "a", "kind": "float"}]},
        {"axes": [{"key": "a", "kind": "float", "low": -1, "high": 1, "log": True}]}, {"axes": [LR_AXIS, LR_AXIS]},
        {"axes": [{"key": "a", "kind": "float", "low": 0, "high": 1e200}]}, {"seeds": 5}, {"folds": "x"},
        {"folds": -1}, {"trials": 1.5}, {"fixed": [1]}, {"command": "x"}, {"statistic": "mode"},
        {"direction": "sideways"}, {"objective": ""}, {"objective": 3},
    )),
]  # fmt: skip


@pytest.mark.parametrize("content", DAMAGE, ids=range(len(DAMAGE)))
def test_a_damaged_description_is_named_and_the_runs_are_shown(content, tmp_path):
    write_sweep(tmp_path, [LR_AXIS], [({"optimizer.lr": 0.1}, 1.0), ({"optimizer.lr": 0.2}, 0.5)])
    (tmp_path / "sweep.json").write_text(content)
    found = read_search(tmp_path)
    assert "sweep.json" in found.notice
    assert [a.key for a in found.axes] == ["optimizer.lr"]
    assert found.best.number == 1


def test_damaged_runs_are_failed_trials(tmp_path):
    """Each file of a run may hold anything; the other trials are read."""
    trials = [({"optimizer.lr": 0.1}, 1.0)] * 4
    folder = write_sweep(tmp_path, [LR_AXIS], trials)
    (folder / "1" / "status.json").write_text("{")
    (folder / "2" / "summary.json").write_text('{"val/loss": "x"}')
    odd = json.loads((folder / "3" / "status.json").read_text())
    (folder / "3" / "status.json").write_text(json.dumps(odd | {"settings": {"optimizer.lr": [1]}}))
    (folder / "3" / "summary.json").write_text('{"val/loss": 1e300}')
    found = read_search(folder).trials
    assert [(t.state, t.value) for t in found] == [("done", 1.0), ("failed", None), ("done", None), ("done", None)]
    assert [t.point for t in found] == [{"optimizer.lr": 0.1}, {}, {"optimizer.lr": 0.1}, {}]


def test_text_of_a_description_is_fit_for_a_terminal(tmp_path):
    evil = "a\x1b[31m"
    axes = [{"key": evil, "kind": "choice", "values": [evil, "b"]}]
    found = read_search(
        write_sweep(tmp_path, axes, [({evil: evil}, 1.0)], sampler=evil, fixed=[evil], objective="val/loss")
    )
    shown = [
        found.axes[0].key,
        *found.axes[0].values,
        found.sampler,
        *found.fixed_overrides,
        *found.trials[0].point.values(),
    ]
    assert all(str(text).isprintable() for text in shown)


def test_ten_thousand_runs_are_read_in_seconds(tmp_path):
    """Two thousand here, in a fifth of the time."""
    folder = write_sweep(tmp_path, [LR_AXIS], [({"optimizer.lr": 0.1}, 1.0)])
    status, summary = ((folder / "0" / name).read_bytes() for name in ("status.json", "summary.json"))
    for i in range(1, 2000):
        (folder / str(i)).mkdir()
        (folder / str(i) / "status.json").write_bytes(status)
        (folder / str(i) / "summary.json").write_bytes(summary)
    began = time.process_time()
    assert len(read_search(folder).trials) == 2000
    assert time.process_time() - began < 2.0


def test_the_scale_of_an_axis():
    axis = SearchAxis("x", (), 1e-4, 1.0, True)
    assert [axis.share(x) for x in (1e-4, 1e-2, 1.0)] == pytest.approx([0.0, 0.5, 1.0])
    assert [axis.value({"x": x}) for x in (0.5, 0.0, -1.0, "much")] == [0.5, None, None, None]
    assert SearchAxis("x", (), 2.0, 6.0).share(3.0) == 0.25
    assert SearchAxis("x", (3.0,), 3.0, 3.0).share(3.0) == 0.0
