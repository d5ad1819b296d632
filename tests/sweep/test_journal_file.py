"""A study that outlives its writers: torn anywhere, written by several, killed at any moment."""

import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import optuna
import pytest
from processes import wait_until

from dlopt.sweep import journal_file
from dlopt.sweep.journal_file import FlockJournalBackend, open_journal

WRITE = """
import sys
from pathlib import Path
import optuna
from dlopt.sweep.journal_file import open_journal
study = optuna.load_study(study_name="it", storage=open_journal(Path(sys.argv[1])))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[2])):
    trial = study.ask()
    trial.set_user_attr("text", "x" * int(sys.argv[3]))
    study.tell(trial, 0.5)
    print(trial.number, flush=True)
"""


@pytest.fixture(autouse=True)
def quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


def begun(file: Path) -> optuna.Study:
    return optuna.create_study(study_name="it", storage=open_journal(file))


def known(file: Path) -> list[tuple[int, float | None]]:
    """Number and value of each trial, as a process that has not seen the file before reads them."""
    return [(t.number, t.value) for t in optuna.load_study(study_name="it", storage=open_journal(file)).trials]


def add(study: optuna.Study, value: float) -> int:
    trial = study.ask()
    study.tell(trial, value)
    return trial.number


class Writer:
    """A process that adds trials to the study in a file, from `go` on."""

    def __init__(self, file: Path, trials: int, length: int = 300) -> None:
        """length: characters of text that each trial holds; a long record takes the system a while to write."""
        argv = [sys.executable, "-c", WRITE, str(file), str(trials), str(length)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        assert self._process.stdout.readline() == "ready\n"

    def go(self) -> None:
        self._process.stdin.write("\n")

    def first(self) -> int:
        """The number of its next trial."""
        return int(self._process.stdout.readline())

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)

    def said(self) -> list[int]:
        """The numbers of the trials that it knew to be told, and has not said before, when it has ended."""
        out, _ = self._process.communicate()
        return [int(line) for line in out.splitlines(keepends=True) if line.endswith("\n")]


# ------------------------------------------------------------------------------------------- torn


def test_a_study_cut_anywhere_in_its_last_records_goes_on(tmp_path):
    """Every trial that was whole is there, and numbers are given once."""
    whole = tmp_path / "whole.log"
    study = begun(whole)
    for value in range(3):
        add(study, value)
    content = whole.read_bytes()
    records = content.splitlines(keepends=True)
    told = len(content) - len(records[-1])  # before: the third trial has begun, and is not told
    asked = told - len(records[-2])  # before: it has not begun
    for end in range(asked, len(content) + 1):
        file = tmp_path / "study.log"
        file.write_bytes(content[:end])
        before = [(0, 0.0), (1, 1.0), *([(2, None)] if end >= told else [])]
        if end == len(content):
            before[2] = (2, 2.0)
        assert known(file) == before, "a reader passes over the torn record"
        study = optuna.load_study(study_name="it", storage=open_journal(file))
        assert [add(study, 7.0), add(study, 8.0)] == [len(before), len(before) + 1]
        assert known(file) == [*before, (len(before), 7.0), (len(before) + 1, 8.0)]
        assert [(t.number, t.value) for t in study.trials] == known(file)


def test_a_process_that_has_the_study_open_goes_on_after_a_torn_record(tmp_path):
    """Its own position in the file stays right when what it passed over is removed by another."""
    file = tmp_path / "study.log"
    mine, other = begun(file), optuna.load_study(study_name="it", storage=open_journal(file))
    add(mine, 1.0)
    for torn in (b"{", b'{"op_code":4,"worker_id":', b"x" * 3 * journal_file._BLOCK):
        with file.open("ab") as stream:
            stream.write(torn)
        count = len(mine.trials)
        assert len(other.trials) == count
        assert add(other, 2.0) == count
        assert [(t.number, t.value) for t in mine.trials] == known(file)
        assert add(mine, 3.0) == count + 1
    assert file.read_bytes().count(b"x" * 20) == 0


