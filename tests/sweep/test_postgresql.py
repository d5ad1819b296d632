"""A study that several processes share through a real PostgreSQL server."""

import os
import signal

import optuna
import postgres
import pytest
from optuna.storages import RDBStorage
from sqlalchemy import text
from studies import make_sampler, open_study, open_study_storage
from test_killed_searches import make_command, wait_for_end, wait_for_run

from dlopt.config.problems import Problems
from dlopt.rundir.directory import RunDirectory
from dlopt.sweep import claims
from dlopt.sweep import study as study_module
from dlopt.sweep.axis import Interval
from dlopt.sweep.claims import Outcome
from dlopt.sweep.space import Space
from dlopt.sweep.storage import GRACE_PERIOD, open_storage
from dlopt.sweep.study import Study

LONGER = ("steps=4000", "eval_every=500", "checkpoint.every=1000", "hydra.sweeper.n_trials=2")
DURABLE = "synchronous_commit=on"
"""The server loses nothing that it has confirmed."""
SECRET = "-".join(("vEry", "5ecret"))  # not in this form here: runs store uncommitted changes


def close(storage):
    storage.remove_session()
    storage.engine.dispose()


@pytest.fixture
def storage(postgresql):
    storage = RDBStorage(postgresql)
    yield storage
    close(storage)


def make_shared_command(name, address, folder, *more):
    """Return the command of a search of test_killed_searches whose study is in the database."""
    keys = (f"hydra.sweeper.storage='{address}'", "hydra.sweeper.study=shared", f"hydra.sweep.dir={folder}")
    return make_command(name, *keys, *more)


def assert_success(ended):
    assert (ended.code, ended.err) == (0, "")


def check_trials(storage, total, *folders):
    """Check that each point has one outcome and one run that is done. Return the number of waiting trials."""
    trials = optuna.load_study(study_name="shared", storage=storage).get_trials()
    ended = [trial for trial in trials if "outcome" in trial.user_attrs]
    first = [trial.number for trial in trials if "instead_of" not in trial.user_attrs]
    ordinals = {t.number: t.user_attrs.get("ordinal", sum(n < t.number for n in first)) for t in trials}
    assert sorted(ordinals[trial.number] for trial in ended) == list(range(total))
    runs = [RunDirectory(path) for folder in folders for path in folder.iterdir() if path.name.isdecimal()]
    done = {int(run.path.name): run for run in runs if run.status_or_none() and run.status["status"] == "done"}
    for trial in ended:
        assert trial.state.name == "COMPLETE"
        assert done.pop(ordinals[trial.number]).summary["val/loss"] == trial.value
    assert not done
    waiting = {trial.number for trial in trials if trial.state.name == "WAITING"}
    assert all(ordinals[number] >= total for number in waiting)
    assert not {run.path.name for run in runs} - set(map(str, range(total)))
    assert not [trial for trial in trials if trial.state.name == "RUNNING"]
    return len(waiting)


# ------------------------------------------------------------------------------------------- searches that share it


@pytest.mark.parametrize("name", ["random", *(pytest.param(n, marks=pytest.mark.long) for n in ("tpe", "grid"))])
def test_two_searches_with_folders_of_their_own_try_each_point_once(name, forks, postgresql, storage, tmp_path):
    for job in [forks.start(make_shared_command(name, postgresql, folder), tmp_path) for folder in ("one", "two")]:
        assert_success(wait_for_end(job))
    folders = (tmp_path / "one", tmp_path / "two")
    total = 8 if name == "grid" else 5
    n_waiting = check_trials(storage, total, *folders)
    if name != "grid":
        total += max(1, n_waiting)
        longer = make_shared_command(name, postgresql, "one", f"hydra.sweeper.n_trials={total}")
        assert_success(forks.run(longer, tmp_path))
        assert check_trials(storage, total, *folders) == 0


