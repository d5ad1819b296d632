"""Searches from the command line: every sweeper to its end, the same command again, and what people get wrong."""

import json
import os
import re
import shlex
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import BLOBS
from hydra.core.override_parser.overrides_parser import OverridesParser

from dlopt.cli import main
from dlopt.cli.resume_sweep import build_resume_command
from dlopt.config.compose.yaml_dump import quote
from dlopt.rundir.directory import RunDirectory
from dlopt.runner import execute
from dlopt.runner.workers import InProcess
from dlopt.sweep.study import Study

QUICK = (*(word for word in BLOBS if not word.startswith("epochs=")), "epochs=1", "optimizer=sgd")
LR = "optimizer.lr=tag(log,interval(1e-3,1e-1))"
HERE = "hydra.sweep.dir=sweep"


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in str(path))


def record(sweep: Path = Path("sweep")) -> dict[str, Any]:
    return json.loads((sweep / "sweep.json").read_text())


def runs(sweep: Path = Path("sweep")) -> dict[str, RunDirectory]:
    found = {str(p.parent.relative_to(sweep)): RunDirectory(p.parent) for p in sweep.rglob("status.json")}
    return dict(sorted(found.items()))


def values(key: str, sweep: Path = Path("sweep")) -> list[Any]:
    """A setting of each run, in the order of their numbers."""
    return [run.status["settings"][key] for run in sorted(runs(sweep).values(), key=lambda run: int(run.path.name))]


# ------------------------------------------------------------------------------------------------ to the end


@pytest.mark.parametrize("sampler", ["random", "tpe", pytest.param("qmc", marks=pytest.mark.long)])
def test_a_search_looks_at_as_many_points_as_are_asked_for(sampler, here, capsys):
    command = [*QUICK, HERE, LR, "activation=relu,tanh", f"hydra/sweeper={sampler}", "hydra.sweeper.n_trials=4"]
    assert main(["train", "-m", *command]) == 0
    assert list(runs()) == ["0", "1", "2", "3"]
    assert all(run.status["status"] == "done" for run in runs().values())
    rates = values("optimizer.lr")
    assert len(set(rates)) == 4
    assert all(1e-3 <= rate <= 1e-1 for rate in rates)
    assert set(values("activation")) <= {"relu", "tanh"}
    found = record()
    assert {key: found[key] for key in ("format", "sampler", "objective", "direction", "trials", "seeds", "folds")} == {
        "format": 1, "sampler": sampler, "objective": "val/loss", "direction": "minimize", "trials": 4, "seeds": [], "folds": 0
    }  # fmt: skip
    assert found["axes"] == [
        {"key": "optimizer.lr", "kind": "float", "low": 1e-3, "high": 1e-1, "log": True, "step": None},
        {"key": "activation", "kind": "choice", "values": ["relu", "tanh"]},
    ]
    assert found["fixed"] == list(QUICK)
    assert found["command"] == [*QUICK, HERE, *command[len(QUICK) + 1 :]]
    out = capsys.readouterr().out
    assert "4 of 4 runs, in sweep" in out
    best = min(runs().values(), key=lambda run: run.summary["val/loss"])
    assert re.search(rf"best: val/loss \S+ with optimizer.lr=\S+ activation=\S+, in sweep/{best.path.name}\n", out)

    before = {name: run.status_file.stat().st_mtime_ns for name, run in runs().items()}
    assert main(["train", "-m", *command]) == 0
    assert "nothing is left to do" in capsys.readouterr().out
    assert main(["train", "resume=sweep", "hydra.sweeper.n_trials=6", "--trust"]) == 0
    assert "sweep: 4 of 6 runs are finished, 2 left" in capsys.readouterr().out
    assert list(runs()) == ["0", "1", "2", "3", "4", "5"]
    assert {name: run.status_file.stat().st_mtime_ns for name, run in list(runs().items())[:4]} == before
    assert record()["trials"] == 6

    fresh = [word for word in command if word != HERE]
    assert main(["train", "-m", *fresh, "hydra.sweep.dir=whole", "hydra.sweeper.n_trials=6"]) == 0
    assert values("optimizer.lr", Path("whole")) == values("optimizer.lr")