def test_a_reader_in_the_middle_of_a_repair_sees_whole_records_alone(tmp_path, monkeypatch):
    """It has read a part of the torn record when the file is repaired and goes on, with a shorter or longer record."""
    file = tmp_path / "it.log"
    records = [{"n": i, "text": "x" * 9000} for i in range(3)]
    for torn in (b'{"n": 3, "te', b'{"n": 3, "text": "' + b"x" * 20000):
        for text in ("", "x" * 30000):
            file.unlink(missing_ok=True)
            writer, reader = FlockJournalBackend(file), FlockJournalBackend(file)
            writer.append_logs(records)
            with file.open("ab") as stream:
                stream.write(torn)
            reading = reader.read_logs(0)
            found = [next(reading), next(reading), next(reading)]  # what it reads ahead holds a part of the torn one
            new = {"n": 3, "text": text}
            writer.append_logs([new])
            found += reading
            assert found in (records, [*records, new])
            assert [*found, *reader.read_logs(len(found))] == [*records, new]


@pytest.mark.parametrize("size", [0, 1, journal_file._BLOCK - 1, journal_file._BLOCK, 3 * journal_file._BLOCK + 1])
@pytest.mark.parametrize("before", [b"", b"\n", b"{}\n", b"{}\n{}\n"])
def test_a_torn_record_of_any_length_is_removed_and_no_more(size, before, tmp_path):
    file = tmp_path / "it.log"
    file.write_bytes(before + b"x" * size)
    FlockJournalBackend(file).append_logs([{"n": 1}])
    assert file.read_bytes() == before + b'{"n":1}\n'


# ------------------------------------------------------------------------------------------- several writers


def test_two_processes_lose_nothing(tmp_path):
    file = tmp_path / "study.log"
    begun(file)
    writers = [Writer(file, 200) for _ in range(2)]
    for writer in writers:
        writer.go()
    numbers = [writer.said() for writer in writers]
    assert [len(each) for each in numbers] == [200, 200]
    assert sorted(numbers[0] + numbers[1]) == list(range(400))
    assert known(file) == [(n, 0.5) for n in range(400)]


def test_threads_of_one_process_lose_nothing(tmp_path):
    records = FlockJournalBackend(tmp_path / "it.log")
    threads = [
        threading.Thread(target=lambda me=me: [records.append_logs([{"by": me, "n": n}]) for n in range(50)])
        for me in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = list(FlockJournalBackend(tmp_path / "it.log").read_logs(0))
    assert len(found) == 200
    assert all([each["n"] for each in found if each["by"] == me] == list(range(50)) for me in range(4))


HOLD = """
import fcntl, sys
with open(sys.argv[1], "r+b") as stream:
    fcntl.flock(stream, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_others_wait_for_a_living_writer_and_not_for_a_dead_one(tmp_path):
    file = tmp_path / "study.log"
    study = begun(file)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        added = threading.Thread(target=add, args=(study, 1.0))
        size = file.stat().st_size
        added.start()
        added.join(0.1)
        assert added.is_alive()
        assert file.stat().st_size == size
        holder.kill()
        added.join(300)
        assert not added.is_alive()
    assert known(file) == [(0, 1.0)]
    assert [each.name for each in tmp_path.iterdir()] == ["study.log"]


def killed_often(file: Path, times: int) -> None:
    """A process adds trials while others are killed in the midst of it; every trial that one of them had told is there."""
    begun(file)
    draw = random.Random(times)
    steady = Writer(file, 60 * times)
    steady.go()
    told = []
    for _ in range(times):
        victim = Writer(file, 10**6, draw.choice([300, 10**6]))
        victim.go()
        told.append(victim.first())
        pause = time.monotonic() + draw.uniform(0, 0.02)
        wait_until(lambda pause=pause: time.monotonic() > pause)
        victim.kill()
        told += victim.said()
    told += steady.said()
    assert len(told) == len(set(told))
    found = dict(known(file))
    assert sorted(found) == list(range(len(found)))
    assert all(found[number] == 0.5 for number in told)
    assert add(optuna.load_study(study_name="it", storage=open_journal(file)), 1.0) == len(found)


def test_writers_that_are_killed_take_nothing_along(tmp_path):
    killed_often(tmp_path / "study.log", 2)


@pytest.mark.long
def test_writers_that_are_killed_often_take_nothing_along(tmp_path):
    killed_often(tmp_path / "study.log", 40)
