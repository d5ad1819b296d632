"""Searches from the command line: every sampler to its end, resuming, and wrong input."""

import json
import os
import re
import shlex
import signal
import socket
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from helpers import BLOBS, build_experiment, read_tree
from hydra.core.override_parser.overrides_parser import OverridesParser

from dlopt.cli import main
from dlopt.config.compose.yaml_dump import quote
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.lock import Lock
from dlopt.rundir.writer import RunWriter
from dlopt.runner import claim, execute
from dlopt.runner.observer import Observer
from dlopt.runner.workers import InProcess
from dlopt.sweep import pruning, validate
from dlopt.sweep.journal_file import open_journal
from dlopt.sweep.pruning import PruningReporter
from dlopt.sweep.reopen import reopen_sweep
from dlopt.sweep.study import MAX_TRIES, Study

QUICK = (*(word for word in BLOBS if not word.startswith("epochs=")), "epochs=1", "optimizer=sgd")
THREE_EPOCHS = (*(word for word in QUICK if not word.startswith("epochs=")), "epochs=3", "log_every=1")
LR = "optimizer.lr=tag(log,interval(1e-3,1e-1))"
HERE = "hydra.sweep.dir=sweep"
RANDOM = "hydra/sweeper=random"


def read_sweep_json(sweep: Path = Path("sweep")) -> dict[str, Any]:
    return json.loads((sweep / "sweep.json").read_text())


def find_runs(sweep: Path = Path("sweep")) -> dict[str, RunDirectory]:
    folders = sorted(file.parent for file in sweep.rglob("status.json"))
    return {str(folder.relative_to(sweep)): RunDirectory(folder) for folder in folders}


def list_values(key: str, sweep: Path = Path("sweep")) -> list[Any]:
    """Return a setting of each run, in the order of their numbers."""
    return [
        run.status["settings"][key] for run in sorted(find_runs(sweep).values(), key=lambda run: int(run.path.name))
    ]


# ------------------------------------------------------------------------------------------------ to the end


@pytest.mark.parametrize(
    "sampler", ["random", *(pytest.param(name, marks=pytest.mark.long) for name in ("tpe", "qmc"))]
)
def test_a_search_runs_n_trials_and_can_be_extended(sampler, here, capsys):
    command = [*QUICK, HERE, LR, "activation=relu,tanh", f"hydra/sweeper={sampler}", "hydra.sweeper.n_trials=3"]
    assert main(["train", "-m", *command]) == 0
    assert list(find_runs()) == ["0", "1", "2"]
    assert all(run.status["status"] == "done" for run in find_runs().values())
    rates = list_values("optimizer.lr")
    assert len(set(rates)) == 3
    assert all(1e-3 <= rate <= 1e-1 for rate in rates)
    assert set(list_values("activation")) <= {"relu", "tanh"}
    content = read_sweep_json()
    assert {key: content[key] for key in ("format", "sampler", "objective", "direction", "trials", "seeds", "folds")} == {
        "format": 1, "sampler": sampler, "objective": "val/loss", "direction": "minimize", "trials": 3, "seeds": [], "folds": 0
    }  # fmt: skip
    assert content["axes"] == [
        {"key": "optimizer.lr", "kind": "float", "low": 1e-3, "high": 1e-1, "log": True, "step": None},
        {"key": "activation", "kind": "choice", "values": ["relu", "tanh"]},
    ]
    assert content["fixed"] == list(QUICK)
    assert content["command"] == [*QUICK, HERE, *command[len(QUICK) + 1 :]]
    out = capsys.readouterr().out
    assert "3 of 3 runs, in sweep" in out
    best = min(find_runs().values(), key=lambda run: run.summary["val/loss"])
    assert re.search(rf"best: val/loss \S+ with optimizer.lr=\S+ activation=\S+, in sweep/{best.path.name}\n", out)

    before = {name: run.status_file.stat().st_mtime_ns for name, run in find_runs().items()}
    assert main(["train", "-m", *command]) == 0
    assert "nothing is left to do" in capsys.readouterr().out
    assert main(["train", "resume=sweep", "hydra.sweeper.n_trials=4", "--trust"]) == 0
    assert "sweep: 3 of 4 runs are finished, 1 left" in capsys.readouterr().out
    assert list(find_runs()) == ["0", "1", "2", "3"]
    assert {name: run.status_file.stat().st_mtime_ns for name, run in list(find_runs().items())[:3]} == before
    assert read_sweep_json()["trials"] == 4

    fresh = [word for word in command if word != HERE]
    assert main(["train", "-m", *fresh, "hydra.sweep.dir=whole", "hydra.sweeper.n_trials=4"]) == 0
    assert list_values("optimizer.lr", Path("whole")) == list_values("optimizer.lr")


def test_a_grid_with_seeds_repeats_each_point(here, capsys):
    command = [*QUICK, HERE, "optimizer.lr=0.01,0.1", "seed=7", "hydra.sweeper.seeds=2"]
    assert main(["train", "-m", *command]) == 0
    assert list(find_runs()) == [f"{n}/seed-{s}" for n in (0, 1) for s in (7, 8)]
    assert [run.config()["seed"] for run in find_runs().values()] == [7, 8, 7, 8]
    assert read_sweep_json()["seeds"] == [7, 8]
    assert "2 of 2 points of 2 runs each, in sweep" in capsys.readouterr().out


def test_folds_and_seeds_combine(here):
    folds = ["validation.scheme=kfold", "validation.k=2"]
    assert main(["train", "-m", *QUICK, HERE, *folds, "hydra.sweeper.seeds=[4,9]"]) == 0
    configs = {name: run.config() for name, run in find_runs().items()}
    assert list(configs) == [f"0/seed-{s}-fold-{f}" for s in (4, 9) for f in range(2)]
    assert all(name == f"0/seed-{c['seed']}-fold-{c['validation']['fold']}" for name, c in configs.items())
    assert (read_sweep_json()["seeds"], read_sweep_json()["folds"]) == ([4, 9], 2)


