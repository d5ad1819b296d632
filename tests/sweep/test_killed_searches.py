"""A search that is killed, at any time and any number of times, ends with the results of an undisturbed one.

Real processes and real signals. A seed fixes when a signal is sent, not which operation it interrupts, so that repeated
runs of these tests see many interleavings.
"""

import json
import os
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass
from functools import cache
from statistics import fmean

import optuna
import pytest
from processes import list_session, wait_until

from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.lock import find_holder
from dlopt.sweep.journal_file import open_journal

TINY = (
    "train", "-q", "-m", "data=digits", "data.train_size=100", "batch_size=20", "steps=40", "arch=mlp",
    "arch.widths=[4]", "eval_every=1", "log_every=5", "checkpoint.every=5", "threads=1", "device=cpu",
    "hydra.sweep.dir=sweep",
)  # fmt: skip
LR = "optimizer.lr=tag(log,interval(1e-3,1e-1))"
RANDOM = ("optimizer=sgd,adam", LR, "hydra/sweeper=random", "hydra.sweeper.n_trials=5")
SEEDS = (*RANDOM, "hydra.sweeper.n_trials=3")
POOL = ("hydra/launcher=pool", "hydra.launcher.workers=2")
SEARCHES = {
    "random": RANDOM,
    "grid": ("optimizer=sgd,adam", "optimizer.lr=0.1,0.01", "seed=range(0,2)"),
    "seeds": (*SEEDS, "hydra.sweeper.seeds=2"),
    "median of folds": ("optimizer.lr=0.1,0.01", "validation.scheme=kfold", "validation.k=3", "hydra.sweeper.statistic=median"),
    "pruned": (*RANDOM, "hydra.sweeper.pruner=median", "hydra.sweeper.median.n_startup_trials=2"),
    "tpe": (*RANDOM, "hydra/sweeper=tpe", "hydra.sweeper.tpe.n_startup_trials=3"),
    "qmc": (*RANDOM, "hydra/sweeper=qmc"),
    "greedy": ("hydra/sweeper=greedy", "arch.widths=[4,5,6]"),
    "pool": (*RANDOM, *POOL),
    "seeds in a pool": (*SEEDS, *POOL, "hydra.sweeper.seeds=[0,1]"),
}  # fmt: skip
TWINS = {"pool": "random", "seeds in a pool": "seeds"}
"""Searches with the same results, one run after another."""
long = pytest.mark.long


def make_command(name, *more):
    """Return the command of a search; the last of several values of a key counts."""
    return list({word.partition("=")[0]: word for word in (*TINY, *SEARCHES[name], *more)}.values())


# ------------------------------------------------------------------------------------------- results of a search


def read_trials(folder):
    """Return all trials, as Optuna itself reads them."""
    return optuna.load_study(study_name="dlopt", storage=open_journal(folder / "study.log")).get_trials(deepcopy=False)


def find_runs(trial):
    """Return the directories of a trial's runs that have begun."""
    below = [path for path in trial.glob("*-*") if path.is_dir()]
    return [path for path in below or [trial] if (path / "status.json").exists()]


def read_curves(run):
    """Return the rows of a run in their order, without the clock."""
    return [{key: value for key, value in row.items() if "second" not in key} for row in run.rows()]


