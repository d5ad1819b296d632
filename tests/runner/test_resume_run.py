"""dlopt train resume=RUN: which runs resume, what is refused, and what is recorded and printed."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import mine
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


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    """The directory of a finished run of nine steps, with a checkpoint after every second one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("trained_run"))
        patch.syspath_prepend(Path(mine.__file__).parent)
        assert main(["train", "-q", *BLOBS, "checkpoint.every=2", "hydra.run.dir=run"]) == 0
        return Path("run").absolute()


@pytest.fixture
def run(trained_run, here):
    """A copy of that run, the only one in outputs/."""
    return RunDirectory(shutil.copytree(trained_run, here / "outputs" / "run"))


def train(*overrides):
    assert main(["train", "-q", *BLOBS, *overrides]) == 0
    return find_run()


def read_files(run):
    return {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}


def mark_running(run, **more):
    run.status_file.write_text(json.dumps(run.status | {"status": "running"} | more))


def check_refused(run, capsys, *arguments):
    """Return the message with which resume refuses these arguments. No file of the run may change."""
    before = read_files(run)
    capsys.readouterr()
    assert main([*RESUME, *arguments]) == 2, arguments
    assert read_files(run) == before, arguments
    return capsys.readouterr().err


def test_resuming_a_finished_run_does_nothing_or_makes_it_longer(run, capsys):
    assert main(RESUME) == 0
    assert "nothing to resume" in capsys.readouterr().out
    assert run.summary["step"] == 9
    assert main([*RESUME, "epochs=5"]) == 0
    assert run.summary["step"] == 15
    assert [row["step"] for row in run.rows()] == [3, 6, 9, 12, 15]
    assert main([*RESUME, "epoch=5"]) == 2


REFUSED = {
    "seed=5": "cannot change",
    "batch_size=8": "cannot change",
    "arch.widths=[9]": "cannot change",
    "data.label_noise=0.1": "cannot change",
    "optimizer=sgd": "another option",
    "schedule.then=cosine": "another option",
    "schedule@schedule.then=cosine": "another option",
    "schedule._target_=mine.Sawtooth": "another option",
    "schedule.then.x=1": "schedule",
    "optimizer.lrr=1": "did you mean lr",
    "epoch=3": "did you mean epochs",
    "+x=1": "cannot be added",
    "--help": "does not go with resume",
    "-m": "does not go with resume",
    "epochs=2": "makes 6 steps, and 9 are done already",
    **dict.fromkeys(("epochs=0", "epochs=x", "epochs=", "epochs=[1", "epochs=${seed}"), "epochs"),
    **{f"checkpoint{wrong}": "checkpoint" for wrong in ("=3", ".every=-1", ".minutes=0", ".keep=0")},
}


def test_changes_that_are_invalid_or_need_a_new_run_are_refused(here, capsys):
    run = train("schedule=warmup", "schedule.length=1")
    for change, words in REFUSED.items():
        assert words in check_refused(run, capsys, change), change


@pytest.mark.parametrize(
    ("overrides", "change", "words", "allowed"),
    [
        (["optimizer=torch_optim"], "optimizer.name=SGD", "AdamW, not of torch.optim.sgd.SGD", "optimizer.lr=0.1"),
        (["optimizer=rmsprop"], "optimizer.momentum=0.9", "cannot resume from its checkpoint", "optimizer.lr=0.1"),
    ],
)
def test_a_setting_that_needs_another_optimizer_state_is_refused(overrides, change, words, allowed, here, capsys):
    run = train(*overrides)
    assert words in check_refused(run, capsys, "epochs=5", change)
    assert main([*RESUME, "epochs=5", allowed]) == 0
    assert run.rows()[-1]["lr"] == 0.1


def test_a_finished_run_without_checkpoints_is_refused(run, capsys):
    shutil.rmtree(run.path / "checkpoints")
    assert "its checkpoint is gone" in check_refused(run, capsys, "epochs=5")


def test_a_length_whose_averaging_has_started_already_is_refused(here, capsys):
    run = train("averaging=polyak", "regularization=early_stopping", "epochs=99",
                "regularization.early_stopping.cumulative=1", "optimizer=sgd", "optimizer.lr=3")  # fmt: skip
    steps = run.summary["step"]
    assert f"{steps} are done without it: choose more steps" in check_refused(run, capsys, f"steps={steps + 1}")


def test_changed_settings_are_stored_with_the_run(run, capsys):
    assert main([*RESUME, "epochs=5", "optimizer.lr=0.05"]) == 0
    config = run.config()
    assert (config["epochs"], config["optimizer"]["lr"], config["resume"]) == (5, 0.05, None)
    assert main(["train", "resume='last'", "--trust"]) == 0
    assert "nothing to resume" in capsys.readouterr().out


def test_a_running_run_is_not_touched(run, capsys):
    mark_running(run)
    lock = RunWriter(run.path).lock.acquire()
    assert f"being written by process {os.getpid()} on " in check_refused(run, capsys, "epochs=9")
    lock.release()
    assert main(["show"]) == 0
    assert "its process is gone" in capsys.readouterr().out


