"""Real worker processes: kept, lost, asked to stop, and left alone by a parent that is killed."""

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

from dlopt.runner import process_pool as module
from dlopt.runner.process_pool import WorkerPool
from dlopt.runner.workers import InProcess, WorkerLostError


@pytest.fixture
def pool():
    """Two workers; none is left at the end."""
    made = WorkerPool(2, perform)
    yield made
    made.close()


def worker(act: Act) -> int:
    """The number of the process that performs a job, once it does."""
    wait_until(act.pid_file.exists)
    return int(act.pid_file.read_text())


def said(pool, count: int) -> list[tuple[Act, BaseException | None]]:
    found = []
    while len(found) < count:
        found += pool.wait()
    return found


# ------------------------------------------------------------------------------------------- jobs


def test_workers_are_kept_from_job_to_job(pool, tmp_path):
    pids = set()
    for turn in range(4):
        acts = [Act("nothing", f"{turn}-{i}", tmp_path) for i in range(2)]
        for act in acts:
            pool.submit(act)
        assert sorted(said(pool, 2), key=lambda each: each[0].name) == [(act, None) for act in acts]
        pids |= {worker(act) for act in acts}
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_no_worker_is_there_before_it_is_needed(tmp_path):
    before = list_session(os.getsid(0))
    WorkerPool(2, perform).close()
    assert WorkerPool(2, perform).wait() == []
    assert list_session(os.getsid(0)) == before


def test_jobs_are_said_as_they_end(pool, tmp_path):
    first, second, third = (Act("wait_for_go", name, tmp_path) for name in ("first", "second", "third"))
    pool.submit(first)
    pool.submit(second)
    worker(first)
    tmp_path.joinpath("second.go").touch()
    assert pool.wait() == [(second, None)]
    pool.submit(third)
    tmp_path.joinpath("third.go").touch()
    assert pool.wait() == [(third, None)]
    assert worker(third) == worker(second)
    tmp_path.joinpath("first.go").touch()
    assert pool.wait() == [(first, None)]