def read_results(folder):
    """Return the verdict, point, value and curves of each ordinal, after a check that everything on the disk agrees."""
    sweep = json.loads((folder / "sweep.json").read_text())
    results, n_first = {}, 0
    for trial in read_trials(folder):
        attributes = trial.user_attrs
        ordinal = attributes.get("ordinal", n_first)
        n_first += "instead_of" not in attributes
        assert trial.state.name in ("COMPLETE", "PRUNED", "FAIL"), trial
        if "outcome" not in attributes:
            assert trial.state.name == "FAIL"
            continue
        assert ordinal not in results, f"the point {ordinal} has two outcomes"
        runs = [RunDirectory(path) for path in find_runs(folder / str(ordinal))]
        results[ordinal] = (attributes["outcome"], trial.params, trial.value, list(map(read_curves, runs)))
        for run in runs:
            assert run.status["status"] in ("done", "pruned")
            assert find_holder(run.path) is None
            assert run.load("last")["step"] == run.summary["step"]
            assert [row["step"] for row in run.rows()] == sorted({row["step"] for row in run.rows()})
        is_pruned = any(run.status["status"] == "pruned" for run in runs)
        assert attributes["outcome"] == ("pruned" if is_pruned else "done")
        assert len(runs) == max(1, len(sweep["seeds"])) * max(1, sweep["folds"])
        values = sorted(run.summary[sweep["objective"]] for run in runs)
        assert trial.value == (values[1] if sweep["statistic"] == "median" else fmean(values))
    assert sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal()) == sorted(results)
    assert sorted(results) == list(range(sweep["trials"]))
    assert (folder / "multirun.yaml").read_text().endswith("\n")
    return results


# ------------------------------------------------------------------------------------------- kills


@dataclass(frozen=True)
class Reference:
    """The results of an undisturbed search, and the seconds that its process takes to start and for each run."""

    results: dict
    start: float
    run: float


@pytest.fixture(scope="module")
def get_reference(forks, tmp_path_factory):
    @cache
    def search(name):
        folder = tmp_path_factory.mktemp("undisturbed")
        ended = forks.run(make_command(name), folder)
        assert ended.code == 0, ended.err
        again = forks.run(make_command(name), folder)
        assert (again.code, again.err) == (0, "")
        results = read_results(folder / "sweep")
        count = sum(len(curves) for *_, curves in results.values())
        assert len(read_trials(folder / "sweep")) == len(results)
        return Reference(results, again.seconds, max(0.02, (ended.seconds - again.seconds) / count))

    return lambda name: search(TWINS.get(name, name))


def has_run(job, sweep):
    """Return whether this process, or one of its workers, has a run in progress."""
    statuses = [RunDirectory(path).status_or_none() for path in (*sweep.glob("[0-9]*"), *sweep.glob("[0-9]*/*-*"))]
    return any(s["pid"] in (job.pid, *list_session(job.pid)) for s in statuses if s and s["status"] == "running")


def wait_for_run(job, sweep):
    wait_until(lambda: job.has_ended or has_run(job, sweep))


def wait_for_end(job):
    """Return how it ended; a little later nothing that it has started is left."""
    ended = job.wait()
    assert "Traceback" not in ended.err, ended.err
    wait_until(lambda: not list_session(job.pid))
    return ended


def disturb(forks, commands, reference, folder, draw, numbers=(signal.SIGKILL,)):
    """Start the next process and send it signals: while it starts, or in the runs after that. Return if it had ended."""
    sweep = folder / "sweep"
    job = forks.start(commands[1] if (sweep / "sweep.json").exists() else commands[0], folder)
    if draw.random() < 0.3:
        time.sleep(draw.uniform(0, reference.start))
    else:
        wait_for_run(job, sweep)
        time.sleep(draw.uniform(0, 3 * reference.run))
    for number in numbers:
        job.kill(number)
    ended = wait_for_end(job)
    assert ended.code in (0, 130, *(-number for number in numbers)), ended
    return ended.code == 0


def finish(forks, command, folder):
    """Let the search end, and return its results."""
    ended = forks.run(command, folder)
    assert (ended.code, ended.err) == (0, "")
    return read_results(folder / "sweep")


@long
@pytest.mark.parametrize(("name", "times"), [("random", 3), ("seeds", 3), ("greedy", 3)])
def test_a_search_killed_a_few_times_finds_the_same(name, times, forks, get_reference, tmp_path):
    draw, command = random.Random(f"{name} {times}"), make_command(name)
    ends = Counter(disturb(forks, [command] * 2, get_reference(name), tmp_path, draw) for _ in range(times))
    assert ends[False] > 0
    assert finish(forks, command, tmp_path) == get_reference(name).results