def test_a_grid_with_seeds_makes_each_point_as_often(here, capsys):
    command = [*QUICK, HERE, "optimizer.lr=0.01,0.1", "seed=7", "hydra.sweeper.seeds=2"]
    assert main(["train", "-m", *command]) == 0
    assert list(runs()) == [f"{n}/seed-{s}" for n in (0, 1) for s in (7, 8)]
    assert [run.config()["seed"] for run in runs().values()] == [7, 8, 7, 8]
    assert record()["seeds"] == [7, 8]
    assert "2 of 2 points of 2 runs each, in sweep" in capsys.readouterr().out


def test_folds_and_seeds_go_together(here):
    folds = ["validation.scheme=kfold", "validation.k=3"]
    assert main(["train", "-m", *QUICK, HERE, "optimizer.lr=0.01,0.1", *folds, "hydra.sweeper.seeds=[4,9]"]) == 0
    assert list(runs()) == [f"{n}/seed-{s}-fold-{f}" for n in (0, 1) for s in (4, 9) for f in range(3)]
    assert [(run.config()["seed"], run.config()["validation"]["fold"]) for run in runs().values()] == [
        (s, f) for _ in (0, 1) for s in (4, 9) for f in range(3)
    ]
    assert (record()["seeds"], record()["folds"]) == ([4, 9], 3)


def test_a_grid_that_lost_runs_goes_on_in_the_order_in_which_it_was_shuffled(here):
    """shuffle() draws another order each time: the former one counts, or points would be missing."""
    command = [*QUICK, HERE, "seed=shuffle(range(6))", "optimizer.lr=0.1,0.01"]
    assert main(["train", "-m", *command]) == 0
    first = list(zip(values("seed"), values("optimizer.lr"), strict=True))
    assert len(set(first)) == 12
    content = record()
    assert main(["train", "-m", *command]) == 0
    assert record()["axes"] == content["axes"]
    assert list(zip(values("seed"), values("optimizer.lr"), strict=True)) == first


def test_axes_may_be_typed_in_another_order(here):
    axes = ["optimizer.lr=interval(0.01,0.1)", "seed=range(100)"]
    more = ["hydra/sweeper=random", "hydra.sweep.dir=whole", "hydra.sweeper.n_trials=4"]
    assert main(["train", "-m", *QUICK, *axes, *more]) == 0
    more = ["hydra/sweeper=random", HERE]
    assert main(["train", "-m", *QUICK, *axes, *more, "hydra.sweeper.n_trials=2"]) == 0
    assert main(["train", "-m", *QUICK, *reversed(axes), *more, "hydra.sweeper.n_trials=4"]) == 0
    assert [values(key) for key in ("optimizer.lr", "seed")] == [
        values(key, Path("whole")) for key in ("optimizer.lr", "seed")
    ]


def test_axes_may_stand_in_a_file_and_the_command_line_wins(here):
    folder = here / "options" / "hydra" / "sweeper"
    folder.mkdir(parents=True)
    params = {"optimizer.lr": "0.1,0.01", "seed": "1,2,3", "schedule.then": "cosine,constant"}
    content = {"defaults": ["grid", "_self_"], "params": params}
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    own = ["--config-dir", "options", "hydra/sweeper=mine", "schedule=warmup", "schedule.length=1"]
    assert main(["train", "-m", *own, *QUICK, HERE, "seed=5"]) == 0
    assert [(r.status["settings"]["optimizer.lr"], r.status["settings"]["schedule.then"]) for r in runs().values()] == [
        (0.1, "cosine"), (0.1, "constant"), (0.01, "cosine"), (0.01, "constant")
    ]  # fmt: skip
    assert values("seed") == [5] * 4
    assert main(["train", "resume=sweep", "--config-dir", "options", "--trust"]) == 0


