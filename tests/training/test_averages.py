"""Averaged weights: when they exist, where they are evaluated, and what is saved."""

import copy
import math

import mine
import pytest
import torch
from helpers import (
    BLOBS,
    DEVICE,
    assert_build_refused,
    build_blobs,
    compose_config,
    interrupt_run,
    load_weights,
    read_rows,
    resume_run,
    train_runs,
)
from omegaconf import OmegaConf
from torch.nn import functional as F

from dlopt.analysis.aggregate import collect_objectives
from dlopt.cli import main
from dlopt.config.build import build
from dlopt.config.problems import ConfigError
from dlopt.config.reopen.load_predictor import load_predictor
from dlopt.config.reopen.resume_checks import diff_configs, list_breaking_changes
from dlopt.objective.problem import Problem
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.find import find_run
from dlopt.training.control import TrainingControl
from dlopt.training.evaluation import recompute_statistics
from dlopt.training.state import TrainState

LATE = ("averaging=custom", "averaging._target_=mine.RunningMean", "+averaging.begin=null", "precision=float64")
"""The last half of the iterates: of nine steps, those numbered 4 to 8."""


@pytest.fixture
def iterates(monkeypatch):
    """Return the list of iterates, which grows with each step."""
    iterates, apply_step = [], TrainState.apply_step

    def apply_and_record(training, *arguments):
        apply_step(training, *arguments)
        iterates.append(training.w.clone())

    monkeypatch.setattr(TrainState, "apply_step", apply_and_record)
    return iterates


@pytest.mark.parametrize(("begin", "evaluated"), [("null", [6, 9]), (2, [3, 6, 9]), (3, [6, 9]), (8, [9])])
def test_an_average_is_evaluated_once_it_has_an_iterate(begin, evaluated, tmp_path, iterates):
    """Evaluations are after steps 3, 6 and 9; `begin` is the number of the first step whose result is averaged."""
    _, (run,) = train_runs(tmp_path, build_blobs(*LATE, f"averaging.begin={begin}"))
    assert [row["step"] for row in run.rows() if "average/val/loss" in row] == evaluated
    mean = torch.stack(iterates[4 if begin == "null" else begin :]).mean(0)
    torch.testing.assert_close(run.load("last")["average"][0], mean)


def test_averaged_weights_are_evaluated_with_their_own_statistics(tmp_path, iterates):
    """Compared with a plain PyTorch network whose running statistics are of the whole training split."""
    experiment = build_blobs(*LATE, "normalization=batch", "optimizer.lr=0.05")
    (summary,), (run,) = train_runs(tmp_path, experiment)
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8, momentum=None), torch.nn.ReLU(), torch.nn.Linear(8, 3)
    ).double()
    torch.nn.utils.vector_to_parameters(torch.stack(iterates[4:]).mean(0), net.parameters())
    with torch.no_grad():
        net(experiment.train.gather()[0].double())
        net.eval()
        for name, split in (("test", experiment.test), ("val", experiment.validation)):
            inputs, targets = split.gather()
            outputs = net(inputs.double())
            assert summary[f"average/{name}/loss"] == pytest.approx(F.cross_entropy(outputs, targets).item())
            assert summary[f"average/{name}/accuracy"] == (outputs.argmax(1) == targets).double().mean().item()
    saved = run.load("average")
    model, expected = saved["model"], net.state_dict()
    assert saved["step"] == 9
    for key in ("running_mean", "running_var", "weight", "bias"):
        torch.testing.assert_close(model[f"hidden.1.{key}"], expected[f"1.{key}"])
    torch.testing.assert_close(model["output.weight"], expected["3.weight"])
    assert not torch.allclose(model["hidden.1.running_mean"], run.load("last")["model"]["hidden.1.running_mean"])


def test_without_batch_norm_statistics_are_not_recomputed(tmp_path, monkeypatch):
    monkeypatch.setattr(Problem, "statistics", lambda *_: pytest.fail("recomputed"))
    (summary,), _ = train_runs(tmp_path, build_blobs(*LATE, "normalization=layer"))
    assert math.isfinite(summary["average/test/loss"])


