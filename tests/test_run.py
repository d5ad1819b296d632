"""The run directory."""

import json
import os

import pytest

from dlopt.run import Run, RunNotFound, find, replace_file, runs


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


def test_rows_after_a_step_can_be_dropped(tmp_path):
    run = Run.create(tmp_path)
    for step in (1, 2, 3):
        run.log({"step": step, "epoch": 0.0, "seconds": 0.0, "train/loss": 1.0 / step})
    run.finish("interrupted")
    assert [row["step"] for row in Run(tmp_path).truncate(2)] == [1, 2]
    assert [row["step"] for row in Run(tmp_path).rows()] == [1, 2]


def test_a_file_is_replaced_whole(tmp_path):
    file = tmp_path / "x.json"
    replace_file(file, b"one")
    replace_file(file, b"two")
    assert file.read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_runs_are_found_by_path_by_part_and_as_the_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("2026-01-01/10-00-00-cnn-adam-aaaa", "2026-01-01/11-00-00-mlp-sgd-bbbb", "multirun/x/0")):
        status = Run.create(tmp_path / "outputs" / name).status_file
        os.utime(status, (1000 + i, 1000 + i))
    os.utime(tmp_path / "outputs/2026-01-01/11-00-00-mlp-sgd-bbbb/status.json", (2000, 2000))
    assert find("last").path.name == "11-00-00-mlp-sgd-bbbb"
    assert find().path == find("mlp").path == find("outputs/2026-01-01/11-00-00-mlp-sgd-bbbb").path.relative_to(".")
    assert find("x/0").path.name == "0"
    with pytest.raises(RunNotFound, match="2 runs are called '2026'"):
        find("2026")
    with pytest.raises(RunNotFound, match="no run in outputs/ is called 'resnet'"):
        find("resnet")


def test_runs_are_listed_by_age_and_hold_no_other_run(tmp_path):
    for age, name in enumerate(("b", "a/0", "a/1", "b/inner")):
        os.utime(Run.create(tmp_path / name).status_file, (1000 - age, 1000 - age))
    (tmp_path / "c").mkdir()
    assert runs(tmp_path) == [tmp_path / "a/1", tmp_path / "a/0", tmp_path / "b"]
    assert runs(tmp_path / "b") == [tmp_path / "b"]
    assert runs(tmp_path / "nowhere") == []


def test_where_there_are_no_runs_it_is_said(tmp_path):
    with pytest.raises(RunNotFound, match="there are no runs"):
        find("last", tmp_path / "outputs")


def test_status_is_json_at_every_moment(tmp_path):
    run = Run.create(tmp_path)
    json.loads(run.status_file.read_text())
    run.finish("failed", message='a "quoted"\nmessage')
    assert run.status["message"] == 'a "quoted"\nmessage'
