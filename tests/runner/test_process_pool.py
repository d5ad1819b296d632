"""Real worker processes: reused, lost, asked to stop, and orphaned when their parent is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pool_jobs
import pytest
from loky import cpu_count
from pool_jobs import Act, perform
from processes import have_ended, list_session, wait_until

from dlopt.config.problems import ConfigError
from dlopt.runner import process_pool as module
from dlopt.runner.process_pool import WorkerPool
from dlopt.runner.workers import InProcess, WorkerLostError


@pytest.fixture
def make_pool():
    """make_pool(count): a pool that is closed at the end of the test."""
    pools = []

    def make(count):
        pools.append(WorkerPool(count, perform))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def get_pid(act: Act) -> int:
    """Return the process that performs a job, once it does."""
    wait_until(act.pid_file.exists)
    return int(act.pid_file.read_text())


def do(pool, what: str, folder: Path, name: str = "") -> tuple[Act, BaseException | None]:
    """Perform a job when no other is running."""
    act = Act(what, name or what, folder)
    pool.submit(act)
    ((ended, error),) = pool.wait()
    assert ended == act
    return act, error


# ------------------------------------------------------------------------------------------- jobs


def test_workers_are_reused_from_job_to_job(make_pool, tmp_path):
    pool, pids = make_pool(2), set()
    for turn in range(4):
        acts = [Act("nothing", f"{turn}-{i}", tmp_path) for i in range(2)]
        for act in acts:
            pool.submit(act)
        ended = []
        while len(ended) < 2:
            ended += pool.wait()
        assert sorted(ended, key=lambda pair: pair[0].name) == [(act, None) for act in acts]
        pids |= {get_pid(act) for act in acts}
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_no_worker_starts_before_it_is_needed():
    before = list_session(os.getsid(0))
    WorkerPool(2, perform).close()
    assert WorkerPool(2, perform).wait() == []
    assert list_session(os.getsid(0)) == before


def test_jobs_are_returned_as_they_end(make_pool, tmp_path):
    pool = make_pool(2)
    first, second, third = (Act("wait_for_go", name, tmp_path) for name in ("first", "second", "third"))
    pool.submit(first)
    pool.submit(second)
    get_pid(first)
    tmp_path.joinpath("second.go").touch()
    assert pool.wait() == [(second, None)]
    pool.submit(third)
    tmp_path.joinpath("third.go").touch()
    assert pool.wait() == [(third, None)]
    assert get_pid(third) == get_pid(second)
    tmp_path.joinpath("first.go").touch()
    assert pool.wait() == [(first, None)]


def test_each_worker_has_its_share_of_the_cores_or_a_smaller_limit_in_force(make_pool, tmp_path, monkeypatch):
    for own in (None, 1, 1000):
        for name in module.THREADS:
            monkeypatch.setenv(name, str(own)) if own else monkeypatch.delenv(name, raising=False)
        for count in (1, 2, 1000):
            share = min(max(1, cpu_count() // count), own or 1000)
            assert make_pool(count)._environment == dict.fromkeys(module.THREADS, str(share))
    act, _ = do(make_pool(2), "threads", tmp_path)
    assert int(act.file.read_text()) == max(1, cpu_count() // 2), "as torch counts in the worker"


def test_a_worker_has_the_place_of_its_parent_and_its_output_is_not_seen(make_pool, tmp_path, monkeypatch, capfd):
    tmp_path.joinpath("found_here.py").write_text("ANSWER = 42\n")
    for name in ("random", "selectors", "signal", "threading"):
        tmp_path.joinpath(f"{name}.py").write_text("raise ImportError('in place of the standard library')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    pool = make_pool(1)
    act, error = do(pool, "here", tmp_path)
    assert (act.file.read_text(), error) == (f"{tmp_path} 42", None)
    assert do(pool, "talk", tmp_path)[1] is None
    pool.close()
    assert capfd.readouterr() == ("", "")


# ------------------------------------------------------------------------------------------- failures


def test_the_exception_of_a_job_is_returned_and_the_worker_continues(make_pool, tmp_path):
    pool, acts = make_pool(1), []
    for what, kind, words in (
        ("refuse", ValueError, "not this one"),
        ("odd", RuntimeError, "OddError: this and that"),
        ("refuse_configuration", ConfigError, "2 problems, nothing was started:\n  a.b  is wrong\n  c    too"),
        ("leave", SystemExit, "3"),
    ):
        act, error = do(pool, what, tmp_path)
        acts.append(act)
        assert (type(error), str(error)) == (kind, words)
        assert what == "odd" or f"in {what}" in str(error.__notes__)
    act, error = do(pool, "nothing", tmp_path)
    assert error is None
    assert len({get_pid(a) for a in (*acts, act)}) == 1


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("kill", "ended by SIGKILL, as when memory runs out"),
        pytest.param("vanish", "exit code 7", marks=pytest.mark.long),
    ],
)
def test_only_the_job_of_a_lost_worker_is_lost(what, words, make_pool, tmp_path):
    pool, other = make_pool(2), Act("wait_for_go", "other", tmp_path)
    pool.submit(other)
    get_pid(other)
    guilty, error = do(pool, what, tmp_path)
    assert isinstance(error, WorkerLostError)
    assert words in str(error)
    after, error = do(pool, "nothing", tmp_path)
    assert error is None
    assert get_pid(after) not in (get_pid(guilty), get_pid(other))
    tmp_path.joinpath("other.go").touch()
    assert pool.wait() == [(other, None)]


def test_a_worker_that_is_killed_while_idle_is_replaced(make_pool, tmp_path):
    pool = make_pool(1)
    first, _ = do(pool, "nothing", tmp_path, "first")
    os.kill(get_pid(first), signal.SIGKILL)
    wait_until(lambda: have_ended(get_pid(first)))
    assert do(pool, "nothing", tmp_path, "second")[1] is None


# ------------------------------------------------------------------------------------------- the end


def test_no_process_is_left_when_the_pool_is_closed(make_pool, monkeypatch, tmp_path):
    """Neither an idle worker, nor a worker that ignores signals, nor a process that a worker has started."""
    monkeypatch.setattr(module, "GRACE", 0.1)
    pool = make_pool(3)
    idle, _ = do(pool, "nothing", tmp_path)
    deaf, family = Act("stubborn", "deaf", tmp_path), Act("fork", "family", tmp_path)
    pool.submit(deaf)
    pool.submit(family)
    wait_until(tmp_path.joinpath("deaf.ready").exists)
    wait_until(tmp_path.joinpath("family.child").exists)
    pids = [*map(get_pid, (idle, deaf, family)), int(tmp_path.joinpath("family.child").read_text())]
    pool.close()
    wait_until(lambda: have_ended(*pids))  # SIGKILL takes a moment on a busy machine


def test_running_jobs_save_before_the_end(make_pool, tmp_path):
    pool, acts = make_pool(2), [Act("save_on_signal", f"{i}", tmp_path) for i in range(2)]
    for act in acts:
        pool.submit(act)
    for act in acts:
        wait_until(tmp_path.joinpath(f"{act.name}.ready").exists)
    pool.close()
    assert [act.file.read_text() for act in acts] == ["saved", "saved"]
    wait_until(lambda: have_ended(*map(get_pid, acts)))


def test_a_job_whose_worker_is_still_starting_is_not_begun(make_pool, tmp_path):
    pool, act = make_pool(2), Act("stubborn", "it", tmp_path)
    pool.submit(act)
    pool.close()
    assert not act.pid_file.exists()


SWEEPING = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = {path!r}
from pool_jobs import Act, perform
from dlopt.runner import process_pool
from dlopt.runner.process_pool import WorkerPool

def stop(number, frame):
    raise KeyboardInterrupt

assert __name__ == "__main__"
print("once", flush=True)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)  # a shell lets its background processes ignore it
process_pool.GRACE = 600.0
pool = WorkerPool(2, perform)
try:
    for name in sys.argv[2:]:
        pool.submit(Act(name, name, Path(sys.argv[1])))
    while pool.wait():
        pass
except KeyboardInterrupt:
    print("asked", flush=True)
finally:
    pool.close()
    print("closed", flush=True)
"""


