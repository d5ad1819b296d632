"""A part of a run made once more: the same bits, beside it."""

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


def test_the_kept_checkpoints_by_their_steps_oldest_first(run):
    kept = CheckpointIndex.of(run)
    assert list(kept.files) == [4, 6, 8, 9]
    assert [kept.load(step)["step"] for step in kept.files] == [4, 6, 8, 9]
    assert list(CheckpointIndex.of(RunDirectory(run.path / "nothing")).files) == []


def test_a_file_that_holds_another_step_by_now_is_not_taken_for_the_former(run):
    with pytest.raises(ValueError, match=r"last\.safetensors was after step 7, and is after step 9 now"):
        CheckpointIndex({7: run.checkpoint("last")}).load(7)


@pytest.mark.parametrize(
    "part",
    [
        StepRange(0, 9),
        StepRange(0, 5),
        StepRange(0, 4),
        StepRange(4, 6),
        StepRange(4, 9),
        StepRange(6, 7),
        StepRange(8, 9),
    ],
)
def test_a_part_has_the_rows_and_the_state_of_the_run(part, experiment, run, tmp_path):
    kept = CheckpointIndex.of(run)
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    state = kept.load(part.begin) if part.begin else None
    made = replay.replay(experiment, run, state, part, tmp_path / "made", TrainingControl())
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before
    steps = [row["step"] for row in replay.rows_in(made, part)]
    assert steps == [row["step"] for row in replay.rows_in(run, part)] == list(range(part.begin + 1, part.end + 1))
    assert read_rows(made)[part.begin :] == read_rows(run)[part.begin : part.end]
    assert made.latest_checkpoint().content["step"] == part.end
    if part.end in kept.files:
        assert replay.differing_entries(kept.load(part.end), made.latest_checkpoint().content) == []


@pytest.mark.parametrize("name", STATE_KEYS)
def test_what_differs_in_two_checkpoints_is_told_by_its_part(name, run):
    content = run.load("last")
    assert replay.differing_entries(content, content | {name: torch.ones(1)}) == [name]
    assert replay.differing_entries({k: v for k, v in content.items() if k != name}, content) == (
        [] if content[name] is None else [name]
    )
    assert replay.differing_entries(content, content | {"seconds": -1.0, "settings": {}, "history": "x"}) == []


@pytest.mark.parametrize("until", [1, 3, 8, 9, 20, None])
def test_a_loop_ends_after_so_many_steps_and_not_later_than_at_its_end(until, experiment, tmp_path):
    watch = TrainingControl(until)
    run = RunWriter.create(tmp_path)
    (summary,) = train([experiment], [run], watch)
    assert summary["step"] == watch.step == min(until or 9, 9)
    assert watch.steps == 9
    assert summary["status"] == ("interrupted" if (until or 9) < 9 else "done")


def test_a_run_that_stands_where_it_should_stop_makes_no_step(experiment, tmp_path):
    run = interrupt_run(tmp_path, 4, experiment)
    content = run.load("last")
    run.lock.acquire()
    run.rollback(run.latest_checkpoint())
    run.resume(4)
    (summary,) = train([experiment], [run], TrainingControl(4), content)
    assert (summary["step"], summary["status"]) == (4, "interrupted")
    assert replay.differing_entries(run.load("last"), content) == []
