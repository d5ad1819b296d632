"""The server of forks: its children are processes of dlopt as the command line has them, and none outlives it."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from forked import Forks
from helpers import BLOBS

from dlopt import __version__
from dlopt.rundir.directory import RunDirectory

TESTS = str(Path(__file__).parent)
ENDLESS = ("train", "-q", *BLOBS, "threads=1", "epochs=1000000", "eval_every=100000", "checkpoint.every=10",
           "hydra.run.dir=run")  # fmt: skip


def begun(job, folder):
    """Wait until a job trains; it must not have ended."""
    while not (folder / "run/checkpoints/last.safetensors").exists():
        assert not job.has_ended, job.wait()


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_exit_code_and_output_are_returned(forks, tmp_path):
    said = forks.run(["--version"], tmp_path)
    assert (said.code, said.out, said.err) == (0, f"dlopt {__version__}\n", "")
    refused = forks.run(["no-such-command"], tmp_path)
    assert (refused.code, refused.out) == (2, "")
    assert "there is no command 'no-such-command'" in refused.err
    usage = forks.run(["runs", "--no-such-flag"], tmp_path)
    assert usage.code == 2
    assert "--no-such-flag" in usage.err


def test_a_forked_run_equals_a_run_in_a_fresh_process(forks, tmp_path):
    """The same weights and the same words on the screen, in its own folder and environment."""
    argv = ["train", *BLOBS, "threads=1", "hydra.run.dir=run"]
    (tmp_path / "fork").mkdir()
    (tmp_path / "hand").mkdir()
    forked = forks.run(argv, tmp_path / "fork", {"PYTHONPATH": TESTS})
    places = os.pathsep.join([TESTS, str(Path(TESTS).parent)])
    by_hand = subprocess.run(
        [sys.executable, "-m", "dlopt", *argv], cwd=tmp_path / "hand", env={**os.environ, "PYTHONPATH": places},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert forked.code == 0, forked.err
    one, other = RunDirectory(tmp_path / "fork/run"), RunDirectory(tmp_path / "hand/run")
    assert forked.err == by_hand.stderr
    assert len(forked.out.splitlines()) == len(by_hand.stdout.splitlines())
    assert one.config_file.read_text() == other.config_file.read_text()
    for name, tensor in one.load("last")["model"].items():
        assert tensor.equal(other.load("last")["model"][name])


def test_environment_and_path_do_not_leak_between_jobs(forks, tmp_path):
    argv = ["train", "-q", *BLOBS, "threads=1"]
    assert forks.run(argv, tmp_path, {"PYTHONPATH": TESTS}).code == 0
    without = forks.run(argv, tmp_path)
    assert without.code == 2
    assert "mine" in without.err


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_job_is_killed(number, forks, tmp_path):
    """At any instant and for good; one that does not end is waited for no longer than was said."""
    job = forks.start(ENDLESS, tmp_path, {"PYTHONPATH": TESTS})
    begun(job, tmp_path)
    assert os.getsid(job.pid) == job.pid
    job.kill(number)
    if number == signal.SIGSTOP:
        with pytest.raises(TimeoutError, match=str(job.pid)):
            job.wait(0.1)
        job.kill()
    assert job.wait().code == -signal.SIGKILL
    assert gone(job.pid)
    job.kill()
    assert RunDirectory(tmp_path / "run").is_stale


def test_a_job_is_killed_before_it_has_done_anything(forks, tmp_path):
    for _ in range(20):
        job = forks.start(ENDLESS, tmp_path, {"PYTHONPATH": TESTS})
        job.kill()
        ended = job.wait()
        assert (ended.code, ended.out, ended.err) == (-signal.SIGKILL, "", "")
    assert not (tmp_path / "run").exists()


def test_signal_handlers_are_those_of_a_fresh_process(forks, tmp_path):
    """SIGTERM at once: the child dies of it, wherever it is, and says nothing; later dlopt's own handler hears it."""
    job = forks.start(ENDLESS, tmp_path, {"PYTHONPATH": TESTS})
    job.kill(signal.SIGTERM)
    ended = job.wait()
    assert (ended.code, ended.out, ended.err) == (-signal.SIGTERM, "", "")
    job = forks.start(ENDLESS, tmp_path, {"PYTHONPATH": TESTS})
    begun(job, tmp_path)
    job.kill(signal.SIGTERM)
    assert job.wait().code == 130
    assert RunDirectory(tmp_path / "run").status["status"] == "interrupted"


