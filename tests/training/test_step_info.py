"""What an optimizer reports of its steps: the means in rows, alone, in lanes and beyond the buffer."""

import dataclasses

import pytest
from helpers import build_blobs, build_experiment, read_rows, train_runs
from mine import Reporting

from dlopt.training import running_metrics

REPORTING = ("precision=float64", "optimizer=custom", "optimizer._target_=mine.Reporting", "+optimizer.lr=0.5",
             "batch_size=13")  # fmt: skip


def select_info(rows):
    return {row["step"]: {k: v for k, v in row.items() if "optimizer/" in k} for row in rows}


@pytest.mark.parametrize("buffered", [None, 40])
def test_rows_hold_means_over_the_steps_of_train_loss(buffered, tmp_path, monkeypatch):
    """Epochs of four steps and windows of three; each step counts once, also the smaller last batch of an epoch."""
    if buffered is not None:
        monkeypatch.setattr(running_metrics, "MAX_BUFFERED", buffered)
    _, (run,) = train_runs(tmp_path, build_blobs(*REPORTING, "log_every=3", "steps=9"))
    found = select_info(run.rows())
    count = {step: {k: v for k, v in row.items() if k.endswith("count")} for step, row in found.items()}
    assert count == {
        3: {"recent/optimizer/count": pytest.approx(2.0)},
        4: {"optimizer/count": pytest.approx(2.5)},
        6: {"recent/optimizer/count": pytest.approx(5.0)},
        8: {"optimizer/count": pytest.approx(6.5)},
        9: {"optimizer/count": 9.0, "recent/optimizer/count": pytest.approx(8.0)},
    }
    assert found[9]["optimizer/lr"] == 0.5


def test_a_truth_value_counts_as_0_or_1(tmp_path):
    losses = []

    class Watched(Reporting):
        def step(self, w, state, objective):
            result = super().step(w, state, objective)
            losses.append(result.loss.item())
            return result

    experiment = dataclasses.replace(build_blobs(*REPORTING, "epochs=2"), optimizer=Watched(0.5))
    _, (run,) = train_runs(tmp_path, experiment)
    high = [float(loss > 0.2) for loss in losses]
    assert 0 < sum(high) < len(high)
    assert [row["optimizer/high"] for row in run.rows()] == [sum(high[:4]) / 4, sum(high[4:]) / 4]


def test_a_name_that_only_some_steps_report_has_the_mean_of_these(tmp_path):
    class Sometimes(Reporting):
        def step(self, w, state, objective):
            result = super().step(w, state, objective)
            return result if int(state.count) % 3 == 0 else result._replace(info={})

    experiment = dataclasses.replace(build_blobs(*REPORTING, "steps=10"), optimizer=Sometimes(0.5))
    _, (run,) = train_runs(tmp_path, experiment)
    found = {row["step"]: row.get("optimizer/count") for row in run.rows()}
    assert found == {4: 3.0, 8: 6.0, 10: 9.0}


@pytest.mark.parametrize("buffered", [None, 40])
def test_lanes_report_what_runs_alone_report_also_after_one_has_left(buffered, tmp_path, monkeypatch):
    """The second run diverges in its first epoch."""
    if buffered is not None:
        monkeypatch.setattr(running_metrics, "MAX_BUFFERED", buffered)
    runs = [build_blobs(*REPORTING, "log_every=3", f"optimizer.lr={lr}") for lr in ("0.5", "1e300", "0.1")]
    _, lanes = train_runs(tmp_path / "lanes", *runs)
    assert [run.status["status"] for run in lanes] == ["done", "diverged", "done"]
    for i in (0, 2):
        _, (alone,) = train_runs(tmp_path / f"alone-{i}", runs[i])
        found, expected = select_info(read_rows(lanes[i])), select_info(read_rows(alone))
        assert found.keys() == expected.keys()
        for step, row in expected.items():
            assert found[step] == pytest.approx(row)


def test_optimizers_that_report_nothing_add_nothing_to_rows_and_checkpoints(tmp_path):
    _, (run,) = train_runs(tmp_path, build_blobs("optimizer=sgd", "steps=2", "log_every=2"))
    assert not any(select_info(run.rows()).values())
    window = run.load("last")["window"]
    assert all(len(part) == 3 for part in window["parts"])


def test_the_wrong_shape_of_a_later_step_is_an_error_that_names_it(tmp_path):
    class Late(Reporting):
        def step(self, w, state, objective):
            result = super().step(w, state, objective)
            return result if int(state.count) < 3 else result._replace(info={"count": state.count})

    experiment = dataclasses.replace(build_blobs(*REPORTING), optimizer=Late(0.5))
    with pytest.raises(ValueError, match=r"info\['count'\] .* must be a tensor of shape \(\), got shape \(1,\)"):
        train_runs(tmp_path, experiment)


def test_newton_reports_its_damping(tmp_path):
    """Steps that fall as the model says multiply the damping by 1 / factor."""
    newton = ("optimizer=newton", "optimizer.adapt=levenberg_marquardt", "optimizer.damping=80", "optimizer.factor=2")
    _, (run,) = train_runs(
        tmp_path, build_blobs(*newton, "batch_size=full", "precision=float64", "steps=3", "log_every=1")
    )
    assert [row["recent/optimizer/damping"] for row in run.rows()] == [80.0, 40.0, 20.0]


@pytest.mark.parametrize(("trials", "failed"), [(1, True), (20, False)])
def test_a_run_whose_searches_fail_says_so(trials, failed, tmp_path):
    """The first trial is far too long on a steep surface, and one trial is not enough."""
    search = (
        "optimizer=lbfgs",
        "linesearch@optimizer.linesearch=armijo",
        f"optimizer.linesearch.max_evaluations={trials}",
    )
    experiment = build_experiment(
        "data=none", "arch.function=rosenbrock", *search, "steps=5", "device=cpu", "threads=1"
    )
    _, (run,) = train_runs(tmp_path, experiment)
    message = run.status["message"]
    assert ("100% of the line searches found no acceptable step" in message) is failed
    assert bool(message) is failed
