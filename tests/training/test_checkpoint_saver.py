"""When checkpoints are written, what a run can resume from, and that neither changes its result."""

import math
import os
import shutil
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from bits import find_differences, read_final_state
from faults import inject_fault
from helpers import build_blobs, interrupt_run, resume_run, train_runs

from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.metrics_log import decode_evaluations
from dlopt.rundir.writer import RunWriter
from dlopt.storage import checkpoint_file
from dlopt.training import checkpointing, recorder
from dlopt.training.best import Lane
from dlopt.training.checkpointing import CheckpointSaver
from dlopt.training.control import TrainingControl
from dlopt.training.loop import train
from dlopt.training.state import TrainState

HARD = ("optimizer=momentum", "normalization=batch", "regularization=[dropout,early_stopping]", "schedule=cosine",
        "log_every=2", "batch_size=13", "diagnostic=gradients", "checkpoint.every=2")  # fmt: skip
"""Twelve steps in three epochs, with everything that a checkpoint can hold."""
STEPS = [2, 4, 6, 8, 10, 12]


@pytest.fixture
def clock(monkeypatch):
    """Return a simulated clock."""
    now = SimpleNamespace(seconds=1e6)
    monkeypatch.setattr(checkpointing, "time", SimpleNamespace(monotonic=lambda: now.seconds, perf_counter=lambda: 0.0))
    return now


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the final state of an uninterrupted run that writes a checkpoint only at its end."""
    _, (run,) = train_runs(tmp_path_factory.mktemp("whole"), build_blobs(*HARD, "checkpoint.every=null"))
    return read_final_state(run)


# ------------------------------------------------------------------------------------------- when


def list_due(clock, seconds, *overrides):
    """Return whether a checkpoint is due each time so many seconds after the last one, after step 1."""
    saver = CheckpointSaver(TrainState([build_blobs(*overrides)]))
    start = clock.seconds
    due = []
    for passed in seconds:
        clock.seconds = start + passed
        due.append(saver.is_due(1))
    return due


def test_a_checkpoint_is_due_when_the_minutes_have_passed(clock):
    seconds = (0.0, 29.999, 30.0, 3000.0)
    assert list_due(clock, seconds, "checkpoint.minutes=0.5") == [False, False, True, True]
    assert list_due(clock, seconds, "checkpoint.minutes=0.5", "checkpoint.every=7") == [False, False, True, True]
    assert list_due(clock, seconds, "checkpoint.minutes=null", "checkpoint.every=7") == [False] * 4
    assert list_due(clock, seconds, "checkpoint.minutes=null", "checkpoint.every=1") == [True] * 4


def test_the_minutes_count_from_the_last_checkpoint(clock, tmp_path, monkeypatch):
    """A step takes ten seconds of this clock."""
    saved = []
    apply_step, save = TrainState.apply_step, CheckpointSaver.save

    def apply_slowly(training, *arguments):
        clock.seconds += 10
        apply_step(training, *arguments)

    def record_and_save(saver, *arguments):
        saved.append(saver.training.step)
        save(saver, *arguments)

    monkeypatch.setattr(TrainState, "apply_step", apply_slowly)
    monkeypatch.setattr(CheckpointSaver, "save", record_and_save)
    expected = {
        ("checkpoint.minutes=0.5",): [3, 6, 9],
        ("checkpoint.minutes=0.45",): [3, 6, 9],
        ("checkpoint.minutes=0.5", "checkpoint.every=4"): [3, 4, 7, 8, 9],
        ("checkpoint.minutes=0.5", "checkpoint.every=2"): [2, 4, 6, 8, 9],
        ("checkpoint.minutes=null",): [9],
        ("checkpoint.minutes=null", "checkpoint.every=3"): [3, 6, 9],
    }
    for i, (overrides, steps) in enumerate(expected.items()):
        saved.clear()
        train_runs(tmp_path / str(i), build_blobs(*overrides))
        assert saved == steps, overrides


def test_the_checkpoint_at_the_end_is_not_due(clock):
    saver = CheckpointSaver(TrainState([build_blobs("checkpoint.every=1", "checkpoint.minutes=1")]))
    clock.seconds += 100
    assert [saver.is_due(step) for step in (7, 8, 9, 10)] == [True, True, False, False]


# ------------------------------------------------------------------------------------------- what


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_a_run_resumes_from_any_of_its_checkpoints_to_the_same_bits(keep, whole, tmp_path):
    """After newer checkpoints were removed or damaged."""
    experiment = build_blobs(*HARD, f"checkpoint.keep={keep}")
    _, (run,) = train_runs(tmp_path, experiment)
    assert find_differences(read_final_state(run), whole) == []
    newest = [run.checkpoint("last"), *run.older_checkpoints().values()]
    steps = [checkpoint_file.load(file)["step"] for file in newest]
    assert steps == STEPS[::-1][:keep]
    for age, step in enumerate(steps):
        for way in ("removed", "damaged"):
            copy = RunDirectory(shutil.copytree(run.path, tmp_path / f"{way} {age}"))
            for file in newest[:age]:
                place = copy.path / file.relative_to(run.path)
                place.unlink() if way == "removed" else place.write_bytes(file.read_bytes()[:-100])
            assert copy.latest_checkpoint().content["step"] == step
            _, copy = resume_run(copy.path, experiment)
            assert find_differences(read_final_state(copy), whole) == [], (way, step)
            assert len(list(copy.path.glob("checkpoints/*damaged*"))) == (age if way == "damaged" else 0)
            assert len(copy.older_checkpoints()) == keep - 1 or step == 12


def test_the_settings_of_checkpoints_do_not_change_the_result(whole, clock, tmp_path):
    for i, overrides in enumerate(
        (
            ("checkpoint.every=1", "checkpoint.keep=5"),
            ("checkpoint.every=5", "checkpoint.minutes=null"),
            ("checkpoint.every=null", "checkpoint.minutes=1e-9"),
        )
    ):
        _, (run,) = train_runs(tmp_path / str(i), build_blobs(*HARD, *overrides))
        assert find_differences(read_final_state(run), whole) == [], overrides


def test_an_interrupted_write_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    run = RunWriter.create(tmp_path, {})
    run.save("last", {"step": 1, "w": torch.zeros(3)})

    def interrupt(stream, content):
        stream.write(b"a part")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(checkpoint_file, "write", interrupt)
        run.save("last", {"step": 2, "w": torch.ones(3)})
    assert run.load("last")["step"] == 1
    assert [file.name for file in run.checkpoint("last").parent.iterdir()] == ["last.safetensors"]
    run.finish("done", {})


def test_each_lane_has_its_own_checkpoints(tmp_path):
    _, runs = train_runs(
        tmp_path, *(build_blobs("checkpoint.every=2", "checkpoint.keep=3", f"seed={i}") for i in range(2))
    )
    for run in runs:
        assert list(run.older_checkpoints()) == [8, 6]
    first, second = (checkpoint_file.load(run.checkpoint_after(6))["model"] for run in runs)
    assert not any(torch.equal(first[name], second[name]) for name in first)


def test_a_lane_is_restored_from_its_content(tmp_path):
    """Every bit of its numbers, NaN too, and the best row."""
    experiment = build_blobs()
    rows = [{"step": s, "epoch": s / 3, "val/loss": loss} for s, loss in ((3, math.pi), (6, 0.1 + 0.2), (9, math.nan))]
    lane = Lane(experiment, RunDirectory(tmp_path), 0)
    for lane.row in rows:
        lane.record_evaluation()
    lane.best = rows[1]
    restored = Lane(experiment, RunDirectory(tmp_path), 0)
    restored.restore(lane.content(), rows)
    assert repr((restored.row, restored.encoded_rows, restored.best)) == repr((lane.row, lane.encoded_rows, lane.best))
    assert repr(decode_evaluations(restored.content())) == repr(rows)
    restored.restore(Lane(experiment, RunDirectory(tmp_path), 0).content(), [])
    assert (restored.row, restored.encoded_rows, restored.best) == ({}, bytearray(), None)


@pytest.mark.parametrize(("objective", "values", "best"), [
    ("val/loss", [3.0, 2.0, 2.0, None, math.nan, math.inf, 2.5, -1.0], [0, 1, 7]),
    ("val/accuracy", [None, 0.5, 0.4, 0.5, math.nan, 0.6, math.inf], [1, 5]),
])  # fmt: skip
def test_a_row_is_the_best_if_it_is_better_than_all_before(objective, values, best, tmp_path):
    lane = Lane(build_blobs(f"objective={objective}"), RunDirectory(tmp_path), 0)
    improvements = []
    for i, value in enumerate(values):
        lane.row = {"step": i, objective: value}
        if lane.is_best():
            lane.best = lane.row
            improvements.append(i)
    assert improvements == best


def test_best_weights_after_the_checkpoint_are_reached_again(tmp_path):
    """The best weights on disk are of a later step than the older checkpoint."""
    experiment = build_blobs("checkpoint.every=2", "checkpoint.keep=4", "optimizer.lr=0.05")
    _, (run,) = train_runs(tmp_path, experiment)
    state = read_final_state(run)
    assert run.load("best")["step"] == 9
    for removed in ([run.checkpoint("last")], run.checkpoint("last").parent.glob("[ls]*.safetensors")):
        for checkpoint in removed:
            checkpoint.unlink()
        assert run.load("best")["step"] == 9
        _, run = resume_run(run.path, experiment)
        assert find_differences(read_final_state(run), state) == []


def test_a_run_that_resumes_before_its_first_evaluation_has_no_best_weights(tmp_path):
    experiment = build_blobs("checkpoint.every=2", "checkpoint.keep=4")
    _, (run,) = train_runs(tmp_path, experiment)
    interrupt_run(tmp_path / "early", 2, experiment)
    run.checkpoint("best").rename(tmp_path / "early/checkpoints/best.safetensors")
    _, run = resume_run(tmp_path / "early", experiment, TrainingControl(2))
    assert not run.checkpoint("best").exists()
    _, run = resume_run(run.path, experiment)
    assert run.load("best")["step"] == run.summary["best/step"]


# ------------------------------------------------------------------------------------------- on the disk


def test_rows_reach_the_disk_before_a_checkpoint_that_counts_them(tmp_path):
    """Rows and events that were written are synchronized before the checkpoint gets its name."""
    with inject_fault(tmp_path, None) as disk:
        train_runs(tmp_path, build_blobs("log_every=1", "checkpoint.every=2", "diagnostic=histograms"))
    written, pending, checkpoints = set(), set(), 0
    for operation, path in disk.operations:
        name = Path(path).name.partition(".")[0]
        if operation == "write" and name in ("metrics", "events"):
            pending.add(path)
            written.add(name)
        elif operation == "fsync":
            pending.discard(path)
        elif operation == "replace" and name == "last":
            assert not pending
            checkpoints += 1
    assert written == {"metrics", "events"}
    assert checkpoints == 5


@pytest.mark.parametrize("end", ["done", "diverged"])
def test_names_reach_the_disk_before_the_run_is_finished(end, tmp_path, monkeypatch):
    """A name is pending until its folder is synchronized; no name is pending when status.json is replaced."""
    pending, at_replace = set(), {}
    replace = os.replace

    def sync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            pending.difference_update([p for p in pending if os.path.samestat(os.fstat(descriptor), p.parent.stat())])

    def record_and_replace(new, file):
        if file.name in ("status.json", "last.safetensors"):
            at_replace.setdefault(file.name, []).append({p.name for p in pending})
        replace(new, file)
        pending.add(file)

    diverging = ["optimizer=sgd", "optimizer.lr=1e30"] if end == "diverged" else []
    experiment = build_blobs("checkpoint.every=4", *diverging)
    run = RunWriter.create(tmp_path / "run")
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", record_and_replace)
    (summary,) = train([experiment], [run])
    assert summary["status"] == end
    assert pending == set()
    assert at_replace["status.json"] == [set()]
    others = [n for names in at_replace.get("last.safetensors", []) for n in names if not n.startswith("step-")]
    assert set(others) <= {"best.safetensors"}, "and the previous checkpoint, which was just renamed"


def test_the_test_split_is_evaluated_once_if_the_last_weights_are_the_best(tmp_path, monkeypatch):
    calls = []
    evaluate = recorder.evaluate

    def count_and_evaluate(problem, w, *rest):
        calls.append(w.clone())
        return evaluate(problem, w, *rest)

    monkeypatch.setattr(recorder, "evaluate", count_and_evaluate)
    for lr, times in (("0.001", 1), ("10.0", 2)):
        calls.clear()
        (summary,), _ = train_runs(tmp_path / lr, build_blobs("optimizer=sgd", f"optimizer.lr={lr}"))
        assert len(calls) == 3 + times, "one of the validation split for each epoch"
        metrics = {key: value for key, value in summary.items() if key.startswith("test/")}
        assert (metrics == {k: summary[f"last/{k}"] for k in metrics}) == (times == 1)