def test_runs_that_diverge_are_results(here, capsys):
    assert main(["train", "-m", *QUICK, HERE, "optimizer.lr=0.1,1e30"]) == 0
    assert [run.status["status"] for run in runs().values()] == ["done", "diverged"]
    assert "2 of 2 runs (1 diverged), in sweep" in capsys.readouterr().out


def test_pruned_runs_say_so(here):
    assert main(
        ["train", "-m", *QUICK[:-2], "epochs=4", "optimizer=sgd", HERE, "optimizer.lr=0.1,0.2,1e-9", "hydra.sweeper.pruner=median",
         "hydra.sweeper.median.n_startup_trials=2", "hydra.sweeper.seeds=2"]
    ) == 0  # fmt: skip
    found = {name: run.status["status"] for name, run in runs().items()}
    assert found == {
        "0/seed-0": "done",
        "0/seed-1": "done",
        "1/seed-0": "done",
        "1/seed-1": "done",
        "2/seed-0": "pruned",
    }
    assert RunDirectory("sweep/2/seed-0").last_row()["epoch"] == 1


# ------------------------------------------------------------------------------------------------ going on


@pytest.mark.parametrize("name", ["sweep", "a sweep, of mine", "it's=1"])
def test_a_sweep_goes_on_by_its_directory_whatever_it_is_called(name, here, capsys):
    quoted = "'" + name.replace("'", r"\'") + "'"
    assert OverridesParser.create().parse_override(f"x={quoted}").value() == name
    assert (
        main(
            ["train", "-m", *QUICK, f"hydra.sweep.dir={quoted}", LR, "hydra/sweeper=random", "hydra.sweeper.n_trials=1"]
        )
        == 0
    )
    assert main(["train", f"resume={name}", "hydra.sweeper.n_trials=2", "--trust"]) == 0, capsys.readouterr().err
    assert list(runs(Path(name))) == ["0", "1"]


@pytest.fixture
def begun(here, capsys) -> Path:
    """A search of one point so far."""
    assert main(["train", "-m", *QUICK, HERE, LR, "hydra/sweeper=random", "hydra.sweeper.n_trials=1"]) == 0
    capsys.readouterr()
    return here / "sweep"


def refused(arguments: list[str], capsys: Any, *said: str) -> None:
    """That a command ends with 2, one message without a traceback, and nothing made or changed."""
    before = {name: (Path(name).is_file() and Path(name).read_bytes()) for name in files(Path())}
    assert main(["train", *arguments]) == 2
    out, err = capsys.readouterr()
    for part in said:
        assert part in err
    assert "Traceback" not in out + err
    assert out == ""
    assert {name: (Path(name).is_file() and Path(name).read_bytes()) for name in files(Path())} == before
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_another_launcher_goes_on_without_the_keys_of_the_former(begun, capsys):
    pool = ["hydra/launcher=pool", "hydra.launcher.workers=2"]
    (begun / "sweep.json").write_text(json.dumps({**record(), "command": [*record()["command"], *pool]}))
    same = build_resume_command(begun, ["hydra/launcher=pool", "hydra.sweeper.n_trials=2"], trust=True)
    assert "hydra.launcher.workers=2" in same
    going_on = ["train", "resume=sweep", "--trust", "hydra.sweeper.n_trials=2", "hydra/launcher=local"]
    assert main(going_on) == 0, capsys.readouterr().err
    assert list(runs()) == ["0", "1"]


@pytest.mark.parametrize(
    "word", ["epochs=2", "hydra.sweeper.seed=3", "hydra/sweeper=tpe", "+optimizer.lr=1", "hydra.sweep.dir=b"]
)
def test_what_is_searched_cannot_change(word, begun, capsys):
    refused(["resume=sweep", word], capsys, word.partition("=")[0], "cannot change")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"format": 1}', '{"command": "a=1"}', '{"command": [1]}', "\0", "9" * 5000]
)
def test_a_damaged_record_is_said_to_be_so(content, begun, capsys):
    (begun / "sweep.json").write_text(content)
    refused(["resume=sweep"], capsys, "resume ", "sweep/sweep.json is damaged")


