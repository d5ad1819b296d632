"""The run directory."""

import json
import os

import pytest

from dlopt.run import Run


def test_a_run_is_written_and_read_back(tmp_path):
    run = Run.create(tmp_path / "one", {"optimizer": "adam", "lr": 0.1})
    assert run.status["status"] == "running"
    assert run.status["pid"] == os.getpid()
    run.log({"step": 1, "epoch": 1.0, "seconds": 0.1, "train/loss": 2.0, "val/loss": float("nan")})
    run.finish("done", {"train/loss": 2.0, "val/loss": float("inf")})
    again = Run(run.path)
    assert again.rows() == [{"step": 1, "epoch": 1.0, "seconds": 0.1, "train/loss": 2.0, "val/loss": None}]
    assert again.summary == {"train/loss": 2.0, "val/loss": None}
    assert again.status["status"] == "done"
    assert again.status["ended"] >= again.status["started"]
    assert {"dlopt", "python"} <= again.status["versions"].keys()


def test_a_directory_that_holds_a_run_is_refused(tmp_path):
    Run.create(tmp_path)
    before = (tmp_path / "status.json").read_text()
    with pytest.raises(FileExistsError, match="already holds a run"):
        Run.create(tmp_path)
    assert (tmp_path / "status.json").read_text() == before


def test_status_is_json_at_every_moment(tmp_path):
    run = Run.create(tmp_path)
    json.loads(run.status_file.read_text())
    run.finish("failed", message='a "quoted"\nmessage')
    assert run.status["message"] == 'a "quoted"\nmessage'
