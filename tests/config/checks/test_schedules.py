"""Schedules of hyperparameters other than the learning rate: names, errors and the scheduled values."""

import math

import pytest
import torch
from helpers import DEVICE, build_blobs, interrupt_run, load_weights, read_rows, resume_run, train_runs

from dlopt.config.problems import ConfigError

MOMENTUM = ("optimizer=momentum", "+schedule@schedules.momentum=cosine", "schedules.momentum.final=0.2")
EVERY = "log_every=1"


@pytest.mark.parametrize(
    ("overrides", "key", "words"),
    [
        (["+schedule@schedules.momntum=cosine"], "schedules.momntum", "did you mean momentum"),
        (["+schedule@schedules.l2=cosine"], "schedules.l2", "no such regularization is chosen"),
        (["+schedule@schedules.lr=cosine"], "schedules.lr", "schedule=NAME"),
        (["regularization=dropout", "+schedule@schedules.dropout=cosine"], "schedules.dropout", "did you mean dropout.p"),
        (["+schedules.momentum.x=1"], "schedules.momentum", "has no _target_"),
        (["+schedule@schedules.momentum=custom", "schedules.momentum._target_=mine.Factor", "+schedules.momentum.value=2"], "schedules.momentum",
         "at step 0, 0.9 times the factor 2 must be >= 0 and < 1, got 1.8"),
        (["+schedule@schedules.momentum=cosine", "schedules.momentum.final=2"], "schedules.momentum.final", "<= 1"),
    ],
)  # fmt: skip
def test_a_schedule_of_an_unknown_hyperparameter_is_refused(overrides, key, words):
    with pytest.raises(ConfigError) as error:
        build_blobs("optimizer=momentum", *overrides)
    assert [k for k, _ in error.value.problems] == [key]
    assert words in error.value.problems[0][1]


def test_the_momentum_of_each_step_is_the_scheduled_one(tmp_path):
    """Compare the logged momentum with the cosine formula."""
    (run,) = train_runs(tmp_path, build_blobs(*MOMENTUM, EVERY, "steps=9", "optimizer.momentum=0.8"))[1]
    expected = [0.8 * (0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * t / 9))) for t in range(9)]
    assert [row["schedules/momentum"] for row in run.rows()] == pytest.approx(expected)
    assert all(row["lr"] == 0.01 for row in run.rows())


def test_a_penalty_scheduled_by_one_half_equals_half_the_penalty(tmp_path):
    """A schedule with the constant factor 1/2 equals half the strength."""
    half = build_blobs("regularization=l2", "regularization.l2.strength=0.05", "precision=float64")
    scheduled = build_blobs(
        "regularization=l2", "regularization.l2.strength=0.1", "precision=float64",
        "+schedule@schedules.l2=custom", "schedules.l2._target_=mine.Factor", "+schedules.l2.value=0.5",
    )  # fmt: skip
    (one,), (other,) = train_runs(tmp_path / "a", half)[1], train_runs(tmp_path / "b", scheduled)[1]
    torch.testing.assert_close(load_weights(one), load_weights(other), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("option", "name"), [("weight_decay", "weight_decay"), ("l1", "l1"), ("dropout", "dropout.p")]
)  # fmt: skip
def test_proximal_steps_and_dropout_are_scheduled_too(option, name, tmp_path):
    field = name.partition(".")[2] or "strength"
    more = ("regularization.l1.proximal=true",) if option == "l1" else ()
    common = ("arch=mlp", "arch.widths=[8]", "precision=float64", f"regularization={option}", *more)
    half = build_blobs(*common, f"regularization.{option}.{field}=0.2")
    scheduled = build_blobs(
        *common, f"regularization.{option}.{field}=0.4", f"+schedule@schedules.{name}=custom",
        f"schedules.{name}._target_=mine.Factor", f"+schedules.{name}.value=0.5",
    )  # fmt: skip
    (one,), (other,) = train_runs(tmp_path / "a", half)[1], train_runs(tmp_path / "b", scheduled)[1]
    torch.testing.assert_close(load_weights(one), load_weights(other), rtol=1e-12, atol=1e-12)


ALL = (
    *MOMENTUM, "arch=mlp", "arch.widths=[8]", "regularization=[l2,weight_decay,dropout]", EVERY, "precision=float64",
    "+schedule@schedules.l2=exponential", "+schedule@schedules.weight_decay=cosine", "+schedule@schedules.dropout.p=step",
    "schedules.dropout.p.every=2", f"device={DEVICE}",
)  # fmt: skip


def test_scheduled_lanes_equal_single_runs(tmp_path):
    variants = [(), ("optimizer.momentum=0.5", "schedules.l2.k=0.5"), ("regularization.dropout.p=0.2", "seed=3")]
    _, lanes = train_runs(tmp_path / "lanes", *(build_blobs(*ALL, *v) for v in variants))
    for lane, v in zip(lanes, variants, strict=True):
        _, (solo,) = train_runs(tmp_path / f"solo{variants.index(v)}", build_blobs(*ALL, *v))
        torch.testing.assert_close(load_weights(lane), load_weights(solo), rtol=1e-9, atol=1e-9)
        for row, other in zip(lane.rows(), solo.rows(), strict=True):
            assert {k: row[k] for k in row if k.startswith("schedules/")} == pytest.approx(
                {k: other[k] for k in other if k.startswith("schedules/")}
            )


def test_lanes_must_schedule_the_same_hyperparameters(tmp_path):
    with pytest.raises(ValueError, match="must agree in schedules"):
        train_runs(tmp_path, build_blobs(*MOMENTUM), build_blobs("optimizer=momentum"))


def test_a_resumed_run_ends_in_the_same_bits(tmp_path, stop=4):
    _, (straight,) = train_runs(tmp_path / "straight", build_blobs(*ALL))
    run = interrupt_run(tmp_path / "run", stop, build_blobs(*ALL))
    _, run = resume_run(run.path, build_blobs(*ALL))
    assert torch.equal(load_weights(run), load_weights(straight))
    assert read_rows(run) == read_rows(straight)
