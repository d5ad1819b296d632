"""One process at a time: real processes, really killed."""

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
    """Another process that holds the directory."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_process_is_told_who_holds_it(tmp_path, other):
    with pytest.raises(LockedError, match=f"being written by process {other.pid} on "):
        Lock(tmp_path).acquire()
    assert find_holder(tmp_path).pid == other.pid


def test_one_that_has_taken_it_a_moment_ago_does_not_go_by_the_name_of_the_dead(tmp_path, other):
    """It holds the file before its name stands in it."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    file = tmp_path / lock.LOCK_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pid": dead.pid}))
    with pytest.raises(LockedError, match="being written by another process"):
        Lock(tmp_path).acquire()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_dies_leaves_it_to_others(number, tmp_path, other):
    other.send_signal(number)
    other.wait()
    assert (tmp_path / lock.LOCK_FILE).exists()
    assert find_holder(tmp_path) is None
    mine = Lock(tmp_path).acquire()
    assert find_holder(tmp_path).pid == os.getpid()
    mine.release()


def test_a_process_that_only_stands_still_keeps_it(tmp_path, other):
    other.send_signal(signal.SIGSTOP)
    with pytest.raises(LockedError):
        Lock(tmp_path).acquire()


def test_it_is_left_without_a_trace(tmp_path):
    mine = Lock(tmp_path).acquire()
    mine.check()
    mine.release()
    assert not mine.is_held
    assert list(tmp_path.iterdir()) == []
    Lock(tmp_path).acquire().release()


def test_a_lock_that_is_forgotten_is_released(tmp_path):
    Lock(tmp_path).acquire()
    assert find_holder(tmp_path) is None
    Lock(tmp_path).acquire().release()


def test_of_many_at_once_one_has_it(tmp_path):
    """Each takes it as soon as it can, and leaves it: never two at a time."""
    inside, most, failed = [0], [0], []

    def work():
        mine = Lock(tmp_path)
        got = 0
        while got < 30:
            try:
                mine.acquire()
            except LockedError:
                continue
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            got += 1
            try:
                mine.check()
            except LockLostError as error:
                failed.append(error)
            inside[0] -= 1
            mine.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert not failed


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"host": 1}',
        b"[" * 4000,
        bytes(range(256)),
        b'{"host": "", "machine": "", "pid": 1e400, "since": 1, "token": ""}',
    ],
)
def test_a_file_that_nobody_holds_is_no_lock_whatever_it_says(content, tmp_path):
    (tmp_path / lock.LOCK_FILE).write_bytes(content)
    assert find_holder(tmp_path) is None
    Lock(tmp_path).acquire().release()


def test_a_link_in_its_place_is_not_followed(tmp_path):
    (tmp_path / "theirs").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / lock.LOCK_FILE).symlink_to(tmp_path / "theirs")
    assert find_holder(tmp_path / "run") is None
    with pytest.raises(OSError, match="symbolic"):
        Lock(tmp_path / "run").acquire()
    assert (tmp_path / "theirs").read_text() == "mine"


# ------------------------------------------------------------------------------------------- another machine


def elsewhere(folder):
    """What a process of another machine has left here."""
    said = {"host": "node7", "machine": "another", "pid": 1, "since": time.time(), "token": "x"}
    (folder / lock.LOCK_FILE).write_text(json.dumps(said))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.4)


def test_another_machine_that_gives_signs_of_life_keeps_it(tmp_path, monkeypatch):
    monkeypatch.setattr(
        lock, "STALE_SECONDS", 5.0
    )  # seconds in which the thread below runs once, however busy the machine
    elsewhere(tmp_path)
    assert str(find_holder(tmp_path)).startswith("process 1 on node7, since ")
    asked, ended = [], threading.Event()

    def beat():
        while not ended.wait(0.02):
            os.utime(tmp_path / lock.LOCK_FILE)

    heart = threading.Thread(target=beat)
    heart.start()
    try:
        with pytest.raises(LockedError, match="process 1 on node7"):
            Lock(tmp_path).acquire(asked.append)
    finally:
        ended.set()
        heart.join()
    assert [who.host for who in asked] == ["node7"]


def test_another_machine_that_is_silent_is_gone_and_when_it_returns_it_finds_out(tmp_path, quick):
    theirs = Lock(tmp_path).acquire()
    told = json.loads((tmp_path / lock.LOCK_FILE).read_text()) | {"machine": "another"}
    theirs._content = json.dumps(told).encode()
    (tmp_path / lock.LOCK_FILE).write_bytes(theirs._content)
    theirs.check()
    os.close(theirs._descriptor)  # its flock is not seen here
    theirs._descriptor = os.open(tmp_path / lock.LOCK_FILE, os.O_RDWR)

    mine = Lock(tmp_path).acquire()
    with pytest.raises(LockLostError, match=f"taken over by process {os.getpid()} "):
        theirs.check()
    theirs.release()
    mine.check()
    mine.release()


def test_one_that_was_silent_for_long_is_not_waited_for(tmp_path):
    elsewhere(tmp_path)
    os.utime(tmp_path / lock.LOCK_FILE, (time.time() - 3600,) * 2)
    assert find_holder(tmp_path) is None
    asked = []
    Lock(tmp_path).acquire(asked.append).release()
    assert asked == []


def test_a_holder_gives_signs_of_life(tmp_path, monkeypatch):
    mine = Lock(tmp_path).acquire()
    os.utime(mine.file, (0, 0))
    mine.touch()
    assert time.time() - mine.file.stat().st_mtime < 60
    assert any(thread.name == "heartbeat" and thread.daemon for thread in threading.enumerate())
    mine.release()


def test_on_a_file_system_without_flock_the_process_id_counts(tmp_path, monkeypatch):
    def refuse(descriptor, kind):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    Lock(tmp_path).acquire()
    with pytest.raises(LockedError, match=f"process {os.getpid()} "):
        Lock(tmp_path).acquire()
    assert find_holder(tmp_path).pid == os.getpid()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    file = tmp_path / lock.LOCK_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pid": dead.pid}))
    assert find_holder(tmp_path) is None
    Lock(tmp_path).acquire().release()
