"""Runs that never beat guessing are told apart from runs that learn slowly or are hard to learn."""

import math
from types import SimpleNamespace

import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from helpers import BLOBS, build_blobs, interrupt_run, list_options, make_option, resume_run, train_runs

from dlopt.base.data import Split
from dlopt.cli import main
from dlopt.training.chance import describe_chance_level

STUCK = "optimizer.lr=1e-9"
LABELS = torch.tensor([0] * 70 + [1] * 20 + [2] * 10)


@pytest.mark.parametrize("name", list_options("loss"))
def test_the_loss_of_guessing_is_the_least_of_a_constant_output(name):
    """The minimum is at the logarithms of the shares; the other losses are not judged."""
    loss = make_option("loss", name)
    guessing = loss.constant_loss(LABELS)
    if name not in ("cross_entropy", "nll", "kl"):
        assert guessing is None
        return
    shares = LABELS.bincount().double() / len(LABELS)
    assert guessing == pytest.approx(scipy.stats.entropy(shares.numpy()), rel=1e-12)
    assert guessing == pytest.approx(loss(shares.log().expand(len(LABELS), 3), LABELS).item(), rel=1e-12)
    uneven = F.log_softmax(shares.log() + 0.1 * torch.randn(3, dtype=torch.float64), 0)
    assert guessing < loss(uneven.expand(len(LABELS), 3), LABELS).item()


def make_rows(*losses, **more):
    return [{"epoch": float(epoch), "train/loss": loss, **more} for epoch, loss in enumerate(losses, 1)]


GUESSING = scipy.stats.entropy([7, 2, 1])
CASES = {
    "at the level": (make_rows(2.0, GUESSING), True), "far above it": (make_rows(30.0, 9.0), True),
    "not clearly below": (make_rows(0.985 * GUESSING), True), "clearly below": (make_rows(0.975 * GUESSING), False),
    "below and up again": (make_rows(0.5, 5.0), False), "no row": ([], False), "no finite loss": (make_rows(None), False),
    "learned in spite of noise": (make_rows(2.0, **{"val/loss": 0.5}), False),
    "less than an epoch": ([{"epoch": 0.5, "train/loss": 2.0}], False),
    "a lucky interval after the last epoch": ([*make_rows(2.0), {"epoch": 1.1, "train/loss": 0.1}], True),
    "one long interval": ([{"epoch": 1.5, "train/loss": 0.1}], False),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_only_runs_at_the_level_of_guessing_are_named(name):
    rows, expected = CASES[name]
    split = Split(torch.zeros(200, 1), torch.cat([torch.full((100,), 2), LABELS]), torch.arange(100, 200))
    experiment = SimpleNamespace(train=split, outputs=3, loss=make_option("loss", "cross_entropy"), teacher=None)
    text = describe_chance_level(experiment, rows)
    assert bool(text) == expected
    assert not text or f"{GUESSING:.4g}, the entropy of the labels" in text


def test_labels_of_one_class_leave_nothing_to_guess():
    split = Split(torch.zeros(5, 1), torch.ones(5, dtype=torch.int64))
    experiment = SimpleNamespace(train=split, outputs=2, loss=make_option("loss", "cross_entropy"), teacher=None)
    assert describe_chance_level(experiment, make_rows(1.0)) == ""


def test_each_lane_and_a_resumed_run_are_judged_by_their_own_rows(tmp_path):
    _, (stuck, learned) = train_runs(tmp_path, build_blobs(STUCK), build_blobs("optimizer.lr=0.1"))
    assert "never fell clearly below log(3) = 1.099" in stuck.status["message"]
    assert learned.status["message"] == ""
    experiment = build_blobs(STUCK)
    run = interrupt_run(tmp_path / "stopped", 4, experiment)
    assert run.status["message"] == ""
    _, run = resume_run(run.path, experiment)
    assert run.status["message"] == stuck.status["message"]


def test_the_warning_is_printed_at_the_end_and_by_show(here, capsys):
    assert main(["train", *BLOBS, STUCK]) == 0
    ended = " ".join(capsys.readouterr().out.split())
    assert main(["show"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for text in (ended, shown):
        assert f"warning: the training loss never fell clearly below log(3) = {math.log(3):.4g}" in text
        assert text.count("never fell") == 1
    assert " done; started " in shown