def test_statistics_do_not_depend_on_the_size_of_chunks(monkeypatch):
    """Examples have equal weights although the last chunk is smaller."""
    training = TrainState([build_blobs("normalization=batch", "precision=float64")])
    means = []
    for size in (1000, 7):
        monkeypatch.setattr("dlopt.training.evaluation.CHUNK", size)
        means.append(recompute_statistics(training.problem, training.w, training.examples)["hidden.1.running_mean"])
    torch.testing.assert_close(*means)


def test_the_summary_has_one_average(tmp_path):
    (summary,), (run,) = train_runs(tmp_path, build_blobs(*LATE, "optimizer=sgd", "optimizer.lr=30"))
    assert summary["best/step"] < 9, "the test needs a run that overshoots"
    assert summary["average/val/loss"] == run.rows()[-1]["average/val/loss"]
    assert not any(key.startswith("last/average") for key in summary)


def test_without_averaging_there_is_no_average(tmp_path):
    (summary,), (run,) = train_runs(tmp_path, build_blobs())
    assert not any("average" in key for key in summary)
    assert not run.checkpoint("average").exists()


def test_without_a_validation_split_the_average_is_tested(tmp_path):
    (summary,), _ = train_runs(tmp_path, build_blobs(*LATE, "validation.fraction=0"))
    assert math.isfinite(summary["average/test/loss"])
    assert "average/val/loss" not in summary


# ------------------------------------------------------------------------------------------- selecting them

SELECTED = ("averaging=custom", "averaging._target_=mine.RunningMean", "+averaging.begin=4", "objective=average/val/loss",
            "normalization=batch", "epochs=8", "optimizer=sgd", "optimizer.lr=30", "data.label_noise=0.3")  # fmt: skip
"""Evaluations are after steps 3, 6, ..., 24; the first has no average."""


@pytest.mark.parametrize("seeds", [[0], [0, 1]])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_best_weights_are_averaged_ones_if_the_objective_is_of_them(optimizer, seeds, here):
    """The best checkpoint holds them with their own statistics: it gives the number in the row, to the last bit."""
    experiments = [build_blobs(*SELECTED, f"optimizer={optimizer}", f"seed={seed}") for seed in seeds]
    summaries, runs = train_runs(here, *experiments)
    for experiment, summary, run in zip(experiments, summaries, runs, strict=True):
        rows = {row["step"]: row for row in run.rows() if "average/val/loss" in row}
        assert list(rows) == list(range(6, 25, 3))
        best = min(rows, key=lambda step: rows[step]["average/val/loss"])
        assert summary["best/step"] == run.load("best")["step"] == best
        network = copy.deepcopy(experiment.model)
        network.load_state_dict(run.load("best")["model"])
        with torch.no_grad():
            for split in ("val", "test"):
                inputs, targets = (experiment.validation if split == "val" else experiment.test).gather()
                outputs = network.eval()(inputs)
                for key in (f"{split}/loss", f"average/{split}/loss"):
                    assert summary[key] == pytest.approx(F.cross_entropy(outputs, targets).item(), rel=1e-5)
        assert summary["average/val/loss"] == rows[best]["average/val/loss"]
        assert summary["last/val/loss"] == rows[24]["val/loss"]
        assert summary["last/average/val/loss"] == rows[24]["average/val/loss"]


