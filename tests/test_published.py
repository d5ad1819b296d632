"""Figures that are published, or known from elsewhere, come out. Each holds with a margin of several standard deviations."""

import math
from collections import Counter

import pytest
from helpers import build_experiment, make_option, train_runs

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


def train_experiment(folder, *overrides):
    """Return the summary of an experiment with few evaluations, on one thread."""
    experiment = build_experiment(*overrides, "eval_every=6", "device=cpu", "threads=1")
    return train_runs(folder, experiment)[0][0]


@pytest.mark.long
def test_an_lstm_solves_adding_over_200_steps(tmp_path):
    assert train_experiment(tmp_path, "experiment=adding")["test/loss"] < 0.01


@pytest.mark.long
def test_a_plain_recurrent_network_does_not_solve_adding_over_200_steps(tmp_path):
    """It stays at the variance of the target, 1/6."""
    assert train_experiment(tmp_path, "experiment=adding", "arch=rnn")["test/loss"] > 0.15


@pytest.mark.long
def test_an_lstm_reads_digits_pixel_by_pixel(tmp_path):
    assert train_experiment(tmp_path, "experiment=sequential_digits")["test/accuracy"] > 0.9


def measure_pairs():
    """Return the cross-entropy of the test part of Genesis by smoothed counts of pairs of characters, in nats."""
    data = make_option("data", "characters").load()
    train, test = (
        list(zip(*(x.flatten().tolist() for x in split.gather()), strict=True)) for split in (data.train, data.test)
    )
    pairs, first = Counter(train), Counter(before for before, _ in train)
    losses = [-math.log((pairs[pair] + 0.1) / (first[pair[0]] + 0.1 * data.outputs)) for pair in test]
    return math.fsum(losses) / len(losses)


def test_the_entropy_of_pairs_is_that_of_the_documentation():
    assert measure_pairs() == pytest.approx(2.287, abs=5e-4)


@pytest.mark.long
def test_a_character_model_beats_pairs_of_characters(tmp_path):
    assert train_experiment(tmp_path, "experiment=characters")["test/loss"] < measure_pairs() - 0.5