@pytest.mark.long
def test_if_one_is_killed_the_other_does_what_it_left(forks, postgresql, storage, tmp_path):
    """On one machine its death is seen at once, by the folder in which it worked."""
    longer = ("hydra.sweeper.n_trials=3", "steps=1500", "eval_every=500", "checkpoint.every=500")
    first = forks.start(make_shared_command("random", postgresql, "two", *longer), tmp_path)
    wait_for_run(first, tmp_path / "two")
    os.kill(first.pid, signal.SIGSTOP)  # it holds its trial until the second has begun, however slow the machine is
    second = forks.start(make_shared_command("random", postgresql, "one", *longer), tmp_path)
    wait_for_run(second, tmp_path / "one")
    first.kill()
    assert wait_for_end(first).code == -signal.SIGKILL
    assert_success(wait_for_end(second))
    assert check_trials(storage, 3, tmp_path / "one", tmp_path / "two") == 0


@pytest.mark.long
def test_a_server_that_stops_ends_a_search_with_a_message_and_loses_nothing(forks, tmp_path):
    """The run in progress ends before; the same command finds it once the server is back."""
    with postgres.create_cluster() as folder:
        with postgres.run_cluster(folder, DURABLE) as plain:
            address = postgres.add_password_role(plain, SECRET)
            command = make_shared_command("random", address, "sweep", *LONGER)
            job = forks.start(command, tmp_path)
            wait_for_run(job, tmp_path / "sweep")
        ended = wait_for_end(job)
        assert ended.code == 1, ended
        assert ended.err.startswith("stopped: hydra.sweeper.storage  postgresql+psycopg://guarded:***@/postgres?host=")
        assert (len(ended.err.splitlines()), SECRET in ended.err) == (2, False)
        status = RunDirectory(tmp_path / "sweep" / "0").status
        assert status["status"] == "done"
        with postgres.run_cluster(folder, DURABLE):
            assert_success(forks.run(command, tmp_path))
            storage = RDBStorage(plain)
            assert check_trials(storage, 2, tmp_path / "sweep") == 0
            close(storage)
    assert RunDirectory(tmp_path / "sweep" / "0").status == status
    assert not (tmp_path / "sweep" / "2").exists()


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["local", "basic"])
def test_a_password_is_in_no_file_and_no_output(launcher, forks, postgresql, tmp_path):
    address = postgres.add_password_role(postgresql, SECRET)
    more = ("hydra.sweeper.n_trials=2", "hydra.sweeper.pruner=median", f"hydra/launcher={launcher}")
    command = [word for word in make_shared_command("random", address, "sweep", *more) if word != "-q"]
    ended = forks.run(command, tmp_path)
    assert_success(ended)
    assert SECRET not in ended.out
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 10
    for secret in (SECRET.encode(), SECRET.encode().hex().encode()):
        assert [file for file in files if secret in file.read_bytes()] == []
    resume = ["train", "-q", "resume=sweep", *(["--trust"] if launcher == "basic" else [])]  # not a launcher of dlopt
    refused = forks.run(resume, tmp_path)
    assert (refused.code, "hydra.sweeper.storage  must be given again" in refused.err) == (2, True)
    assert_success(forks.run([*resume, f"hydra.sweeper.storage='{address}'"], tmp_path))
    wrong = forks.run([word.replace(SECRET, "wr0ng") for word in command], tmp_path)
    assert wrong.code == 2
    assert "hydra.sweeper.storage" in wrong.err
    assert "wr0ng" not in wrong.err


# ------------------------------------------------------------------------------------------- other machines


class TwoMachines:
    """Two processes that share only a database, each on a machine of its own."""

    def __init__(self, address, folder, monkeypatch):
        self.address, self.folder, self.monkeypatch = address, folder, monkeypatch
        self.storages = []

    def study(self, name, total=2):
        self.storages.append(open_study_storage(self.address, self.folder))
        space = Space((Interval("x", 0.0, 1.0, log=False, step=None, whole=False),), ())
        study = open_study(self.storages[-1], "shared")
        return Study(self.storages[-1], study, space, make_sampler("random"), total, self.folder / name)

    def move_to(self, name):
        """From now on this is the machine of this name, which does not see the other's folder."""
        for module in (claims, study_module):
            self.monkeypatch.setattr(module, "get_machine_id", lambda: name)
        for path in self.folder.iterdir():
            owner = path.name.partition(".")[0]
            path.rename(path.with_name(owner if owner == name else f"{owner}.away"))

    def silence(self, seconds):
        """Make all heartbeats so much older."""
        with self.storages[0]._backend.engine.begin() as connection:
            older = f"UPDATE trial_heartbeats SET heartbeat = heartbeat - interval '{seconds} seconds'"
            connection.execute(text(older))


