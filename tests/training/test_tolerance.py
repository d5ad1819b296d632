"""Runs that end at a tolerance: the step, the last row and the files, alone and in lanes, resumed and extended."""

import dataclasses

import pytest
import torch
from helpers import build_blobs, interrupt_run, load_weights, make_option, read_rows, resume_run, train_runs

from dlopt.training.control import TrainingControl
from dlopt.training.experiment import ToleranceSettings

CLOCK = ("seconds", "steps_per_second", "peak_memory")
NORMS = ("gradient/norm", "update/norm")
COMMON = ("precision=float64", "optimizer=momentum", "optimizer.lr=0.1", "epochs=10")


def measure_norms(folder, *overrides):
    """Return the norms of gradient and step after each step of a run, by diagnostics that are tested elsewhere."""
    watched = ("diagnostic=[gradients,custom]", "diagnostic.gradients.every=1", "+diagnostic.custom.every=1",
               "diagnostic.custom._target_=mine.StepLength")  # fmt: skip
    _, (run,) = train_runs(folder, build_blobs(*overrides, *watched))
    return [(row["gradient/norm"], row["mine/moved"]) for row in run.rows()]


def choose_tolerance(norms, step):
    """Return the smallest value so far after this many steps, and the step that reaches it first."""
    value = min(norms[:step])
    return value, norms.index(value) + 1


