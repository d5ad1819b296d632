"""Averaged weights: when there are any, where they are evaluated, what is saved of them."""

import math

import mine
import pytest
import torch
from helpers import BLOBS, blobs, composed, curves, resumed, stopped, trained, weights
from omegaconf import OmegaConf
from torch.nn import functional as F

from dlopt.cli import main
from dlopt.config.build import build
from dlopt.config.problems import ConfigError
from dlopt.config.reopen.resume_checks import breaking, changes
from dlopt.objective.problem import Problem
from dlopt.rundir.directory import Run
from dlopt.training.control import Watch
from dlopt.training.evaluation import recomputed_statistics
from dlopt.training.state import Training

LATE = ("averaging=custom", "averaging._target_=mine.Late", "precision=float64")
"""The last half of the iterates: of nine steps, those numbered 4 to 8."""


@pytest.fixture
def iterates(monkeypatch):
    """The iterate after each step."""
    found, take = [], Training.take

    def taken(training, *arguments):
        take(training, *arguments)
        found.append(training.w.clone())

    monkeypatch.setattr(Training, "take", taken)
    return found


def test_there_is_an_average_once_something_was_taken_in(tmp_path, iterates):
    """The evaluations are after the steps 3, 6 and 9; the fifth step's result is the first to be taken in."""
    _, (run,) = trained(tmp_path, blobs(*LATE))
    assert [row["step"] for row in run.rows() if "average/val/loss" in row] == [6, 9]
    torch.testing.assert_close(run.load("last")["average"][0], torch.stack(iterates[4:]).mean(0))


@pytest.mark.parametrize(("begin", "evaluated"), [(2, [3, 6, 9]), (3, [6, 9]), (8, [9])])
def test_the_first_to_be_taken_in_is_the_result_of_the_step_of_that_number(begin, evaluated, tmp_path):
    _, (run,) = trained(tmp_path, blobs(*LATE, f"+averaging.begin={begin}"))
    assert [row["step"] for row in run.rows() if "average/val/loss" in row] == evaluated


def test_the_test_split_is_evaluated_at_the_average_with_statistics_of_its_own(tmp_path, iterates):
    """By a network of torch's own; the statistics are those of the whole training split at the averaged weights."""
    experiment = blobs(*LATE, "normalization=batch", "optimizer.lr=0.05")
    (summary,), (run,) = trained(tmp_path, experiment)
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8, momentum=None), torch.nn.ReLU(), torch.nn.Linear(8, 3)
    ).double()
    torch.nn.utils.vector_to_parameters(torch.stack(iterates[4:]).mean(0), net.parameters())
    with torch.no_grad():
        net(experiment.train.gathered()[0].double())
        net.eval()
        for name, split in (("test", experiment.test), ("val", experiment.validation)):
            inputs, targets = split.gathered()
            outputs = net(inputs.double())
            assert summary[f"average/{name}/loss"] == pytest.approx(F.cross_entropy(outputs, targets).item())
            assert summary[f"average/{name}/accuracy"] == (outputs.argmax(1) == targets).double().mean().item()
    saved = run.load("average")
    mine_, theirs = saved["model"], net.state_dict()
    assert saved["step"] == 9
    for key in ("running_mean", "running_var", "weight", "bias"):
        torch.testing.assert_close(mine_[f"hidden.1.{key}"], theirs[f"1.{key}"])
    torch.testing.assert_close(mine_["output.weight"], theirs["3.weight"])
    assert not torch.allclose(mine_["hidden.1.running_mean"], run.load("last")["model"]["hidden.1.running_mean"])


def test_without_batch_norm_nothing_is_recomputed(tmp_path, monkeypatch):
    def asked(*arguments):
        raise AssertionError

    monkeypatch.setattr(Problem, "statistics", asked)
    (summary,), _ = trained(tmp_path / "a", blobs(*LATE, "normalization=layer"))
    assert math.isfinite(summary["average/test/loss"])
    with pytest.raises(AssertionError):
        trained(tmp_path / "b", blobs(*LATE, "normalization=batch"))


def test_statistics_of_several_chunks_weigh_each_example_alike(monkeypatch):
    """The mean does not depend on how the split is cut, the last piece being smaller."""
    training = Training([blobs("normalization=batch", "precision=float64")])
    found = []
    for size in (1000, 7):
        monkeypatch.setattr("dlopt.training.evaluation.CHUNK", size)
        found.append(recomputed_statistics(training.problem, training.w, training.examples)["hidden.1.running_mean"])
    torch.testing.assert_close(*found)


def test_the_summary_holds_the_one_average_beside_the_best_and_the_last(tmp_path):
    (summary,), (run,) = trained(tmp_path, blobs(*LATE, "optimizer=sgd", "optimizer.lr=30"))
    assert summary["best/step"] < 9, "else the test says nothing"
    assert summary["average/val/loss"] == run.rows()[-1]["average/val/loss"]
    assert not any(key.startswith("last/average") for key in summary)


def test_without_averaging_there_is_none(tmp_path):
    (summary,), (run,) = trained(tmp_path, blobs())
    assert not any("average" in key for key in summary)
    assert not run.checkpoint("average").exists()


def test_an_average_without_a_validation_split_is_tested_too(tmp_path):
    (summary,), _ = trained(tmp_path, blobs(*LATE, "validation.fraction=0"))
    assert math.isfinite(summary["average/test/loss"])
    assert "average/val/loss" not in summary


# ------------------------------------------------------------------------------------------- lanes, going on


