"""dlopt verify: what comes out the same is said to be so, and nothing else is."""

import json
import re
import signal
import tempfile
from pathlib import Path

import pytest
import torch
import yaml
from bits import write_checkpoint
from helpers import BLOBS
from test_forked import ENDLESS, TESTS, begun

from dlopt.cli import main
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.find import find_run
from dlopt.storage import checkpoint_file

TRAIN = ("train", "-q", *BLOBS, "checkpoint.every=2", "checkpoint.keep=3", "log_every=1", "regularization=dropout")
"""Nine steps, with checkpoints after 6, 8 and 9."""
VERIFY = ("verify", "--trust")


@pytest.fixture
def run(here, capsys):
    assert main(TRAIN) == 0
    return find_run()


def files(run):
    return {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}


def verified(capsys, *argv):
    """The exit code, and what was said."""
    capsys.readouterr()
    code = main([*VERIFY, *argv])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out + err


# ------------------------------------------------------------------------------------------- equal


@pytest.mark.parametrize(("argv", "steps", "rows", "end"), [
    ([], "steps 9 to 9, replayed from the checkpoint after step 8", 1, 9),
    (["--all"], "steps 1 to 9, replayed from the start", 9, 9),
    (["--from", "0"], "steps 1 to 6, replayed from the start", 6, 6),
    (["--from", "6"], "steps 7 to 8, replayed from the checkpoint after step 6", 2, 8),
    (["--from", "6", "--to", "9"], "steps 7 to 9, replayed from the checkpoint after step 6", 3, 9),
    (["--from", "0", "--to", "4"], "steps 1 to 4, replayed from the start", 4, None),
    (["--to", "9"], "steps 9 to 9, replayed from the checkpoint after step 8", 1, 9),
])  # fmt: skip
def test_a_part_that_comes_out_the_same(argv, steps, rows, end, run, capsys, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    before = files(run)
    code, said = verified(capsys, *argv)
    assert code == 0
    assert steps in said
    assert re.search(rf"\b{rows} rows? compared; every number is equal, bit for bit", said)
    assert (f"the checkpoint after step {end} is equal, bit for bit" in said) == (end is not None)
    assert files(run) == before, "the run is left as it is"
    assert list((tmp_path / "temporary").iterdir()) == []


def test_where_only_the_end_was_saved_the_first_rows_are_made_again(here, capsys):
    """The whole run would take long."""
    assert main(["train", "-q", *BLOBS, "checkpoint.minutes=null"]) == 0
    code, said = verified(capsys)
    assert (code, "steps 1 to 6, replayed from the start" in said) == (0, True)
    assert "2 rows compared" in said
    assert "checkpoint after" not in said


def test_a_part_without_a_row_is_equal_where_its_end_is(here, capsys):
    assert main(["train", "-q", *BLOBS, "checkpoint.every=1", "checkpoint.keep=3"]) == 0
    code, said = verified(capsys, "--from", "7", "--to", "8")
    assert (code, "the checkpoint after step 8 is equal, bit for bit" in said) == (0, True), said
    content = checkpoint_file.load(find_run().checkpoint_after(8))
    write_checkpoint(find_run().checkpoint_after(8), content | {"evaluations": 9})
    assert verified(capsys, "--from", "7", "--to", "8")[0] == 1


def test_quiet_leaves_the_exit_code(run, capsys):
    assert verified(capsys, "-q") == (0, "")
    text = run.metrics_file.read_text()
    run.metrics_file.write_text(re.sub(r'"train/loss": [^,]*, (?=[^\n]*\n$)', '"train/loss": 0.5, ', text))
    assert verified(capsys, "-q", "--from", "0", "--to", "5")[0] == 0
    assert verified(capsys, "-q", "--all") == (1, "")


# ------------------------------------------------------------------------------------------- different


@pytest.mark.parametrize("key", ["model", "state", "best", "evaluations"])
def test_a_change_in_a_kept_checkpoint_is_told_by_what_it_is(key, run, capsys):
    """In the end of a part, or in its beginning, from which other numbers come."""
    content = checkpoint_file.load(run.checkpoint_after(8))

    def changed(x):
        if isinstance(x, dict):
            first = next(iter(x))
            return x | {first: changed(x[first])}
        return x + 1 if isinstance(x, int) else torch.nextafter(x, x + 1)

    write_checkpoint(run.checkpoint_after(8), content | {key: changed(content[key])})
    code, said = verified(capsys, "--from", "6")
    assert code == 1
    assert f"the checkpoint after step 8 differs in {key}\n" in said
    assert "every number is equal" in said
    if key != "best":  # a later one has taken its place
        assert verified(capsys, "--from", "8")[0] == 1


def test_a_digit_of_a_row_is_told_with_its_step_and_name(run, capsys):
    lines = run.metrics_file.read_text().splitlines(keepends=True)
    row = json.loads(lines[6])
    row["train/loss"] *= 1 + 2**-50
    run.metrics_file.write_text("".join([*lines[:6], json.dumps(row) + "\n", *lines[7:]]))
    code, said = verified(capsys, "--from", "6")
    assert code == 1
    assert "2 rows compared; train/loss is the first to differ, at step 7" in said
    assert "the checkpoint after step 8 is equal, bit for bit" in said
    assert verified(capsys)[0] == 0, "a part that it does not lie in"


def test_a_row_that_is_gone_is_told(run, capsys):
    lines = run.metrics_file.read_text().splitlines(keepends=True)
    run.metrics_file.write_text("".join([*lines[:3], *lines[4:]]))
    code, said = verified(capsys, "--all")
    assert (code, "1 row only now, the first at step 4" in said) == (1, True)


@pytest.mark.parametrize("argv", [[], ["--from", "6"], ["--all"]])
def test_another_seed_in_its_configuration_is_refused_by_the_digest(argv, run, capsys):
    content = yaml.safe_load(run.config_file.read_text())
    run.config_file.write_text(yaml.safe_dump(content | {"seed": 1}))
    code, said = verified(capsys, *argv)
    assert code == 2
    assert "config.yaml differs from the configuration that the run was started with" in said
    assert verified(capsys, "--from", "0", "--to", "4")[0] == 2, "from the start to no checkpoint, too"


# ------------------------------------------------------------------------------------------- what can be asked


@pytest.mark.parametrize(("argv", "said"), [
    (["--from", "3"], "--from  must begin at 0 or 6 or 8, got 3"),
    (["--from", "9"], "--from  must begin at 0 or 6 or 8, got 9"),
    (["--from", "-1"], "--from  must begin at 0 or 6 or 8, got -1"),
    (["--to", "8"], "--to  must be from 9 to 9, got 8"),
    (["--to", "0"], "--to  must be from 9 to 9, got 0"),
    (["--from", "0", "--to", "0"], "--to  must be from 1 to 9, got 0"),
    (["--to", "10"], "--to  must be from 9 to 9, got 10"),
    (["--from", "6", "--to", "6"], "--to  must be from 7 to 9, got 6"),
    (["--all", "--to", "-3"], "--to  must be from 1 to 9, got -3"),
])  # fmt: skip
def test_steps_that_cannot_be_compared_are_refused(argv, said, run, capsys):
    code, told = verified(capsys, *argv)
    assert code == 2
    assert said in told
    assert "it cannot be verified" in told


@pytest.mark.parametrize("argv", [["--from", "x"], ["--to", "1.5"], ["--form", "3"], ["a", "b"]])
def test_words_that_are_none_of_its_own_are_refused(argv, here, capsys):
    with pytest.raises(SystemExit) as end:
        main([*VERIFY, *argv])
    assert end.value.code == 2


def test_a_run_that_was_changed_is_verified_from_there_on(run, capsys):
    assert main(["train", "resume=last", "--trust", "-q", "optimizer.lr=0.05", "epochs=5", "checkpoint.keep=4"]) == 0
    assert list(run.older_checkpoints()) == [14, 12, 10]
    code, said = verified(capsys, "--from", "10", "--to", "15")
    assert (code, "steps 11 to 15, replayed from the checkpoint after step 10" in said) == (0, True), said
    why = "before step 9 it was another run: optimizer.lr 0.001 -> 0.05"
    assert f"--from  must begin at 10 or 12 or 14, got 0; {why}" in verified(capsys, "--from", "0")[1]
    assert f"--all  must begin at 10 or 12 or 14, got 0; {why}" in verified(capsys, "--all")[1]
    assert "leave --from out" in verified(capsys, "--all", "--from", "12")[1]
    for file in run.older_checkpoints().values():
        file.unlink()
    code, said = verified(capsys)
    assert (code, "has nothing to compare with; before step 9 it was another run: optimizer.lr" in said) == (2, True)


def test_a_run_without_rows_has_nothing_to_compare_with(run, capsys):
    run.metrics_file.unlink()
    for file in run.path.glob("checkpoints/*"):
        file.unlink()
    code, said = verified(capsys)
    assert (code, "has nothing to compare with" in said) == (2, True)


def test_damaged_checkpoints_are_passed_over(run, capsys):
    run.checkpoint_after(8).write_bytes(b"x")
    assert "must begin at 0 or 6 or 8" in verified(capsys, "--from", "1")[1]
    assert verified(capsys, "--from", "6", "--to", "9")[0] == 0
    run.checkpoint("last").write_bytes(b"x")
    assert verified(capsys, "--from", "0")[0] == 0


def test_code_of_ones_own_is_executed_for_those_who_trust_it(run, capsys):
    assert main(["verify"]) == 2
    assert "--trust" in capsys.readouterr().err
    assert main(["verify", "nowhere"]) == 2
    assert "no run" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- processes


@pytest.fixture
def under_way(forks, tmp_path):
    """A run without an end, which saves some times a second."""
    argv = [*(word for word in ENDLESS if not word.startswith("checkpoint")), "checkpoint.every=2000"]
    job = forks.start(argv, tmp_path, {"PYTHONPATH": TESTS})
    begun(job, tmp_path)
    yield job
    job.kill(signal.SIGINT)
    assert job.wait().code == 130


def made_by(job):
    """The temporary directory of a process that verifies; None before it has one."""
    for file in Path(tempfile.gettempdir()).glob("dlopt-verify-*/run/status.json"):
        status = RunDirectory(file.parent).status_or_none()
        if status is not None and status["pid"] == job.pid:
            return file.parents[1]
    return None


def test_one_that_is_interrupted_says_so_and_leaves_nothing(under_way, forks, tmp_path):
    while not (tmp_path / "run/checkpoints/step-00020000.safetensors").exists():
        assert not under_way.has_ended, under_way.wait()
    job = forks.start(["verify", "run", "--trust", "--from", "0"], tmp_path, {"PYTHONPATH": TESTS})
    while (place := made_by(job)) is None:
        assert not job.has_ended, job.wait()
    job.kill(signal.SIGINT)
    ended = job.wait()
    assert (ended.code, ended.out, ended.err) == (130, "", "interrupted; nothing was verified\n")
    assert not place.exists()


def test_a_run_that_is_under_way_is_verified_and_not_disturbed(under_way, forks, tmp_path):
    """Whatever it saves meanwhile: where a file was replaced as it was read, that is said."""
    while not (tmp_path / "run/checkpoints/step-00002000.safetensors").exists():
        assert not under_way.has_ended, under_way.wait()
    for _ in range(3):
        ended = forks.run(["verify", "run", "--trust"], tmp_path, {"PYTHONPATH": TESTS})
        assert ended.code == 0 or (ended.code == 2 and re.search("was after step|No such file", ended.err)), ended
    assert not under_way.has_ended
    assert RunDirectory(tmp_path / "run").status["status"] == "running"