PROBLEMS = {
    "mini-batches, clipped": ("batch_size=13", "log_every=3", "clip.norm=0.01"),
    "evaluations every second epoch": ("eval_every=2",),
    "penalties, a shrinking of weights, and dropout": ("regularization=[l2,weight_decay,dropout]", "normalization=batch"),
    "averaged weights are the best": ("averaging=ema", "objective=average/val/loss"),
    "no validation": ("validation.fraction=0", "micro_batch_size=5"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["gradient", "step"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_a_run_ends_at_the_first_step_within_the_tolerance_as_a_run_of_that_length(name, kind, tmp_path):
    overrides = (*COMMON, *PROBLEMS[name])
    norms = measure_norms(tmp_path / "watched", *overrides)
    column = [pair[kind == "step"] for pair in norms]
    tolerance, end = choose_tolerance(column, 21)  # the end of an epoch without an evaluation, if it is the smallest
    experiment = build_blobs(*overrides, f"tolerance.{kind}={tolerance!r}")
    (summary,), (run,) = train_runs(tmp_path / "run", experiment)
    assert run.status["status"] == "done"
    assert (summary["step"], summary.pop("ended_by")) == (end, f"tolerance.{kind}")
    (expected,), (twin,) = train_runs(tmp_path / "twin", build_blobs(*overrides, f"steps={end}"))
    rows = read_rows(run)
    assert rows[-1][NORMS[kind == "step"]] == tolerance
    assert rows[-1]["gradient/norm"] == norms[end - 1][0]
    assert [{k: v for k, v in row.items() if k not in NORMS} for row in rows] == read_rows(twin)
    assert {k: v for k, v in summary.items() if k not in CLOCK} == {k: v for k, v in expected.items() if k not in CLOCK}
    for which in ("last", "best"):
        assert torch.equal(load_weights(run, which), load_weights(twin, which))


def test_every_row_holds_the_norms_of_its_step(tmp_path):
    norms = measure_norms(tmp_path / "watched", *COMMON, "log_every=2", "epochs=4")
    _, (run,) = train_runs(tmp_path / "run", build_blobs(*COMMON, "log_every=2", "epochs=4", "tolerance.step=1e-30"))
    found = {row["step"]: (row["gradient/norm"], row["update/norm"]) for row in run.rows()}
    assert found == {step: norms[step - 1] for step in (2, 3, 4, 6, 8, 9, 10, 12)}


def test_lanes_end_where_runs_alone_end(tmp_path):
    """At different steps, between the rows of the others, whose rows, checkpoints and best weights do not change."""
    common = (*COMMON, "epochs=9", "log_every=7", "eval_every=2", "averaging=ema", "optimizer=sgd",
              "diagnostic=gradients", "diagnostic.gradients.every=4", "checkpoint.every=5")  # fmt: skip
    choices = [("optimizer.lr=0.1",), ("optimizer.lr=0.4", "seed=1"), ("optimizer.lr=1e300",), ("optimizer.lr=0.9",)]
    norms = [g for g, _ in measure_norms(tmp_path / "watched", *common, *choices[1])]
    tolerance = f"tolerance.gradient={1.0001 * choose_tolerance(norms, 20)[0]}"
    experiments = [build_blobs(*common, *choice, tolerance) for choice in choices]
    summaries, lanes = train_runs(tmp_path / "lanes", *experiments)
    ends = set()
    for i, experiment in enumerate(experiments):
        (summary,), (alone,) = train_runs(tmp_path / f"alone-{i}", experiment)
        ends.add((summary["status"], summary["step"]))
        assert summaries[i].get("ended_by") == summary.get("ended_by")
        assert summaries[i]["step"] == summary["step"]
        assert summaries[i]["best/step"] == summary["best/step"]
        assert lanes[i].status["status"] == alone.status["status"]
        if summary["status"] == "done":
            assert [row["step"] for row in lanes[i].rows()] == [row["step"] for row in alone.rows()]
            for found, expected in zip(read_rows(lanes[i]), read_rows(alone), strict=True):
                assert found == pytest.approx(expected, rel=1e-6)
            torch.testing.assert_close(load_weights(lanes[i], "best"), load_weights(alone, "best"))
        assert sorted(lanes[i].older_checkpoints()) == sorted(alone.older_checkpoints())
    assert len(ends) == 4


def test_a_run_resumed_before_its_end_ends_in_the_same_bits(tmp_path):
    overrides = (*COMMON, "log_every=4", "batch_size=13", "tolerance.gradient=0.02", "tolerance.step=1e-3")
    (whole,), (straight,) = train_runs(tmp_path / "straight", build_blobs(*overrides))
    assert whole["ended_by"]
    for stop in (whole["step"] - 1, 2):
        run = interrupt_run(tmp_path / str(stop), stop, build_blobs(*overrides))
        assert "ended_by" not in run.summary
        summary, run = resume_run(run.path, build_blobs(*overrides))
        assert read_rows(run) == read_rows(straight)
        assert torch.equal(load_weights(run), load_weights(straight))
        assert {k: v for k, v in summary.items() if k not in CLOCK} == {
            k: v for k, v in whole.items() if k not in CLOCK
        }


def test_a_finished_run_takes_no_step_unless_its_tolerance_is_smaller(tmp_path):
    overrides = (*COMMON, "batch_size=full", "epochs=40", "eval_every=7", "optimizer=sgd")
    ended = build_blobs(*overrides, "tolerance.gradient=0.5")
    (whole,), (run,) = train_runs(tmp_path, ended)
    rows = run.rows()
    again, run = resume_run(run.path, build_blobs(*overrides, "tolerance.gradient=0.5", "epochs=50"))
    assert (again["step"], again["ended_by"], run.rows()) == (whole["step"], "tolerance.gradient", rows)
    further, run = resume_run(run.path, build_blobs(*overrides, "tolerance.gradient=0.4"))
    assert whole["step"] < further["step"] < 40
    end, run = resume_run(run.path, build_blobs(*overrides))
    assert end["step"] == 40
    assert "ended_by" not in end


def test_a_refused_step_does_not_end_a_run(tmp_path):
    """Levenberg-Marquardt refuses the first steps, which are far too long: w stays as it is."""
    newton = ("optimizer=newton", "optimizer.adapt=levenberg_marquardt", "optimizer.lr=1000")
    overrides = ("precision=float64", "batch_size=full", "steps=5", *newton)
    moved = [change for _, change in measure_norms(tmp_path / "watched", *overrides)]
    assert moved[0] == 0.0
    (summary,), _ = train_runs(tmp_path / "run", build_blobs(*overrides, "tolerance.step=1e-6"))
    assert summary["step"] == 5


def test_a_request_to_stop_at_the_same_step_finds_a_run_that_is_done(tmp_path):
    class Stop(TrainingControl):
        def on_row(self, run, row):
            self.stop = self.is_pruned = True

    (summary,), (run,) = train_runs(tmp_path, build_blobs(*COMMON, "tolerance.gradient=1e6"), control=Stop())
    assert (summary["step"], summary["status"], run.status["status"]) == (1, "done", "done")


@pytest.mark.parametrize(("row", "reached"), [
    ({"gradient/norm": 0.1, "update/norm": 1.0}, "tolerance.gradient"),
    ({"gradient/norm": 0.2, "update/norm": 0.5}, "tolerance.step"),
    ({"gradient/norm": 0.0, "update/norm": 0.4}, "tolerance.gradient and tolerance.step"),
    ({"gradient/norm": 0.2, "update/norm": 0.0}, ""),
    ({"gradient/norm": float("nan"), "update/norm": float("nan")}, ""),
    ({"gradient/norm": float("inf"), "update/norm": float("inf")}, ""),
    ({}, ""),
])  # fmt: skip
def test_tolerances_are_bounds_of_finite_norms(row, reached):
    assert ToleranceSettings(0.1, 0.5).describe_reached(row) == reached
    assert ToleranceSettings(None, None).describe_reached(row) == ""


def test_a_run_with_an_infinite_iterate_has_diverged_also_within_a_tolerance(tmp_path):
    optimizer = make_option("optimizer", "sgd")

    class Infinite(type(optimizer)):
        def step(self, w, state, objective):
            result = super().step(w, state, objective)
            return result._replace(w=torch.full_like(w, torch.inf), gradient=torch.zeros_like(w))

    experiment = build_blobs(*COMMON, "optimizer=sgd", "tolerance.gradient=1e-3", "steps=5")
    experiment = dataclasses.replace(experiment, optimizer=Infinite(0.1))
    (summary,), (run,) = train_runs(tmp_path, experiment)
    assert summary["status"] == run.status["status"] == "diverged"