STOPS = [(signal.SIGINT,), (signal.SIGTERM,), (signal.SIGINT, signal.SIGINT)]
DISTURBANCES = {f"killed {name}": (name, [(signal.SIGKILL,)]) for name in SEARCHES} | {
    f"stopped {name}": (name, STOPS) for name in ("random", "seeds", "pruned", "pool")
}


@long
@pytest.mark.parametrize("case", DISTURBANCES)
def test_every_kind_of_search_disturbed_twenty_times_finds_the_same(case, forks, get_reference, tmp_path):
    """Five times on the way to each of four ends, by turns with the same command and by `resume`."""
    name, signals = DISTURBANCES[case]
    draw = random.Random(case)
    for turn in range(4):
        folder = tmp_path / str(turn)
        folder.mkdir()
        commands = [make_command(name), ["train", "-q", "resume=sweep"] if turn % 2 else make_command(name)]
        for i in range(5):
            disturb(forks, commands, get_reference(name), folder, draw, signals[(turn + i) % len(signals)])
        assert finish(forks, commands[1], folder) == get_reference(name).results


@pytest.mark.parametrize(
    "name",
    ["study.log", *(pytest.param(name, marks=long) for name in (
        "", "0", "sweep.json", "multirun.yaml", ".workers/claims", "0/.hydra", "0/status.json", "0/summary.json", "1"))],
)  # fmt: skip
def test_a_search_killed_as_soon_as_a_file_exists_continues(name, forks, get_reference, tmp_path):
    """Mostly in the first second, while the study itself is created."""
    command = make_command("random", "hydra.sweeper.n_trials=2")
    job = forks.start(command, tmp_path)
    wait_until(lambda: job.has_ended or (tmp_path / "sweep" / name).exists())
    job.kill()
    assert wait_for_end(job).code in (-signal.SIGKILL, 0)  # 0: on a busy machine it ended before the file was seen
    assert finish(forks, command, tmp_path) == {i: get_reference("random").results[i] for i in range(2)}


# ------------------------------------------------------------------------------------------- stop signals

ENDLESS = ("steps=100000000", "eval_every=1000000", "checkpoint.every=1000000")


@pytest.mark.parametrize(
    ("launcher", "number"),
    [
        (POOL, signal.SIGTERM),
        pytest.param((), signal.SIGINT, marks=long),
        pytest.param((), signal.SIGTERM, marks=long),
        pytest.param(POOL, signal.SIGINT, marks=long),
    ],
)
def test_a_stopped_search_saves_its_runs_and_prints_how_to_resume(launcher, number, forks, tmp_path):
    command = [word for word in make_command("random", *ENDLESS, *launcher) if word != "-q"]
    count, turns = (2, 1) if launcher else (1, 2)
    sweep = tmp_path / "sweep"
    runs = [sweep / str(i) for i in range(count)]
    for _ in range(turns):
        job, steps = forks.start(command, tmp_path), [read_last_step(run) for run in runs]
        wait_until(lambda job=job, steps=steps: job.has_ended or has_advanced(runs, steps))
        job.kill(number)
        ended = wait_for_end(job)
        assert ended.code == 130, ended
        assert "dlopt train resume=sweep\n" in ended.out
        assert [RunDirectory(run).status["status"] for run in runs] == ["interrupted"] * count
        assert all(RunDirectory(run).load("last")["step"] > 0 for run in runs)
    assert [trial.state.name for trial in read_trials(sweep)] == ["FAIL"] * turns * count
    assert sorted(path.name for path in sweep.glob("[0-9]*")) == [run.name for run in runs]


