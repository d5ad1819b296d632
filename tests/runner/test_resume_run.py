"""dlopt train resume=RUN: what goes on, what is refused, and what is said of both."""

import hashlib
import json
import os
import shutil

import pytest
import yaml
from bits import find_differences, read_final_state
from helpers import BLOBS

from dlopt.cli import main
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.find import find_run
from dlopt.rundir.status import list_processes
from dlopt.rundir.writer import RunWriter
from dlopt.storage import atomic

RESUME = ("train", "resume=last", "--trust")


def test_resuming_a_finished_run_does_nothing_or_makes_it_longer(here, capsys):
    assert main(["train", *BLOBS]) == 0
    assert main(["train", "resume=last", "--trust"]) == 0
    assert "nothing to resume" in capsys.readouterr().out
    assert find_run().summary["step"] == 9
    assert main(["train", "resume=last", "--trust", "epochs=5"]) == 0
    assert find_run().summary["step"] == 15
    assert [row["step"] for row in find_run().rows()] == [3, 6, 9, 12, 15]
    assert main(["train", "resume=last", "--trust", "epoch=5"]) == 2


REFUSED = {
    "seed=5": "cannot change",
    "batch_size=8": "cannot change",
    "arch.widths=[9]": "cannot change",
    "data.label_noise=0.1": "cannot change",
    "optimizer=sgd": "another option",
    "schedule.then=cosine": "another option",
    "schedule@schedule.then=cosine": "another option",
    "schedule._target_=mine.Sawtooth": "another option",
    "optimizer.lrr=1": "did you mean lr",
    "epoch=3": "did you mean epochs",
    "epochs=0": "epochs",
    "+x=1": "cannot be added",
    "--help": "does not go with resume",
    "-m": "does not go with resume",
}


@pytest.mark.parametrize("change", REFUSED)
def test_resume_refuses_changes_that_need_a_new_run(change, here, capsys):
    assert main(["train", *BLOBS, "schedule=warmup", "schedule.length=1"]) == 0
    before = {p: p.read_bytes() for p in find_run().path.rglob("*") if p.is_file()}
    capsys.readouterr()
    assert main(["train", "resume=last", "--trust", change]) == 2
    assert REFUSED[change] in capsys.readouterr().err
    assert {p: p.read_bytes() for p in find_run().path.rglob("*") if p.is_file()} == before


def test_resume_refuses_the_state_of_another_optimizer(here, capsys):
    assert main(["train", *BLOBS, "optimizer=torch_optim"]) == 0
    before = {p: p.read_bytes() for p in find_run().path.rglob("*") if p.is_file()}
    assert main(["train", "resume=last", "--trust", "epochs=5", "optimizer.name=SGD"]) == 2
    assert "AdamW, not of torch.optim.sgd.SGD" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in find_run().path.rglob("*") if p.is_file()} == before
    assert main(["train", "resume=last", "--trust", "epochs=5", "optimizer.lr=0.1"]) == 0
    assert find_run().rows()[-1]["lr"] == 0.1


def test_resume_refuses_a_setting_that_needs_another_state(here, capsys):
    assert main(["train", *BLOBS, "optimizer=rmsprop"]) == 0
    before = find_run().config_file.read_text()
    assert main(["train", "resume=last", "--trust", "epochs=5", "optimizer.momentum=0.9"]) == 2
    assert "cannot resume from its checkpoint" in capsys.readouterr().err
    assert find_run().config_file.read_text() == before
    assert main(["train", "resume=last", "--trust", "epochs=5"]) == 0


def test_resume_refuses_fewer_steps_than_are_done(here, capsys):
    assert main(["train", "-q", *BLOBS]) == 0
    assert main(["train", "resume=last", "--trust", "epochs=2"]) == 2
    assert "epochs  makes 6 steps, and 9 are done already" in capsys.readouterr().err
    for file in (find_run().checkpoint("last"), find_run().checkpoint("best")):
        file.unlink()
    rows = find_run().rows()
    assert main(["train", "resume=last", "--trust", "epochs=5"]) == 2
    assert "its checkpoint is gone" in capsys.readouterr().err
    assert find_run().rows() == rows


