"""Runs by their names."""

import os
import subprocess
from pathlib import Path

import pytest

from dlopt.rundir.find import ROOT, RunNotFound, find_run, find_sweep, list_runs, list_sweeps
from dlopt.rundir.writer import RunWriter


def test_runs_are_found_by_path_by_part_and_as_the_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("2026-01-01/10-00-00-cnn-adam-aaaa", "2026-01-01/11-00-00-mlp-sgd-bbbb", "multirun/x/0")):
        status = RunWriter.create(tmp_path / "outputs" / name).status_file
        os.utime(status, (1000 + i, 1000 + i))
    os.utime(tmp_path / "outputs/2026-01-01/11-00-00-mlp-sgd-bbbb/status.json", (2000, 2000))
    assert find_run("last").path.name == "11-00-00-mlp-sgd-bbbb"
    assert (
        find_run().path
        == find_run("mlp").path
        == find_run("outputs/2026-01-01/11-00-00-mlp-sgd-bbbb").path.relative_to(".")
    )
    assert find_run("x/0").path.name == "0"
    with pytest.raises(RunNotFound, match="2 runs are called '2026'"):
        find_run("2026")
    with pytest.raises(RunNotFound, match="no run in outputs/ is called 'resnet'"):
        find_run("resnet")


def test_runs_are_listed_by_age_and_hold_no_other_run(tmp_path):
    for age, name in enumerate(("b", "a/0", "a/1", "b/inner")):
        os.utime(RunWriter.create(tmp_path / name).status_file, (1000 - age, 1000 - age))
    (tmp_path / "c").mkdir()
    assert list_runs(tmp_path) == [tmp_path / "a/1", tmp_path / "a/0", tmp_path / "b"]
    assert list_runs(tmp_path / "b") == [tmp_path / "b"]
    assert list_runs(tmp_path / "nowhere") == []


def test_folders_inside_folders_have_no_end_that_matters(tmp_path, monkeypatch):
    """More levels than Python's recursion limit."""
    RunWriter.create(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    for _ in range(1100):
        Path("d").mkdir()
        os.chdir("d")
    os.chdir(tmp_path)
    try:
        assert list_runs(tmp_path) == [tmp_path / "a"]
        assert find_run("last", tmp_path).path == tmp_path / "a"
    finally:
        subprocess.run(["rm", "-r", "d"], cwd=tmp_path, check=True)  # pytest's own way is by recursion


def test_an_empty_name_is_that_of_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        RunWriter.create(tmp_path / "outputs" / name)
    with pytest.raises(RunNotFound, match="name a run: last, a directory, or a part of its name"):
        find_run("")


@pytest.mark.parametrize("there_are_runs", [False, True])
def test_a_folder_without_a_run_is_said_to_be_one(there_are_runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    if there_are_runs:
        RunWriter.create(tmp_path / "outputs" / "a")
    with pytest.raises(RunNotFound, match=r"folder holds no run \(it has no status.json\)"):
        find_run("folder")


def test_messages_hold_nothing_that_a_terminal_obeys(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        RunWriter.create(tmp_path / "outputs" / f"{name}\x1b[2J")
    (tmp_path / "\x1b").mkdir()
    for name in ("\x1b[2J", "none", "none\x1b", "\x1b"):
        with pytest.raises(RunNotFound) as found:
            find_run(name)
        assert "\x1b" not in str(found.value)
        assert "\N{REPLACEMENT CHARACTER}" in str(found.value)


def test_where_there_are_no_runs_it_is_said(tmp_path):
    with pytest.raises(RunNotFound, match="there are no runs"):
        find_run("last", tmp_path / "outputs")


def test_a_name_means_a_sweep_where_it_is_in_no_other_run(here):
    first, second = (here / "outputs/multirun/2026-01-01" / name for name in ("10-00-00-aaaa", "10-00-01-bbbb"))
    for sweep, file in ((first, "sweep.json"), (second, "multirun.yaml")):
        for i in range(2):
            RunWriter.create(sweep / str(i)).finish("done")
        (sweep / file).touch()
    RunWriter.create("outputs/2026-01-02/bbbb-adam").finish("done")
    relative = first.relative_to(here)
    assert list_sweeps(ROOT) == [relative, second.relative_to(here)]
    assert find_sweep("aaaa") == relative
    assert find_sweep(str(relative)) == relative
    assert find_sweep(str(first)) == first
    for name in ("last", "", "bbbb", "2026-01-01", "aaaa/1", "cccc", "outputs", str(first / "1")):
        assert find_sweep(name) is None
