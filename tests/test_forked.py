"""The fork server: its children behave like processes from the command line, and none outlives it."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from forked import Forks
from helpers import BLOBS
from processes import ENDLESS, TESTS, wait_until_training

from dlopt import __version__
from dlopt.rundir.directory import RunDirectory


def is_gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_exit_code_and_output_are_returned(forks, tmp_path):
    version = forks.run(["--version"], tmp_path)
    assert (version.code, version.out, version.err) == (0, f"dlopt {__version__}\n", "")
    refused = forks.run(["no-such-command"], tmp_path)
    assert (refused.code, refused.out) == (2, "")
    assert "there is no command 'no-such-command'" in refused.err
    usage = forks.run(["runs", "--no-such-flag"], tmp_path)
    assert usage.code == 2
    assert "--no-such-flag" in usage.err


def test_a_forked_run_equals_a_run_in_a_fresh_process(forks, tmp_path):
    """It has the same weights and output, in its own folder and environment."""
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
    """A job that does not end is waited for only as long as the timeout."""
    job = forks.start(ENDLESS, tmp_path, {"PYTHONPATH": TESTS})
    wait_until_training(job, tmp_path)
    assert os.getsid(job.pid) == job.pid
    job.kill(number)
    if number == signal.SIGSTOP:
        with pytest.raises(TimeoutError, match=str(job.pid)):
            job.wait(0.1)
        job.kill()
    assert job.wait().code == -signal.SIGKILL
    assert is_gone(job.pid)
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
    """SIGTERM ends a child at once and silently, before dlopt has its own handler."""
    job = forks.start(ENDLESS, tmp_path, {"PYTHONPATH": TESTS})
    job.kill(signal.SIGTERM)
    ended = job.wait()
    assert (ended.code, ended.out, ended.err) == (-signal.SIGTERM, "", "")


def test_the_time_of_a_job_is_its_own(forks, tmp_path):
    """A longer run takes more processor time; the imports of the server do not count."""

    def measure(epochs):
        ended = forks.run(["train", "-q", *BLOBS, "threads=1", f"epochs={epochs}"], tmp_path, {"PYTHONPATH": TESTS})
        assert ended.code == 0, ended.err
        return ended.seconds

    short, long, again = measure(1), measure(800), measure(1)
    assert 0 < short < long
    assert again < long


@pytest.mark.long
def test_nothing_is_left_behind_when_a_test_fails(tmp_path):
    """The server, a running job, a job that ended without being waited for, and their folder."""
    with pytest.raises(ZeroDivisionError), Forks() as server:
        ended = server.start(["--version"], tmp_path)
        job = server.start(ENDLESS, tmp_path, {"PYTHONPATH": TESTS})
        wait_until_training(job, tmp_path)
        pids = [ended.pid, job.pid, server._server.pid]
        raise ZeroDivisionError
    assert all(is_gone(pid) for pid in pids)
    assert not server._folder.exists()
    assert server._server.returncode == 0


@pytest.mark.long
def test_a_server_whose_tests_are_killed_ends_too(tmp_path):
    """With its job, because the operating system closes the pipe to it."""
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
    # The server keeps its standard error open until it ends, so this waits for it.
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr
    folder, pid = process.stdout.split()
    assert is_gone(int(pid))
    shutil.rmtree(folder)  # the killed process could not
