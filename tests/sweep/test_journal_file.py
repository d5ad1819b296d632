"""A study that outlives its writers: torn anywhere, written by several processes, killed at any moment."""

import random
import subprocess
import sys
import threading
import time

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
def _silence_optuna():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


def create(file):
    return optuna.create_study(study_name="it", storage=open_journal(file))


def read_trials(file):
    """Return number and value of each trial, as a process reads them that has not seen the file before."""
    return [(t.number, t.value) for t in optuna.load_study(study_name="it", storage=open_journal(file)).trials]


def add(study, value):
    trial = study.ask()
    study.tell(trial, value)
    return trial.number


class Writer:
    """A process that adds trials with a text of some length; a long record takes the system a while to write."""

    def __init__(self, file, trials, length=300):
        argv = [sys.executable, "-c", WRITE, str(file), str(trials), str(length)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.kill = self._process.kill

    def start(self):
        assert self._process.stdout.readline() == "ready\n"
        self._process.stdin.write("\n")

    def read_number(self):
        """Wait for its next trial; return the number."""
        return int(self._process.stdout.readline())

    def finish(self):
        """Return the numbers of the other trials that it has told, once it has ended."""
        out, _ = self._process.communicate()
        return [int(line) for line in out.splitlines(keepends=True) if line.endswith("\n")]


# ------------------------------------------------------------------------------------------- torn records


def test_a_study_cut_anywhere_in_its_last_records_continues(tmp_path):
    """Every complete trial is there, and each number is used once."""
    whole = tmp_path / "whole.log"
    study = create(whole)
    for value in range(3):
        add(study, value)
    content = whole.read_bytes()
    records = content.splitlines(keepends=True)
    end_of_begin = len(content) - len(records[-1])  # the third trial has begun, and is not told
    start = end_of_begin - len(records[-2])  # it has not begun
    cuts = {start, end_of_begin - 1, end_of_begin, end_of_begin + 1, len(content) - 1, len(content)}
    for end in sorted({*range(start, len(content), 17), *cuts}):
        file = tmp_path / "study.log"
        file.write_bytes(content[:end])
        before = [(0, 0.0), (1, 1.0), *([(2, None)] if end >= end_of_begin else [])]
        if end == len(content):
            before[2] = (2, 2.0)
        assert read_trials(file) == before, "a reader skips the torn record"
        study = optuna.load_study(study_name="it", storage=open_journal(file))
        assert [add(study, 7.0), add(study, 8.0)] == [len(before), len(before) + 1]
        assert read_trials(file) == [*before, (len(before), 7.0), (len(before) + 1, 8.0)]
        assert [(t.number, t.value) for t in study.trials] == read_trials(file)


def test_a_process_that_has_the_study_open_continues_after_a_torn_record(tmp_path):
    """Its position in the file stays right when another process removes what it has skipped."""
    file = tmp_path / "study.log"
    mine, other = create(file), optuna.load_study(study_name="it", storage=open_journal(file))
    add(mine, 1.0)
    for torn in (b"{", b'{"op_code":4,"worker_id":', b"x" * 3 * journal_file._BLOCK):
        with file.open("ab") as stream:
            stream.write(torn)
        count = len(mine.trials)
        assert len(other.trials) == count
        assert add(other, 2.0) == count
        assert [(t.number, t.value) for t in mine.trials] == read_trials(file)
        assert add(mine, 3.0) == count + 1
    assert b"x" * 20 not in file.read_bytes()


@pytest.mark.parametrize("torn", [b'{"n": 3, "te', b'{"n": 3, "text": "' + b"x" * 20000])
@pytest.mark.parametrize("text", ["", "x" * 30000])
def test_a_reader_in_the_middle_of_a_repair_sees_complete_records_only(torn, text, tmp_path):
    """It has read a part of the torn record when the file is repaired and continued with another record."""
    file = tmp_path / "it.log"
    records = [{"n": i, "text": "x" * 9000} for i in range(3)]
    writer, reader = FlockJournalBackend(file), FlockJournalBackend(file)
    writer.append_logs(records)
    with file.open("ab") as stream:
        stream.write(torn)
    reading = reader.read_logs(0)
    read = [next(reading) for _ in range(3)]  # its buffer holds a part of the torn record
    new = {"n": 3, "text": text}
    writer.append_logs([new])
    read += reading
    assert read in (records, [*records, new])
    assert [*read, *reader.read_logs(len(read))] == [*records, new]


@pytest.mark.parametrize("size", [0, 1, journal_file._BLOCK - 1, journal_file._BLOCK, 3 * journal_file._BLOCK + 1])
def test_exactly_the_torn_record_is_removed(size, tmp_path):
    file = tmp_path / "it.log"
    for before in (b"", b"\n", b"{}\n", b"{}\n{}\n"):
        file.write_bytes(before + b"x" * size)
        FlockJournalBackend(file).append_logs([{"n": 1}])
        assert file.read_bytes() == before + b'{"n":1}\n'


# ------------------------------------------------------------------------------------------- several writers


def test_threads_of_one_process_lose_nothing(tmp_path):
    backend = FlockJournalBackend(tmp_path / "it.log")
    threads = [
        threading.Thread(target=lambda me=me: [backend.append_logs([{"by": me, "n": n}]) for n in range(50)])
        for me in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = list(FlockJournalBackend(tmp_path / "it.log").read_logs(0))
    assert len(records) == 200
    assert all([r["n"] for r in records if r["by"] == me] == list(range(50)) for me in range(4))


HOLD = """
import fcntl, sys
with open(sys.argv[1], "r+b") as stream:
    fcntl.flock(stream, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_others_wait_for_a_living_writer_and_not_for_a_dead_one(tmp_path):
    file = tmp_path / "study.log"
    study = create(file)
    argv = [sys.executable, "-c", HOLD, str(file)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        thread = threading.Thread(target=add, args=(study, 1.0))
        size = file.stat().st_size
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        assert file.stat().st_size == size
        holder.kill()
        thread.join(300)
        assert not thread.is_alive()
    assert read_trials(file) == [(0, 1.0)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["study.log"]


@pytest.mark.parametrize("n_victims", [2, pytest.param(40, marks=pytest.mark.long)])
def test_killed_writers_lose_no_trial_that_they_have_told(n_victims, tmp_path):
    """A process adds trials all the time while others are killed in the middle of it."""
    file = tmp_path / "study.log"
    create(file)
    draw = random.Random(n_victims)
    steady, numbers = Writer(file, 60 * n_victims), []
    victims = [Writer(file, 10**6, draw.choice([300, 10**6])) for _ in range(2)]
    steady.start()
    for n in range(n_victims):
        victim = victims.pop(0)
        victim.start()
        if n + 2 < n_victims:
            victims.append(Writer(file, 10**6, draw.choice([300, 10**6])))
        numbers.append(victim.read_number())
        end = time.monotonic() + draw.uniform(0, 0.02)
        wait_until(lambda end=end: time.monotonic() > end)
        victim.kill()
        numbers += victim.finish()
    numbers += steady.finish()
    assert len(numbers) == len(set(numbers)) > 60 * n_victims
    trials = dict(read_trials(file))
    assert sorted(trials) == list(range(len(trials)))
    assert all(trials[number] == 0.5 for number in numbers)
    assert add(optuna.load_study(study_name="it", storage=open_journal(file)), 1.0) == len(trials)