def test_two_jobs_at_once_are_independent(forks, tmp_path):
    jobs = []
    for name in "ab":
        (tmp_path / name).mkdir()
        argv = ["train", "-q", *BLOBS, "threads=1", f"seed={ord(name)}", "hydra.run.dir=run"]
        jobs.append(forks.start(argv, tmp_path / name, {"PYTHONPATH": TESTS}))
    assert jobs[0].pid != jobs[1].pid
    assert [job.wait().code for job in reversed(jobs)] == [0, 0]
    assert [RunDirectory(tmp_path / name / "run").config()["seed"] for name in "ab"] == [97, 98]


def test_the_time_of_a_job_is_its_own(forks, tmp_path):
    """That of the processor, which a longer run takes more of and the server's imports are no part of."""

    def spent(epochs):
        ended = forks.run(["train", "-q", *BLOBS, "threads=1", f"epochs={epochs}"], tmp_path, {"PYTHONPATH": TESTS})
        assert ended.code == 0, ended.err
        return ended.seconds

    short, long, again = spent(1), spent(800), spent(1)
    assert 0 < short < long
    assert again < long


def test_the_memory_of_a_job_is_its_own_peak(forks, tmp_path):
    """Data of 64 MB more are 64 MB more at the least, and not those of the job that ran before."""

    def peak(size):
        blobs = [f"+data.shape=[{size}]", "arch.widths=[1]", "epochs=1"]
        ended = forks.run(["train", "-q", *BLOBS, *blobs, "threads=1"], tmp_path, {"PYTHONPATH": TESTS})
        assert ended.code == 0, ended.err
        return ended.memory

    small, large, again = peak(4), peak(200_000), peak(4)
    assert large > small + (64 << 20)
    assert again < small + (16 << 20)


@pytest.mark.long
def test_nothing_is_left_behind_when_a_test_fails(tmp_path):
    """The server, a job under way, one that ended and was never asked for, and their folder."""
    with pytest.raises(ZeroDivisionError), Forks() as server:
        ended = server.start(["--version"], tmp_path)
        job = server.start(ENDLESS, tmp_path, {"PYTHONPATH": TESTS})
        begun(job, tmp_path)
        pids = [ended.pid, job.pid, server._server.pid]
        raise ZeroDivisionError
    assert all(gone(pid) for pid in pids)
    assert not server._folder.exists()
    assert server._server.returncode == 0


@pytest.mark.long
def test_a_server_whose_tests_are_killed_ends_too(tmp_path):
    """With its job: the pipe to it is closed by the operating system."""
    code = f"""
import os, sys
sys.path[:0] = [{TESTS!r}, {str(Path(TESTS).parent)!r}]
from pathlib import Path
from forked import Forks
with Forks() as server:
    job = server.start({list(ENDLESS)!r}, Path({str(tmp_path)!r}), {{"PYTHONPATH": {TESTS!r}}})
    while not Path({str(tmp_path / "run/checkpoints/last.safetensors")!r}).exists():
        assert not job.has_ended, job.wait()
    print(server._folder, job.pid, flush=True)
    os.kill(os.getpid(), 9)
"""
    # The server holds its standard error open to its end, which is waited for here.
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr
    folder, pid = process.stdout.split()
    assert gone(int(pid))
    shutil.rmtree(folder)  # which a process that was killed could not