@pytest.mark.parametrize(
    "word",
    ["data._target_=mine.Blobs", "+x._target_=os.system", "hydra.job_logging.x=1", "hydra.launcher._target_=mine.Evil",
     "optimizer.name=mine.Rule", "hydra.sweeper.params=${oc.env:HOME}", "~hydra.callbacks", "+data={_target_: mine.Blobs}"],
)  # fmt: skip
def test_a_sweep_of_somebody_else_names_no_code_unless_it_is_trusted(word, begun, capsys):
    plain = [w for w in record()["command"] if "_target_" not in w]
    (begun / "sweep.json").write_text(json.dumps({**record(), "command": [*plain, word]}))
    refused(["resume=sweep"], capsys, "resume ", "names user-defined code", "--trust")


def test_a_sweep_with_code_of_ones_own_goes_on_where_it_is_trusted(begun, capsys):
    refused(
        ["resume=sweep", "hydra.sweeper.n_trials=2"],
        capsys,
        "sweep names user-defined code, data._target_=mine.Blobs",
        "--trust",
    )
    assert main(["train", "resume=sweep", "hydra.sweeper.n_trials=2", "--trust"]) == 0
    assert list(runs()) == ["0", "1"]


# ------------------------------------------------------------------------------------------------ what people get wrong

