"""A replayed part of a run has the same bits and leaves the run unchanged."""

import pytest
import torch
from helpers import build_blobs, interrupt_run, read_rows, train_runs

from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.writer import RunWriter
from dlopt.training import replay
from dlopt.training.checkpointing import STATE_KEYS
from dlopt.training.control import TrainingControl
from dlopt.training.loop import train
from dlopt.training.replay import CheckpointIndex, StepRange

HARD = ("optimizer=momentum", "normalization=batch", "regularization=dropout", "schedule=cosine", "log_every=1",
        "checkpoint.every=2", "checkpoint.keep=4")  # fmt: skip


@pytest.fixture(scope="module")
def experiment():
    return build_blobs(*HARD)


@pytest.fixture(scope="module")
def run(experiment, tmp_path_factory):
    return train_runs(tmp_path_factory.mktemp("run"), experiment)[1][0]


def test_the_index_lists_checkpoints_by_their_steps_oldest_first(run):
    index = CheckpointIndex.of(run)
    assert list(index.files) == [4, 6, 8, 9]
    assert [index.load(step)["step"] for step in index.files] == [4, 6, 8, 9]
    assert list(CheckpointIndex.of(RunDirectory(run.path / "nothing")).files) == []


def test_a_file_that_was_replaced_by_another_step_is_refused(run):
    with pytest.raises(ValueError, match=r"last\.safetensors was after step 7, and is after step 9 now"):
        CheckpointIndex({7: run.checkpoint("last")}).load(7)


@pytest.mark.parametrize("part", [StepRange(0, 9), StepRange(0, 5), StepRange(4, 6), StepRange(6, 7), StepRange(8, 9)])
def test_a_replayed_part_has_the_rows_and_the_state_of_the_run(part, experiment, run, tmp_path):
    index = CheckpointIndex.of(run)
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    state = index.load(part.begin) if part.begin else None
    copy = replay.replay(experiment, run, state, part, tmp_path / "copy", TrainingControl())
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before
    steps = [row["step"] for row in replay.rows_in(copy, part)]
    assert steps == [row["step"] for row in replay.rows_in(run, part)] == list(range(part.begin + 1, part.end + 1))
    assert read_rows(copy)[part.begin :] == read_rows(run)[part.begin : part.end]
    assert copy.latest_checkpoint().content["step"] == part.end
    if part.end in index.files:
        assert replay.differing_entries(index.load(part.end), copy.latest_checkpoint().content) == []


@pytest.mark.parametrize("name", STATE_KEYS)
def test_differing_entries_of_two_checkpoints_are_named(name, run):
    content = run.load("last")
    assert replay.differing_entries(content, content | {name: torch.ones(1)}) == [name]
    assert replay.differing_entries({k: v for k, v in content.items() if k != name}, content) == (
        [] if content[name] is None else [name]
    )
    assert replay.differing_entries(content, content | {"seconds": -1.0, "settings": {}, "history": "x"}) == []


@pytest.mark.parametrize("until", [1, 8, 9, 20, None])
def test_training_stops_at_until_or_at_its_end(until, experiment, tmp_path):
    control = TrainingControl(until)
    run = RunWriter.create(tmp_path)
    (summary,) = train([experiment], [run], control)
    assert summary["step"] == control.step == min(until or 9, 9)
    assert control.steps == 9
    assert summary["status"] == ("interrupted" if (until or 9) < 9 else "done")


def test_a_run_that_is_already_at_until_takes_no_step(experiment, tmp_path):
    run = interrupt_run(tmp_path, 4, experiment)
    content = run.load("last")
    run.lock.acquire()
    run.rollback(run.latest_checkpoint())
    run.resume(4)
    (summary,) = train([experiment], [run], TrainingControl(4), content)
    assert (summary["step"], summary["status"]) == (4, "interrupted")
    assert replay.differing_entries(run.load("last"), content) == []
