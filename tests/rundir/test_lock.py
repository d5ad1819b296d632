"""Only one process at a time writes a directory: real processes, really killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from dlopt.rundir import lock
from dlopt.rundir.lock import Lock, LockedError, LockLostError, find_holder

HOLD = """
import sys, time
from pathlib import Path
from dlopt.rundir.lock import Lock
lock = Lock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    """Return another process that holds the directory."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.fixture(scope="module")
def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def change_holder(folder, **values):
    file = folder / lock.LOCK_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_a_second_process_is_refused(tmp_path, other, dead_pid):
    """Also if the holder is stopped, and before it has written its name over that of a dead process."""
    with pytest.raises(LockedError, match=f"being written by process {other.pid} on "):
        Lock(tmp_path).acquire()
    assert find_holder(tmp_path).pid == other.pid
    other.send_signal(signal.SIGSTOP)
    with pytest.raises(LockedError):
        Lock(tmp_path).acquire()
    change_holder(tmp_path, pid=dead_pid)
    with pytest.raises(LockedError, match="being written by another process"):
        Lock(tmp_path).acquire()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_of_a_dead_process_is_free(number, tmp_path, other):
    other.send_signal(number)
    other.wait()
    assert (tmp_path / lock.LOCK_FILE).exists()
    assert find_holder(tmp_path) is None
    own = Lock(tmp_path).acquire()
    assert find_holder(tmp_path).pid == os.getpid()
    own.release()


def test_a_released_lock_leaves_no_file(tmp_path):
    own = Lock(tmp_path).acquire()
    own.check()
    own.release()
    assert not own.is_held
    assert list(tmp_path.iterdir()) == []
    Lock(tmp_path).acquire()  # released as soon as it is garbage
    assert find_holder(tmp_path) is None
    Lock(tmp_path).acquire().release()


def test_one_of_many_threads_holds_the_lock(tmp_path):
    """Each acquires it as soon as it can and releases it: never two at a time."""
    inside, most, errors = [0], [0], []

    def work():
        own = Lock(tmp_path)
        count = 0
        while count < 30:
            try:
                own.acquire()
            except LockedError:
                continue
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            count += 1
            try:
                own.check()
            except LockLostError as error:
                errors.append(error)
            inside[0] -= 1
            own.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert not errors


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"host": 1}', b"[" * 4000, bytes(range(256)),
     b'{"host": "", "machine": "", "pid": 1e400, "since": 1, "token": ""}'],
)  # fmt: skip
def test_a_damaged_file_is_not_a_lock(content, tmp_path):
    (tmp_path / lock.LOCK_FILE).write_bytes(content)
    assert find_holder(tmp_path) is None
    Lock(tmp_path).acquire().release()


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / lock.LOCK_FILE).symlink_to(tmp_path / "victim")
    assert find_holder(tmp_path / "run") is None
    with pytest.raises(OSError, match="symbolic"):
        Lock(tmp_path / "run").acquire()
    assert (tmp_path / "victim").read_text() == "mine"


# ------------------------------------------------------------------------------------------- another machine


def write_foreign_lock(folder):
    """Write the lock of a process on another machine."""
    holder = {"host": "node7", "machine": "another", "pid": 1, "since": time.time(), "token": "x"}
    (folder / lock.LOCK_FILE).write_text(json.dumps(holder))


def test_another_machine_that_touches_the_file_keeps_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "STALE_SECONDS", 5.0)  # the thread below runs at least once in this time
    write_foreign_lock(tmp_path)
    assert str(find_holder(tmp_path)).startswith("process 1 on node7, since ")
    holders, ended = [], threading.Event()

    def touch():
        while not ended.wait(0.02):
            os.utime(tmp_path / lock.LOCK_FILE)

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        with pytest.raises(LockedError, match="process 1 on node7"):
            Lock(tmp_path).acquire(holders.append)
    finally:
        ended.set()
        thread.join()
    assert [holder.host for holder in holders] == ["node7"]


def test_a_silent_machine_loses_the_lock_and_notices(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.4)
    foreign = Lock(tmp_path).acquire()
    change_holder(tmp_path, machine="another")
    monkeypatch.setattr(foreign, "touch", lambda: None)  # by the heartbeat of this process
    foreign._content = foreign.file.read_bytes()
    foreign.check()
    os.close(foreign._descriptor)  # its flock is not seen here
    foreign._descriptor = os.open(foreign.file, os.O_RDWR)

    own = Lock(tmp_path).acquire()
    with pytest.raises(LockLostError, match=f"taken over by process {os.getpid()} "):
        foreign.check()
    foreign.release()
    own.check()
    own.release()


def test_a_machine_that_was_silent_for_an_hour_is_not_waited_for(tmp_path):
    write_foreign_lock(tmp_path)
    os.utime(tmp_path / lock.LOCK_FILE, (time.time() - 3600,) * 2)
    assert find_holder(tmp_path) is None
    holders = []
    Lock(tmp_path).acquire(holders.append).release()
    assert holders == []


def test_a_holder_touches_the_file(tmp_path):
    own = Lock(tmp_path).acquire()
    os.utime(own.file, (0, 0))
    own.touch()
    assert time.time() - own.file.stat().st_mtime < 60
    assert any(thread.name == "heartbeat" and thread.daemon for thread in threading.enumerate())
    own.release()


def test_without_flock_the_process_id_counts(tmp_path, monkeypatch, dead_pid):
    def refuse(descriptor, kind):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    Lock(tmp_path).acquire()
    with pytest.raises(LockedError, match=f"process {os.getpid()} "):
        Lock(tmp_path).acquire()
    assert find_holder(tmp_path).pid == os.getpid()
    change_holder(tmp_path, pid=dead_pid)
    assert find_holder(tmp_path) is None
    Lock(tmp_path).acquire().release()
