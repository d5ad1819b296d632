"""dlopt verify: equal parts are reported as equal, and every difference is found."""

import json
import re
import signal
import tempfile
from pathlib import Path

import pytest
import torch
import yaml
from bits import write_checkpoint
from helpers import BLOBS, read_tree
from processes import ENDLESS, TESTS, wait_for_file, wait_until

from dlopt.cli import main
from dlopt.config.reopen import load_run
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.find import find_run
from dlopt.storage import checkpoint_file

TRAIN = ("train", "-q", *BLOBS, "checkpoint.every=2", "checkpoint.keep=3", "log_every=1", "regularization=dropout")
"""Nine steps, with checkpoints after 6, 8 and 9."""
VERIFY = ("verify", "--trust")


@pytest.fixture
def run(train_once):
    train_once(*TRAIN)
    return find_run()


def verify(capsys, *argv):
    """Return the exit code and the output."""
    capsys.readouterr()
    code = main([*VERIFY, *argv])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out + err


# ------------------------------------------------------------------------------------------- equal


def test_every_part_of_an_intact_run_is_equal(run, capsys, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    before = read_tree(run.path)
    for argv, steps, rows, end in (
        ([], "steps 9 to 9, replayed from the checkpoint after step 8", 1, 9),
        (["--all"], "steps 1 to 9, replayed from the start", 9, 9),
        (["--from", "0"], "steps 1 to 6, replayed from the start", 6, 6),
        (["--from", "6"], "steps 7 to 8, replayed from the checkpoint after step 6", 2, 8),
        (["--from", "6", "--to", "9"], "steps 7 to 9, replayed from the checkpoint after step 6", 3, 9),
        (["--from", "0", "--to", "4"], "steps 1 to 4, replayed from the start", 4, None),
    ):
        code, output = verify(capsys, *argv)
        assert code == 0
        assert steps in output
        assert re.search(rf"\b{rows} rows? compared; every number is equal, bit for bit", output)
        assert (f"the checkpoint after step {end} is equal, bit for bit" in output) == (end is not None)
    assert read_tree(run.path) == before
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_run_that_saved_only_its_end_is_replayed_up_to_its_second_row(train_once, capsys):
    train_once("train", "-q", *BLOBS, "checkpoint.minutes=null")
    code, output = verify(capsys)
    assert (code, "steps 1 to 6, replayed from the start" in output) == (0, True)
    assert "2 rows compared" in output
    assert "checkpoint after" not in output


def test_a_part_without_a_row_is_equal_if_its_end_is(train_once, capsys):
    train_once("train", "-q", *BLOBS, "checkpoint.every=1", "checkpoint.keep=3")
    code, output = verify(capsys, "--from", "7", "--to", "8")
    assert (code, "the checkpoint after step 8 is equal, bit for bit" in output) == (0, True), output
    content = checkpoint_file.load(find_run().checkpoint_after(8))
    write_checkpoint(find_run().checkpoint_after(8), content | {"evaluations": 9})
    assert verify(capsys, "--from", "7", "--to", "8")[0] == 1


def test_quiet_prints_nothing(run, capsys):
    assert verify(capsys, "-q") == (0, "")
    text = run.metrics_file.read_text()
    run.metrics_file.write_text(re.sub(r'"train/loss": [^,]*, (?=[^\n]*\n$)', '"train/loss": 0.5, ', text))
    assert verify(capsys, "-q", "--from", "0", "--to", "5")[0] == 0
    assert verify(capsys, "-q", "--all") == (1, "")


# ------------------------------------------------------------------------------------------- different


@pytest.mark.parametrize("key", ["model", "state", "best", "evaluations"])
def test_a_change_in_a_kept_checkpoint_is_named(key, run, capsys):
    """The checkpoint is at the end of a part, or at its beginning, where it changes all later numbers."""
    content = checkpoint_file.load(run.checkpoint_after(8))

    def change(x):
        if isinstance(x, dict):
            first = next(iter(x))
            return x | {first: change(x[first])}
        return x + 1 if isinstance(x, int) else torch.nextafter(x, x + 1)

    write_checkpoint(run.checkpoint_after(8), content | {key: change(content[key])})
    code, output = verify(capsys, "--from", "6")
    assert code == 1
    assert f"the checkpoint after step 8 differs in {key}\n" in output
    assert "every number is equal" in output
    if key != "best":  # which a later one has replaced
        assert verify(capsys, "--from", "8")[0] == 1


def test_a_changed_digit_of_a_row_is_reported_with_step_and_name(run, capsys):
    lines = run.metrics_file.read_text().splitlines(keepends=True)
    row = json.loads(lines[6])
    row["recent/train/loss"] *= 1 + 2**-50
    run.metrics_file.write_text("".join([*lines[:6], json.dumps(row) + "\n", *lines[7:]]))
    code, output = verify(capsys, "--from", "6")
    assert code == 1
    assert "2 rows compared; recent/train/loss is the first to differ, at step 7" in output
    assert "the checkpoint after step 8 is equal, bit for bit" in output
    assert verify(capsys)[0] == 0, "another part"


def test_a_missing_row_is_reported(run, capsys):
    lines = run.metrics_file.read_text().splitlines(keepends=True)
    run.metrics_file.write_text("".join([*lines[:3], *lines[4:]]))
    code, output = verify(capsys, "--all")
    assert (code, "1 row only now, the first at step 4" in output) == (1, True)


def test_a_changed_configuration_is_refused_by_its_digest(run, capsys, monkeypatch):
    """Before it is read: it may be huge."""
    content = yaml.safe_load(run.config_file.read_text())
    run.config_file.write_text(yaml.safe_dump(content | {"seed": 1}))
    monkeypatch.setattr(load_run, "load_config", lambda *_, **__: pytest.fail("it is read"))
    for argv in ([], ["--from", "6"], ["--all"], ["--from", "0", "--to", "4"]):
        code, output = verify(capsys, *argv)
        assert code == 2
        assert "config.yaml differs" in output


# ------------------------------------------------------------------------------------------- arguments


def test_steps_that_cannot_be_compared_are_refused(run, capsys):
    for argv, message in (
        (["--from", "3"], "--from  must begin at 0 or 6 or 8, got 3"),
        (["--from", "9"], "--from  must begin at 0 or 6 or 8, got 9"),
        (["--from", "-1"], "--from  must begin at 0 or 6 or 8, got -1"),
        (["--to", "8"], "--to  must be from 9 to 9, got 8"),
        (["--to", "10"], "--to  must be from 9 to 9, got 10"),
        (["--from", "0", "--to", "0"], "--to  must be from 1 to 9, got 0"),
        (["--from", "6", "--to", "6"], "--to  must be from 7 to 9, got 6"),
        (["--all", "--to", "-3"], "--to  must be from 1 to 9, got -3"),
    ):
        code, output = verify(capsys, *argv)
        assert (code, message in output) == (2, True), output
        assert "it cannot be verified" in output
    for argv in (["--from", "x"], ["--form", "3"], ["a", "b"]):
        with pytest.raises(SystemExit, match="2"):
            main([*VERIFY, *argv])


def test_a_run_is_verified_from_its_last_change_on(run, capsys):
    assert main(["train", "resume=last", "--trust", "-q", "optimizer.lr=0.05", "epochs=5", "checkpoint.keep=4"]) == 0
    assert list(run.older_checkpoints()) == [14, 12, 10]
    code, output = verify(capsys, "--from", "10", "--to", "15")
    assert (code, "steps 11 to 15, replayed from the checkpoint after step 10" in output) == (0, True), output
    why = "before step 9 it was another run: optimizer.lr 0.001 -> 0.05"
    assert f"--from  must begin at 10 or 12 or 14, got 0; {why}" in verify(capsys, "--from", "0")[1]
    assert f"--all  must begin at 10 or 12 or 14, got 0; {why}" in verify(capsys, "--all")[1]
    assert "leave --from out" in verify(capsys, "--all", "--from", "12")[1]
    for file in run.older_checkpoints().values():
        file.unlink()
    code, output = verify(capsys)
    assert (code, "has nothing to compare with; before step 9 it was another run: optimizer.lr" in output) == (2, True)


def test_a_run_without_rows_has_nothing_to_compare_with(run, capsys):
    run.metrics_file.unlink()
    for file in run.path.glob("checkpoints/*"):
        file.unlink()
    code, output = verify(capsys)
    assert (code, "has nothing to compare with" in output) == (2, True)


def test_damaged_checkpoints_are_skipped(run, capsys):
    run.checkpoint_after(8).write_bytes(b"x")
    assert "must begin at 0 or 6 or 8" in verify(capsys, "--from", "1")[1]
    assert verify(capsys, "--from", "6", "--to", "9")[0] == 0
    run.checkpoint("last").write_bytes(b"x")
    assert verify(capsys, "--from", "0")[0] == 0


def test_custom_code_needs_trust(run, capsys):
    assert main(["verify"]) == 2
    assert "--trust" in capsys.readouterr().err
    assert main(["verify", "nowhere"]) == 2
    assert "no run" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- processes


def find_temporary_folder(job):
    """Return the temporary directory of a process that verifies; None before it has one."""
    for file in Path(tempfile.gettempdir()).glob("dlopt-verify-*/run/status.json"):
        status = RunDirectory(file.parent).status_or_none()
        if status is not None and status["pid"] == job.pid:
            return file.parents[1]
    return None


def test_an_interrupted_verification_leaves_nothing(here, forks):
    assert main(["train", "-q", *BLOBS, "steps=6000", "eval_every=3000", "hydra.run.dir=run"]) == 0
    job = forks.start(["verify", "run", "--trust", "--all"], here, {"PYTHONPATH": TESTS})
    folder = wait_until(lambda: find_temporary_folder(job) or job.has_ended)
    assert folder is not True, job.wait()
    job.kill(signal.SIGINT)
    result = job.wait()
    assert (result.code, result.out, result.err) == (130, "", "interrupted; nothing was verified\n")
    assert not folder.exists()


def test_a_running_run_is_verified_and_not_disturbed(forks, tmp_path):
    """If a checkpoint is replaced while it is read, the command says so."""
    argv = [*(word for word in ENDLESS if not word.startswith("checkpoint")), "checkpoint.every=1000"]
    job = forks.start(argv, tmp_path, {"PYTHONPATH": TESTS})
    wait_for_file(job, tmp_path / "run/checkpoints/step-00001000.safetensors")
    for _ in range(3):
        result = forks.run(["verify", "run", "--trust"], tmp_path, {"PYTHONPATH": TESTS})
        assert result.code == 0 or (result.code == 2 and re.search("was after step|No such file", result.err)), result
    assert not job.has_ended
    assert RunDirectory(tmp_path / "run").status["status"] == "running"
    job.kill(signal.SIGINT)
    assert job.wait().code == 130
