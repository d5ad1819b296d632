"""A search that is killed, at whatever instant and however often, ends as one that never was.

Real processes and real signals. What a seed fixes is when a signal is sent, not the operation that it meets, so that
many runs of these tests see many interleavings.
"""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean

import pytest
from forked import ForkedProcess, Forks, ProcessResult
from processes import list_session, wait_until

from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.lock import find_holder
from dlopt.sweep import manifest
from dlopt.sweep.journal_file import open_journal

TINY = (
    "train", "-q", "-m", "data=digits", "data.train_size=100", "batch_size=20", "steps=60", "arch=mlp",
    "arch.widths=[4]", "eval_every=1", "log_every=5", "checkpoint.every=5", "threads=1", "device=cpu",
    "hydra.sweep.dir=sweep",
)  # fmt: skip
RATES = "optimizer.lr=tag(log,interval(1e-3,1e-1))"
RANDOM = ("optimizer=sgd,adam", RATES, "hydra/sweeper=random", "hydra.sweeper.n_trials=10")
POOL = ("hydra/launcher=pool", "hydra.launcher.workers=2")
STUDIES = {
    "random": RANDOM,
    "grid": ("optimizer=sgd,adam", "optimizer.lr=0.1,0.01", "seed=range(0,2)"),
    "seeds": ("optimizer=sgd,adam", RATES, "hydra/sweeper=random", "hydra.sweeper.n_trials=5", "hydra.sweeper.seeds=2"),
    "median of folds": ("optimizer.lr=0.1,0.01", "validation.scheme=kfold", "validation.k=3", "hydra.sweeper.statistic=median"),
    "pruned": (*RANDOM, "hydra.sweeper.pruner=median", "hydra.sweeper.median.n_startup_trials=2"),
    "tpe": (*RANDOM, "hydra/sweeper=tpe", "hydra.sweeper.tpe.n_startup_trials=4"),
    "qmc": (*RANDOM, "hydra/sweeper=qmc"),
    "pool": (*RANDOM, *POOL),
    "seeds in a pool": (*RANDOM, *POOL, "hydra.sweeper.n_trials=5", "hydra.sweeper.seeds=[0,1]"),
}  # fmt: skip


TWINS = {"pool": "random", "seeds in a pool": "seeds"}
"""What finds the same, one run after another."""


def argv(name: str, *more: str) -> list[str]:
    """The command of a search; the last of several values of a key counts."""
    last = {word.partition("=")[0]: word for word in (*TINY, *STUDIES[name], *more)}
    return list(last.values())


# ------------------------------------------------------------------------------------------- what a study came to


Found = dict[int, tuple[str, dict[str, object], float | None]]
"""The ordinal of a point -> how it ended, the point, its value."""


def trials(folder: Path):
    """Every trial, as Optuna itself reads them."""
    import optuna

    return optuna.load_study(study_name="dlopt", storage=open_journal(folder / "study.log")).get_trials(deepcopy=False)


def whole(folder: Path) -> Found:
    """What each point came to, after it was seen that all that is on the disk agrees with it."""
    described = manifest.read(folder)
    found: Found = {}
    ordinals: dict[int, int] = {}
    new = 0
    for trial in trials(folder):
        attributes = trial.user_attrs
        ordinal = attributes.get("ordinal", new)
        new += "instead_of" not in attributes
        ordinals[trial.number] = ordinal
        assert trial.state.name in ("COMPLETE", "PRUNED", "FAIL"), trial
        runs = [RunDirectory(place) for place in _places(folder / str(trial.number))]
        if "outcome" not in attributes:
            assert trial.state.name == "FAIL"
            for run in runs:
                assert run.status["status"] in ("running", "interrupted")
                assert find_holder(run.path) is None
            continue
        assert ordinal not in found, f"the point {ordinal} has two outcomes"
        found[ordinal] = (attributes["outcome"], trial.params, trial.value)
        endings = [_ending(run, described["objective"]) for run in runs]
        assert attributes["outcome"] == ("pruned" if "pruned" in dict(endings) else "done")
        assert len(runs) == max(1, len(described["seeds"])) * max(1, described["folds"])
        middle = sorted(value for _, value in endings)[1] if described["statistic"] == "median" else None
        assert trial.value == (fmean(value for _, value in endings) if middle is None else middle)
    numbers = {int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal()}
    assert numbers <= ordinals.keys()
    assert sorted(found) == list(range(described["trials"]))
    assert (folder / "multirun.yaml").read_text().endswith("\n")
    return found


def _places(trial: Path) -> list[Path]:
    """The directories of a trial's runs, of those that were begun."""
    beneath = [place for place in trial.glob("*-*") if place.is_dir()]
    return [place for place in beneath or [trial] if (place / "status.json").exists()]


def _ending(run: RunDirectory, objective: str) -> tuple[str, float]:
    assert run.status["status"] in ("done", "pruned")
    assert run.load("last")["step"] == run.summary["step"]
    assert [row["step"] for row in run.rows()] == sorted({row["step"] for row in run.rows()})
    return run.status["status"], run.summary[objective]