def test_resume_refuses_a_length_whose_averaging_has_started_already(here, capsys):
    assert main(["train", "-q", *BLOBS, "averaging=polyak", "regularization=early_stopping", "epochs=99",
                 "regularization.early_stopping.cumulative=1", "optimizer=sgd", "optimizer.lr=3"]) == 0  # fmt: skip
    done = find_run().summary["step"]
    before = find_run().config_file.read_text()
    assert main(["train", "resume=last", "--trust", f"steps={done + 1}"]) == 2
    assert f"{done} are done without it: make more of them" in capsys.readouterr().err
    assert find_run().config_file.read_text() == before


def test_changed_settings_are_stored_with_the_run(here, capsys):
    assert main(["train", *BLOBS]) == 0
    assert main(["train", "resume=last", "--trust", "epochs=5", "optimizer.lr=0.05"]) == 0
    assert find_run().config()["epochs"] == 5
    assert find_run().config()["optimizer"]["lr"] == 0.05
    assert find_run().config()["resume"] is None
    assert main(["train", "resume='last'", "--trust"]) == 0
    assert "nothing to resume" in capsys.readouterr().out


def test_a_running_run_is_not_touched(here, capsys):
    assert main(["train", *BLOBS]) == 0
    run = find_run()
    run.status_file.write_text(json.dumps(run.status | {"status": "running"}))
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    run = RunWriter(run.path)
    run.lock.acquire()
    assert main(["train", "resume=last", "--trust", "epochs=9"]) == 2
    assert f"being written by process {os.getpid()} on " in capsys.readouterr().err
    run.lock.release()
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before
    assert main(["show"]) == 0
    assert "its process is gone" in capsys.readouterr().out


