"""A study that several processes share through a real PostgreSQL server."""

import signal
import subprocess
import sys
from pathlib import Path

import optuna
import postgres
import pytest
from optuna.storages import RDBStorage
from processes import wait_until
from sqlalchemy import text
from test_killed_searches import argv, ends, works

from dlopt.config.problems import Problems
from dlopt.rundir.directory import RunDirectory
from dlopt.sweep import storage as module
from dlopt.sweep import study as studies
from dlopt.sweep.pruning import Pruner
from dlopt.sweep.samplers import Sampler
from dlopt.sweep.space import Interval, Space
from dlopt.sweep.study import Outcome, Study, load_or_create_study

ASK = """
import sys
import optuna
study = optuna.load_study(study_name="shared", storage=sys.argv[1])
for _ in range(20):
    trial = study.ask()
    study.tell(trial, trial.suggest_float("lr", 0.0, 1.0))
    print(trial.number)
"""


def closed(storage: RDBStorage) -> None:
    storage.remove_session()
    storage.engine.dispose()


@pytest.fixture
def storage(postgresql):
    made = RDBStorage(postgresql)
    yield made
    closed(made)


def test_the_trials_of_two_processes_have_numbers_of_their_own(postgresql, storage):
    study = optuna.create_study(study_name="shared", storage=storage)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ASK, postgresql], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [process.communicate()[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    numbers = [{int(number) for number in each} for each in said]
    assert [len(each) for each in numbers] == [20, 20]
    assert numbers[0] | numbers[1] == set(range(40))
    assert [(t.number, t.value == t.params["lr"]) for t in study.trials] == [(n, True) for n in range(40)]


def test_each_test_has_an_empty_database(storage):
    assert optuna.get_all_study_names(storage) == []


def test_it_is_reached_by_a_socket_of_its_own(postgresql):
    assert Path(postgresql.partition("host=")[2], ".s.PGSQL.5432").is_socket()


# ------------------------------------------------------------------------------------------- searches that share it


LONGER = ("steps=4000", "eval_every=500", "checkpoint.every=1000", "hydra.sweeper.n_trials=2")
KEPT = "synchronous_commit=on"
"""The server's end loses nothing that it has said to be done."""
SECRET = "-".join(("vEry", "5ecret"))  # not as it stands here: runs keep what is not committed


def shared(name: str, address: str, folder: str, *more: str) -> list[str]:
    """The command of a search of test_killed_searches whose study is in the database."""
    return argv(
        name, f"hydra.sweeper.storage='{address}'", "hydra.sweeper.study=shared", f"hydra.sweep.dir={folder}", *more
    )


def found(storage: RDBStorage, total: int, *folders: Path) -> list[optuna.trial.FrozenTrial]:
    """The trials that wait, after it was seen that each point has one outcome, and each trial one folder at most."""
    trials = optuna.load_study(study_name="shared", storage=storage).get_trials()
    ends = [trial for trial in trials if "outcome" in trial.user_attrs]
    new = [trial.number for trial in trials if "instead_of" not in trial.user_attrs]
    ordinals = {trial.number: trial.user_attrs.get("ordinal", sum(n < trial.number for n in new)) for trial in trials}
    assert sorted(ordinals[trial.number] for trial in ends) == list(range(total))
    assert [trial.state.name for trial in ends] == ["COMPLETE"] * total
    places = [int(place.name) for folder in folders for place in folder.iterdir() if place.name.isdecimal()]
    assert len(places) == len(set(places))
    assert {trial.number for trial in ends} <= set(places)
    for trial in ends:
        (run,) = [
            RunDirectory(folder / str(trial.number)) for folder in folders if (folder / str(trial.number)).exists()
        ]
        assert (run.status["status"], run.summary["val/loss"]) == ("done", trial.value)
    waiting = [trial for trial in trials if trial.state.name == "WAITING"]
    assert all(ordinals[trial.number] >= total for trial in waiting)
    assert not set(places) & {trial.number for trial in waiting}
    assert not [trial for trial in trials if trial.state.name == "RUNNING"]
    return waiting


@pytest.mark.parametrize(
    "name", ["random", pytest.param("tpe", marks=pytest.mark.long), pytest.param("grid", marks=pytest.mark.long)]
)
def test_two_searches_with_folders_of_their_own_do_each_point_once(name, forks, postgresql, storage, tmp_path):
    jobs = [forks.start(shared(name, postgresql, folder), tmp_path) for folder in ("one", "two")]
    for job in jobs:
        ended = ends(job)
        assert (ended.code, ended.err) == (0, "")
    folders = (tmp_path / "one", tmp_path / "two")
    total = 8 if name == "grid" else 10
    waiting = found(storage, total, *folders)
    if name == "grid":
        return
    more = total + max(1, len(waiting))
    ended = forks.run(shared(name, postgresql, "one", f"hydra.sweeper.n_trials={more}"), tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert found(storage, more, *folders) == []


def test_when_one_is_killed_the_other_does_what_it_left(forks, postgresql, storage, tmp_path):
    """On one machine its death is seen at once, by the folder in which it worked."""
    longer = ("steps=400", "eval_every=100", "checkpoint.every=100")  # the first is not done before the second begins
    first = forks.start(shared("random", postgresql, "two", *longer), tmp_path)
    wait_until(lambda: first.has_ended or works(first, tmp_path / "two"))
    second = forks.start(shared("random", postgresql, "one", *longer), tmp_path)
    wait_until(lambda: first.has_ended or second.has_ended or works(second, tmp_path / "one"))
    wait_until(lambda: first.has_ended or second.has_ended or works(first, tmp_path / "two"))
    first.kill()
    assert ends(first).code == -signal.SIGKILL
    ended = ends(second)
    assert (ended.code, ended.err) == (0, "")
    assert found(storage, 10, tmp_path / "one", tmp_path / "two") == []


def test_a_server_that_stops_ends_a_search_with_a_message_and_loses_nothing(forks, tmp_path):
    """The run that was under way is done by then; the same command knows it once the server is back."""
    with postgres.create_cluster() as folder:
        with postgres.run_cluster(folder, KEPT) as plain:
            address = postgres.add_password_role(plain, SECRET)
            command = shared("random", address, "sweep", *LONGER)
            job = forks.start(command, tmp_path)
            wait_until(lambda: job.has_ended or works(job, tmp_path / "sweep"))
        ended = ends(job)
        assert ended.code == 1, ended
        said = ended.err.splitlines()
        assert said[0].startswith("stopped: hydra.sweeper.storage  postgresql+psycopg://guarded:***@/postgres?host=")
        assert (len(said), SECRET in ended.err) == (2, False)
        done = RunDirectory(tmp_path / "sweep" / "0").status
        assert done["status"] == "done"
        with postgres.run_cluster(folder, KEPT):
            again = forks.run(command, tmp_path)
            assert (again.code, again.err) == (0, "")
            storage = RDBStorage(plain)
            assert found(storage, 2, tmp_path / "sweep") == []
            closed(storage)
    assert RunDirectory(tmp_path / "sweep" / "0").status == done
    assert not (tmp_path / "sweep" / "2").exists()


@pytest.mark.parametrize("launcher", ["local", pytest.param("basic", marks=pytest.mark.long)])
def test_a_password_is_in_no_file_and_on_no_screen(launcher, forks, postgresql, tmp_path):
    address = postgres.add_password_role(postgresql, SECRET)
    more = ("hydra.sweeper.n_trials=2", "hydra.sweeper.pruner=median", f"hydra/launcher={launcher}")
    command = [word for word in shared("random", address, "sweep", *more) if word != "-q"]
    ended = forks.run(command, tmp_path)
    assert (ended.code, ended.err) == (0, "")
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 10
    for secret in (SECRET.encode(), SECRET.encode().hex().encode()):
        assert [file for file in files if secret in file.read_bytes()] == []
    assert SECRET not in ended.out
    refused = forks.run(["train", "-q", "resume=sweep"], tmp_path)
    assert (refused.code, "hydra.sweeper.storage  must be given again" in refused.err) == (2, True)
    again = forks.run(["train", "-q", "resume=sweep", f"hydra.sweeper.storage='{address}'"], tmp_path)
    assert (again.code, again.err) == (0, "")
    wrong = forks.run([word.replace(SECRET, "wr0ng") for word in command], tmp_path)
    assert wrong.code == 2
    assert "hydra.sweeper.storage" in wrong.err
    assert "wr0ng" not in wrong.err


# ------------------------------------------------------------------------------------------- other machines


class Elsewhere:
    """Two processes that share nothing but a database, each on a machine of its own."""

    def __init__(self, address: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.address, self.folder, self.monkeypatch = address, folder, monkeypatch
        self.opened: list[RDBStorage] = []

    def study(self, name: str, total: int = 2) -> Study:
        problems = Problems()
        storage = module.open_storage(self.address, self.folder, problems)
        problems.raise_if_any()
        self.opened.append(storage)
        space = Space((Interval("x", 0.0, 1.0, log=False, step=None, whole=False),), ())
        content = {"made": "here"}
        study, _ = load_or_create_study(storage, "shared", "minimize", Pruner("none", 0, 0, 1, 2).to_optuna(), content)
        return Study(storage, study, space, Sampler("random", 0, 10, 24, False), total, self.folder / name)

    def at(self, name: str) -> None:
        """From now on this is that machine, which sees no folder of the other."""
        self.monkeypatch.setattr(studies, "get_machine_id", lambda: name)
        for other in self.folder.iterdir():
            other.rename(
                other.with_name(f"{other.name.partition('.')[0]}{'' if other.name.startswith(name) else '.away'}")
            )

    def silence(self, seconds: int) -> None:
        """So long no sign of life has come."""
        with self.opened[0]._backend.engine.begin() as connection:
            connection.execute(
                text(f"UPDATE trial_heartbeats SET heartbeat = heartbeat - interval '{seconds} seconds'")
            )


@pytest.fixture
def elsewhere(postgresql, tmp_path, monkeypatch):
    made = Elsewhere(postgresql, tmp_path, monkeypatch)
    yield made
    for storage in made.opened:
        closed(storage._backend)


def nothing(number: int) -> Outcome | None:
    return None


def test_a_trial_of_a_machine_that_is_silent_is_tried_again(elsewhere):
    elsewhere.at("near")
    with elsewhere.study("near") as near:
        trial = near.claim(nothing)
        elsewhere.at("far")
        with elsewhere.study("far") as far:
            other = far.claim(nothing)
            assert (trial.ordinal, other.ordinal) == (0, 1)
            assert far.claim(nothing) is None
            elsewhere.silence(module.GRACE_PERIOD - 10)
            assert far.claim(nothing) is None
            near.send_heartbeats([trial])
            far.send_heartbeats([other])
            elsewhere.silence(module.GRACE_PERIOD - 10)
            assert far.claim(nothing) is None
            far.send_heartbeats([other])
            elsewhere.silence(20)
            again = far.claim(nothing)
            assert (again.instead_of, again.ordinal, again.point) == (trial.number, 0, trial.point)
            assert far.tell(again, Outcome("done", 1.0))
            assert far.tell(other, Outcome("done", 2.0))
            assert far.counts().by_verdict == {"done": 2}
        elsewhere.at("near")
        assert not near.tell(trial, Outcome("done", 0.0))
        assert near.claim(nothing) is None


def test_a_trial_killed_as_soon_as_it_was_taken_has_given_a_sign_of_life(elsewhere):
    elsewhere.at("near")
    with elsewhere.study("near", 1) as near:
        near.claim(nothing)
        elsewhere.silence(module.GRACE_PERIOD + 10)
        elsewhere.at("far")
        with elsewhere.study("far", 1) as far:
            assert far.claim(nothing).instead_of == 0
        elsewhere.at("near")


def test_what_ended_before_a_long_silence_is_not_done_again(elsewhere):
    """Where the folder is: its process was killed after its run, and before it could say so."""
    elsewhere.at("near")
    with elsewhere.study("near", 1) as near:
        assert near.claim(nothing).number == 0
    elsewhere.silence(10 * module.GRACE_PERIOD)
    with elsewhere.study("near", 1) as near:
        assert near.claim(lambda number: Outcome("done", float(number))) is None
        assert near.counts().by_verdict == {"done": 1}


def test_who_gets_one_too_many_puts_it_back_for_a_longer_search(elsewhere):
    elsewhere.at("near")
    with elsewhere.study("near") as near, elsewhere.study("near") as other:
        assert near.claim(nothing).ordinal == 0
        before = other.trials()
        assert near.claim(nothing).ordinal == 1
        assert other._claim_new(before) is None
        assert [trial.state.name for trial in near.trials()] == ["RUNNING", "RUNNING", "WAITING"]
        assert near.claim(nothing) is None
        with elsewhere.study("near", 3) as longer:
            taken = longer.claim(nothing)
            assert (taken.instead_of, taken.ordinal) == (2, 2)


def test_of_two_that_try_the_same_point_again_one_does(elsewhere):
    """As when two machines see the same death."""
    elsewhere.at("near")
    with elsewhere.study("near", 1) as near, elsewhere.study("near", 1) as other:
        near.interrupt(near.claim(nothing))
        before = other.trials()
        again = near.claim(nothing)
        assert other._claim_remaining(before) is None
        assert near.tell(again, Outcome("done", 1.0))
        assert near.claim(nothing) is None
        assert [t.state.name for t in near.trials()] == ["FAIL", "COMPLETE", "FAIL"]
        assert near.counts().by_verdict == {"done": 1}


# ------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("postgresql+psycopg://u:5ecret@127.0.0.1:1/x", "u:***@127.0.0.1:1/x cannot be opened: "),
        ("postgresql+psycopg://u:5ecret@h:port/x", "it is no address such as"),
        ("postgresql+psycopg/u", "it is no address such as"),
        ("nosuch://u:5ecret@h/x", "nosuch://u:***@h/x cannot be opened: "),
        ("mysql+nodriver://u:5ecret@h/x", "mysql+nodriver://u:***@h/x cannot be opened: "),
        ("DATABASE", "none"),
        ("sqlite:////no/such/folder/x.db", "/no/such/folder/x.db cannot be opened: "),
        ("/dev/null/study.log", "/dev/null/study.log cannot be opened: "),
    ],
)
def test_a_storage_that_cannot_be_reached_is_refused_before_anything_is_made(
    address, words, forks, postgresql, tmp_path
):
    if address == "DATABASE":
        address = postgresql.replace("/test?", "/none?")
    ended = forks.run(shared("random", address, "sweep"), tmp_path)
    said = ended.err.splitlines()
    assert (ended.code, len(said)) == (2, 2), ended
    assert said[0] == "1 problem, nothing was started:"
    assert said[1].startswith("  hydra.sweeper.storage  ")
    assert words in said[1]
    assert "5ecret" not in ended.err
    assert list(tmp_path.iterdir()) == []