# ------------------------------------------------------------------------------------------- kills


@dataclass(frozen=True)
class Reference:
    """A search that nothing disturbs: what it found, and the seconds that its process takes to start, and a run."""

    found: Found
    starting: float
    run: float


def reference(name: str, forks: Forks, folder: Path) -> Reference:
    ended = forks.run(argv(name), folder)
    assert ended.code == 0, ended.err
    again = forks.run(argv(name), folder)
    assert (again.code, again.err) == (0, "")
    found = whole(folder / "sweep")
    count = sum(1 for trial in trials(folder / "sweep") for _ in _places(folder / "sweep" / str(trial.number)))
    assert len(trials(folder / "sweep")) == len(found)
    return Reference(found, again.seconds, max(0.02, (ended.seconds - again.seconds) / count))


@pytest.fixture(scope="module")
def undisturbed(forks, tmp_path_factory) -> Callable[[str], Reference]:
    found = cache(lambda name: reference(name, forks, tmp_path_factory.mktemp("undisturbed")))
    return lambda name: found(TWINS.get(name, name))


def works(job: ForkedProcess, sweep: Path) -> bool:
    """Whether this very process, or one of its workers, has a run under way."""
    statuses = [RunDirectory(place).status_or_none() for place in (*sweep.glob("[0-9]*"), *sweep.glob("[0-9]*/*-*"))]
    return any(
        s["pid"] == job.pid or s["pid"] in list_session(job.pid) for s in statuses if s and s["status"] == "running"
    )


def ends(job: ForkedProcess) -> ProcessResult:
    """How it ended; nothing that it has started is left a little later."""
    ended = job.wait()
    assert "Traceback" not in ended.err, ended.err
    wait_until(lambda: not list_session(job.pid))
    return ended


def killed(
    forks: Forks, commands: list[list[str]], known: Reference, folder: Path, draw: random.Random,
    numbers: tuple[int, ...] = (signal.SIGKILL,),
) -> str:  # fmt: skip
    """Start the next process and send it signals: while it starts, or in the runs after that; says where it was."""
    sweep = folder / "sweep"
    job = forks.start(commands[1] if (sweep / "sweep.json").exists() else commands[0], folder)
    if draw.random() < 0.3:
        time.sleep(draw.uniform(0, known.starting))
    else:
        wait_until(lambda: job.has_ended or works(job, sweep))
        time.sleep(draw.uniform(0, 3 * known.run))
    for number in numbers:
        job.kill(number)
    ended = ends(job)
    assert ended.code in (0, 130, *(-number for number in numbers)), ended
    return "after the end" if ended.code == 0 else "on the way"


def finished(forks: Forks, command: list[str], folder: Path) -> Found:
    """Let it end, and see what it found; the same command once more has nothing to do."""
    ended = forks.run(command, folder)
    assert (ended.code, ended.err) == (0, "")
    return whole(folder / "sweep")


@pytest.mark.parametrize(("name", "times"), [("random", 3), ("seeds", 3)])
def test_a_search_killed_a_few_times_finds_the_same(name, times, forks, undisturbed, tmp_path):
    draw = random.Random(f"{name} {times}")
    landed = Counter(killed(forks, [argv(name)] * 2, undisturbed(name), tmp_path, draw) for _ in range(times))
    assert landed["on the way"] > 0
    assert finished(forks, argv(name), tmp_path) == undisturbed(name).found


@pytest.mark.long
@pytest.mark.parametrize("name", STUDIES)
def test_every_kind_of_search_killed_twenty_times_finds_the_same(name, forks, undisturbed, tmp_path):
    """Five times on the way to each of four ends, by turns with the same command and by `resume`."""
    draw = random.Random(name)
    for turn in range(4):
        folder = tmp_path / str(turn)
        folder.mkdir()
        commands = [argv(name), ["train", "-q", "resume=sweep"] if turn % 2 else argv(name)]
        for _ in range(5):
            killed(forks, commands, undisturbed(name), folder, draw)
        assert finished(forks, commands[1], folder) == undisturbed(name).found


LATER = [
    pytest.param(name, marks=pytest.mark.long)
    for name in ("multirun.yaml", ".workers/claims", "0/.hydra", "0/status.json", "0/summary.json", "1")
]


@pytest.mark.parametrize("name", ["", "study.log", "sweep.json", "0", *LATER])
def test_a_search_killed_as_soon_as_a_file_is_there_goes_on(name, forks, undisturbed, tmp_path):
    """In the first second most of all, while the study itself is made: each time by the same command."""
    command = argv("random", "hydra.sweeper.n_trials=2")
    job = forks.start(command, tmp_path)
    wait_until(lambda: job.has_ended or (tmp_path / "sweep" / name).exists())
    job.kill()
    assert ends(job).code in (-signal.SIGKILL, 0)  # 0: on a busy machine it was done before the file was seen
    assert finished(forks, command, tmp_path) == {i: undisturbed("random").found[i] for i in range(2)}


# ------------------------------------------------------------------------------------------- signals that ask