RANDOM = "hydra/sweeper=random"
CASES = {
    "an interval in a grid": ([LR], ["1 problem", "optimizer.lr ", "has no grid"]),
    "an interval in a grid with trials": ([LR, "hydra.sweeper.n_trials=9"], ["1 problem", "optimizer.lr ", "has no grid"]),
    "an empty interval": ([RANDOM, "optimizer.lr=interval(1,1)"], ["optimizer.lr ", "is empty"]),
    "a reversed interval": ([RANDOM, "optimizer.lr=interval(2,1)"], ["optimizer.lr ", "runs backwards; write interval(1.0,2.0)"]),
    "a logarithm of zero": ([RANDOM, "optimizer.lr=tag(log,interval(0,1))"], ["optimizer.lr ", "above zero"]),
    "two wrong axes": ([RANDOM, "optimizer.lr=interval(1,1)", "epochs=int(interval(3,1))"], ["2 problems", "optimizer.lr ", "epochs "]),
    "an unknown tag": ([RANDOM, "optimizer.lr=tag(lgo,interval(1,2))"], ["optimizer.lr ", "no tag 'lgo'"]),
    "an empty range": (["seed=range(3,3)"], ["seed ", "has no value"]),
    "a value twice": (["seed=1,2,1"], ["seed ", "has the value 1 twice"]),
    "an option that is none": (["activation=relu,tnh"], ["activation ", "did you mean tanh", "in the run activation=tnh"]),
    "an option that is none, in a search": ([RANDOM, LR, "activation=relu,tnh"], ["activation ", "did you mean tanh"]),
    "a key that is none": ([RANDOM, "optimizer.lrr=interval(1,2)"], ["optimizer.lrr ", "did you mean lr"]),
    "an end out of range": ([RANDOM, "optimizer.lr=interval(-1,1)"], ["optimizer.lr ", "> 0", "-1"]),
    "a number for a whole one": (
        [RANDOM, "epochs=interval(1,5)"], ["epochs ", "a whole number", "search int(interval(1,5))"],
    ),
    "nothing to search": ([RANDOM], ["nothing to search"]),
    "an objective that no run writes": ([RANDOM, LR, "objective=val/los"], ["objective ", "val/los"]),
    "an objective that one run does not write": (
        ["validation.fraction=0,0.2", "objective=val/accuracy"], ["objective ", "in the run validation.fraction=0)"],
    ),
    "an objective of two directions": (["objective=val/loss,val/accuracy"], ["objective ", "must be the same for all runs"]),
    "no number of points": ([RANDOM, LR, "hydra.sweeper.n_trials=null"], ["hydra.sweeper.n_trials ", "must be a number"]),
    "no points": ([RANDOM, LR, "hydra.sweeper.n_trials=0"], ["hydra.sweeper.n_trials ", ">= 1 or null, got 0"]),
    "another number than a grid's": (["seed=1,2", "hydra.sweeper.n_trials=3"], ["hydra.sweeper.n_trials ", "all of its 2 points, got 3"]),
    "a wrong key": ([RANDOM, LR, "hydra.sweeper.trails=3"], ["hydra.sweeper.trails ", "did you mean n_trials"]),
    "a wrong key with a plus": ([RANDOM, LR, "+hydra.sweeper.trails=3"], ["hydra.sweeper.trails ", "did you mean n_trials"]),
    "a wrong key below": ([RANDOM, LR, "hydra.sweeper.tpe.n_startup_trial=3"], ["hydra.sweeper.tpe.n_startup_trial ", "did you mean n_startup_trials"]),
    "a wrong type": ([RANDOM, LR, "hydra.sweeper.seed=x"], ["hydra.sweeper.seed ", "a whole number", "'x'"]),
    "a wrong word": ([RANDOM, LR, "hydra.sweeper.pruner=median2"], ["hydra.sweeper.pruner ", "none, median, hyperband"]),
    "a statistic that is none": (["seed=1,2", "hydra.sweeper.statistic=mode"], ["hydra.sweeper.statistic ", "mean, median"]),
    "no such sweeper": (["seed=1,2", "hydra/sweeper=rnadom"], ["hydra/sweeper ", "random"]),
    "Hydra's own sweeper": (["seed=1,2", "hydra/sweeper=basic"], ["hydra/sweeper ", "grid, random, tpe, qmc"]),
    "seeds and an axis of seeds": (["seed=1,2", "hydra.sweeper.seeds=2"], ["hydra.sweeper.seeds ", "leave one out"]),
    "seeds and an axis of seeds with pluses": (["++seed=1,2", "hydra.sweeper.seeds=2"], ["hydra.sweeper.seeds ", "leave one out"]),
    "seeds twice": (["optimizer.lr=0.1,0.2", "hydra.sweeper.seeds=[1,1]"], ["hydra.sweeper.seeds ", "different seeds"]),
    "no seeds": (["optimizer.lr=0.1,0.2", "hydra.sweeper.seeds=[]"], ["hydra.sweeper.seeds ", "different seeds"]),
    "seeds without end": (["optimizer.lr=0.1,0.2", "hydra.sweeper.seeds=4000000000"], ["hydra.sweeper.seeds ", "at most 10,000"]),
    "seeds beyond the last": (
        ["optimizer.lr=0.1,0.2", "seed=4294967294", "hydra.sweeper.seeds=3"], ["hydra.sweeper.seeds ", "below 4294967296"]
    ),
    "folds without end": (
        ["optimizer.lr=0.1,0.2", "validation.scheme=kfold", "validation.k=4000000000"], ["validation.k ", "10,000 runs at most"]
    ),
    "folds with seeds without end": (
        ["optimizer.lr=0.1,0.2", "validation.scheme=kfold", "validation.k=200", "hydra.sweeper.seeds=200"],
        ["validation.k ", "200 folds with 200 seeds each"],
    ),
    "a number of folds that varies": (
        ["validation.scheme=kfold", "validation.k=3,4"], ["validation ", "the same for all runs of a search"]
    ),
    "a name for each run's folder": (["seed=1,2", "hydra.sweep.subdir=${hydra.job.override_dirname}"], ["hydra.sweep.subdir ", "leave it"]),
    "no folder for Hydra's files": (["seed=1,2", "hydra.output_subdir=null"], ["hydra.output_subdir ", "must stay .hydra"]),
    "a file in the way": (["seed=1,2", "hydra.sweep.dir=file/sweep"], ["hydra.sweep.dir ", "file is a file"]),
    "a run in the way": (["seed=1,2", "hydra.sweep.dir=taken"], ["hydra.sweep.dir ", "already holds a run"]),
    "a database without a name": ([RANDOM, LR, "hydra.sweeper.storage='sqlite:///s.db'"], ["hydra.sweeper.study ", "needs a name"]),
    "a malformed address": (
        [RANDOM, LR, "hydra.sweeper.study=s", "hydra.sweeper.storage='postgresql://me:hush@host:port/db'"],
        ["hydra.sweeper.storage ", "cannot be opened"],
    ),
    "no address at all": ([RANDOM, LR, "hydra.sweeper.storage=somewhere"], ["hydra.sweeper.storage ", "somewhere cannot be opened"]),
    "a database of no kind": (
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
    overrides, said = CASES[name]
    refused(["-m", *QUICK, *overrides], capsys, *said)


def test_a_port_where_nobody_listens(here, capsys):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        url = f"postgresql+psycopg://me:hush@127.0.0.1:{port}/db"
        more = [RANDOM, LR, "hydra.sweeper.study=s", f"hydra.sweeper.storage='{url}'"]
        refused(
            ["-m", *QUICK, *more],
            capsys,
            "hydra.sweeper.storage ",
            f"me:***@127.0.0.1:{port}/db cannot be opened",
            "refused",
        )


@pytest.mark.parametrize(
    ("former", "present", "key", "said"),
    [
        ([LR], ["optimizer.lr=interval(1e-3,1e-1)"], "optimizer.lr", "was tag(log,interval(0.001,0.1)) in this study"),
        ([LR], [LR, "epochs=2"], "epochs", "was 1 in this study, and is 2 now"),
        ([LR], [LR, "hydra.sweeper.seed=1"], "hydra.sweeper.seed", "was 0 in this study, and is 1 now"),
        ([LR], [LR, "hydra/sweeper=qmc"], "hydra/sweeper", "was random in this study, and is qmc now"),
        ([LR], [LR, "objective=val/accuracy"], "objective", "was val/loss in this study"),
        ([LR], [LR, "hydra.sweeper.seeds=2"], "hydra.sweeper.seeds", "in this study"),
    ],
)
def test_another_search_in_the_same_place_is_refused(former, present, key, said, here, capsys):
    assert main(["train", "-m", *QUICK, HERE, RANDOM, "hydra.sweeper.n_trials=1", *former]) == 0
    capsys.readouterr()
    refused(["-m", *QUICK, HERE, RANDOM, "hydra.sweeper.n_trials=1", *present], capsys, key, said, "hydra.sweep.dir")


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_search_is_made_longer_and_not_shorter(more, here, capsys):
    command = ["-m", *QUICK, HERE, LR, RANDOM]
    assert main(["train", *command, "hydra.sweeper.n_trials=3"]) == 0
    capsys.readouterr()
    refused([*command, "hydra.sweeper.n_trials=2", *more], capsys, "hydra.sweeper.n_trials ", "must be at least 3")
    assert record()["trials"] == 3
    assert main(["train", *command, "hydra.sweeper.n_trials=3", *more]) == 0


def test_a_directory_with_runs_of_no_study_is_refused(begun, capsys):
    (begun / "study.log").unlink()
    assert main(["train", "-m", *QUICK, HERE, LR, RANDOM]) == 2
    assert "already holds runs, and no study of them" in capsys.readouterr().err


@pytest.mark.parametrize("store", [[], ["hydra.sweeper.storage='sqlite:///new.db'", "hydra.sweeper.study=s"]])
def test_nothing_is_left_of_a_search_that_is_refused_for_that(store, begun, capsys):
    """As of one in a database that goes on from another working directory, where its relative address means nothing."""
    (begun / "study.log").unlink()
    before = files(Path())
    assert main(["train", "-m", *QUICK, HERE, LR, RANDOM, *store]) == 2
    assert "already holds runs, and no study of them" in capsys.readouterr().err
    assert files(Path()) == before


def test_so_is_one_with_runs_of_trials_that_have_several(here, capsys):
    """They lie a folder deeper; another search would write over them."""
    command = ["train", "-m", *QUICK, HERE, "optimizer.lr=0.01,0.1", "hydra.sweeper.seeds=2"]
    assert main(command) == 0
    Path("sweep/study.log").unlink()
    before = {name: run.status_file.read_bytes() for name, run in runs().items()}
    assert main(command) == 2
    assert "already holds runs, and no study of them" in capsys.readouterr().err
    assert {name: run.status_file.read_bytes() for name, run in runs().items()} == before


@pytest.mark.parametrize("what", ["study.log", "."])
def test_a_search_that_has_begun_and_loses_its_files_was_stopped(what, here, monkeypatch, capsys):
    """It does not say that nothing was started, nor that it was given anything wrong."""
    made = execute.perform

    def losing(*given, **more):
        found = made(*given, **more)
        Path("sweep", what).rename("elsewhere")
        return found

    monkeypatch.setattr(execute, "perform", losing)
    assert main(["train", "-m", *QUICK, HERE, "optimizer.lr=0.01,0.1"]) == 1
    err = capsys.readouterr().err
    assert "stopped: " in err
    assert "sweep" in err
    assert "nothing was started" not in err


@pytest.mark.parametrize("name", ["it's", "1e5", "a\\b"])
def test_a_directory_has_the_name_that_it_is_given_whoever_starts_the_runs(name, here):
    """Hydra is told of it by the launchers that are not ours, and where a search goes on."""
    place, launcher = f"hydra.sweep.dir={quote(name)}", "hydra/launcher=basic"
    before = set(here.iterdir())
    assert main(["train", "-m", *QUICK, place, "optimizer.lr=0.01,0.1", launcher]) == 0
    assert main(["train", f"resume=./{name}", "--trust"]) == 0
    assert {path.name for path in set(here.iterdir()) - before} - {"__pycache__"} == {name}
    assert list(runs(Path(name))) == ["0", "1"]


def test_what_is_said_to_go_on_with_a_search_goes_on_with_it(here, monkeypatch, capsys):
    """With the flags that it takes, whatever its directory is called."""
    Path("options/optimizer").mkdir(parents=True)
    Path("options/optimizer/mine.yaml").write_text("_target_: dlopt.optimizer.sgd.SGD\nlr: 0.05\n")
    made = execute.perform

    def stopped(*given, **more):
        monkeypatch.setattr(execute, "perform", made)
        raise KeyboardInterrupt

    quick = [word for word in QUICK if not word.startswith("optimizer=")]
    command = [*quick, "optimizer=mine,sgd", "hydra.sweep.dir='a b'"]
    monkeypatch.setattr(execute, "perform", stopped)
    assert main(["train", "-m", "--config-dir", "options", *command]) == 130
    (line,) = re.findall(r"dlopt (train resume=.*)", capsys.readouterr().out)
    assert main(shlex.split(line.partition("   ")[0])) == 0, capsys.readouterr().err
    assert sorted(run.status["status"] for run in runs(Path("a b")).values()) == ["done", "done"]


def test_what_is_said_to_try_again_what_failed_tries_it_again(here, monkeypatch, capsys):
    made = execute.perform

    def failing(job, *given, **more):
        if job.path.name == "1":
            raise RuntimeError("broken")
        return made(job, *given, **more)

    monkeypatch.setattr(execute, "perform", failing)
    assert main(["train", "-m", *QUICK, HERE, "optimizer.lr=0.01,0.1"]) == 1
    said = capsys.readouterr()
    assert "sweep/1 failed: RuntimeError: broken" in said.err
    (line,) = re.findall(r"dlopt (train resume=.*)", said.out)
    assert main(shlex.split(line.partition("   ")[0])) == 0, capsys.readouterr().err
    assert {name: run.status["status"] for name, run in runs().items()} == {"0": "done", "2": "done"}
    assert "dlopt train resume" not in capsys.readouterr().out


def test_asked_twice_a_search_ends_at_once_whatever_a_library_makes_of_it(here, monkeypatch, capsys):
    """A signal that comes in the midst of a library's code may leave it as another error."""

    def told(*_):
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise RuntimeError("release unlocked lock")

    quick = [word for word in QUICK if not word.startswith("optimizer=")]
    with monkeypatch.context() as patched:
        patched.setattr(Study, "tell", told)
        assert main(["train", "-m", *quick, HERE, "optimizer=adam,sgd"]) == 130
    said = capsys.readouterr()
    (line,) = re.findall(r"dlopt (train resume=.*)", said.out)
    assert said.err == ""
    assert main(shlex.split(line.partition("   ")[0])) == 0, capsys.readouterr().err
    assert sorted((name, run.status["status"]) for name, run in runs().items()) == [("0", "done"), ("1", "done")]


@pytest.mark.parametrize("second", ["close", "interrupt"])
def test_a_search_that_ends_can_be_asked_to_end_at_once(second, here, monkeypatch):
    """As if killed: while its runs save, and while it tells a database that may never answer."""
    said = []

    def asked(*_):
        signal.raise_signal(signal.SIGINT)

    def closed(*_, at_once):
        said.append("close")
        if second == "close":
            asked()

    def interrupt(*_, **__):
        said.append("interrupt")
        asked()
        said.append("was not heard")

    monkeypatch.setattr(InProcess, "wait", asked)
    monkeypatch.setattr(InProcess, "close", closed)
    monkeypatch.setattr(Study, "interrupt", interrupt)
    assert main(["train", "-m", *QUICK, HERE, "optimizer.lr=0.01,0.1"]) == 130
    assert said == (["close"] if second == "close" else ["close", "interrupt"])


# ------------------------------------------------------------------------------------------------ databases


def test_a_study_in_a_database_is_shared_by_directories_and_goes_on(here, capsys):
    store = ["hydra.sweeper.storage='sqlite:///s.db'", "hydra.sweeper.study=s"]
    assert main(["train", "-m", *QUICK, HERE, LR, RANDOM, "hydra.sweeper.n_trials=2", *store]) == 0
    assert main(["train", "-m", *QUICK, "hydra.sweep.dir=other", LR, RANDOM, "hydra.sweeper.n_trials=4", *store]) == 0
    assert (list(runs()), list(runs(Path("other")))) == (["0", "1"], ["2", "3"])
    capsys.readouterr()
    assert main(["show", "other"]) == 0
    assert "its study, in sqlite:///s.db, may have others" in " ".join(capsys.readouterr().out.split())
    assert main(["train", "resume=sweep", "hydra.sweeper.n_trials=5", "--trust"]) == 0, capsys.readouterr().err
    assert list(runs()) == ["0", "1", "4"]


def test_the_best_is_where_its_run_is_also_in_another_directory(here, capsys):
    """Two directories share a database: what is said of the best names the one that has it."""
    grid = ["optimizer.lr=0.1,0.001", "hydra.sweeper.storage='sqlite:///s.db'", "hydra.sweeper.study=s"]
    assert main(["train", "-m", *QUICK, HERE, *grid]) == 0
    best = min(runs(), key=lambda number: runs()[number].summary["val/loss"])
    assert re.search(rf"^best: .*, in sweep/{best}$", capsys.readouterr().out, re.MULTILINE)
    assert main(["train", "-m", *QUICK, "hydra.sweep.dir=other", *grid]) == 0
    assert re.search(rf"^best: .*, in sweep/{best}$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("plus", ["", "++"])
def test_a_password_is_nowhere_in_the_directory_and_asked_for_again(plus, here, capsys):
    store = [f"{plus}hydra.sweeper.storage='sqlite:///s.db?password=hush-hush'", "hydra.sweeper.study=s"]
    assert main(["train", "-m", *QUICK, HERE, LR, RANDOM, "hydra.sweeper.n_trials=1", *store]) == 0
    capsys.readouterr()
    for file in filter(Path.is_file, Path("sweep").rglob("*")):
        assert b"hush-hush" not in file.read_bytes() or file.suffix == ".patch", file
    again = "must be given again, as sqlite:///s.db?password=***"
    refused(["resume=sweep", "--trust"], capsys, "hydra.sweeper.storage ", again)