def test_curves_of_a_resumed_run_have_no_point_twice(here, capsys):
    """Rows after the checkpoint, written by a process that was then killed, are dropped by TensorBoard too."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main(["train", *BLOBS, "checkpoint.every=4", "steps=4"]) == 0
    run = find_run()
    late = RunWriter(run.path)
    late.lock.acquire()
    late.resume(4)
    late.log({"step": 6, "epoch": 2.0, "seconds": 1.0, "train/loss": 99.0})
    late.finish("failed")
    assert main(["train", "resume=last", "--trust", "steps=9"]) == 0
    reader = EventAccumulator(str(run.path), size_guidance={"scalars": 0})
    reader.Reload()
    steps = [event.step for event in reader.Scalars("train/loss")]
    assert steps == [row["step"] for row in run.rows() if "train/loss" in row]
    assert 99.0 not in [event.value for event in reader.Scalars("train/loss")]


# ------------------------------------------------------------------------------------------- settings that change


def unfinished(*overrides, steps=4):
    """A run of nine steps that was killed after so many, with a checkpoint there: its status says that it runs."""
    assert main(["train", "-q", *BLOBS, "checkpoint.every=2", *overrides, f"steps={steps}"]) == 0
    run = find_run()
    text = run.config_file.read_text().replace(f"steps: {steps}", "steps: 9")
    run.config_file.write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    run.status_file.write_text(json.dumps(run.status | {"status": "running", "ended": None, "config": digest}))
    return run


def test_the_status_lists_changes_per_process(here, capsys):
    assert main(["train", "-q", *BLOBS]) == 0
    assert main([*RESUME, "-q", "epochs=5", "checkpoint.every=2"]) == 0
    assert main([*RESUME, "-q", "epochs=6", "optimizer.lr=0.05"]) == 0
    status = find_run().status
    told = [(p.get("step"), p.get("changes") and sorted(p["changes"])) for p in list_processes(status)]
    assert told == [
        (15, ["epochs 5 -> 6", "optimizer.lr 0.001 -> 0.05"]), (9, ["checkpoint.every null -> 2", "epochs 3 -> 5"]),
        (None, None),
    ]  # fmt: skip
    assert {k: status["settings"][k] for k in ("epochs", "checkpoint.every", "optimizer.lr", "optimizer")} == {
        "epochs": 6, "checkpoint.every": 2, "optimizer.lr": 0.05, "optimizer": "adam",
    }  # fmt: skip
    assert status["config"] == find_run().config_digest()


def test_only_changes_that_break_equality_are_reported(here, capsys):
    assert main(["train", "-q", *BLOBS, "schedule=cosine"]) == 0
    for argument, said in {
        "log_every=2": "",
        "epochs=5": "the schedule follows the length of the run, which was 9 steps and is 15 now",
        "optimizer.lr=0.05": "optimizer.lr 0.001 -> 0.05",
    }.items():
        capsys.readouterr()
        assert main([*RESUME, argument]) == 0
        err = capsys.readouterr().err
        assert (said in err) and ("differs from an uninterrupted one" in err) == bool(said)
        assert said in find_run().log_file.read_text()


def test_a_run_killed_between_status_and_configuration_resumes(here, capsys, monkeypatch):
    """With the settings that it had: the configuration has not been written."""
    run = unfinished()
    before = run.config_file.read_bytes()
    replace = atomic.atomic_write_bytes

    def dies(file, content, **how):
        if file == run.config_file:
            raise KeyboardInterrupt
        replace(file, content, **how)

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "atomic_write_bytes", dies)
        try:
            code = main([*RESUME, "-q", "optimizer.lr=0.05"])
        except KeyboardInterrupt:
            code = 130
    assert code == 130
    status = json.loads(run.status_file.read_text())
    assert status["status"] == "running"
    assert status["settings"]["optimizer.lr"] == 0.05
    assert run.config_file.read_bytes() == before
    assert main([*RESUME, "-q"]) == 0
    assert run.config_file.read_bytes() == before
    assert run.status["status"] == "done"
    assert run.status["settings"]["optimizer.lr"] == 0.001
    assert run.rows()[-1]["lr"] == 0.001


def test_changes_stay_recorded_if_the_process_died_before_its_first_checkpoint(here, capsys):
    """The checkpoint is of the settings before them, the configuration is not."""
    run = unfinished()
    former = {file: file.read_bytes() for file in (run.checkpoint("last"), run.checkpoint("best"), run.metrics_file)}
    assert main([*RESUME, "-q", "optimizer.lr=0.05"]) == 0
    for file in run.older_checkpoints().values():
        file.unlink()
    for file, content in former.items():
        file.write_bytes(content)
    run.status_file.write_text(json.dumps(run.status | {"status": "running"}))
    assert main([*RESUME, "-q"]) == 0
    assert run.rows()[-1]["lr"] == 0.05
    assert run.status["settings"]["optimizer.lr"] == 0.05


@pytest.mark.parametrize("content", [b"{", b"", b"[]", None])
def test_a_damaged_status_is_rewritten_from_the_checkpoint(content, here, capsys):
    assert main(["train", "-q", *BLOBS, "optimizer.lr=0.05"]) == 0
    run = find_run()
    settings = run.status["settings"]
    run.status_file.unlink() if content is None else run.status_file.write_bytes(content)
    code = main(["train", f"resume={run.path}", "--trust", "epochs=5"])
    err = capsys.readouterr().err
    if content is None:  # it is the file by which a directory is known as a run
        assert code == 2
        assert "no run" in err
        return
    assert code == 0
    assert "status.json was damaged" in err
    assert run.status["status"] == "done"
    assert run.status["settings"] == settings | {"epochs": 5}


def test_an_edited_configuration_is_refused(here, capsys):
    assert main(["train", "-q", *BLOBS]) == 0
    run = find_run()
    content = yaml.safe_load(run.config_file.read_text())
    run.config_file.write_text(yaml.safe_dump(content | {"seed": 1}))
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    assert main([*RESUME, "epochs=5"]) == 2
    assert "config.yaml differs from the configuration that the run was started with" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before


def test_a_checkpoint_of_another_format_is_refused_by_both_numbers(here, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("dlopt.training.checkpointing.FORMAT", 77)
        assert main(["train", "-q", *BLOBS]) == 0
    for argv in ([*RESUME, "epochs=5"], ["verify", "--trust", "--all"], ["evaluate", "--trust"]):
        code = main(argv)
        err = capsys.readouterr().err
        assert (code, "is of format 77, this version of dlopt reads and writes 2" in err) == (2, True), (argv, err)


@pytest.mark.parametrize("argument", ["epochs=x", "epochs=", "epochs=[1", "epochs=${seed}", "checkpoint=3",
                                      "checkpoint.every=-1", "checkpoint.minutes=0", "checkpoint.keep=0",
                                      "schedule.then.x=1"])  # fmt: skip
def test_invalid_values_are_refused_and_nothing_changes(argument, here, capsys):
    assert main(["train", "-q", *BLOBS]) == 0
    before = {p: p.read_bytes() for p in find_run().path.rglob("*") if p.is_file()}
    assert main([*RESUME, argument]) == 2
    assert argument.partition(".")[0].partition("=")[0] in capsys.readouterr().err
    assert {p: p.read_bytes() for p in find_run().path.rglob("*") if p.is_file()} == before


# ------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("keep", [1, 3])
def test_a_smaller_keep_removes_checkpoints(keep, here, capsys):
    assert main(["train", "-q", *BLOBS, "checkpoint.every=1", "checkpoint.keep=5"]) == 0
    assert list(find_run().older_checkpoints()) == [8, 7, 6, 5]
    assert main([*RESUME, "-q", "epochs=4", f"checkpoint.keep={keep}"]) == 0
    assert list(find_run().older_checkpoints()) == [11, 10][: keep - 1]


def test_resuming_behind_a_damaged_checkpoint_gives_the_same_bits(here, capsys):
    assert main(["train", "-q", *BLOBS, "checkpoint.every=2"]) == 0
    run = find_run()
    whole = read_final_state(run)
    content = run.checkpoint("last").read_bytes()[:-100]
    run.checkpoint("last").write_bytes(content)
    run.status_file.write_text(json.dumps(run.status | {"status": "running"}))
    assert main(RESUME) == 0
    out, err = capsys.readouterr()
    assert "warning: last.safetensors is damaged (" in err
    assert "resumes from the checkpoint after step 8" in err
    assert "resumes after step 8" in out
    assert run.checkpoint("last").with_name("last.damaged.safetensors").read_bytes() == content
    assert find_differences(read_final_state(run), whole) == []


def test_nothing_changes_if_no_checkpoint_can_be_read(here, capsys):
    assert main(["train", "-q", *BLOBS, "checkpoint.every=2"]) == 0
    run = find_run()
    for file in run.path.glob("checkpoints/[ls]*.safetensors"):
        file.write_bytes(b"x")
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    assert main([*RESUME, "epochs=5"]) == 2
    err = capsys.readouterr().err
    assert "no checkpoint can be read (last.safetensors is damaged" in err
    assert f"to start again from step 0, remove {run.path}/checkpoints" in err
    assert {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == before
    shutil.rmtree(run.path / "checkpoints")
    run.status_file.write_text(json.dumps(run.status | {"status": "running"}))
    assert main(RESUME) == 0
    assert "no checkpoint yet" in capsys.readouterr().err
    assert RunDirectory(run.path).status["status"] == "done"
    assert [row["step"] for row in run.rows()] == [3, 6, 9]


# ------------------------------------------------------------------------------------------- early stopping

STOPS = ("regularization=early_stopping", "regularization.early_stopping.patience=1", "optimizer.lr=10", "epochs=9")
"""The loss grows at once: it stops after the second evaluation, or soon after."""


def test_a_run_killed_after_early_stopping_stops_at_the_same_step(here, capsys):
    assert main(["train", "-q", *BLOBS, *STOPS]) == 0
    run = find_run()
    whole = read_final_state(run)
    assert run.summary["step"] < 27
    run.summary_file.unlink()
    run.status_file.write_text(json.dumps(run.status | {"status": "running"}))
    assert main([*RESUME, "-q"]) == 0
    assert find_differences(read_final_state(run), whole) == []


def test_only_more_patience_extends_a_run_that_stopped_early(here, capsys):
    """As an uninterrupted run of that length would have stopped."""
    assert main(["train", "-q", *BLOBS, *STOPS]) == 0
    run = find_run()
    step = run.summary["step"]
    assert main([*RESUME, "-q", "epochs=10"]) == 0
    assert (run.summary["step"], run.summary["status"]) == (step, "done")
    assert main([*RESUME, "-q", "regularization.early_stopping.patience=100"]) == 0
    assert run.summary["step"] == 30