def test_curves_of_a_resumed_run_have_no_point_twice(here):
    """Rows after the checkpoint, from a process that was then killed, are dropped by TensorBoard too."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train("checkpoint.every=4", "steps=4")
    late = RunWriter(run.path)
    late.lock.acquire()
    late.resume(4)
    late.log({"step": 6, "epoch": 2.0, "seconds": 1.0, "train/loss": 99.0})
    late.finish("failed")
    assert main([*RESUME, "steps=9"]) == 0
    reader = EventAccumulator(str(run.path), size_guidance={"scalars": 0})
    reader.Reload()
    events = reader.Scalars("Loss/train")
    assert [event.step for event in events] == [row["step"] for row in run.rows() if "train/loss" in row]
    assert 99.0 not in [event.value for event in events]


# ------------------------------------------------------------------------------------------- changed settings


@pytest.fixture
def unfinished_run(here):
    """A run of nine steps that was killed after four, where it has a checkpoint: its status is running."""
    run = train("checkpoint.every=2", "steps=4")
    text = run.config_file.read_text().replace("steps: 4", "steps: 9")
    run.config_file.write_text(text)
    mark_running(run, ended=None, config=hashlib.sha256(text.encode()).hexdigest())
    return run


def test_the_status_lists_changes_per_process(run):
    assert main([*RESUME, "-q", "epochs=5", "checkpoint.every=3"]) == 0
    assert main([*RESUME, "-q", "epochs=6", "optimizer.lr=0.05"]) == 0
    processes = [(p.get("step"), p.get("changes") and sorted(p["changes"])) for p in list_processes(run.status)]
    assert processes == [
        (15, ["epochs 5 -> 6", "optimizer.lr 0.001 -> 0.05"]), (9, ["checkpoint.every 2 -> 3", "epochs 3 -> 5"]),
        (None, None),
    ]  # fmt: skip
    assert {k: run.status["settings"][k] for k in ("epochs", "checkpoint.every", "optimizer.lr", "optimizer")} == {
        "epochs": 6, "checkpoint.every": 3, "optimizer.lr": 0.05, "optimizer": "adam",
    }  # fmt: skip
    assert run.status["config"] == run.config_digest()


def test_only_changes_that_break_equality_are_reported(here, capsys):
    run = train("schedule=cosine")
    for argument, words in {
        "log_every=3": "",
        "log_every=2": "the next row of it covers other steps",
        "epochs=5": "the schedule follows the length of the run, which was 9 steps and is 15 now",
        "optimizer.lr=0.05": "optimizer.lr 0.001 -> 0.05",
    }.items():
        capsys.readouterr()
        assert main([*RESUME, argument]) == 0
        err = capsys.readouterr().err
        assert (words in err) and ("differs from an uninterrupted one" in err) == bool(words)
        assert words in run.log_file.read_text()


def test_a_run_killed_between_status_and_configuration_resumes(unfinished_run, monkeypatch):
    """It resumes with its former settings: the configuration has not been written."""
    run, before, replace = unfinished_run, unfinished_run.config_file.read_bytes(), atomic.atomic_write_bytes

    def die(file, content, **how):
        if file == run.config_file:
            raise KeyboardInterrupt
        replace(file, content, **how)

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "atomic_write_bytes", die)
        try:
            code = main([*RESUME, "-q", "optimizer.lr=0.05"])
        except KeyboardInterrupt:
            code = 130
    assert code == 130
    assert (run.status["status"], run.status["settings"]["optimizer.lr"]) == ("running", 0.05)
    assert run.config_file.read_bytes() == before
    assert main([*RESUME, "-q"]) == 0
    assert run.config_file.read_bytes() == before
    assert (run.status["status"], run.status["settings"]["optimizer.lr"]) == ("done", 0.001)
    assert run.rows()[-1]["lr"] == 0.001


def test_changes_stay_recorded_if_the_process_died_before_its_first_checkpoint(unfinished_run):
    """The checkpoint has the former settings, the configuration has the new ones."""
    run = unfinished_run
    former = {file: file.read_bytes() for file in (run.checkpoint("last"), run.checkpoint("best"), run.metrics_file)}
    assert main([*RESUME, "-q", "optimizer.lr=0.05"]) == 0
    for file in run.older_checkpoints().values():
        file.unlink()
    for file, content in former.items():
        file.write_bytes(content)
    mark_running(run)
    assert main([*RESUME, "-q"]) == 0
    assert run.rows()[-1]["lr"] == 0.05
    assert run.status["settings"]["optimizer.lr"] == 0.05


@pytest.mark.parametrize("content", [b"{", b"", b"[]"])
def test_a_damaged_status_is_rewritten_from_the_checkpoint(content, run, capsys):
    settings = run.status["settings"]
    run.status_file.write_bytes(content)
    assert main([*RESUME, "epochs=5"]) == 0
    assert "status.json was damaged" in capsys.readouterr().err
    assert run.status["status"] == "done"
    assert run.status["settings"] == settings | {"epochs": 5}


def test_a_directory_without_a_status_is_not_a_run(run, capsys):
    run.status_file.unlink()
    assert main(["train", f"resume={run.path}", "--trust", "epochs=5"]) == 2
    assert "no run" in capsys.readouterr().err


def test_an_edited_configuration_is_refused(run, capsys):
    content = yaml.safe_load(run.config_file.read_text())
    run.config_file.write_text(yaml.safe_dump(content | {"seed": 1}))
    message = check_refused(run, capsys, "epochs=5")
    assert "config.yaml differs from the configuration" in message


def test_a_checkpoint_of_another_format_is_refused_by_both_numbers(here, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("dlopt.training.checkpointing.FORMAT", 77)
        train()
    for argv in ([*RESUME, "epochs=5"], ["verify", "--trust", "--all"], ["evaluate", "--trust"]):
        code = main(argv)
        err = capsys.readouterr().err
        assert (code, "is of format 77, this version of dlopt reads and writes 2" in err) == (2, True), (argv, err)


# ------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("keep", [1, 3])
def test_a_smaller_keep_removes_checkpoints(keep, here):
    run = train("checkpoint.every=1", "checkpoint.keep=5")
    assert list(run.older_checkpoints()) == [8, 7, 6, 5]
    assert main([*RESUME, "-q", "epochs=4", f"checkpoint.keep={keep}"]) == 0
    assert list(run.older_checkpoints()) == [11, 10][: keep - 1]


def test_resuming_behind_a_damaged_checkpoint_gives_the_same_bits(run, capsys):
    whole = read_final_state(run)
    content = run.checkpoint("last").read_bytes()[:-100]
    run.checkpoint("last").write_bytes(content)
    mark_running(run)
    assert main(RESUME) == 0
    out, err = capsys.readouterr()
    assert "warning: last.safetensors is damaged (" in err
    assert "resumes from the checkpoint after step 8" in err
    assert "resumes after step 8" in out
    assert run.checkpoint("last").with_name("last.damaged.safetensors").read_bytes() == content
    assert find_differences(read_final_state(run), whole) == []


def test_nothing_changes_if_no_checkpoint_can_be_read(run, capsys):
    for file in run.path.glob("checkpoints/[ls]*.safetensors"):
        file.write_bytes(b"x")
    message = check_refused(run, capsys, "epochs=5")
    assert "no checkpoint can be read (last.safetensors is damaged" in message
    assert "to start again from step 0, remove outputs/run/checkpoints" in message.replace(f"{Path.cwd()}/", "")
    shutil.rmtree(run.path / "checkpoints")
    mark_running(run)
    assert main(RESUME) == 0
    assert "no checkpoint yet" in capsys.readouterr().err
    assert run.status["status"] == "done"
    assert [row["step"] for row in run.rows()] == [3, 6, 9]


# ------------------------------------------------------------------------------------------- early stopping

STOPS = ("regularization=early_stopping", "regularization.early_stopping.patience=1", "optimizer.lr=10", "epochs=9")
"""The loss grows at once: the run stops at the second evaluation or soon after."""


def test_a_run_killed_after_early_stopping_stops_at_the_same_step(here):
    run = train(*STOPS)
    whole = read_final_state(run)
    assert run.summary["step"] < 27
    run.summary_file.unlink()
    mark_running(run)
    assert main([*RESUME, "-q"]) == 0
    assert find_differences(read_final_state(run), whole) == []


def test_a_run_that_a_tolerance_ended_says_so_and_only_a_smaller_one_extends_it(here, capsys):
    run = train("epochs=30", "tolerance.gradient=1e6", "hydra.run.dir=outputs/run")
    whole = read_final_state(run)
    assert run.summary["step"] == 1
    assert main(["show"]) == 0
    assert "done: ended by tolerance.gradient after step 1; started" in " ".join(capsys.readouterr().out.split())
    assert main(RESUME) == 0
    assert "nothing to resume: tolerance.gradient ended it after step 1" in capsys.readouterr().out
    run.summary_file.unlink()
    mark_running(run)
    assert main(RESUME) == 0
    assert "done: 1 steps of 90, ended by tolerance.gradient, in" in capsys.readouterr().out
    assert find_differences(read_final_state(run), whole) == []
    assert main([*RESUME, "tolerance.gradient=null", "epochs=2"]) == 0
    assert "the evaluation after step 1, which was the end, is one more" in capsys.readouterr().err
    assert run.summary["step"] == 6


def test_only_more_patience_extends_a_run_that_stopped_early(here):
    """As an uninterrupted run of that length would have stopped."""
    run = train(*STOPS)
    step = run.summary["step"]
    assert main([*RESUME, "-q", "epochs=10"]) == 0
    assert (run.summary["step"], run.summary["status"]) == (step, "done")
    assert main([*RESUME, "-q", "regularization.early_stopping.patience=100"]) == 0
    assert run.summary["step"] == 30