ENDLESS = ("steps=100000000", "eval_every=1000000", "checkpoint.every=1000000")


@pytest.mark.parametrize(
    ("launcher", "number"),
    [
        ((), signal.SIGINT),
        ((), signal.SIGTERM),
        (POOL, signal.SIGTERM),
        pytest.param(POOL, signal.SIGINT, marks=pytest.mark.long),
    ],
)
def test_a_search_asked_to_stop_saves_what_is_under_way_and_says_how_to_go_on(launcher, number, forks, tmp_path):
    command = [word for word in argv("random", *ENDLESS, *launcher) if word != "-q"]
    count = 2 if launcher else 1
    sweep = tmp_path / "sweep"
    turns = 1 if launcher else 2
    for turn in range(turns):
        job = forks.start(command, tmp_path)
        begun = [sweep / str(turn * count + i) for i in range(count)]
        wait_until(
            lambda begun=begun, job=job: job.has_ended or all((place / "metrics.jsonl").exists() for place in begun)
        )
        job.kill(number)
        ended = ends(job)
        assert ended.code == 130, ended
        assert "dlopt train resume=sweep\n      resumes where it stopped" in ended.out
        assert [RunDirectory(place).status["status"] for place in begun] == ["interrupted"] * count
        assert [RunDirectory(place).load("last")["step"] > 0 for place in begun] == [True] * count
    states = [(trial.state.name, trial.user_attrs.get("instead_of")) for trial in trials(sweep)]
    assert [state for state, _ in states] == ["FAIL"] * turns * count
    assert sorted(again for _, again in states[count:]) == list(range((turns - 1) * count))


@pytest.mark.parametrize("launcher", [(), pytest.param(POOL, marks=pytest.mark.long)])
def test_asked_twice_it_ends_at_once_and_goes_on_as_if_killed(launcher, forks, tmp_path):
    draw = random.Random("twice")
    sweep = tmp_path / "sweep"
    for turn in range(3):
        job = forks.start(argv("random", *ENDLESS, *launcher), tmp_path)
        wait_until(lambda job=job: job.has_ended or works(job, sweep))
        time.sleep(draw.uniform(0, 0.1))
        job.kill(signal.SIGINT)
        time.sleep(0.001 * turn)
        job.kill(signal.SIGINT)
        assert ends(job).code == 130
    job = forks.start(argv("random", *ENDLESS, *launcher), tmp_path)
    wait_until(lambda: job.has_ended or works(job, sweep))
    assert not job.has_ended
    job.kill()
    ends(job)


ASKED = [(signal.SIGINT,), (signal.SIGTERM,), (signal.SIGINT, signal.SIGINT)]


@pytest.mark.long
@pytest.mark.parametrize("name", ["random", "seeds", "pruned", "pool"])
def test_a_search_asked_to_stop_at_any_instant_finds_the_same(name, forks, undisturbed, tmp_path):
    draw = random.Random(name)
    for turn in range(4):
        folder = tmp_path / str(turn)
        folder.mkdir()
        for at in range(5):
            killed(forks, [argv(name)] * 2, undisturbed(name), folder, draw, ASKED[(turn + at) % len(ASKED)])
        assert finished(forks, argv(name), folder) == undisturbed(name).found


# ------------------------------------------------------------------------------------------- two processes


def one_of_two_is_killed(name: str, forks: Forks, known: Reference, folder: Path, draw: random.Random) -> Found:
    """The killed one has a run under way; the other ends with nothing left to do.

    If all points were taken at that instant, the other may have ended without them: then a third process goes on.
    """
    jobs = [forks.start(argv(name), folder) for _ in range(2)]
    killed = jobs[draw.randrange(2)]
    (other,) = [job for job in jobs if job is not killed]
    wait_until(lambda: killed.has_ended or works(killed, folder / "sweep"))
    time.sleep(draw.uniform(0, 2 * known.run))
    killed.kill()
    ends(killed)
    taken = [entry for entry in (folder / "sweep").iterdir() if entry.name.isdecimal()]
    alone = not other.has_ended and len(taken) < len(known.found)
    ended = ends(other)
    assert (ended.code, ended.err) == (0, "")
    return whole(folder / "sweep") if alone else finished(forks, argv(name), folder)


@pytest.mark.parametrize("name", ["random", "seeds"])
def test_of_two_processes_in_one_directory_one_is_killed_and_the_other_does_it_all(name, forks, undisturbed, tmp_path):
    found = one_of_two_is_killed(name, forks, undisturbed(name), tmp_path, random.Random(name))
    assert found == undisturbed(name).found


@pytest.mark.long
@pytest.mark.parametrize("name", ["random", "grid", "seeds", "qmc", "pool"])
def test_whichever_of_two_is_killed_the_other_does_it_all(name, forks, undisturbed, tmp_path):
    draw = random.Random(name)
    for turn in range(8):
        folder = tmp_path / str(turn)
        folder.mkdir()
        assert one_of_two_is_killed(name, forks, undisturbed(name), folder, draw) == undisturbed(name).found
