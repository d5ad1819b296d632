"""Find runs and sweeps by names."""

import os
import subprocess
import sys
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
    path = Path("outputs/2026-01-01/11-00-00-mlp-sgd-bbbb")
    assert find_run().path == find_run("mlp").path == find_run(str(path)).path == path
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


def test_folders_deeper_than_the_recursion_limit_are_searched(tmp_path, monkeypatch):
    RunWriter.create(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(200)  # pytest itself is less deep
    for _ in range(250):
        Path("d").mkdir()
        os.chdir("d")
    os.chdir(tmp_path)
    try:
        assert list_runs(tmp_path) == [tmp_path / "a"]
        assert find_run("last", tmp_path).path == tmp_path / "a"
    finally:
        sys.setrecursionlimit(limit)
        subprocess.run(["rm", "-r", "d"], cwd=tmp_path, check=True)  # pytest removes folders by recursion


@pytest.mark.parametrize(
    ("name", "runs", "message"),
    [
        ("", "ab", "name a run: last, a directory, or a part of its name"),
        ("folder", "a", r"folder holds no run \(it has no status.json\)"),
        ("folder", "", r"folder holds no run \(it has no status.json\)"),
        ("last", "", "there are no runs"),
    ],
)
def test_a_name_without_a_run_is_refused(name, runs, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for run in runs:
        RunWriter.create(tmp_path / "outputs" / run)
    with pytest.raises(RunNotFound, match=message):
        find_run(name)


def test_messages_do_not_control_the_terminal(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        RunWriter.create(tmp_path / "outputs" / f"{name}\x1b[2J")
    (tmp_path / "\x1b").mkdir()
    for name in ("\x1b[2J", "none", "none\x1b", "\x1b"):
        with pytest.raises(RunNotFound) as error:
            find_run(name)
        assert "\x1b" not in str(error.value)
        assert "\N{REPLACEMENT CHARACTER}" in str(error.value)


def test_a_name_refers_to_a_sweep_if_no_other_run_contains_it(here):
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
