"""Runs in lanes equal solo runs, and runs that cannot share their arithmetic are refused."""

import math

import pytest
import torch
from helpers import BLOBS, build_experiment, load_weights, read_rows, train_runs

LANES = (
    "normalization=batch", "regularization=[l2,dropout]", "precision=float64", "diagnostic=gradients",
    "augmentation=custom", "augmentation.custom._target_=mine.Jitter",
)  # fmt: skip
"""Batch norm, penalty, dropout and augmentation: statistics and three streams of random numbers."""
OTHER = ("seed=1", "optimizer.lr=0.02", "init=normal", "init.std=0.3", "regularization.dropout.p=0.2",
         "regularization.l2.strength=0.01", "schedule.final=0.5")  # fmt: skip
EARLY = (*LANES, "regularization=[l2,dropout,early_stopping]", "regularization.early_stopping.patience=100", "epochs=8")
SCALED = (
    "optimizer=custom", "optimizer._target_=mine.ScaledStep", "+optimizer.share=0.5",
    "+optimizer.base={_target_: dlopt.optimizer.momentum.HeavyBall, lr: 0.02, momentum: 0.9, dampening: 0.0}",
    "precision=float64", "log_every=1",
)  # fmt: skip
MIXED = ("+data.shape=[1,6,6]", "batch_size=13", "epochs=4", "augmentation=[flip_horizontal,cowmix]", "log_every=2")
"""Mixed targets: four steps an epoch, the last one smaller."""
SIGN = ("optimizer=custom", "optimizer._target_=mine.Sign", "+optimizer.lr=0.01", "precision=float64")
PULL = ("regularization=custom", "regularization.custom._target_=mine.PullBack", "precision=float64", "optimizer=sgd")
NETWORK = ("arch=custom", "arch._target_=mine.NormDropoutNet", "precision=float64", "optimizer=sgd")

CASES = {
    **{
        optimizer: ((*LANES, f"optimizer={optimizer}", "schedule=cosine"), [(), OTHER])
        for optimizer in ("sgd", "momentum", "adam")
    },
    "folds": (
        (*LANES, "validation.scheme=kfold", "preprocess=standardize"),
        [("validation.fold=0",), ("validation.fold=3",)],
    ),
    "one leaves after three steps, one after six": (
        (*EARLY, "optimizer=momentum"),
        [
            ("optimizer.lr=1e200",),
            ("seed=2", "regularization.early_stopping.min_delta=10", "regularization.early_stopping.patience=1"),
            ("seed=3",),
            ("seed=4", "regularization.dropout.p=0.3"),
        ],
    ),
    "one leaves within an epoch": (
        (*LANES, "log_every=1", "optimizer=sgd"),
        [("optimizer.lr=1e300",), ("seed=1",), ("seed=2",)],
    ),
    "mixed targets": (
        (*MIXED, "precision=float64", "normalization=batch"),
        [(), ("seed=1", "optimizer.lr=0.02")],
    ),
    "rows across epochs": (
        (*LANES, "batch_size=13", "log_every=3", "optimizer=sgd"),
        [("optimizer.lr=1e100",), ("seed=1",), ("seed=2",)],
    ),
    "an optimizer out of place": (SIGN, [(), ("seed=1", "optimizer.lr=0.03")]),
    "after a step": (PULL, [("+regularization.custom.share=0.25",), ("+regularization.custom.share=0.75",)]),
    "an optimizer inside another": (
        SCALED,
        [
            ("optimizer.base.lr=0.3", "schedule=cosine"),
            ("optimizer.base.momentum=0.5", "optimizer.share=0.9"),
            ("optimizer.base.lr=1e30",),
            ("optimizer.base.lr=0.001", "seed=3"),
        ],
    ),
    "a model of torch's modules": (NETWORK, [(), ("seed=1",)]),
}  # fmt: skip
ENDS = {
    "one leaves after three steps, one after six": [("diverged", 3), ("done", 6), ("done", 24), ("done", 24)],
    "one leaves within an epoch": [("diverged", 2), ("done", 9), ("done", 9)],
    "an optimizer inside another": [("done", 9), ("done", 9), ("diverged", 7), ("done", 9)],
}


def build(*overrides):
    """Build an experiment on BLOBS, without its arch if another one is chosen."""
    problem = [o for o in BLOBS if not (NETWORK[0] in overrides and o.startswith("arch"))]
    return build_experiment(*problem, *overrides)


@pytest.mark.parametrize("name", CASES)
def test_lanes_equal_solo_runs(name, tmp_path):
    """Rows, summaries and weights, also of the lanes that remain when another one leaves."""
    common, variants = CASES[name]
    together, lanes = train_runs(tmp_path / "lanes", *(build(*common, *variant) for variant in variants))
    if name in ENDS:
        assert [(summary["status"], summary["step"]) for summary in together] == ENDS[name]
    for i, variant in enumerate(variants):
        (alone,), (run,) = train_runs(tmp_path / f"solo{i}", build(*common, *variant))
        assert (together[i]["status"], together[i]["step"]) == (alone["status"], alone["step"])
        if alone["status"] != "diverged":
            for which in ("last", "best"):
                torch.testing.assert_close(
                    load_weights(lanes[i], which), load_weights(run, which), rtol=1e-9, atol=1e-9
                )
        metrics = {k: v for k, v in alone.items() if k.startswith(("train/", "val/", "test/", "last/", "best/"))}
        rows = [*read_rows(lanes[i]), {k: together[i][k] for k in metrics}]
        for row, expected in zip(rows, [*read_rows(run), metrics], strict=True):
            assert to_numbers(row) == pytest.approx(to_numbers(expected), rel=1e-8, abs=1e-9, nan_ok=True)


def to_numbers(row):
    """Replace None, which JSON has for NaN."""
    return {k: math.nan if v is None else v for k, v in row.items()}


FROZEN = ("arch=custom", "arch._target_=mine.FrozenNet", "+arch.scale=1.0")


@pytest.mark.parametrize(("common", "other", "key"), [
    ((), ("optimizer=sgd",), "optimizer"),
    ((), ("arch.widths=[9]",), "network"),
    ((), ("activation=tanh",), "network"),
    ((), ("batch_size=8",), "settings"),
    ((), ("data.train_size=40",), "data"),
    (("validation.scheme=kfold", "validation.k=7", "validation.fold=0"), ("validation.fold=6",), "data"),
    (FROZEN, ("seed=1",), "network"),
    (FROZEN, ("arch.scale=3.0",), "network"),
    (SCALED, tuple(o.replace("momentum.HeavyBall", "nesterov.Nesterov").replace(", dampening: 0.0", "") for o in SCALED),
     "base"),
])  # fmt: skip
def test_runs_that_cannot_share_their_arithmetic_are_refused(common, other, key, tmp_path):
    """Among them folds of 51 and 52 examples, and networks whose frozen layers differ."""
    second = build(*other) if common is SCALED else build(*common, *other)
    with pytest.raises(ValueError, match=f"must agree in {key}"):
        train_runs(tmp_path, build(*common), second)