@pytest.fixture
def sweeping(tmp_path):
    """start(names of jobs): a process that performs them in two workers; it leads a session."""
    processes = []

    def start(*names: str) -> subprocess.Popen[str]:
        (tmp_path / "main.py").write_text(SWEEPING.format(path=[str(Path(pool_jobs.__file__).parent), os.getcwd()]))
        argv = [sys.executable, str(tmp_path / "main.py"), str(tmp_path), *names]
        process = subprocess.Popen(
            argv, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        for pid in list_session(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def check_stopped(parent, *, is_asked: bool) -> None:
    """The parent of the session ends as it should, and no process is left."""
    if is_asked:
        out, err = parent.communicate(timeout=300)
        assert (parent.returncode, out.removeprefix("once\n"), err) == (0, "asked\nclosed\n", "")
    wait_until(lambda: not list_session(parent.pid))


def test_a_killed_parent_leaves_no_process(sweeping, tmp_path):
    """Its workers compute without end: in Python, ignoring signals, or in torch, without Python's lock."""
    parent = sweeping("stubborn", "compute")
    pids = [get_pid(Act(name, name, tmp_path)) for name in ("stubborn", "compute")]
    assert set(pids) < set(list_session(parent.pid))
    parent.kill()
    check_stopped(parent, is_asked=False)


@pytest.mark.parametrize(("number", "processes"), [(signal.SIGKILL, 3), (signal.SIGINT, 4)])
@pytest.mark.long
def test_a_parent_can_be_ended_while_its_workers_start(number, processes, sweeping):
    """A terminal also sends SIGINT to the workers, before they can handle it; they print nothing."""
    parent = sweeping("stubborn", "compute")
    assert parent.stdout.readline() == "once\n"
    wait_until(lambda: len(list_session(parent.pid)) > processes)
    parent.kill() if number == signal.SIGKILL else os.killpg(parent.pid, number)
    check_stopped(parent, is_asked=number == signal.SIGINT)


@pytest.mark.parametrize(
    ("number", "send"), [(signal.SIGINT, os.killpg), pytest.param(signal.SIGTERM, os.kill, marks=pytest.mark.long)]
)
def test_a_parent_asked_to_stop_lets_its_workers_save(number, send, sweeping, tmp_path):
    """A terminal signals the whole group, a cluster only the parent."""
    parent = sweeping("save_on_signal", "wait_for_go")
    wait_until(tmp_path.joinpath("save_on_signal.ready").exists)
    get_pid(Act("wait_for_go", "wait_for_go", tmp_path))
    send(parent.pid, number)
    check_stopped(parent, is_asked=True)
    assert tmp_path.joinpath("save_on_signal").read_text() == "saved"


@pytest.mark.long
def test_a_parent_asked_twice_ends_at_once(sweeping, tmp_path):
    parent = sweeping("stubborn", "nothing")
    wait_until(tmp_path.joinpath("stubborn.ready").exists)
    os.killpg(parent.pid, signal.SIGINT)
    wait_until(tmp_path.joinpath("stubborn.heard").exists)
    os.killpg(parent.pid, signal.SIGINT)
    check_stopped(parent, is_asked=True)


# ------------------------------------------------------------------------------------------- in this process


def test_in_process_a_job_is_performed_by_wait(tmp_path):
    workers = InProcess(perform)
    act = Act("nothing", "act", tmp_path)
    workers.submit(act)
    assert not act.pid_file.exists()
    assert workers.wait() == [(act, None)]
    assert get_pid(act) == os.getpid()
    assert str(do(workers, "refuse", tmp_path)[1]) == "not this one"
    workers.submit(act)
    workers.close()
    assert workers.wait() == []
