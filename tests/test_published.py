"""Figures that are published, or known from elsewhere, come out. Each holds with a margin of several standard deviations."""

import pytest
from helpers import build_experiment, train_runs

CASES = [
    # data, arch, lowest and highest test accuracy
    ("mnist1d", "linear", 0.29, 0.345),
    ("mnist1d", "mlp", 0.62, 0.71),
    ("mnist1d", "cnn", 0.885, 0.96),
    ("digits", "linear", 0.885, 0.92),
    ("digits", "mlp", 0.895, 0.955),
    ("digits", "cnn", 0.90, 0.965),
]


@pytest.mark.long
@pytest.mark.parametrize(("data", "arch", "low", "high"), CASES)
def test_accuracy_after_6000_steps_of_adam(data, arch, low, high, tmp_path):
    experiment = build_experiment(
        "experiment=mnist1d_paper", f"data={data}", f"arch={arch}", "seed=3", "eval_every=10", "device=cpu"
    )
    (summary,), _ = train_runs(tmp_path, experiment)
    assert low < summary["test/accuracy"] < high
    assert summary["train/loss"] < summary["test/loss"]


@pytest.mark.long
def test_the_first_run_of_a_newcomer_succeeds(tmp_path):
    (summary,), _ = train_runs(tmp_path, build_experiment("experiment=quickstart", "eval_every=10", "device=cpu"))
    assert summary["test/accuracy"] > 0.94