@pytest.fixture
def machines(postgresql, tmp_path, monkeypatch):
    machines = TwoMachines(postgresql, tmp_path, monkeypatch)
    yield machines
    for storage in machines.storages:
        close(storage._backend)


def find_nothing(number):
    """What directories without a finished run tell of a trial."""


def test_a_trial_of_a_silent_machine_is_tried_again(machines):
    machines.move_to("near")
    with machines.study("near") as near:
        trial = near.claim(find_nothing)
        machines.move_to("far")
        with machines.study("far") as far:
            other = far.claim(find_nothing)
            assert (trial.ordinal, other.ordinal) == (0, 1)
            assert far.claim(find_nothing) is None
            machines.silence(GRACE_PERIOD - 10)
            assert far.claim(find_nothing) is None
            near.send_heartbeats([trial])
            far.send_heartbeats([other])
            machines.silence(GRACE_PERIOD - 10)
            assert far.claim(find_nothing) is None
            far.send_heartbeats([other])
            machines.silence(20)
            again = far.claim(find_nothing)
            assert (again.is_retry, again.ordinal, again.point) == (True, 0, trial.point)
            assert far.tell(again, Outcome("done", 1.0))
            assert far.tell(other, Outcome("done", 2.0))
            assert far.counts().by_verdict == {"done": 2}
        machines.move_to("near")
        assert not near.tell(trial, Outcome("done", 0.0))
        assert near.claim(find_nothing) is None


def test_a_trial_killed_right_after_its_claim_has_sent_a_heartbeat(machines):
    machines.move_to("near")
    with machines.study("near", 1) as near:
        near.claim(find_nothing)
        machines.silence(GRACE_PERIOD + 10)
        machines.move_to("far")
        with machines.study("far", 1) as far:
            assert far.claim(find_nothing).is_retry
        machines.move_to("near")


def test_a_run_that_ended_before_a_long_silence_is_not_repeated(machines):
    """Its process was killed after the run and before it told the study; its folder is here."""
    machines.move_to("near")
    with machines.study("near", 1) as near:
        assert near.claim(find_nothing).ordinal == 0
    machines.silence(10 * GRACE_PERIOD)
    with machines.study("near", 1) as near:
        assert near.claim(lambda ordinal, is_retry, point: Outcome("done", float(ordinal))) is None
        assert near.counts().by_verdict == {"done": 1}


# ------------------------------------------------------------------------------------------- storages that fail


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("postgresql+psycopg://u:5ecret@127.0.0.1:1/x", "u:***@127.0.0.1:1/x cannot be opened: "),
        ("postgresql+psycopg://u:5ecret@h:port/x", "not an address"),
        ("postgresql+psycopg/u", "not an address"),
        ("mysql+nodriver://u:5ecret@h/x", "mysql+nodriver://u:***@h/x cannot be opened: "),
        ("DATABASE", "none"),
        ("sqlite:////no/such/folder/x.db", "/no/such/folder/x.db cannot be opened: "),
        ("/dev/null/study.log", "/dev/null/study.log cannot be opened: "),
    ],
)
def test_a_storage_that_cannot_be_opened_is_a_problem_without_its_password(address, words, postgresql, tmp_path):
    problems = Problems()
    url = postgresql.replace("/test?", "/none?") if address == "DATABASE" else address
    assert open_storage(url, tmp_path, problems) is None
    ((key, message),) = problems.errors
    assert key == "hydra.sweeper.storage"
    assert words in message
    assert "5ecret" not in message
    assert list(tmp_path.iterdir()) == []
