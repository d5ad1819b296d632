"""The loss and the metrics that a command implies are those that it would have with them typed."""

import numpy as np
import pytest
import yaml
from helpers import BLOBS

from dlopt.cli import main
from dlopt.config.implied import NOTICE
from dlopt.rundir.directory import RunDirectory

NUMBERS = ("data=custom", "data._target_=mine.Regression", "arch=mlp", "batch_size=16", "epochs=1", "threads=1")
OWN = ("data=table", "data.path=my.csv", "data.target=y", "batch_size=8", "epochs=1", "threads=1")


@pytest.fixture
def table(here):
    """Write a table with a column of numbers, and one of two classes."""
    rows = np.random.default_rng(0).normal(size=(60, 2)).round(3)
    lines = [f"{x},{x - y},{'yes' if i % 3 else 'no'}" for i, (x, y) in enumerate(rows)]
    (here / "my.csv").write_text("\n".join(["x,y,answer", *lines]))
    return here


def train(*overrides, folder="run"):
    assert main(["train", *overrides, "device=cpu", f"hydra.run.dir={folder}"]) == 0
    return RunDirectory(folder)


@pytest.mark.parametrize("data", [NUMBERS, OWN])
def test_data_of_numbers_are_trained_with_the_squared_error(data, table, capsys):
    implied = train(*data)
    assert f"note: {NOTICE}" in capsys.readouterr().err
    typed = train(*data, "loss=mse", folder="typed")
    assert NOTICE not in capsys.readouterr().err
    assert implied.config() == typed.config()
    assert implied.summary["test/loss"] == typed.summary["test/loss"]
    settings = [run.status["settings"] for run in (implied, typed)]
    assert settings[0] == settings[1]
    assert settings[0]["loss"] == "mse"
    assert yaml.safe_load(implied.overrides_file.read_text())[-1] == "loss=mse"


def test_a_run_with_an_implied_loss_resumes_and_is_rerun_with_it(table, capsys):
    train(*OWN)
    assert main(["train", "resume=run", "epochs=3"]) == 0
    assert main(["rerun", "run"]) == 0
    assert main(["show", "run"]) == 0
    assert "loss=mse" in capsys.readouterr().out


def test_each_run_of_a_sweep_has_the_loss_of_its_data(table, capsys):
    command = [*OWN[:2], "data.target=y,answer", *OWN[3:], "hydra.sweep.dir=sweep", "device=cpu"]
    assert main(["train", "-m", *command]) == 0
    assert capsys.readouterr().err.count(NOTICE) == 1
    configs = [RunDirectory(table / "sweep" / str(i)).config()["loss"] for i in (0, 1)]
    assert [c["_target_"].rpartition(".")[2] for c in configs] == ["MeanSquaredError", "CrossEntropy"]
    assert main(["train", "resume=sweep"]) == 0


def test_a_data_set_is_loaded_once_for_its_loss_and_its_run(here, monkeypatch):
    import mine

    calls = []
    load = mine.Regression.load
    monkeypatch.setattr(mine.Regression, "load", lambda self: (calls.append(1), load(self))[1])
    train(*NUMBERS)
    assert len(calls) == 1


@pytest.mark.parametrize(("overrides", "words"), [
    (["loss=cross_entropy"], "CrossEntropy is for classes; the targets of this data are numbers: use loss=mse"),
    (["loss.class_weights=balanced"], "CrossEntropy is for classes"),
    (["loss.metrics=[accuracy]"], "loss.metrics  must be a list [...] of one of r2, mae"),
    (["objective=val/f1"], "objective  MeanSquaredError does not measure f1; it measures loss, r2, mae"),
    (["objective=val/f1", "optimizer.lrr=1"], "optimizer.lrr"),
])  # fmt: skip
def test_a_typed_loss_or_metric_that_does_not_fit_is_refused(overrides, words, table, capsys):
    assert main(["train", *OWN, *overrides]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert ("CrossEntropy" in error) == ("CrossEntropy" in words)
    assert not (table / "outputs").exists()


@pytest.mark.parametrize(("overrides", "metrics"), [
    (["objective=val/f1"], ["accuracy", "error", "f1"]),
    (["objective=val/loss"], ["accuracy", "error"]),
    (["objective=train/auc", "loss.metrics=[]"], ["auc"]),
    (["regularization=early_stopping", "regularization.early_stopping.monitor=val/auc", "objective=val/recall"],
     ["accuracy", "error", "recall", "auc"]),
    (["schedule=plateau", "schedule.monitor=val/f1", "loss=hinge"], ["accuracy", "error", "f1"]),
    (["schedule=warmup", "schedule.length=1", "schedule.then=plateau", "schedule.then.monitor=val/f1"],
     ["accuracy", "error", "f1"]),
    (["averaging=ema", "objective=average/val/balanced_accuracy"], ["accuracy", "error", "balanced_accuracy"]),
])  # fmt: skip
def test_a_metric_that_is_asked_for_is_measured(overrides, metrics, here):
    run = train(*BLOBS, *overrides)
    assert run.config()["loss"]["metrics"] == metrics
    objective = run.config()["objective"]
    values = [row[objective] for row in run.rows() if objective in row]
    assert run.summary[objective] == (min if objective == "val/loss" else max)(values)


def test_a_sweep_is_ranked_by_a_metric_that_no_run_measures(here, capsys):
    command = [*BLOBS, "optimizer.lr=0.001,0.1", "objective=val/f1", "hydra.sweep.dir=sweep"]
    assert main(["train", "-m", *command]) == 0
    values = [RunDirectory(here / "sweep" / str(i)).summary["val/f1"] for i in (0, 1)]
    assert f"in sweep/{values.index(max(values))}\n" in capsys.readouterr().out
