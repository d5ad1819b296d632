"""A study that several processes share through a real PostgreSQL server."""

import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage

ASK = """
import sys
import optuna
study = optuna.load_study(study_name="shared", storage=sys.argv[1])
for _ in range(20):
    trial = study.ask()
    study.tell(trial, trial.suggest_float("lr", 0.0, 1.0))
    print(trial.number)
"""


@pytest.fixture
def storage(postgresql):
    made = RDBStorage(postgresql)
    yield made
    made.remove_session()
    made.engine.dispose()


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
