"""dlopt rerun: repeats a run as a new one and compares the two."""

import json
import re
import shutil

import pytest
from bits import find_differences, read_final_state
from helpers import BLOBS, read_tree

from dlopt.cli import main
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.find import find_run

TRAIN = (
    "train",
    "-q",
    *BLOBS,
    "checkpoint.every=2",
    "regularization=dropout",
    "log_every=1",
    "hydra.run.dir=outputs/one",
)


@pytest.fixture
def run(train_once):
    train_once(*TRAIN)
    return RunDirectory("outputs/one")


def rerun(capsys, *argv):
    """Return the exit code, the output and the new run."""
    capsys.readouterr()
    code = main(["rerun", "one", "--trust", *argv])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out + err, find_run()


def test_an_equal_run_is_reported_as_equal(run, capsys):
    before = read_tree(run.path)
    code, output, other = rerun(capsys)
    assert code == 0
    assert "9 rows compared; every number is equal, bit for bit" in output
    assert "the state after step 9 is equal, bit for bit" in output
    assert read_tree(run.path) == before
    assert re.search(r"-rerun-[0-9a-f]{4}$", other.path.name)
    assert find_differences(read_final_state(other), read_final_state(run)) == []
    assert other.status["settings"] == run.status["settings"]
    assert f"rerun of {run.path}" in other.log_file.read_text()


def test_the_new_run_is_an_ordinary_run(run, capsys):
    _, _, other = rerun(capsys)
    assert other.config() == run.config()
    for argv in (["show"], ["evaluate", "--trust"], ["verify", "--trust"], ["runs"]):
        capsys.readouterr()
        assert main(argv) == 0, capsys.readouterr().err
        assert other.path.name in capsys.readouterr().out
    assert main(["train", "-q", "resume=last", "--trust", "epochs=4"]) == 0
    assert other.summary["step"] == 12
    assert main(["train", "-q", f"resume={run.path}", "--trust", "epochs=4"]) == 0
    states = [{k: v for k, v in read_final_state(r).items() if "config" not in k} for r in (other, run)]
    assert find_differences(*states) == []


def test_a_row_that_differs_is_reported_with_its_step(run, capsys):
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    lines[3]["recent/train/loss"] *= 1 + 2**-50
    run.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, output, _ = rerun(capsys)
    assert code == 1
    assert "9 rows compared; recent/train/loss is the first to differ, at step 4" in output
    assert "the state after step 9 is equal, bit for bit" in output
    assert rerun(capsys, "-q")[:2] == (1, "")


def test_the_new_run_has_the_last_settings(run, capsys):
    assert main(["train", "-q", "resume=one", "--trust", "optimizer.lr=0.05", "epochs=4"]) == 0
    code, output, other = rerun(capsys)
    assert "up to step 9 it had other settings (optimizer.lr 0.001 -> 0.05); the new run has those" in output
    assert (code, {row["lr"] for row in other.rows()}) == (1, {0.05})
    assert "at step 1" in output


def test_an_interrupted_run_is_compared_by_its_rows(run, capsys):
    """Its last checkpoint is after step 8."""
    run.checkpoint("last").unlink()
    code, output, other = rerun(capsys)
    assert code == 0
    assert "the former run has 8 steps, this one 9: the last states are not compared" in output
    assert other.summary["step"] == 9


def test_diverged_runs_are_compared_by_their_rows(train_once, capsys):
    """They have no last checkpoint."""
    train_once(*TRAIN, "optimizer=sgd", "optimizer.lr=1e30", "checkpoint.every=null")
    run = RunDirectory("outputs/one")
    assert run.status["status"] == "diverged"
    code, output, other = rerun(capsys)
    assert other.status["status"] == "diverged"
    assert "the last states are not compared" in output
    assert "is equal, bit for bit" in output
    assert code == 0


def test_a_missing_last_state_is_not_called_equal(run, capsys):
    shutil.rmtree(run.path / "checkpoints")
    code, output, _ = rerun(capsys)
    assert code == 0
    assert "the last states are not compared: one of the runs" in output
    assert "the state after" not in output


def test_custom_code_needs_trust(run, capsys):
    before = set(run.path.parent.iterdir())
    assert main(["rerun", "one"]) == 2
    assert "--trust" in capsys.readouterr().err
    assert main(["rerun", "nothing"]) == 2
    assert set(run.path.parent.iterdir()) == before