@pytest.mark.parametrize(("count", "own"), [(1, None), (2, None), (1000, None), (1, 1), (2, 1000)])
def test_each_worker_has_its_share_of_the_cores(count, own, tmp_path, monkeypatch):
    """What torch takes by itself there; whoever has asked for fewer gets fewer."""
    for name in module.THREADS:
        monkeypatch.delenv(name, raising=False)
        if own:
            monkeypatch.setenv(name, str(own))
    pool = WorkerPool(count, perform)
    act = Act("threads", "it", tmp_path)
    pool.submit(act)
    assert pool.wait() == [(act, None)]
    pool.close()
    assert int(act.file.read_text()) == min(max(1, cpu_count() // count), own or 1000)


def test_a_worker_is_where_its_parent_is_and_finds_modules_there(tmp_path, monkeypatch):
    tmp_path.joinpath("found_here.py").write_text("ANSWER = 42\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    pool = WorkerPool(1, perform)
    act = Act("here", "it", tmp_path)
    pool.submit(act)
    assert pool.wait() == [(act, None)]
    pool.close()
    assert act.file.read_text() == f"{tmp_path} 42"


def test_what_a_worker_prints_is_not_seen(tmp_path, capfd):
    pool = WorkerPool(1, perform)
    act = Act("talk", "it", tmp_path)
    pool.submit(act)
    assert pool.wait() == [(act, None)]
    pool.close()
    assert capfd.readouterr() == ("", "")


# ------------------------------------------------------------------------------------------- failures


def test_what_a_job_raises_is_handed_on_and_the_worker_goes_on(tmp_path):
    pool = WorkerPool(1, perform)
    cases = [
        ("refuse", ValueError, "not this one"),
        ("odd", RuntimeError, "OddError: this and that"),
        ("leave", SystemExit, "3"),
    ]
    for what, kind, words in cases:
        pool.submit(Act(what, what, tmp_path))
        ((act, error),) = pool.wait()
        assert (act.what, type(error), str(error)) == (what, kind, words)
    assert "in refuse" in str(pool_note(pool, tmp_path))
    pool.submit(Act("nothing", "last", tmp_path))
    ((_, error),) = pool.wait()
    pool.close()
    assert error is None
    assert len({worker(Act(name, name, tmp_path)) for name in ("refuse", "odd", "leave", "last")}) == 1


def pool_note(pool, folder: Path) -> list[str]:
    pool.submit(Act("refuse", "noted", folder))
    ((_, error),) = pool.wait()
    return error.__notes__


@pytest.mark.parametrize(
    ("what", "words"), [("kill", "ended by SIGKILL, as when memory runs out"), ("vanish", "exit code 7")]
)
def test_the_job_of_a_lost_worker_is_lost_and_no_other(what, words, pool, tmp_path):
    other, guilty, after = (
        Act("wait_for_go", "other", tmp_path),
        Act(what, "guilty", tmp_path),
        Act("nothing", "after", tmp_path),
    )
    pool.submit(other)
    worker(other)
    pool.submit(guilty)
    ((act, error),) = pool.wait()
    assert act == guilty
    assert isinstance(error, WorkerLostError)
    assert words in str(error)
    pool.submit(after)
    assert pool.wait() == [(after, None)]
    assert worker(after) not in (worker(guilty), worker(other))
    tmp_path.joinpath("other.go").touch()
    assert pool.wait() == [(other, None)]


def test_a_worker_that_is_killed_while_idle_is_replaced(tmp_path):
    pool = WorkerPool(1, perform)
    first, second = Act("nothing", "first", tmp_path), Act("nothing", "second", tmp_path)
    pool.submit(first)
    pool.wait()
    os.kill(worker(first), signal.SIGKILL)
    wait_until(lambda: have_ended(worker(first)))
    pool.submit(second)
    ((act, error),) = pool.wait()
    pool.close()
    assert (act, error) == (second, None)


# ------------------------------------------------------------------------------------------- the end


def test_nothing_is_left_running_when_it_is_closed(monkeypatch, tmp_path):
    """Not a worker that hears nothing, nor what a worker has started, nor one that is idle."""
    monkeypatch.setattr(module, "GRACE", 0.1)
    pool = WorkerPool(3, perform)
    idle, deaf, family = (
        Act("nothing", "idle", tmp_path),
        Act("stubborn", "deaf", tmp_path),
        Act("fork", "family", tmp_path),
    )
    pool.submit(idle)
    pool.wait()
    pool.submit(deaf)
    pool.submit(family)
    wait_until(tmp_path.joinpath("deaf.ready").exists)
    wait_until(tmp_path.joinpath("family.child").exists)
    pids = [*map(worker, (idle, deaf, family)), int(tmp_path.joinpath("family.child").read_text())]
    pool.close()
    wait_until(lambda: have_ended(*pids))  # SIGKILL takes a moment on a busy machine
    pool.close()


def test_jobs_under_way_save_before_the_end(pool, tmp_path):
    acts = [Act("save_on_signal", f"{i}", tmp_path) for i in range(2)]
    for act in acts:
        pool.submit(act)
    for act in acts:
        wait_until(tmp_path.joinpath(f"{act.name}.ready").exists)
    pool.close()
    assert [act.file.read_text() for act in acts] == ["saved", "saved"]
    wait_until(lambda: have_ended(*map(worker, acts)))


def test_a_job_whose_worker_is_still_starting_is_not_begun(pool, tmp_path):
    act = Act("stubborn", "it", tmp_path)
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
signal.signal(signal.SIGINT, stop)  # which a shell has its background processes ignore
process_pool.GRACE = 600.0
made = WorkerPool(2, perform)
try:
    for name in sys.argv[2:]:
        made.submit(Act(name, name, Path(sys.argv[1])))
    while made.wait():
        pass
except KeyboardInterrupt:
    print("asked", flush=True)
finally:
    made.close()
    print("closed", flush=True)
"""


@pytest.fixture
def sweeping(tmp_path):
    """start(names of jobs): a process that performs them in two workers, the first of a session."""
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


def test_a_killed_parent_leaves_nothing_running(sweeping, tmp_path):
    """Whatever the workers compute: in Python without an end, deaf to signals; or in torch, holding no lock of Python's."""
    parent = sweeping("stubborn", "compute")
    pids = [worker(Act(name, name, tmp_path)) for name in ("stubborn", "compute")]
    assert set(pids) < set(list_session(parent.pid))
    parent.kill()
    wait_until(lambda: not list_session(parent.pid))


def test_the_end_of_a_parent_while_its_workers_start_ends_them(sweeping):
    parent = sweeping("stubborn", "compute")
    assert parent.stdout.readline() == "once\n"
    wait_until(lambda: len(list_session(parent.pid)) > 3)
    parent.kill()
    wait_until(lambda: not list_session(parent.pid))


def test_a_parent_asked_to_stop_while_its_workers_start_says_nothing_of_it(sweeping):
    """They are told by the terminal, too, before they can handle it."""
    parent = sweeping("stubborn", "compute")
    assert parent.stdout.readline() == "once\n"
    wait_until(lambda: len(list_session(parent.pid)) > 4)
    os.killpg(parent.pid, signal.SIGINT)
    out, err = parent.communicate(timeout=300)
    assert (parent.returncode, out, err) == (0, "asked\nclosed\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("to_all", [True, False])
def test_a_parent_asked_to_stop_lets_its_workers_save(number, to_all, sweeping, tmp_path):
    """Whether the terminal tells all of its group, or a cluster the parent alone."""
    parent = sweeping("save_on_signal", "wait_for_go")
    wait_until(tmp_path.joinpath("save_on_signal.ready").exists)
    worker(Act("wait_for_go", "wait_for_go", tmp_path))
    (os.killpg if to_all else os.kill)(parent.pid, number)
    out, err = parent.communicate(timeout=300)
    assert (parent.returncode, out, err) == (0, "once\nasked\nclosed\n", "")
    assert tmp_path.joinpath("save_on_signal").read_text() == "saved"
    wait_until(lambda: not list_session(parent.pid))


def test_asked_twice_it_ends_at_once(sweeping, tmp_path):
    parent = sweeping("stubborn", "nothing")
    wait_until(tmp_path.joinpath("stubborn.ready").exists)
    os.killpg(parent.pid, signal.SIGINT)
    wait_until(tmp_path.joinpath("stubborn.heard").exists)
    os.killpg(parent.pid, signal.SIGINT)
    out, err = parent.communicate(timeout=300)
    assert (parent.returncode, out, err) == (0, "once\nasked\nclosed\n", "")
    wait_until(lambda: not list_session(parent.pid))


# ------------------------------------------------------------------------------------------- in this process


def test_in_process_a_job_is_performed_by_wait(tmp_path):
    workers = InProcess(perform)
    act, bad = Act("nothing", "act", tmp_path), Act("refuse", "bad", tmp_path)
    workers.submit(act)
    assert not act.pid_file.exists()
    assert workers.wait() == [(act, None)]
    assert worker(act) == os.getpid()
    workers.submit(bad)
    ((failed, error),) = workers.wait()
    assert failed == bad
    assert str(error) == "not this one"
    workers.submit(act)
    workers.close()
    assert workers.wait() == []