@pytest.mark.parametrize(
    "victim", ["worker", *(pytest.param(name, marks=long) for name in ("search", "search with a pool"))]
)
def test_a_killed_trial_continues_from_its_last_checkpoint(victim, forks, tmp_path):
    """In its own directory, with the rows up to the checkpoint."""
    pool = ("hydra/launcher=pool", "hydra.launcher.workers=1")
    command = make_command("random", "steps=100000000", *(() if victim == "search" else pool))
    run = RunDirectory(tmp_path / "sweep" / "0")
    job = forks.start(command, tmp_path)
    for _ in range(2):
        target = read_last_step(run.path) + 50
        wait_until(lambda job=job, target=target: job.has_ended or read_last_step(run.path) >= target)
        pid, rows = run.status["pid"], run.rows()
        if victim == "worker":
            os.kill(pid, signal.SIGKILL)
        else:
            job.kill()
            wait_for_end(job)
            job = forks.start(command, tmp_path)
        wait_until(lambda job=job, pid=pid: job.has_ended or run.status["pid"] != pid)
        step = run.status["step"]
        assert step >= target - 5
        assert [row for row in run.rows() if row["step"] <= step][: len(rows)] == [r for r in rows if r["step"] <= step]
    job.kill()
    wait_for_end(job)
    assert [path.name for path in run.path.parent.glob("[0-9]*")] == ["0"]


def read_last_step(run):
    """Return the step of the last row of a run, 0 before its first."""
    row = RunDirectory(run).last_row()
    return 0 if row is None else row["step"]


def has_advanced(runs, steps):
    """Return whether each run has logged a step beyond this one."""
    return all(read_last_step(run) > step for run, step in zip(runs, steps, strict=True))


@long
@pytest.mark.parametrize("launcher", [(), POOL])
def test_a_second_signal_ends_a_search_at_once_and_it_resumes_as_if_killed(launcher, forks, tmp_path):
    draw, sweep, command = random.Random("twice"), tmp_path / "sweep", make_command("random", *ENDLESS, *launcher)
    for turn in range(3):
        job = forks.start(command, tmp_path)
        wait_for_run(job, sweep)
        time.sleep(draw.uniform(0, 0.1))
        job.kill(signal.SIGINT)
        time.sleep(0.001 * turn)
        job.kill(signal.SIGINT)
        assert wait_for_end(job).code == 130
    job = forks.start(command, tmp_path)
    wait_for_run(job, sweep)
    assert not job.has_ended
    job.kill()
    wait_for_end(job)


# ------------------------------------------------------------------------------------------- two processes


def count_claimed(folder):
    """Return the number of points that the study has given away; the directory of a point comes a little later."""
    return sum("instead_of" not in trial.user_attrs for trial in read_trials(folder))


def kill_one_of_two(name, forks, reference, folder, draw):
    """Kill one process while it has a run in progress; the other one ends with nothing left to do.

    If all points were claimed at that time, the other may have ended without them: then a third process continues.
    """
    jobs = [forks.start(make_command(name), folder) for _ in range(2)]
    victim = jobs.pop(draw.randrange(2))
    (other,) = jobs
    wait_for_run(victim, folder / "sweep")
    time.sleep(draw.uniform(0, 2 * reference.run))
    victim.kill()
    wait_for_end(victim)
    is_alone = not other.has_ended and count_claimed(folder / "sweep") < len(reference.results)
    ended = wait_for_end(other)
    assert (ended.code, ended.err) == (0, "")
    return read_results(folder / "sweep") if is_alone else finish(forks, make_command(name), folder)


@pytest.mark.parametrize("name", ["random", pytest.param("seeds", marks=long)])
def test_if_one_of_two_processes_is_killed_the_other_does_everything(name, forks, get_reference, tmp_path):
    results = kill_one_of_two(name, forks, get_reference(name), tmp_path, random.Random(name))
    assert results == get_reference(name).results


@long
@pytest.mark.parametrize("name", ["random", "grid", "seeds", "qmc", "pool"])
def test_if_one_of_two_processes_is_killed_repeatedly_the_other_does_everything(name, forks, get_reference, tmp_path):
    draw = random.Random(name)
    for turn in range(8):
        folder = tmp_path / str(turn)
        folder.mkdir()
        assert kill_one_of_two(name, forks, get_reference(name), folder, draw) == get_reference(name).results
