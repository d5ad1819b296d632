"""dlopt.train: the run of the command line, and a process that is left as it was."""

import asyncio
import json
import logging
import os
import random
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from bits import find_differences, read_final_state
from helpers import BLOBS, read_tree
from hydra import initialize_config_dir, version
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import dlopt
from dlopt import console
from dlopt.api.arrays import store_arrays
from dlopt.api.progress import RunProgress
from dlopt.cli import main
from dlopt.config.compose.groups import CONF
from dlopt.rundir.directory import RunDirectory

SMALL = [*BLOBS, "checkpoint.every=2"]


def read_state(path):
    return read_final_state(RunDirectory(path))


@pytest.fixture
def command_run(train_once):
    """The run of the command line."""
    train_once("train", "-q", *SMALL, "hydra.run.dir=typed")
    return Path("typed")


def test_a_run_from_python_is_the_run_of_the_command_line(command_run, capsys):
    """The same bits, files and configuration; only the record says how it was started, and commands accept it."""
    run = dlopt.train(SMALL, directory="called")
    assert run.path == Path("called")
    assert not find_differences(read_state(command_run), read_state(run.path))
    assert {Path(name).name for name in read_tree(run.path) if "tfevents" not in name} == {
        Path(name).name for name in read_tree(command_run) if "tfevents" not in name
    }
    for file in (".hydra/config.yaml", ".hydra/overrides.yaml"):
        assert (run.path / file).read_bytes() == (command_run / file).read_bytes()
    log = (run.path / "train.log").read_text()
    assert f"start in {run.path.absolute()}" in log and "done: {" in log
    status = json.loads((run.path / "status.json").read_text())
    assert status["command"] == f"dlopt.train({SMALL!r}, directory='called')"
    assert capsys.readouterr().out.startswith("done: 9 steps in ")
    assert (run.status, run.message[:23], run.notices) == ("done", "the training loss never", ())
    assert "val/loss" in repr(run) and "best (step" in str(run) and "<pre>" in run._repr_html_()
    for command in ("verify", "rerun"):
        assert main([command, "called", "-q", "--trust"]) == 0


def test_arrays_are_written_once_and_imply_the_loss(here):
    """The run names the file: later commands read it, the command line gives the same bits, a loop shares it."""
    x = np.random.default_rng(0).normal(size=(80, 3)).astype(np.float32)
    y = x @ np.array([1.0, 2.0, 3.0], dtype=np.float32)
    overrides = [
        "arch=linear",
        "epochs=2",
        "batch_size=16",
        "device=cpu",
        "schedule=plateau",
        "schedule.monitor=val/r2",
    ]
    run = dlopt.train(overrides, data=(x, torch.from_numpy(y)), progress=False)
    (file,) = Path("outputs/arrays").iterdir()
    assert run.settings["loss"] == "mse" and "loss=NAME" in run.notices[0]
    assert main(["train", "-q", "data=arrays", f"data.path={file}", *overrides, "hydra.run.dir=typed"]) == 0
    assert not find_differences(read_state("typed"), read_state(run.path))
    assert main(["evaluate", str(run.path), "-q"]) == 0
    with store_arrays({"y": y, "x": x}) as again:
        assert again == ["data=arrays", f"data.path={file}"]
    with pytest.raises(dlopt.ConfigError, match=r"y has|lengths|examples"):
        dlopt.train(overrides, data=(x, y[:-1]))
    for data, message in ((x, "pair"), ((x, [object()] * 80), "Python objects")):
        with pytest.raises(dlopt.ConfigError, match=message):
            dlopt.train(overrides, data=data)
    assert list(Path("outputs/arrays").iterdir()) == [file]


def test_all_problems_are_raised_together_and_nothing_is_left(here, capsys):
    cases = {
        (*BLOBS, "optimizer.lr=-1", "hydra/launcher=pool"): {"optimizer.lr": "> 0", "hydra/launcher": "multirun=True"},
        ("epochs", "-m"): {"epochs": "KEY=VALUE", "-m": "KEY=VALUE"},
    }
    for overrides, messages in cases.items():
        with pytest.raises(dlopt.ConfigError) as caught:
            dlopt.train(overrides)
        assert str(caught.value).startswith("2 problems, nothing was started:\n")
        found = dict(caught.value.problems)
        assert found.keys() == messages.keys() and all(text in found[key] for key, text in messages.items())
    with pytest.raises(dlopt.ConfigError, match="is given twice"):
        dlopt.train("data=digits", data=([[0.0]], [0]))
    with pytest.raises(dlopt.RunError, match="no runs in outputs"):
        dlopt.train("resume=last")
    assert capsys.readouterr() == ("", "")
    assert not list(here.iterdir())


def test_the_error_of_a_run_is_raised(here, capsys):
    def fail(self, run, row):
        raise ZeroDivisionError("mine")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(ZeroDivisionError, match="mine") as caught:
        patch.setattr(RunProgress, "on_row", fail)
        dlopt.train(SMALL, directory="run")
    assert caught.value.__notes__ == ["The run run failed; its checkpoints are intact."]
    assert dlopt.open_run("run").status == "failed"
    assert dlopt.train(["resume=run"], trust=True, progress=False).status == "done"