def test_the_best_is_called_average_and_evaluating_its_checkpoint_gives_the_objective(here, capsys):
    assert main(["train", "-q", *BLOBS, *SELECTED]) == 0
    run = find_run()
    assert 6 < run.summary["best/step"] < 24, "otherwise the test shows less"
    assert main(["show"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "loss" in line]
    assert lines[-3].startswith(f"best average (step {run.summary['best/step']})")
    assert lines[-1].startswith("average (step 24) ")
    predictor, _ = load_predictor(run, "best", device=DEVICE, trust=True)
    for split in ("val", "test"):
        assert predictor.evaluate(split)["loss"] == run.summary[f"average/{split}/loss"]
    assert predictor.evaluate("val")["loss"] == min(row.get("average/val/loss", math.inf) for row in run.rows())


@pytest.mark.parametrize("stop", [2, 5, 11, 22])
def test_selected_averages_resume_to_the_same_bits(stop, tmp_path):
    common = (*SELECTED, "regularization=early_stopping", "regularization.early_stopping.monitor=average/val/loss")
    (whole,), (straight,) = train_runs(tmp_path / "straight", build_blobs(*common))
    run = interrupt_run(tmp_path / "run", stop, build_blobs(*common))
    assert run.checkpoint("best").exists() == (stop > 6)
    summary, run = resume_run(run.path, build_blobs(*common))
    assert read_rows(run) == read_rows(straight)
    for which in ("best", "average"):
        assert torch.equal(load_weights(run, which), load_weights(straight, which))
    clock = ("seconds", "steps_per_second", "peak_memory")
    assert {k: v for k, v in summary.items() if k not in clock} == {k: v for k, v in whole.items() if k not in clock}


def test_a_run_that_ends_before_its_average_begins_has_no_best(tmp_path):
    """It cannot win a search by another metric."""
    stop = ("regularization=early_stopping", "regularization.early_stopping.monitor=train/loss", "averaging.begin=20",
            "regularization.early_stopping.min_delta=100", "regularization.early_stopping.patience=2")  # fmt: skip
    (summary,), (run,) = train_runs(tmp_path, build_blobs(*SELECTED, *stop))
    assert (summary["status"], summary["step"]) == ("done", 9)
    assert not run.checkpoint("best").exists()
    assert not any("average" in key for key in summary)
    assert summary["test/loss"] == summary["last/test/loss"]
    assert collect_objectives([("done", summary)], "average/val/loss", higher_is_better=False) == (math.inf,)


def test_a_schedule_can_follow_the_average(tmp_path):
    plateau = ("schedule=plateau", "schedule.monitor=average/val/loss", "schedule.patience=0", "schedule.threshold=100")
    _, (run,) = train_runs(tmp_path, build_blobs(*SELECTED, *plateau, "schedule.factor=0.5", "schedule.min_factor=0"))
    assert [row["lr"] / 30 for row in run.rows()] == [1, 1, 1, 0.5, 0.25, 0.125, 0.0625, 0.03125]


@pytest.mark.parametrize(("overrides", "key", "words"), [
    (["objective=average/val/loss"], "objective", "add averaging=ema"),
    (["objective=average/val/loss", "averaging=ema", "validation.fraction=0"], "objective", "or objective=train/loss"),
    (["objective=average/train/loss", "averaging=ema"], "objective", "did you mean average/val/loss"),
    (["objective=average/val/auc", "averaging=ema"], "objective", "add it: loss.metrics=[accuracy,error,auc]"),
    (["schedule=plateau", "schedule.monitor=average/val/accuracy"], "schedule.monitor", "add averaging=ema"),
])  # fmt: skip
def test_averages_that_no_run_writes_are_refused(overrides, key, words):
    assert_build_refused(lambda: build_blobs(*overrides), key, words)


# ------------------------------------------------------------------------------------------- lanes, resuming


def test_each_lane_has_its_own_average_also_when_others_leave(tmp_path):
    """The first diverges, the second stops early."""
    early = ("regularization=early_stopping", "regularization.early_stopping.patience=1", "normalization=batch")
    variants = (("optimizer.lr=1e300",), ("seed=1",), ("seed=2", "optimizer.lr=1e-3"))
    common = (*LATE, *early, "optimizer=sgd", "optimizer.lr=0.5", "regularization.early_stopping.min_delta=0.02")
    summaries, lanes = train_runs(tmp_path / "lanes", *(build_blobs(*common, *v) for v in variants))
    assert summaries[0]["status"] == "diverged"
    assert not lanes[0].checkpoint("average").exists()
    assert {s["step"] for s in summaries[1:]} == {6, 9}
    for i in (1, 2):
        (summary,), (alone,) = train_runs(tmp_path / f"solo{i}", build_blobs(*common, *variants[i]))
        torch.testing.assert_close(
            load_weights(lanes[i], "average"), load_weights(alone, "average"), rtol=1e-9, atol=1e-12
        )
        for key in ("average/test/loss", "average/val/loss"):
            assert summaries[i][key] == pytest.approx(summary[key], rel=1e-9)


@pytest.mark.parametrize("stop", [2, 4, 7])
def test_an_average_resumes_to_the_same_bits(stop, tmp_path):
    common = (*LATE, "normalization=batch")
    _, (straight,) = train_runs(tmp_path / "straight", build_blobs(*common))
    run = interrupt_run(tmp_path / "run", stop, build_blobs(*common))
    assert not run.checkpoint("average").exists()
    _, run = resume_run(run.path, build_blobs(*common))
    assert read_rows(run) == read_rows(straight)
    assert torch.equal(load_weights(run, "average"), load_weights(straight, "average"))


def test_the_average_of_an_earlier_end_is_removed_when_a_run_resumes(tmp_path):
    _, (run,) = train_runs(tmp_path, build_blobs(*LATE))
    assert run.load("average")["step"] == 9
    summary, run = resume_run(run.path, build_blobs(*LATE, "epochs=4"), TrainingControl(until=10))
    assert summary["status"] == "interrupted"
    assert not run.checkpoint("average").exists()
    _, run = resume_run(run.path, build_blobs(*LATE, "epochs=4"))
    assert run.load("average")["step"] == 12


def list_changes(before, after, step):
    """Return the breaking changes of an average when a run resumes with another length."""
    configs = [
        OmegaConf.create(OmegaConf.to_container(compose_config(*BLOBS, *LATE, o), resolve=True))
        for o in (before, after)
    ]
    changes = list_breaking_changes(
        diff_configs(*configs), OmegaConf.to_container(configs[0]), build(configs[1])[0], step
    )
    return [change for change in changes if "average" in change]


def test_an_average_that_depends_on_the_length_cannot_change_once_it_has_begun():
    (change,) = list_changes("epochs=3", "epochs=4", 5)
    assert "9 steps" in change
    assert "12" in change
    assert list_changes("epochs=3", "epochs=4", 4) == []
    assert list_changes("epochs=4", "epochs=3", 4) == []
    assert len(list_changes("epochs=4", "epochs=3", 5)) == 1


# ------------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize(("target", "message"), [
    (("mine.RunningMean", "+averaging.begin=20"), "step 21; the run ends after step 9"),
    (("mine.FaultyMean",), "fails: ZeroDivisionError"),
    (("mine.Sawtooth",), "Sawtooth must be a subclass"),
])  # fmt: skip
def test_an_unusable_average_is_refused(target, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        build_blobs("averaging=custom", f"averaging._target_={target[0]}", *target[1:])
    assert refusal.value.problems[0][0].startswith("averaging")


def test_commands_show_the_average(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(mine.__file__.rpartition("/")[0])
    monkeypatch.chdir(tmp_path)
    own = ("device=cpu", "normalization=batch")
    assert main(["train", "-q", *BLOBS, *own, *LATE, "hydra.run.dir=outputs/averaged"]) == 0
    assert main(["train", "-q", *BLOBS, *own, "hydra.run.dir=outputs/plain"]) == 0
    run = RunDirectory(tmp_path / "outputs/averaged")
    capsys.readouterr()

    assert main(["evaluate", "averaged", "--checkpoint", "average", "--trust", "-q"]) == 0
    output = capsys.readouterr().out
    assert "average checkpoint (step 9)" in output
    assert f"loss {run.summary['average/test/loss']:.4f}" in output
    assert main(["evaluate", "plain", "--checkpoint", "average", "--trust"]) == 2
    assert "outputs/plain has no averaged weights" in capsys.readouterr().err
    assert main(["evaluate", "averaged", "--checkpoint", "7", "--trust"]) == 2
    assert "it has best, last, average" in capsys.readouterr().err
    run.checkpoint("average").write_bytes(b"no checkpoint")
    assert main(["evaluate", "averaged", "--checkpoint", "average", "--trust"]) == 2
    assert "average.safetensors is damaged" in capsys.readouterr().err

    assert main(["show", "averaged"]) == 0
    assert "average (step 9)" in capsys.readouterr().out
    assert main(["runs", "--markdown"]) == 0
    assert "average/test/loss" in capsys.readouterr().out
    assert main(["runs", "--across", "averaging", "--markdown"]) == 0
    table = capsys.readouterr().out
    assert f"{RunDirectory(tmp_path / 'outputs/plain').summary['test/accuracy']:.4f}" in table, (
        "the metric that all runs have"
    )
