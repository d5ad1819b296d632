"""Find runs and sweeps by names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dlopt.cli import main
from dlopt.rundir.display import find_folder
from dlopt.rundir.find import SWEEP_FILES, RunNotFound, find_last, find_run, find_sweep, list_runs, list_sweeps
from dlopt.rundir.writer import RunWriter


def make_run(path, started, *, changed=None):
    """Write a finished run that started at this time; changed: when its status was written last."""
    RunWriter.create(path).finish("done")
    record_start(path, started, changed or started + 1)
    return Path(path)


def record_start(path, started, changed):
    file = RunWriter(path).status_file
    file.write_text(json.dumps(RunWriter(path).status | {"since": started}))
    os.utime(file, (changed, changed))


def make_sweep(path, started, numbers=range(2)):
    """Write a sweep whose runs start after it, 100 seconds apart."""
    for i in numbers:
        make_run(path / str(i), started + 100 * (i + 1))
    path.mkdir(parents=True, exist_ok=True)
    for file in SWEEP_FILES:
        (path / file).touch()
        os.utime(path / file, (started, started))
    return path


def test_runs_are_found_by_path_by_part_and_as_the_last(here):
    """The last is the one that started last by its record: not by its name, nor by its end."""
    make_run("outputs/2026-01-01/10-00-00-cnn-adam-aaaa", 1000, changed=5000)
    path = make_run("outputs/2026-01-01/09-00-00-mlp-sgd-bbbb", 2000)  # the clock was set to another time zone
    make_run("outputs/2026-01-01/11-00-00-rnn-sgd-cccc", 1500, changed=2500)
    make_run("outputs/x/0", 500)
    assert find_run("last").path == find_run().path == find_last() == path
    assert find_run("mlp").path == find_run(str(path)).path == path
    assert find_run("x/0").path.name == "0"
    with pytest.raises(RunNotFound, match="3 runs are called '2026'"):
        find_run("2026")
    with pytest.raises(RunNotFound, match=r"no run in outputs/ is called 'resnet'; the newest is .*bbbb"):
        find_run("resnet")
    record_start("outputs/x/0", 3000, 3001)  # resumed
    assert find_last() == Path("outputs/x/0")
    Path("outputs/2026-01-01/10-00-00-cnn-adam-aaaa/status.json").write_text("damaged")
    assert find_last().name == "10-00-00-cnn-adam-aaaa", "a damaged status has no record, and has just changed"


@pytest.mark.parametrize("place", ["outputs/multirun/2026-01-01/10-00-00-aaaa", "outputs/mysweep", "outputs"])
def test_the_last_is_a_sweep_or_a_single_run_but_no_run_of_a_sweep(place, here):
    single = make_run("outputs/2026-01-02/10-00-00-cnn-adam-bbbb", 1000)
    sweep = make_sweep(Path(place), 2000, range(3))
    make_run(sweep / "2" / "seed-1", 9000)
    assert find_last() == find_folder("last") == find_sweep("last") == sweep
    assert list_sweeps() == [sweep]
    with pytest.raises(RunNotFound, match=f"^{place} is a sweep; name one of its runs, such as {place}/0$"):
        find_run("last")
    later = make_run("outputs/2026-01-01/10-00-00-cnn-adam-cccc", 2050)
    assert find_last() == find_folder("last") == find_run("last").path == later
    assert find_sweep("last") is None
    (sweep / "multirun.yaml").touch()  # resumed
    assert find_last() == sweep
    assert find_sweep(single.name) is None


def test_links_are_followed_in_outputs_only_and_without_loops(here):
    inside = make_run("outputs/2026-01-01/a", 1000)
    make_run("elsewhere/deep/b", 2000)
    make_run("other", 3000)
    sweep = make_sweep(here / "disk", 4000)
    for link, target in {
        "outputs/linked": here / "elsewhere", "outputs/twice": here / "elsewhere", "outputs/run": here / "other",
        "outputs/sweep": sweep, "outputs/up": here, "outputs/itself": here / "outputs", "outputs/in": inside.parent,
        "outputs/nowhere": here / "nowhere", "outputs/2026-01-01/link": here / "other", "outputs/2026-01-01/a/c": here,
        "elsewhere/deep/more": here / "other", "elsewhere/link": here / "other",
    }.items():  # fmt: skip
        Path(link).symlink_to(target)
    runs = {"outputs/2026-01-01/a", "outputs/linked/deep/b", "outputs/run", "outputs/sweep/0", "outputs/sweep/1"}
    assert sorted(map(str, list_runs())) == sorted(runs)
    assert find_last() == Path("outputs/sweep")
    assert list_runs("elsewhere") == [Path("elsewhere/deep/b")]
    Path("outputs").rename("real")
    Path("outputs").symlink_to("real")
    assert sorted(map(str, list_runs())) == sorted(runs)


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


def test_a_run_whose_status_is_a_dangling_link_is_listed_as_damaged(here, capsys):
    make_run("outputs/a", 1000)
    Path("outputs/b").mkdir()
    Path("outputs/b/status.json").symlink_to("nowhere")
    assert main(["runs"]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[1:]] == [["b", "damaged"], ["a", "done"]]
    assert main(["show", "outputs/b"]) == 2
    assert capsys.readouterr().err == "dlopt show: outputs/b is damaged (outputs/b/status.json: is a symbolic link)\n"


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
    assert list_sweeps() == [relative, second.relative_to(here)]
    assert find_sweep("aaaa") == relative
    assert find_sweep(str(relative)) == relative
    assert find_sweep(str(first)) == first
    for name in ("last", "", "bbbb", "2026-01-01", "aaaa/1", "cccc", "outputs", str(first / "1")):
        assert find_sweep(name) is None
