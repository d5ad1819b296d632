"""Two processes given one directory: one of them works there, the other is told who does."""

import json
import signal

import pytest
from forked import ForkedProcess, Forks
from helpers import BLOBS
from test_forked import ENDLESS, TESTS, begun

from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.writer import RunWriter
from dlopt.storage import atomic

MINE = {"PYTHONPATH": TESTS}


def files(folder):
    """What lies in a directory, but for what a run that is under way writes."""
    growing = ("metrics.jsonl", "checkpoints", "events.out")
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and not str(p.relative_to(folder)).startswith(growing)
    }


@pytest.fixture
def running(forks, tmp_path):
    """A run without an end in the directory run; stopped at the end, if it is still there."""
    job = forks.start(ENDLESS, tmp_path, MINE)
    begun(job, tmp_path)
    yield job
    job.kill()
    job.wait()


def said_of(forks: Forks, folder, name="run") -> tuple[str, str]:
    """What the commands that look at runs say of one."""
    shown = [forks.run(argv, folder, MINE) for argv in (["runs", "."], ["show", name])]
    assert [ended.code for ended in shown] == [0, 0], shown
    return shown[0].out, shown[1].out


def test_the_second_is_told_which_process_holds_the_directory(running, forks, tmp_path):
    before = files(tmp_path / "run")
    ended = forks.run(ENDLESS, tmp_path, MINE)
    assert ended.code == 2
    assert "hydra.run.dir  run is being written by process " in ended.err
    assert f"process {running.pid} on " in ended.err
    assert "Traceback" not in ended.err
    assert files(tmp_path / "run") == before
    assert not running.has_ended
    running.kill(signal.SIGINT)
    assert running.wait().code == 130
    ended = forks.run(ENDLESS, tmp_path, MINE)
    assert (ended.code, "already holds a run" in ended.err) == (2, True)


def test_of_two_that_start_at_once_one_trains(forks, tmp_path):
    jobs = [forks.start(["train", "-q", *BLOBS, "hydra.run.dir=run"], tmp_path, MINE) for _ in range(3)]
    codes = sorted((job.wait().code, "hydra.run.dir" in job.wait().err) for job in jobs)
    assert codes == [(0, False), (2, True), (2, True)]
    run = RunDirectory(tmp_path / "run")
    assert run.status["status"] == "done"
    assert run.status["pid"] in [job.pid for job in jobs if job.wait().code == 0]
    assert [row["step"] for row in run.rows()] == [3, 6, 9]


def test_two_processes_that_sweep_in_one_directory_share_it(forks, tmp_path):
    argv = ["train", "-q", "-m", *BLOBS, "epochs=50", "seed=0,1,2,3,4,5", "hydra.sweep.dir=sweep"]
    jobs = [forks.start(argv, tmp_path, MINE) for _ in range(2)]
    assert [job.wait().code for job in jobs] == [0, 0], [job.wait() for job in jobs]
    found = [RunDirectory(tmp_path / "sweep" / str(number)).status for number in range(6)]
    assert [status["status"] for status in found] == ["done"] * 6
    assert {status["pid"] for status in found} <= {job.pid for job in jobs}
    assert sorted(status["settings"]["seed"] for status in found) == [0, 1, 2, 3, 4, 5]
    assert not (tmp_path / "sweep" / "6").exists()


def test_a_run_of_another_process_of_the_sweep_is_not_touched(forks, tmp_path):
    argv = [word for word in ENDLESS if not word.startswith("hydra")] + ["-m", "seed=0", "hydra.sweep.dir=run"]
    first = forks.start(argv, tmp_path, MINE)
    while not (tmp_path / "run/0/checkpoints/last.safetensors").exists():
        assert not first.has_ended, first.wait()
    ended = forks.run([word for word in argv if word != "-q"], tmp_path, MINE)
    assert ended.code == 0
    assert "1 is running in other processes" in ended.out
    assert RunDirectory(tmp_path / "run" / "0").status["pid"] == first.pid
    first.kill()
    first.wait()


def gone_on(forks: Forks, folder, count: int) -> list[ForkedProcess]:
    return [forks.start(["train", "-q", "resume=run", "--trust"], folder, MINE) for _ in range(count)]


def test_of_two_that_resume_at_once_one_goes_on(running, forks, tmp_path):
    run = RunDirectory(tmp_path / "run")
    running.kill()
    running.wait()
    jobs = gone_on(forks, tmp_path, 2)
    while not any(job.has_ended for job in jobs):
        pass
    (refused,) = [job for job in jobs if job.has_ended]
    (going,) = [job for job in jobs if job is not refused]
    ended = refused.wait()
    # The other may hold the directory and not have written its name yet.
    named = f"being written by process {going.pid} on " in ended.err or "being written by another process" in ended.err
    assert (ended.code, named) == (2, True), ended
    while run.status["pid"] != going.pid:
        assert not going.has_ended, going.wait()
    assert len(run.status["before"]) == 1
    going.kill(signal.SIGINT)
    assert going.wait().code in (130, -signal.SIGINT)


def test_a_run_that_is_taken_over_writes_no_more_and_says_so(running, tmp_path):
    """As a process that slept finds it, whose directory another machine has taken meanwhile."""
    run = RunWriter(tmp_path / "run")
    other = json.loads(run.lock.file.read_text()) | {"host": "elsewhere", "pid": 1, "token": "another"}
    atomic.atomic_write_bytes(run.lock.file, json.dumps(other).encode())
    ended = running.wait()
    assert ended.code == 1
    assert "stopped: " in ended.err
    assert "was taken over by process 1 on elsewhere" in ended.err
    assert run.status["status"] == "running", "which is the other's to write"
    assert json.loads(run.lock.file.read_text()) == other
    assert run.latest_checkpoint() is not None


def test_a_killed_run_is_shown_as_dead(running, forks, tmp_path):
    many, one = said_of(forks, tmp_path)
    assert ("running" in many, "running" in one) == (True, True)
    assert "dead" not in many + one
    running.kill()
    running.wait()
    many, one = said_of(forks, tmp_path)
    assert ("dead" in many, "its process is gone" in one) == (True, True)
    assert RunDirectory(tmp_path / "run").status["status"] == "running"
