"""Two processes with one directory: only one writes, and the other reports it."""

import json
import os
import re
import signal

import pytest
from helpers import BLOBS, read_tree
from processes import ENDLESS, TESTS, wait_for_file, wait_until, wait_until_training

from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.writer import RunWriter
from dlopt.storage import atomic

MINE = {"PYTHONPATH": TESTS}


def read_settled(folder):
    """Return the files of a run, except those that a running run changes."""
    growing = ("metrics.jsonl", "checkpoints", "events.out")
    return {name: content for name, content in read_tree(folder).items() if not name.startswith(growing)}


@pytest.fixture
def running(forks, tmp_path):
    """Start an endless run in the directory run; kill it after the test."""
    job = forks.start(ENDLESS, tmp_path, MINE)
    wait_until_training(job, tmp_path)
    yield job
    job.kill()
    job.wait()


def test_the_message_names_the_process_that_holds_the_directory(running, forks, tmp_path):
    before = read_settled(tmp_path / "run")
    ended = forks.run(ENDLESS, tmp_path, MINE)
    assert ended.code == 2
    assert "hydra.run.dir  run is being written by process " in ended.err
    assert f"process {running.pid} on " in ended.err
    assert "Traceback" not in ended.err
    assert read_settled(tmp_path / "run") == before
    assert not running.has_ended
    running.kill(signal.SIGINT)
    assert running.wait().code == 130
    ended = forks.run(ENDLESS, tmp_path, MINE)
    assert (ended.code, "already holds a run" in ended.err) == (2, True)


@pytest.mark.parametrize("pool", [False, True])
def test_signals_that_were_ignored_at_the_start_stay_ignored(pool, forks, tmp_path):
    """As after nohup, or in the background of a script; SIGTERM still stops, and what runs is saved."""
    argv, run = ENDLESS, RunDirectory(tmp_path / "run")
    if pool:
        argv = [word for word in argv if not word.startswith("hydra")]
        argv += ["-m", "seed=0,1", "hydra.sweep.dir=run", "hydra/launcher=pool", "hydra.launcher.workers=2"]
        run = RunDirectory(tmp_path / "run/0")
    job = forks.start(argv, tmp_path, MINE, ignored=[signal.SIGHUP, signal.SIGINT])
    checkpoint = run.checkpoint("last")
    wait_for_file(job, checkpoint)
    for pid in {job.pid, run.status["pid"]}:
        for number in (signal.SIGHUP, signal.SIGINT):
            os.kill(pid, number)
    for _ in range(3):
        former = checkpoint.stat().st_mtime_ns
        wait_until(lambda former=former: checkpoint.stat().st_mtime_ns != former or job.has_ended)
    assert not job.has_ended
    assert run.status["status"] == "running"
    job.kill(signal.SIGTERM)
    assert job.wait().code == 130
    assert run.status["status"] == "interrupted"


def test_only_one_of_several_processes_trains(forks, tmp_path):
    jobs = [forks.start(["train", "-q", *BLOBS, "hydra.run.dir=run"], tmp_path, MINE) for _ in range(3)]
    codes = sorted((job.wait().code, "hydra.run.dir" in job.wait().err) for job in jobs)
    assert codes == [(0, False), (2, True), (2, True)]
    run = RunDirectory(tmp_path / "run")
    assert run.status["status"] == "done"
    assert run.status["pid"] in [job.pid for job in jobs if job.wait().code == 0]
    assert [row["step"] for row in run.rows()] == [3, 6, 9]


def test_two_processes_share_a_sweep(forks, tmp_path):
    argv = ["train", "-q", "-m", *BLOBS, "epochs=50", "seed=0,1,2,3", "hydra.sweep.dir=sweep"]
    jobs = [forks.start(argv, tmp_path, MINE) for _ in range(2)]
    assert [job.wait().code for job in jobs] == [0, 0], [job.wait() for job in jobs]
    statuses = [RunDirectory(tmp_path / "sweep" / str(number)).status for number in range(4)]
    assert [status["status"] for status in statuses] == ["done"] * 4
    assert {status["pid"] for status in statuses} <= {job.pid for job in jobs}
    assert sorted(status["settings"]["seed"] for status in statuses) == [0, 1, 2, 3]
    assert not (tmp_path / "sweep" / "4").exists()


def test_a_run_of_another_process_of_the_sweep_is_left_alone(forks, tmp_path):
    argv = [word for word in ENDLESS if not word.startswith("hydra")] + ["-m", "seed=0", "hydra.sweep.dir=run"]
    first = forks.start(argv, tmp_path, MINE)
    wait_for_file(first, tmp_path / "run/0/checkpoints/last.safetensors")
    ended = forks.run([word for word in argv if word != "-q"], tmp_path, MINE)
    assert ended.code == 0
    assert "1 is running in other processes" in ended.out
    assert RunDirectory(tmp_path / "run" / "0").status["pid"] == first.pid
    first.kill()
    first.wait()


def test_only_one_of_two_processes_resumes_a_run(running, forks, tmp_path):
    run = RunDirectory(tmp_path / "run")
    running.kill()
    running.wait()
    jobs = [forks.start(["train", "-q", "resume=run", "--trust"], tmp_path, MINE) for _ in range(2)]
    wait_until(lambda: any(job.has_ended for job in jobs))
    (refused,) = [job for job in jobs if job.has_ended]
    (resuming,) = [job for job in jobs if job is not refused]
    ended = refused.wait()
    # The other may hold the directory and not have written its name yet.
    holder = rf"being written by (process {resuming.pid} on |another process)"
    assert (ended.code, bool(re.search(holder, ended.err))) == (2, True), ended
    wait_until(lambda: run.status["pid"] == resuming.pid or resuming.has_ended)
    assert len(run.status["before"]) == 1
    resuming.kill(signal.SIGINT)
    assert resuming.wait().code in (130, -signal.SIGINT)


def test_a_run_that_was_taken_over_stops_writing(running, tmp_path):
    """As after sleep, if a process of another machine took the directory meanwhile."""
    run = RunWriter(tmp_path / "run")
    other = json.loads(run.lock.file.read_text()) | {"host": "elsewhere", "pid": 1, "token": "another"}
    atomic.atomic_write_bytes(run.lock.file, json.dumps(other).encode())
    ended = running.wait()
    assert ended.code == 1
    assert "stopped: " in ended.err
    assert "was taken over by process 1 on elsewhere" in ended.err
    assert run.status["status"] == "running"  # the other process writes it
    assert json.loads(run.lock.file.read_text()) == other
    assert run.latest_checkpoint() is not None


def test_a_killed_run_is_shown_as_dead(running, forks, tmp_path):
    commands = ["runs", "."], ["show", "run"]
    for argv in commands:
        output = forks.run(argv, tmp_path, MINE).out
        assert ("running" in output, "dead" in output) == (True, False)
    running.kill()
    running.wait()
    outputs = [forks.run(argv, tmp_path, MINE).out for argv in commands]
    assert ("dead" in outputs[0], "its process is gone" in outputs[1]) == (True, True)
    assert RunDirectory(tmp_path / "run").status["status"] == "running"