def test_a_resumed_grid_keeps_its_shuffled_order(here):
    """Each call of shuffle() returns another order; with a new order, points would be missing."""
    command = [*QUICK, HERE, "seed=shuffle(range(6))"]
    assert main(["train", "-m", *command]) == 0
    seeds, axes = list_values("seed"), read_sweep_json()["axes"]
    assert sorted(seeds) == list(range(6))
    assert main(["train", "-m", *command]) == 0
    assert (list_values("seed"), read_sweep_json()["axes"]) == (seeds, axes)


def test_axes_may_be_typed_in_another_order(here):
    axes = ["optimizer.lr=interval(0.01,0.1)", "seed=range(100)"]
    command = ["train", "-m", *QUICK, RANDOM]
    assert main([*command, *axes, "hydra.sweep.dir=whole", "hydra.sweeper.n_trials=2"]) == 0
    assert main([*command, *axes, HERE, "hydra.sweeper.n_trials=1"]) == 0
    assert main([*command, *reversed(axes), HERE, "hydra.sweeper.n_trials=2"]) == 0
    assert [list_values(key) for key in ("optimizer.lr", "seed")] == [
        list_values(key, Path("whole")) for key in ("optimizer.lr", "seed")
    ]


def test_axes_may_be_in_a_file_and_the_command_line_wins(here):
    folder = here / "options" / "hydra" / "sweeper"
    folder.mkdir(parents=True)
    params = {"optimizer.lr": "0.1,0.01", "seed": "1,2,3", "schedule.then": "cosine,constant"}
    content = {"defaults": ["grid", "_self_"], "params": params}
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    user_options = ["--config-dir", "options", "hydra/sweeper=mine", "schedule=warmup", "schedule.length=1"]
    assert main(["train", "-m", *user_options, *QUICK, HERE, "seed=5"]) == 0
    assert [(r.status["settings"]["optimizer.lr"], r.status["settings"]["schedule.then"]) for r in find_runs().values()] == [
        (0.1, "cosine"), (0.1, "constant"), (0.01, "cosine"), (0.01, "constant")
    ]  # fmt: skip
    assert list_values("seed") == [5] * 4
    assert main(["train", "resume=sweep", "--config-dir", "options", "--trust"]) == 0


RULES = ["optimizer=sgd,momentum", "optimizer.dampening=0.1"]
PLAIN = QUICK[:-1]
"""The quick problem without an optimizer."""


def list_points(*keys: str, sweep: Path = Path("sweep")) -> list[tuple[Any, ...]]:
    """Return settings of each run, in the order of their numbers; None for a key that a run lacks."""
    runs = sorted(find_runs(sweep).values(), key=lambda run: int(run.path.name))
    return [tuple(run.status["settings"].get(key) for key in keys) for run in runs]