def test_an_interrupted_run_resumes_to_the_same_bits(command_run, monkeypatch, capsys):
    """The first interrupt saves the run. KeyboardInterrupt then ends the cell or script, and handlers are restored."""
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunProgress, "on_row", lambda *_: signal.raise_signal(signal.SIGINT))
        dlopt.train(SMALL, directory="called")
    assert signal.getsignal(signal.SIGINT) == before
    run = dlopt.open_run("called")
    assert run.status == "interrupted" and 'dlopt.train(["resume=last"])' in capsys.readouterr().out
    with pytest.raises(dlopt.ConfigError, match="trust=True"):
        dlopt.train(["resume=called"])
    resumed = dlopt.train(["resume=called"], trust=True)
    assert (resumed.status, resumed.path) == ("done", run.path)
    assert not find_differences(read_state(command_run), read_state(resumed.path))
    assert json.loads((run.path / "status.json").read_text())["command"].startswith("dlopt.train(['resume=called']")


def test_the_process_is_left_as_it_was(command_run, monkeypatch):
    """Whatever the process has set does not reach the run, and is there afterwards, also after an error."""

    def read():
        loggers = [logging.getLogger(name) for name in (None, "dlopt", "hydra")]
        return {
            "generators": (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()),  # noqa: NPY002
            "torch": (torch.get_num_threads(), torch.get_default_dtype(), torch.get_default_device()),
            "modes": (torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled()),
            "hydra": (id(GlobalHydra.instance().hydra), str(version.getbase())),
            "loggers": [(log.level, log.propagate, log.handlers[:], log.disabled) for log in loggers],
            "logging": (logging.raiseExceptions, logging.root.manager.disable),
            "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)],
            "paths": (sys.path[:], os.getcwd()),
            "environment": sorted(os.environ.items()),
            "output": (sys.stdout, console.quiet),
            "threads": {thread.name for thread in threading.enumerate()} - {"git"},  # a query that ends by itself
        }

    def draw(self, run, row):
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002  (as a custom component may do)

    monkeypatch.setattr(RunProgress, "on_row", draw)
    monkeypatch.setattr(logging, "raiseExceptions", True)
    monkeypatch.setattr(logging.getLogger("dlopt"), "level", logging.ERROR)
    torch.set_default_dtype(torch.float64)
    try:
        with initialize_config_dir(str(CONF), version_base="1.2"), torch.no_grad():
            before = read()
            run = dlopt.train([*SMALL, "deterministic=true"], progress=False, directory="called")
            assert read() == before
            with pytest.raises(dlopt.ConfigError) as caught:  # Hydra's error is explained by composing again
                dlopt.train([*BLOBS, "optimizer=adm", "epochs=0"])
            assert {key for key, _ in caught.value.problems} == {"optimizer", "epochs"}
            assert read() == before
            assert dlopt.load("called", trust=True).evaluate("val")["loss"] == run.summary["val/loss"]
            assert read() == before
    finally:
        torch.set_default_dtype(torch.float32)
    state, called = read_state(command_run), read_state(run.path)
    assert {name.rpartition("/")[2] for name in find_differences(state, called)} == {"config", "deterministic"}


def test_threads_and_event_loops_train_the_same_run(command_run):
    """Signals belong to the main thread; a second thread waits for the first."""

    async def train_in_loop():
        return dlopt.train(SMALL, directory="loop", progress=False)

    threads = [
        threading.Thread(target=dlopt.train, args=(SMALL,), kwargs={"directory": name, "progress": False})
        for name in ("one", "two")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(train_in_loop())
    for name in ("one", "two", "loop"):
        assert not find_differences(read_state(command_run), read_state(name)), name


@pytest.mark.long
def test_a_sweep_from_python_is_the_sweep_of_the_command_line(here, capsys):
    """The same runs in the same order; it is a table, a figure and a best run, and resumes."""
    overrides = [*BLOBS, "optimizer=sgd", "optimizer.lr=0.1,0.01", "seed=0,1"]
    assert main(["train", "-m", "-q", *overrides, "hydra.sweep.dir=typed"]) == 0
    sweep = dlopt.train(overrides, multirun=True, directory="called")
    assert capsys.readouterr().out.count("done") == 4
    for number in range(4):
        assert not find_differences(read_state(f"typed/{number}"), read_state(f"called/{number}"))
    assert sweep.runs(where="seed=0")["optimizer.lr"].to_list() == [0.1, 0.01]
    best = sweep.best()
    assert best.summary["val/loss"] == sweep.runs(sort="val/loss")["val/loss"][0]
    assert best.predictor().evaluate("val")["loss"] == best.summary["val/loss"]
    (axes,) = sweep.plot("val/loss", over="seed").axes
    assert [line.get_label() for line in axes.lines] == ["optimizer.lr=0.1", "optimizer.lr=0.01"]
    assert repr(sweep) == "<Sweep called: 4 done>" and "0.01" in sweep._repr_html_()
    more = dlopt.train(["resume=called"], multirun=True, trust=True, progress=False)
    assert more.path == dlopt.open_sweep("called").path == Path("called")
    with pytest.raises(dlopt.ConfigError, match="multirun=True"):
        dlopt.train(["resume=called"])
    assert OmegaConf.load("called/0/.hydra/hydra.yaml").hydra.runtime.output_dir == str(here / "called" / "0")