def test_each_lane_has_its_own_also_when_others_have_left(tmp_path):
    """The first diverges, the second stops early."""
    early = ("regularization=early_stopping", "regularization.early_stopping.patience=1", "normalization=batch")
    variants = (("optimizer.lr=1e300",), ("seed=1",), ("seed=2", "optimizer.lr=1e-3"))
    common = (*LATE, *early, "optimizer=sgd", "optimizer.lr=0.5", "regularization.early_stopping.min_change=0.02")
    summaries, lanes = trained(tmp_path / "lanes", *(blobs(*common, *v) for v in variants))
    assert summaries[0]["status"] == "diverged"
    assert not lanes[0].checkpoint("average").exists()
    assert {s["step"] for s in summaries[1:]} == {6, 9}
    for i in (1, 2):
        (summary,), (alone,) = trained(tmp_path / f"solo{i}", blobs(*common, *variants[i]))
        torch.testing.assert_close(weights(lanes[i], "average"), weights(alone, "average"), rtol=1e-9, atol=1e-12)
        for key in ("average/test/loss", "average/val/loss"):
            assert summaries[i][key] == pytest.approx(summary[key], rel=1e-9)


@pytest.mark.parametrize("stop", [2, 4, 7])
def test_an_average_goes_on_bit_by_bit(stop, tmp_path):
    common = (*LATE, "normalization=batch")
    _, (straight,) = trained(tmp_path / "straight", blobs(*common))
    run = stopped(tmp_path / "run", stop, blobs(*common))
    assert not run.checkpoint("average").exists()
    _, run = resumed(run.path, blobs(*common))
    assert curves(run) == curves(straight)
    assert torch.equal(weights(run, "average"), weights(straight, "average"))


def test_the_average_of_an_earlier_end_is_gone_once_a_run_goes_on(tmp_path):
    _, (run,) = trained(tmp_path, blobs(*LATE))
    assert run.load("average")["step"] == 9
    summary, run = resumed(run.path, blobs(*LATE, "epochs=4"), Watch(until=10))
    assert summary["status"] == "interrupted"
    assert not run.checkpoint("average").exists()
    _, run = resumed(run.path, blobs(*LATE, "epochs=4"))
    assert run.load("average")["step"] == 12


def told(before, after, step):
    """What is said of an average in a run that goes on with another length."""
    configs = [
        OmegaConf.create(OmegaConf.to_container(composed(*BLOBS, *LATE, o), resolve=True)) for o in (before, after)
    ]
    found = breaking(changes(*configs), OmegaConf.to_container(configs[0]), build(configs[1])[0], step)
    return [said for said in found if "average" in said]


def test_an_average_that_follows_the_length_is_told_once_it_has_begun():
    assert told("epochs=3", "epochs=4", 5) == [
        "the average follows the length of the run, which was 9 steps and is 12 now"
    ]
    assert told("epochs=3", "epochs=4", 4) == []
    assert told("epochs=4", "epochs=3", 4) == []
    assert len(told("epochs=4", "epochs=3", 5)) == 1


# ------------------------------------------------------------------------------------------- what is said


def test_an_average_that_would_begin_after_the_end_is_refused():
    with pytest.raises(
        ConfigError, match="would take in its first iterate after step 21; the run ends after 9"
    ) as found:
        blobs("averaging=custom", "averaging._target_=mine.Late", "+averaging.begin=20")
    assert [key for key, _ in found.value.problems] == ["averaging"]


def test_an_average_that_cannot_say_where_it_begins_is_refused():
    with pytest.raises(ConfigError, match="averaging  fails: ZeroDivisionError"):
        blobs("averaging=custom", "averaging._target_=mine.Lost")


def test_an_averaging_is_a_subclass_of_its_contract():
    with pytest.raises(ConfigError, match="Sawtooth must be a subclass"):
        blobs("averaging=custom", "averaging._target_=mine.Sawtooth")


def test_the_commands_know_the_average(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(mine.__file__.rpartition("/")[0])
    monkeypatch.chdir(tmp_path)
    own = ("device=cpu", "normalization=batch")
    assert main(["train", "-q", *BLOBS, *own, *LATE, "hydra.run.dir=outputs/averaged"]) == 0
    assert main(["train", "-q", *BLOBS, *own, "hydra.run.dir=outputs/plain"]) == 0
    run = Run(tmp_path / "outputs/averaged")
    capsys.readouterr()

    assert main(["evaluate", "averaged", "--checkpoint", "average", "--trust", "-q"]) == 0
    said = capsys.readouterr().out
    assert "average checkpoint (step 9)" in said
    assert f"loss {run.summary['average/test/loss']:.4f}" in said
    assert main(["evaluate", "plain", "--checkpoint", "average", "--trust"]) == 2
    assert "outputs/plain has no averaged weights" in capsys.readouterr().err
    assert main(["evaluate", "averaged", "--checkpoint", "7", "--trust"]) == 2
    assert "it has best, last, average" in capsys.readouterr().err
    run.checkpoint("average").write_bytes(b"no checkpoint")
    assert main(["evaluate", "averaged", "--checkpoint", "average", "--trust"]) == 2
    assert "average.pt is damaged" in capsys.readouterr().err

    assert main(["show", "averaged"]) == 0
    assert "average (step 9)" in capsys.readouterr().out
    assert main(["runs", "--markdown"]) == 0
    assert "average/test/loss" in capsys.readouterr().out
    assert main(["runs", "--across", "averaging", "--markdown"]) == 0
    table = capsys.readouterr().out
    assert f"{Run(tmp_path / 'outputs/plain').summary['test/accuracy']:.4f}" in table, "the metric that all runs have"
