"""dlopt rerun: the whole again, as a run of its own, and what came out the same."""

import json
import logging
import re
import shutil

import pytest
from bits import find_differences, read_final_state
from helpers import BLOBS

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
def run(here, capsys):
    assert main(TRAIN) == 0
    for handler in logging.getLogger().handlers[:]:  # a process has one run: Hydra leaves its log open
        if isinstance(handler, logging.FileHandler):
            logging.getLogger().removeHandler(handler)
            handler.close()
    return RunDirectory(here / "outputs" / "one")


def files(run):
    return {p.relative_to(run.path): p.read_bytes() for p in run.path.rglob("*") if p.is_file()}


def rerun(capsys, *argv):
    """The exit code, what was said, and the new run."""
    capsys.readouterr()
    code = main(["rerun", "one", "--trust", *argv])
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return code, out + err, find_run()


def test_a_run_that_comes_out_the_same(run, capsys):
    before = files(run)
    code, said, other = rerun(capsys)
    assert code == 0
    assert "9 rows compared; every number is equal, bit for bit" in said
    assert "the state after step 9 is equal, bit for bit" in said
    assert files(run) == before, "the former is left as it is"
    assert re.search(r"-rerun-[0-9a-f]{4}$", other.path.name)
    assert find_differences(read_final_state(other), read_final_state(run)) == []
    assert other.status["settings"] == run.status["settings"]
    assert f"rerun of {run.path.relative_to(run.path.parents[1])}" in other.log_file.read_text()


def test_the_new_one_is_a_run_like_any(run, capsys):
    _, _, other = rerun(capsys)
    assert other.config() == run.config()
    for argv in (["show"], ["evaluate", "--trust"], ["verify", "--trust"], ["runs"]):
        capsys.readouterr()
        assert main(argv) == 0, capsys.readouterr().err
        assert other.path.name in capsys.readouterr().out
    assert main(["train", "-q", "resume=last", "--trust", "epochs=4"]) == 0
    assert other.summary["step"] == 12
    assert main(["train", "-q", f"resume={run.path}", "--trust", "epochs=4"]) == 0
    assert (
        find_differences(
            {k: v for k, v in read_final_state(other).items() if "config" not in k},
            {k: v for k, v in read_final_state(run).items() if "config" not in k},
        )
        == []
    )


def test_a_row_that_differs_is_told_with_its_step(run, capsys):
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    lines[3]["train/loss"] *= 1 + 2**-50
    run.metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, said, _ = rerun(capsys)
    assert code == 1
    assert "9 rows compared; train/loss is the first to differ, at step 4" in said
    assert "the state after step 9 is equal, bit for bit" in said
    assert rerun(capsys, "-q")[:2] == (1, "")


def test_the_settings_are_those_that_it_ended_with(run, capsys):
    assert main(["train", "-q", "resume=one", "--trust", "optimizer.lr=0.05", "epochs=4"]) == 0
    code, said, other = rerun(capsys)
    assert "up to step 9 it had other settings (optimizer.lr 0.001 -> 0.05); the new run has those" in said
    assert (code, {row["lr"] for row in other.rows()}) == (1, {0.05})
    assert "lr is the first to differ, at step 1" in said or "at step 1" in said


def test_a_run_that_was_interrupted_is_compared_as_far_as_it_came(run, capsys):
    """Its last checkpoint being that after step 8."""
    run.checkpoint("last").unlink()
    code, said, other = rerun(capsys)
    assert code == 0
    assert "the former run has 8 steps, this one 9: the last states are not compared" in said
    assert other.summary["step"] == 9


def test_runs_that_diverged_are_compared_by_their_rows(here, capsys):
    """They have no last checkpoint."""
    assert main([*TRAIN, "optimizer=sgd", "optimizer.lr=1e30", "checkpoint.every=null"]) == 0
    run = RunDirectory(here / "outputs" / "one")
    assert run.status["status"] == "diverged"
    code, said, other = rerun(capsys)
    assert other.status["status"] == "diverged"
    assert "the last states are not compared" in said
    assert "is equal, bit for bit" in said
    assert code == 0


def test_a_last_state_that_is_gone_is_not_called_equal(run, capsys):
    shutil.rmtree(run.path / "checkpoints")
    code, said, _ = rerun(capsys)
    assert code == 0
    assert "the last states are not compared: one of the runs" in said
    assert "the state after" not in said


def test_code_of_ones_own_is_executed_for_those_who_trust_it(run, capsys):
    before = set(run.path.parent.iterdir())
    assert main(["rerun", "one"]) == 2
    assert "--trust" in capsys.readouterr().err
    assert main(["rerun", "nothing"]) == 2
    assert set(run.path.parent.iterdir()) == before