def test_a_key_that_some_options_lack_applies_to_the_others(here, capsys):
    """Also one with a single value, which Hydra alone would refuse as a key of the default optimizer."""
    command = [*PLAIN, HERE, *RULES, "optimizer.momentum=0.5,0.9", "optimizer.lr=0.1,0.01"]
    expected = [("sgd", None, None, x) for x in (0.1, 0.01)]
    expected += [("momentum", m, 0.1, x) for m in (0.5, 0.9) for x in (0.1, 0.01)]
    notes = [f"note: optimizer.{key} applies to optimizer=momentum only" for key in ("dampening", "momentum")]
    assert main(["train", "-m", *command, "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert sorted(err.splitlines()) == notes
    assert "0  optimizer=sgd optimizer.lr=0.1" in out
    assert " 6 runs" in out
    assert main(["train", "-m", *command]) == 0
    assert list_points("optimizer", "optimizer.momentum", "optimizer.dampening", "optimizer.lr") == expected
    assert yaml.safe_load(find_runs()["1"].overrides_file.read_text()) == [*PLAIN, "optimizer=sgd", "optimizer.lr=0.01"]
    capsys.readouterr()
    assert main(["train", "resume=sweep", "--trust"]) == 0
    out, err = capsys.readouterr()
    assert "nothing is left to do" in out
    assert len(find_runs()) == 6


@pytest.mark.parametrize(
    "sampler", ["random", *(pytest.param(name, marks=pytest.mark.long) for name in ("tpe", "qmc"))]
)
def test_a_search_leaves_out_the_axes_that_do_not_apply_and_resumes(sampler, here, capsys):
    axes = ["optimizer.momentum=interval(0.1,0.9)", *RULES, "optimizer.lr=interval(0.01,0.1)"]
    command = ["train", "-m", *PLAIN, *axes, f"hydra/sweeper={sampler}"]
    assert main([*command, HERE, "hydra.sweeper.n_trials=3"]) == 0
    assert main(["train", "resume=sweep", "--trust", "hydra.sweeper.n_trials=6"]) == 0
    assert main([*command, "hydra.sweep.dir=whole", "hydra.sweeper.n_trials=6"]) == 0
    points = list_points("optimizer", "optimizer.momentum", "optimizer.dampening", "optimizer.lr")
    assert points == list_points(
        "optimizer", "optimizer.momentum", "optimizer.dampening", "optimizer.lr", sweep=Path("whole")
    )
    assert {(rule, m is None, d) for rule, m, d, _ in points} == {("sgd", True, None), ("momentum", False, 0.1)}
    capsys.readouterr()
    assert main(["show", "sweep"]) == 0
    assert "optimizer.momentum 0.1..0.9 (optimizer=momentum only)" in capsys.readouterr().out


def test_an_experiment_may_hold_conditional_axes(here):
    (here / "options/experiment").mkdir(parents=True)
    params = {
        "optimizer": "sgd,sam",
        "optimizer.base_optimizer": "sgd,momentum",
        "optimizer.base_optimizer.momentum": "0.5",
    }
    hydra = {"mode": "MULTIRUN", "sweeper": {"params": params}}
    (here / "options/experiment/mine.yaml").write_text("# @package _global_\n" + yaml.safe_dump({"hydra": hydra}))
    assert main(["train", "--config-dir", "options", "experiment=mine", *PLAIN, HERE]) == 0
    base = "optimizer.base_optimizer"
    assert list_points("optimizer", base, f"{base}.momentum") == [
        ("sgd", None, None), ("sam", "sgd", None), ("sam", "momentum", 0.5)
    ]  # fmt: skip


def test_a_sweep_remembers_the_folder_of_user_defined_options(here, capsys, monkeypatch):
    (here / "options/optimizer").mkdir(parents=True)
    (here / "options/optimizer/own.yaml").write_text("_target_: mine.Sign\nlr: 0.1\n")
    search = ["-m", *QUICK, "--config-dir", "options", "optimizer=own", LR, RANDOM, HERE]
    assert main(["train", *search, "hydra.sweeper.n_trials=1"]) == 0
    more = "hydra.sweeper.n_trials=2"
    capsys.readouterr()
    assert_command_refused(["resume=sweep", more], capsys, "--config-dir", "type it again")
    assert_command_refused(["resume=sweep", "--config-dir", "options", more], capsys, "resume", "add --trust")
    (here / "below").mkdir()
    monkeypatch.chdir(here / "below")
    assert main(["train", "resume=../sweep", "--trust", more]) == 0
    assert list_values("optimizer", here / "sweep") == ["own", "own"]


@pytest.mark.parametrize("changed", ["my.csv", "val.csv"])
def test_a_search_of_changed_data_is_refused(changed, here, capsys, monkeypatch):
    rows = [f"{i % 7},{i % 5},{'uv'[i % 3 // 2]}\n" for i in range(60)]
    for name in ("my.csv", "val.csv"):
        (here / name).write_text("a,b,y\n" + "".join(rows))
    problem = [
        "data=table",
        "data.validation_path=val.csv",
        "data.path=my.csv",
        "data.target=y",
        "arch=mlp",
        "arch.widths=[3]",
        "epochs=1",
        "batch_size=10",
        "threads=1",
    ]
    assert main(["train", "-m", *problem, LR, RANDOM, HERE, "hydra.sweeper.n_trials=1"]) == 0
    more = "hydra.sweeper.n_trials=2"
    assert main(["train", "resume=sweep", more]) == 0
    (here / "below").mkdir()
    with monkeypatch.context() as patch:
        patch.chdir(here / "below")
        assert main(["train", "resume=../sweep", more.replace("2", "3")]) == 0
    assert len(find_runs()) == 3
    (here / changed).write_text("a,b,y\n" + "".join(rows[:50]))
    capsys.readouterr()
    assert_command_refused(["resume=sweep", "hydra.sweeper.n_trials=4"], capsys, "data.path", "have changed")
    assert_command_refused(
        ["-m", *problem, LR, RANDOM, HERE, "hydra.sweeper.n_trials=3"], capsys, "data.path", "have changed"
    )


def test_runs_that_diverge_are_results(here, capsys):
    assert main(["train", "-m", *QUICK, HERE, "optimizer.lr=0.1,1e30"]) == 0
    assert [run.status["status"] for run in find_runs().values()] == ["done", "diverged"]
    assert "2 of 2 runs (1 diverged), in sweep" in capsys.readouterr().out


def test_pruned_runs_have_their_own_status(here):
    assert main(
        ["train", "-m", *QUICK[:-2], "epochs=4", "optimizer=sgd", HERE, "optimizer.lr=0.1,0.2,1e-9", "hydra.sweeper.pruner=median",
         "hydra.sweeper.median.n_startup_trials=2", "hydra.sweeper.seeds=2"]
    ) == 0  # fmt: skip
    names = {"0/seed-0": "done", "0/seed-1": "done", "1/seed-0": "done", "1/seed-1": "done", "2/seed-0": "pruned"}
    assert {name: run.status["status"] for name, run in find_runs().items()} == names
    assert RunDirectory("sweep/2/seed-0").last_row()["epoch"] == 1


# ------------------------------------------------------------------------------------------------ resuming


@pytest.mark.parametrize(
    "name", ["a sweep, it's=1", *(pytest.param(name, marks=pytest.mark.long) for name in ("1e5", "a\\b"))]
)
def test_a_sweep_directory_may_have_any_name(name, here, capsys):
    """Launchers of Hydra and a resumed sweep pass the name to Hydra."""
    assert OverridesParser.create().parse_override(f"x={quote(name)}").value() == name
    before = set(here.iterdir())
    words = [LR, RANDOM, "hydra.sweeper.n_trials=1", "hydra/launcher=basic"]
    assert main(["train", "-m", *QUICK, f"hydra.sweep.dir={quote(name)}", *words]) == 0
    resume = ["train", f"resume={name}", "hydra.sweeper.n_trials=2", "--trust"]
    assert main(resume) == 0, capsys.readouterr().err
    assert {path.name for path in set(here.iterdir()) - before} - {"__pycache__"} == {name}
    assert list(find_runs(Path(name))) == ["0", "1"]


@pytest.fixture
def small_sweep(here, train_once) -> Path:
    """Return the directory of a search with one finished point."""
    train_once("train", "-m", *QUICK, HERE, LR, RANDOM, "hydra.sweeper.n_trials=1")
    return here / "sweep"


def assert_command_refused(arguments: list[str], capsys: Any, *parts: str) -> None:
    """Check that a command ends with 2 and one message that has these parts, and changes no file."""
    before = read_tree(Path())
    assert main(["train", *arguments]) == 2
    out, err = capsys.readouterr()
    for part in parts:
        assert part in err
    assert "Traceback" not in out + err
    assert out == ""
    assert read_tree(Path()) == before
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_another_launcher_drops_the_keys_of_the_former(small_sweep, capsys):
    pool = ["hydra/launcher=pool", "hydra.launcher.workers=2"]
    (small_sweep / "sweep.json").write_text(
        json.dumps({**read_sweep_json(), "command": [*read_sweep_json()["command"], *pool]})
    )
    command = reopen_sweep(small_sweep, ["hydra/launcher=pool", "hydra.sweeper.n_trials=2"], trust=True).arguments
    assert "hydra.launcher.workers=2" in command
    resume = ["train", "resume=sweep", "--trust", "hydra.sweeper.n_trials=2", "hydra/launcher=local"]
    assert main(resume) == 0, capsys.readouterr().err
    assert list(find_runs()) == ["0", "1"]


def test_the_searched_space_cannot_change(small_sweep, capsys):
    for word in ("epochs=2", "hydra.sweeper.seed=3", "hydra/sweeper=tpe", "+optimizer.lr=1", "hydra.sweep.dir=b"):
        assert_command_refused(["resume=sweep", word], capsys, word.partition("=")[0], "cannot change")


def test_a_damaged_sweep_json_is_reported(small_sweep, capsys):
    for content in ("", "{", "[]", '{"format": 1}', '{"command": "a=1"}', '{"command": [1]}', "\0", "9" * 5000):
        (small_sweep / "sweep.json").write_text(content)
        assert_command_refused(["resume=sweep"], capsys, "resume ", "sweep/sweep.json is damaged")


def test_custom_code_in_a_sweep_needs_trust(small_sweep, capsys):
    resume = ["resume=sweep", "hydra.sweeper.n_trials=2"]
    assert_command_refused(resume, capsys, "resume ", "sweep names data._target_=mine.Blobs", "--trust")
    assert main(["train", *resume, "--trust"]) == 0
    assert list(find_runs()) == ["0", "1"]


# ------------------------------------------------------------------------------------------------ wrong input

CASES = {
    "an interval in a grid": ([LR], ["1 problem", "optimizer.lr ", "has no grid"]),
    "wrong axes": (
        [RANDOM, "optimizer.lr=interval(1,1)", "epochs=interval(2,1)", "validation.fraction=tag(log,interval(0,1))",
         "batch_size=tag(lgo,interval(1,2))", "seed=range(3,3)", "threads=1,2,1"],
        ["6 problems", "optimizer.lr ", "is empty", "epochs ", "runs backwards; write interval(1.0,2.0)", "validation.fraction ", "above zero",
         "batch_size ", "no tag 'lgo'", "seed ", "has no value", "threads ", "has the value 1 twice"],
    ),
    "unknown keys of the sweeper": (
        [RANDOM, LR, "hydra.sweeper.trails=3", "hydra.sweeper.tpe.n_startup_trial=3"],
        ["2 problems", "hydra.sweeper.trails ", "did you mean n_trials", "hydra.sweeper.tpe.n_startup_trial ", "did you mean n_startup_trials"],
    ),
    "wrong values of the sweeper": (
        [RANDOM, LR, "hydra.sweeper.seed=x", "hydra.sweeper.pruner=median2", "hydra.sweeper.n_trials=0", "hydra.sweeper.statistic=mode"],
        ["4 problems", "hydra.sweeper.seed ", "a whole number", "'x'", "hydra.sweeper.pruner ", "none, median, hyperband",
         "hydra.sweeper.n_trials ", ">= 1 or null, got 0", "hydra.sweeper.statistic ", "mean, median"],
    ),
    "an unknown option": (["activation=relu,tnh"], ["activation ", "did you mean tanh", "in the run activation=tnh"]),
    "a key of no option": (
        ["optimizer=sgd,adam", "optimizer.momentum=0.5,0.9"], ["1 problem", "optimizer.momentum ", "optimizer=momentum", "would have it"],
    ),
    "a fixed key of no option": (
        ["optimizer=sgd,adam", "optimizer.momentum=0.5"], ["1 problem", "optimizer.momentum ", "optimizer=momentum", "would have it"],
    ),
    "an unknown key": ([RANDOM, "optimizer.lrr=interval(1,2)"], ["optimizer.lrr ", "did you mean lr"]),
    "an end out of range": ([RANDOM, "optimizer.lr=interval(-1,1)"], ["optimizer.lr ", "> 0", "-1"]),
    "a number for a whole number": (
        [RANDOM, "epochs=interval(1,5)"], ["epochs ", "a whole number", "search int(interval(1,5))"],
    ),
    "nothing to search": ([RANDOM], ["nothing to search"]),
    "an objective that no run writes": ([RANDOM, LR, "objective=val/los"], ["objective ", "val/los"]),
    "an objective that one run does not write": (
        ["validation.fraction=0,0.2", "objective=val/accuracy"], ["objective ", "in the run validation.fraction=0)"],
    ),
    "an objective of two directions": (["objective=val/loss,val/accuracy"], ["objective ", "must be the same for all runs"]),
    "a missing number of points": ([RANDOM, LR, "hydra.sweeper.n_trials=null"], ["hydra.sweeper.n_trials ", "must be a number"]),
    "a number of trials that differs from the grid": (["seed=1,2", "hydra.sweeper.n_trials=3"], ["hydra.sweeper.n_trials ", "all of its 2 points, got 3"]),
    "a wrong key with a plus": ([RANDOM, LR, "+hydra.sweeper.trails=3"], ["hydra.sweeper.trails ", "did you mean n_trials"]),
    "no such sweeper": (["seed=1,2", "hydra/sweeper=rnadom"], ["hydra/sweeper ", "random"]),
    "Hydra's own sweeper": (["seed=1,2", "hydra/sweeper=basic"], ["hydra/sweeper ", "grid, random, tpe, qmc"]),
    "seeds and an axis of seeds": (["seed=1,2", "hydra.sweeper.seeds=2"], ["hydra.sweeper.seeds ", "leave one out"]),
    "seeds and an axis of seeds with pluses": (["++seed=1,2", "hydra.sweeper.seeds=2"], ["hydra.sweeper.seeds ", "leave one out"]),
    "seeds twice": (["optimizer.lr=0.1,0.2", "hydra.sweeper.seeds=[1,1]"], ["hydra.sweeper.seeds ", "different seeds"]),
    "no seeds": (["optimizer.lr=0.1,0.2", "hydra.sweeper.seeds=[]"], ["hydra.sweeper.seeds ", "different seeds"]),
    "too many seeds": (["optimizer.lr=0.1,0.2", "hydra.sweeper.seeds=4000000000"], ["hydra.sweeper.seeds ", "at most 10,000"]),
    "seeds beyond the last": (
        ["optimizer.lr=0.1,0.2", "seed=4294967294", "hydra.sweeper.seeds=3"], ["hydra.sweeper.seeds ", "below 4294967296"]
    ),
    "too many folds": (
        ["optimizer.lr=0.1,0.2", "validation.scheme=kfold", "validation.k=4000000000"], ["validation.k ", "10,000 runs at most"]
    ),
    "too many folds and seeds": (
        ["optimizer.lr=0.1,0.2", "validation.scheme=kfold", "validation.k=200", "hydra.sweeper.seeds=200"],
        ["validation.k ", "200 folds with 200 seeds each"],
    ),
    "a number of folds that varies": (
        ["validation.scheme=kfold", "validation.k=3,4"], ["validation ", "the same for all runs of a search"]
    ),
    "a name for each run's folder": (["seed=1,2", "hydra.sweep.subdir=${hydra.job.override_dirname}"], ["hydra.sweep.subdir ", "leave it"]),
    "no folder for Hydra's files": (["seed=1,2", "hydra.output_subdir=null"], ["hydra.output_subdir ", "must stay .hydra"]),
    "a file in place of the directory": (["seed=1,2", "hydra.sweep.dir=file/sweep"], ["hydra.sweep.dir ", "file is a file"]),
    "a run in place of the directory": (["seed=1,2", "hydra.sweep.dir=taken"], ["hydra.sweep.dir ", "already holds a run"]),
    "a database without a name": ([RANDOM, LR, "hydra.sweeper.storage='sqlite:///s.db'"], ["hydra.sweeper.study ", "needs a name"]),
    "a malformed address": (
        [RANDOM, LR, "hydra.sweeper.study=s", "hydra.sweeper.storage='postgresql://me:hush@host:port/db'"],
        ["hydra.sweeper.storage ", "cannot be opened"],
    ),
    "not an address": ([RANDOM, LR, "hydra.sweeper.storage=somewhere"], ["hydra.sweeper.storage ", "somewhere cannot be opened"]),
    "an unknown kind of database": (
        [RANDOM, LR, "hydra.sweeper.study=s", "hydra.sweeper.storage='orakel://me:hush@host/db'"],
        ["hydra.sweeper.storage ", "orakel://me:***@host/db cannot be opened", "orakel"],
    ),
    "a database's folder that is not there": (
        [RANDOM, LR, "hydra.sweeper.study=s", "hydra.sweeper.storage='sqlite:///nowhere/s.db'"],
        ["hydra.sweeper.storage ", "s.db cannot be opened: "],
    ),
    "a folder in the journal's place": ([RANDOM, LR, "hydra.sweep.dir=odd"], ["hydra.sweeper.storage ", "odd/study.log cannot be opened"]),
    "a folder for a journal": ([RANDOM, LR, "hydra.sweeper.storage=folder.log"], ["hydra.sweeper.storage ", "folder.log cannot be opened"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name, here, capsys):
    (here / "file").touch()
    (here / "taken").mkdir()
    (here / "taken" / "status.json").write_text("{}")
    (here / "odd" / "study.log").mkdir(parents=True)
    (here / "folder.log").mkdir()
    overrides, parts = CASES[name]
    assert_command_refused(["-m", *QUICK, *overrides], capsys, *parts)


@pytest.mark.parametrize(("split", "words", "found"), [
    (["validation.scheme=kfold", "validation.k=2", "seed=3", "optimizer.lr=0.1,0.2"], ["validation.fold=1"],
     "optimizer.lr=0.1 validation.fold=1"),
    (["hydra.sweeper.seeds=4", "optimizer.lr=0.1,0.2"], ["seed=2"], "optimizer.lr=0.1 seed=2"),
    (["seed=0,1,2"], ["seed=2"], "seed=2"),
])  # fmt: skip
def test_a_column_that_is_empty_in_one_training_split_is_found_before_the_sweep(split, words, found, here, capsys):
    """The first run has values of it, since they are in validation examples of this other one."""
    keys = ["data=table", "data.path=my.csv", "data.target=y", "data.kind=numbers", "loss=mse", "arch=linear", "batch_size=5",
            "data.missing=fill", "data.test_fraction=0.1", "epochs=1", "device=cpu", "preprocess=none"]  # fmt: skip

    def write_table(has_value):
        lines = (f"{i},{i if has_value(i) else ''},{3 * i}\n" for i in range(60))
        (here / "my.csv").write_text("".join(["size,rare,y\n", *lines]))

    write_table(lambda i: True)
    own = [word for word in split if "," not in word and not word.startswith("hydra")]
    validation = build_experiment(*keys, *own, *words).validation
    held_out = set(validation.gather()[0][:, 0].round().int().tolist())
    write_table(held_out.__contains__)
    title = f"rare has no value in the training rows of this run; set data.drop=[rare]  (in the run {found}"
    assert_command_refused(["-m", *keys, *split, HERE], capsys, "data.missing ", title)
    assert not (here / "sweep").exists()


def test_the_check_ends_after_a_few_runs_that_hydra_cannot_compose(here, capsys, monkeypatch):
    """Explaining each of a thousand would take minutes."""
    explained = []
    monkeypatch.setattr(validate, "explain", lambda *_, **__: explained.append(1) or [("optimizer.lrr", "wrong")])
    assert_command_refused(
        ["-m", *QUICK, "optimizer.lrr=1,2", "seed=1,2", "batch_size=range(1,501)"], capsys, "lrr  wrong"
    )
    assert len(explained) == validate.MAX_EXPLAINED_RUNS


def test_a_port_where_no_server_listens(here, capsys):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        url = f"postgresql+psycopg://me:hush@127.0.0.1:{port}/db"
        more = [RANDOM, LR, "hydra.sweeper.study=s", f"hydra.sweeper.storage='{url}'"]
        message = f"me:***@127.0.0.1:{port}/db cannot be opened"
        assert_command_refused(["-m", *QUICK, *more], capsys, "hydra.sweeper.storage ", message, "refused")


def test_another_search_in_the_same_directory_is_refused(small_sweep, capsys):
    for words, key, message in (
        (["optimizer.lr=interval(1e-3,1e-1)"], "optimizer.lr", "was tag(log,interval(0.001,0.1)) in this study"),
        ([LR, "epochs=2"], "epochs", "was 1 in this study, and is 2 now"),
        ([LR, "hydra.sweeper.seed=1"], "hydra.sweeper.seed", "was 0 in this study, and is 1 now"),
        ([LR, "hydra/sweeper=qmc"], "hydra/sweeper", "was random in this study, and is qmc now"),
        ([LR, "objective=val/accuracy"], "objective", "was val/loss in this study"),
        ([LR, "hydra.sweeper.seeds=2"], "hydra.sweeper.seeds", "in this study"),
    ):
        search = ["-m", *QUICK, HERE, RANDOM, "hydra.sweeper.n_trials=1", *words]
        assert_command_refused(search, capsys, key, message, "hydra.sweep.dir")


def test_a_search_cannot_be_shortened(small_sweep, capsys):
    command = ["-m", *QUICK, HERE, LR, RANDOM]
    assert main(["train", *command, "hydra.sweeper.n_trials=2"]) == 0
    capsys.readouterr()
    for flags in ([], ["--dry-run"]):
        shorter = [*command, "hydra.sweeper.n_trials=1", *flags]
        assert_command_refused(shorter, capsys, "hydra.sweeper.n_trials ", "must be at least 2")
        assert read_sweep_json()["trials"] == 2
        assert main(["train", *command, "hydra.sweeper.n_trials=2", *flags]) == 0
        capsys.readouterr()


def test_a_directory_with_runs_and_without_a_study_is_refused(small_sweep, capsys):
    """Also with a new database, as after a relative address was resolved in another directory. It is removed again."""
    (small_sweep / "study.log").unlink()
    for store in ([], ["hydra.sweeper.storage='sqlite:///new.db'", "hydra.sweeper.study=s"]):
        search = ["-m", *QUICK, HERE, LR, RANDOM, *store]
        assert_command_refused(search, capsys, "already holds runs, and no study of them")


@pytest.mark.long
def test_a_directory_with_repeated_runs_and_without_a_study_is_refused(here, capsys):
    """They lie a folder deeper; another search would overwrite them."""
    command = ["-m", *QUICK, HERE, "hydra.sweeper.seeds=2"]
    assert main(["train", *command]) == 0
    Path("sweep/study.log").unlink()
    capsys.readouterr()
    assert_command_refused(command, capsys, "already holds runs, and no study of them")


@pytest.mark.parametrize("what", ["study.log", "."])
def test_a_search_that_loses_its_files_has_stopped(what, here, monkeypatch, capsys):
    """The message does not say that nothing was started, since the command was valid."""
    perform = execute.perform

    def perform_and_lose(*args, **kwargs):
        result = perform(*args, **kwargs)
        Path("sweep", what).rename("elsewhere")
        return result

    monkeypatch.setattr(execute, "perform", perform_and_lose)
    assert main(["train", "-m", *QUICK, HERE, "optimizer.lr=0.01,0.1"]) == 1
    err = capsys.readouterr().err
    assert "stopped: " in err
    assert "sweep" in err
    assert "nothing was started" not in err


def run_printed_command(output: str) -> int:
    """Run the command that a search prints for resuming it."""
    (line,) = re.findall(r"dlopt (train resume=.*)", output)
    return main(shlex.split(line.partition("   ")[0]))


def test_the_printed_command_resumes_the_search(here, monkeypatch, capsys):
    """It has the flags that are needed, and quotes the directory."""
    Path("options/optimizer").mkdir(parents=True)
    Path("options/optimizer/mine.yaml").write_text("_target_: dlopt.optimizer.sgd.SGD\nlr: 0.05\n")
    perform = execute.perform

    def interrupt(*args, **kwargs):
        monkeypatch.setattr(execute, "perform", perform)
        raise KeyboardInterrupt

    quick = [word for word in QUICK if not word.startswith("optimizer=")]
    command = [*quick, "optimizer=mine,sgd", "hydra.sweep.dir='a b'"]
    monkeypatch.setattr(execute, "perform", interrupt)
    assert main(["train", "-m", "--config-dir", "options", *command]) == 130
    assert run_printed_command(capsys.readouterr().out) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert main(["show", "a b"]) == 0
    (again,) = re.findall(r"dlopt (train -m (?:[^\n]*\\\n)*[^\n]*)", capsys.readouterr().out)
    assert "--config-dir options" in again
    assert main(shlex.split(again.replace("\\\n", ""))) == 0
    assert sorted(run.status["status"] for run in find_runs(Path("a b")).values()) == ["done", "done"]


def test_the_printed_command_repeats_failed_runs(here, monkeypatch, capsys):
    perform = execute.perform

    def fail_in_run_1(job, *args, **kwargs):
        if job.path.name == "1":
            monkeypatch.setattr(execute, "perform", perform)
            raise RuntimeError("broken")
        return perform(job, *args, **kwargs)

    monkeypatch.setattr(execute, "perform", fail_in_run_1)
    assert main(["train", "-m", *QUICK, HERE, "optimizer.lr=0.01,0.1"]) == 1
    out, err = capsys.readouterr()
    assert "sweep/1 failed: RuntimeError: broken" in err
    assert run_printed_command(out) == 0, capsys.readouterr().err
    assert {name: run.status["status"] for name, run in find_runs().items()} == {"0": "done", "1": "done"}
    assert "dlopt train resume" not in capsys.readouterr().out


def interrupt_sweep(monkeypatch, name, *more, step=3):
    """Stop a search of two trials in the run of this name, after this one of its nine steps. Return the run."""
    pruning._open_study.cache_clear()  # by a relative path
    on_row, run = Observer.on_row, RunDirectory(Path("sweep", name))

    def stop(self, of, row):
        on_row(self, of, row)
        self.stop |= of.path == run.path and row["step"] == step

    with monkeypatch.context() as patched:
        patched.setattr(Observer, "on_row", stop)
        assert main(["train", "-q", "-m", *THREE_EPOCHS, HERE, "optimizer.lr=0.01,0.1", *more]) == 130
    assert (run.status["status"], run.load("last")["step"]) == ("interrupted", step)
    return run


@pytest.fixture
def interrupted_sweep(here, monkeypatch):
    return interrupt_sweep(monkeypatch, "1")


def change_status(run, **more):
    run.status_file.write_text(json.dumps(run.status | more))


def swap_checkpoints(run):
    """Give it the checkpoint of the other run, whose learning rate differs."""
    run.checkpoint("last").write_bytes(RunDirectory("sweep/0").checkpoint("last").read_bytes())


@pytest.mark.parametrize(
    ("damage", "step"),
    [
        (lambda run: None, 3),
        (lambda run: change_status(run, status="running"), 3),
        (lambda run: run.status_file.write_text("{"), 3),
        (lambda run: run.status_file.unlink(), 3),
        (lambda run: change_status(run, status="failed"), 0),
        (lambda run: run.checkpoint("last").unlink(), 0),
        (lambda run: run.checkpoint("last").write_bytes(b"no checkpoint"), 0),
        (swap_checkpoints, 0),
    ],
    ids=[
        "stopped",
        "killed",
        "status damaged",
        "no status",
        "failed",
        "no checkpoint",
        "checkpoint damaged",
        "other configuration",
    ],
)
def test_an_unfinished_run_of_a_search_continues_or_starts_again(damage, step, interrupted_sweep, capsys):
    run = interrupted_sweep
    damage(run)
    assert main(["train", "resume=sweep", "--trust"]) == 0
    assert (f"continues after step {step}" if step else "starts again from step 0") in capsys.readouterr().err
    assert list(find_runs()) == ["0", "1"]
    assert run.status["status"] == "done"
    assert run.status["step"] == step
    rows = [run.rows() for run in find_runs().values()]
    assert [[row["step"] for row in part] for part in rows] == [list(range(1, 10))] * 2
    assert main(["verify", "sweep/1", "--trust"]) == 0
    assert main(["rerun", "sweep/1", "--trust"]) == 0, "the same bits as in one go"


@pytest.mark.parametrize("seeds", [1, 2])
def test_an_attempt_that_continues_reports_all_evaluations_to_the_pruner(seeds, here, monkeypatch):
    """Of the runs that have ended too, but not after their last step: then there is nothing to prune."""
    name = "1" if seeds == 1 else "1/seed-1"
    more = ["hydra.sweeper.pruner=median", *(["hydra.sweeper.seeds=2"] if seeds == 2 else [])]
    interrupt_sweep(monkeypatch, name, *more)
    assert main(["train", "resume=sweep", "--trust"]) == 0
    curves = [[row["val/loss"] for row in run.rows() if "val/loss" in row] for run in find_runs().values()]
    first, *second = curves[seeds:]
    expected = dict(enumerate([*first, *((first[-1] + value) / 2 for curve in second for value in curve)], 1))
    expected = {n: value for n, value in expected.items() if n % 3}
    study = optuna.load_study(study_name="dlopt", storage=open_journal(Path("sweep/study.log")))
    assert study.trials[-1].intermediate_values == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("step", "ending"), [(3, ("pruned", 3)), (4, ("done", 9))])
def test_a_run_killed_while_it_was_pruned_is_pruned_when_it_continues(step, ending, here, monkeypatch):
    """Unless it has gone on since the evaluation after which it is pruned now."""
    run = interrupt_sweep(monkeypatch, "1", "hydra.sweeper.pruner=median", step=step)
    monkeypatch.setattr(PruningReporter, "should_prune", lambda self, row: row["step"] == 3)
    assert main(["train", "-q", "resume=sweep", "--trust"]) == 0
    assert (run.status["status"], run.summary["step"]) == ending


@pytest.mark.parametrize("is_dead", [False, True])
@pytest.mark.parametrize(("changes", "note"), [
    (["epochs=4"], "note: sweep/1 has ended with other settings than this search gives it, and counts: epochs 4, here 3\n"),
    (["optimizer.lr=0.3", "epochs=5"], "and counts: optimizer.lr 0.3, here 0.1; epochs 5, here 3\n"),
    ([], ""),
])  # fmt: skip
def test_a_run_that_was_finished_with_other_settings_is_noticed(changes, note, is_dead, here, monkeypatch, capsys):
    """By hand, in a trial that was interrupted, or whose process was killed."""
    with monkeypatch.context() as patch:
        if is_dead:
            patch.setattr(Study, "interrupt", lambda *_, **__: None)
        run = interrupt_sweep(monkeypatch, "1")
    assert main(["train", "-q", "resume=sweep/1", "--trust", *changes]) == 0
    capsys.readouterr()
    assert main(["train", "resume=sweep", "--trust"]) == 0
    out, err = capsys.readouterr()
    assert is_dead or f"2/2  optimizer.lr=0.1  done  val/loss {run.summary['val/loss']:.4f}\n" in out
    assert note in err
    assert ("other settings" in err) == bool(note)
    study = optuna.load_study(study_name="dlopt", storage=open_journal(Path("sweep/study.log")))
    assert study.trials[-1].value == run.summary["val/loss"]


def test_a_run_that_another_process_writes_is_left_to_it(interrupted_sweep, monkeypatch, capsys):
    """As someone resumes it by itself."""
    monkeypatch.setattr(claim, "RELEASE_SECONDS", 0.0)
    before = read_files(interrupted_sweep)
    lock = Lock(interrupted_sweep.path).acquire()
    assert main(["train", "resume=sweep", "--trust"]) == 1
    assert capsys.readouterr().err.count("sweep/1 lost: sweep/1 is being written by process") == MAX_TRIES
    lock.release()
    assert read_files(interrupted_sweep) == before
    assert main(["train", "resume=sweep", "--trust", "hydra.sweeper.retry=true"]) == 0
    assert interrupted_sweep.status["step"] == 3


def read_files(run):
    return {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file() and file.name != "lock.json"}


def test_a_run_that_cannot_be_continued_fails_alone_and_keeps_its_files(interrupted_sweep, capsys):
    """Another process, as of another user, has put a link there since."""
    run = interrupted_sweep
    Path("precious").write_text("kept")
    run.log_file.unlink()
    run.log_file.symlink_to(Path("precious").absolute())
    before = read_tree(run.path)
    assert main(["train", "-m", *THREE_EPOCHS, HERE, "optimizer.lr=0.01,0.1"]) == 1
    assert "sweep/1 failed: resume: sweep/1/train.log is a symbolic link" in capsys.readouterr().err
    assert read_tree(run.path) == before
    assert Path("precious").read_text() == "kept"


def test_a_second_signal_ends_a_search_even_if_a_library_raises(here, monkeypatch, capsys):
    """KeyboardInterrupt inside a library's code may come out as another error."""

    def tell(*_):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise RuntimeError("release unlocked lock")

    quick = [word for word in QUICK if not word.startswith("optimizer=")]
    with monkeypatch.context() as patched:
        patched.setattr(Study, "tell", tell)
        assert main(["train", "-m", *quick, HERE, "optimizer=adam,sgd"]) == 130
    out, err = capsys.readouterr()
    assert err == ""
    assert run_printed_command(out) == 0, capsys.readouterr().err
    assert sorted((name, run.status["status"]) for name, run in find_runs().items()) == [("0", "done"), ("1", "done")]


@pytest.mark.parametrize("second", ["close", "interrupt"])
def test_a_second_signal_ends_an_interrupted_search_at_once(second, here, monkeypatch):
    """While its runs save, and while it writes to a database that may never answer."""
    calls = []

    def send_signal(*_):
        signal.raise_signal(signal.SIGINT)

    def close(*_, at_once):
        calls.append("close")
        if second == "close":
            send_signal()

    def interrupt(*_, **__):
        calls.append("interrupt")
        send_signal()
        calls.append("not interrupted")

    monkeypatch.setattr(InProcess, "wait", send_signal)
    monkeypatch.setattr(InProcess, "close", close)
    monkeypatch.setattr(Study, "interrupt", interrupt)
    assert main(["train", "-m", *QUICK, HERE, "optimizer.lr=0.01,0.1"]) == 130
    assert calls == (["close"] if second == "close" else ["close", "interrupt"])


# ------------------------------------------------------------------------------------------------ databases


def test_a_study_in_a_database_is_shared_by_directories_and_resumed(here, capsys):
    store = ["hydra.sweeper.storage='sqlite:///s.db'", "hydra.sweeper.study=s"]
    assert main(["train", "-m", *QUICK, HERE, LR, RANDOM, "hydra.sweeper.n_trials=1", *store]) == 0
    assert main(["train", "-m", *QUICK, "hydra.sweep.dir=other", LR, RANDOM, "hydra.sweeper.n_trials=2", *store]) == 0
    assert (list(find_runs()), list(find_runs(Path("other")))) == (["0"], ["1"])
    best = min([*find_runs().values(), *find_runs(Path("other")).values()], key=lambda run: run.summary["val/loss"])
    lines = re.findall(r"^best: .*, in (\S+)$", capsys.readouterr().out, re.MULTILINE)
    assert lines == ["sweep/0", str(best.path)]
    assert main(["show", "other"]) == 0
    assert "its study, in sqlite:///s.db, may have others" in " ".join(capsys.readouterr().out.split())
    assert main(["train", "resume=sweep", "hydra.sweeper.n_trials=3", "--trust"]) == 0, capsys.readouterr().err
    assert list(find_runs()) == ["0", "2"]


def test_a_password_is_not_stored_and_must_be_given_again(here, capsys):
    for name, plus in (("plain", ""), ("plus", "++")):
        store = [f"{plus}hydra.sweeper.storage='sqlite:///{name}.db?password=hush-hush'", "hydra.sweeper.study=s"]
        search = [*QUICK, f"hydra.sweep.dir={name}", LR, RANDOM, "hydra.sweeper.n_trials=1", *store]
        assert main(["train", "-m", *search]) == 0
        capsys.readouterr()
        for file in filter(Path.is_file, Path(name).rglob("*")):
            assert b"hush-hush" not in file.read_bytes() or file.suffix == ".patch", file
        again = f"must be given again, as sqlite:///{name}.db?password=***"
        assert_command_refused([f"resume={name}", "--trust"], capsys, "hydra.sweeper.storage ", again)


def test_last_is_the_sweep_for_every_command_and_a_run_of_it_is_its_best(here, capsys):
    """Not the run that ended last, nor the unrelated run whose name is the latest."""
    assert main(["train", "-q", *BLOBS, "hydra.run.dir=outputs/zzz"]) == 0
    assert main(["train", "-m", "-q", *BLOBS, "optimizer.lr=1e-5,0.1,1e-6", "hydra.sweep.dir=outputs/mine"]) == 0
    losses = {name: run.summary["val/loss"] for name, run in find_runs(Path("outputs/mine")).items()}
    assert min(losses, key=losses.get) == "1"
    capsys.readouterr()
    choice = f"outputs/mine is a sweep; its best run is outputs/mine/1 (val/loss {losses['1']:.4f})\n"
    for name in ("last", "mine", "outputs/mine"):
        assert main(["verify", name, "--trust"]) == 0
        out, err = capsys.readouterr()
        assert (err, out.split(":")[0]) == (choice, "outputs/mine/1")
    assert main(["evaluate", "-q", "--trust"]) == 0
    out, err = capsys.readouterr()
    assert (err, out.split(",")[0]) == ("", "outputs/mine/1")
    assert main(["runs", "last"]) == 0
    assert capsys.readouterr().err == "last is outputs/mine\n"
    assert main(["runs", "last", "--csv"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["show"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "outputs/mine"
    status = RunDirectory("outputs/mine/2").status
    RunDirectory("outputs/mine/2").status_file.write_text(json.dumps(status | {"status": "interrupted"}))
    assert main(["train", "resume=last", "--trust"]) == 0
    assert "resuming the sweep outputs/mine\n" in capsys.readouterr().err
    assert main(["rerun", "last", "--trust"]) == 0
    out, err = capsys.readouterr()
    assert choice in err
    assert main(["train", "resume=last", "--trust", "epochs=3"]) == 0
    assert capsys.readouterr().err.startswith("last is outputs/20"), "the run that rerun has made"


@pytest.mark.parametrize(
    ("status", "file", "command", "message"),
    [
        ("failed", "sweep.json", ["evaluate"], "is a sweep, and none of its runs is done; name one, such as"),
        ("done", "multirun.yaml", ["train", "resume=last"], "is a sweep; name one of its runs, such as"),
    ],
)
def test_a_sweep_without_a_run_for_the_command_is_refused(status, file, command, message, here, capsys):
    RunWriter.create("outputs/other").finish("done")
    RunWriter.create("outputs/mine/0", {"seed": 0}).finish(status)
    Path("outputs/mine", file).touch()
    assert main(command) == 2
    assert f"outputs/mine {message} outputs/mine/0" in capsys.readouterr().err
