"""Objectives that are the same at every step, and gradients that the step before has evaluated."""

import dataclasses

import pytest
import torch
from helpers import build_blobs, interrupt_run, load_weights, read_rows, resume_run, train_runs

from dlopt.objective.oracle import MiniBatchObjective
from dlopt.parts import Diagnostic
from dlopt.training.state import TrainState

FULL = ("batch_size=full", "epochs=6", "precision=float64")
LBFGS = ("optimizer=lbfgs", *FULL)
IMAGES = ("+data.shape=[2,6,6]",)

KINDS = {
    "the whole split": ([], True),
    "a batch of the size of the split": (["batch_size=48"], True),
    "micro-batches": (["micro_batch_size=20"], True),
    "penalties": (["regularization=l2"], True),
    "smoothed labels": (["regularization=label_smoothing"], True),
    "batch normalization": (["normalization=batch"], True),
    "early stopping": (["regularization=early_stopping"], True),
    "averaging": (["averaging=ema"], True),
    "a scheduled learning rate": (["schedule=cosine"], True),
    "a scheduled momentum": (["optimizer=momentum", "+schedule@schedules.momentum=ramp"], True),
    "mini-batches": (["batch_size=16"], False),
    "a batch that is almost the split": (["batch_size=47"], False),
    "dropout": (["regularization=dropout"], False),
    "dropconnect": (["regularization=dropconnect"], False),
    "noise of weights": (["regularization=weight_noise"], False),
    "noise of inputs": (["regularization=input_noise"], False),
    "noise of gradients": (["regularization=gradient_noise"], False),
    "weights that decay after a step": (["regularization=weight_decay"], False),
    "a penalty that acts after a step": (["regularization=l1", "regularization.l1.proximal=true"], False),
    "weights that are limited after a step": (["regularization=max_norm"], False),
    "a scheduled penalty": (["regularization=l2", "+schedule@schedules.l2=cosine"], False),
    "augmentation": ([*IMAGES, "augmentation=flip_horizontal"], False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_objective_is_fixed_if_steps_have_the_same_values_gradients_and_iterates(kind):
    """Compared at the same w, at the steps 1 and 2, where a random or scheduled part differs."""
    overrides, expected = KINDS[kind]
    training = TrainState([build_blobs("optimizer=sgd", *FULL, *overrides)])
    assert training.is_fixed is expected
    w, results = training.w.clone() * 30, []
    for training.step in (1, 2):
        objective = training.objective(*training.next_batch())
        assert objective.is_fixed is expected
        optimizer = training.optimizer()
        results.append(objective.gradient(w))
        step = optimizer.step(training.w.copy_(w), training.state, objective)
        after = step.w.clone()
        training.apply_step(step, w, optimizer, objective)
        results[-1] = (*results[-1], (training.w == after).all())
    same = all(torch.equal(a, b) for a, b in zip(*results, strict=True)) and bool(results[0][-1])
    assert same is expected


VARIANTS = {
    "plain": [],
    "batch normalization": ["normalization=batch"],
    "micro-batches": ["micro_batch_size=20"],
    "penalties and averaging": ["regularization=l2", "averaging=ema"],
    "armijo": ["linesearch@optimizer.linesearch=armijo"],
    "exact": ["linesearch@optimizer.linesearch=exact", "activation=tanh"],
    "fixed": ["linesearch@optimizer.linesearch=fixed", "optimizer.linesearch.lr=0.1"],
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_known_gradient_saves_an_evaluation_and_changes_nothing_else(variant, tmp_path, monkeypatch):
    build = lambda: build_blobs(*LBFGS, *VARIANTS[variant], "log_every=1")  # noqa: E731
    (saved,), (run,) = train_runs(tmp_path / "a", build())
    monkeypatch.setattr(MiniBatchObjective, "find_known", lambda *_: None)
    (summary,), (twin,) = train_runs(tmp_path / "b", build())
    assert summary["evaluations"] == saved["evaluations"] + summary["step"] - 1
    assert read_rows(run) == read_rows(twin)
    assert torch.equal(load_weights(run), load_weights(twin))


def test_a_gradient_is_not_known_at_a_point_that_has_changed_in_place():
    training = TrainState([build_blobs(*LBFGS)])
    objective = training.objective(*training.next_batch())
    optimizer = training.optimizer()
    training.apply_step(optimizer.step(training.w, training.state, objective), training.w, optimizer, objective)
    assert training.known_gradient is not None
    known = training.known_gradient.gradient.clone()
    later = training.objective(*training.next_batch())
    training.w.mul_(1.5)
    _, g = later.gradient(training.w)
    assert not torch.allclose(g, known)


def test_the_gradient_at_the_point_of_sam_is_not_taken_for_one_at_w(tmp_path, monkeypatch):
    build = lambda: build_blobs("optimizer=sam", "optimizer@optimizer.base_optimizer=lbfgs", *FULL, "log_every=1")  # noqa: E731
    _, (run,) = train_runs(tmp_path / "a", build())
    monkeypatch.setattr(MiniBatchObjective, "find_known", lambda *_: None)
    _, (twin,) = train_runs(tmp_path / "b", build())
    assert read_rows(run) == read_rows(twin)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_that_resumes_knows_the_gradient_too(variant, tmp_path):
    build = lambda: build_blobs(*LBFGS, *VARIANTS[variant], "log_every=1")  # noqa: E731
    (whole,), (run,) = train_runs(tmp_path / "whole", build())
    interrupt_run(tmp_path / "half", 3, build())
    rest, half = resume_run(tmp_path / "half", build())
    assert rest["evaluations"] == whole["evaluations"]
    assert read_rows(half) == read_rows(run)
    assert torch.equal(load_weights(half), load_weights(run))


def test_what_a_gradient_of_the_former_function_says_is_not_used_when_a_run_resumes_with_another(tmp_path):
    """The strength of the penalty changes with step 4, whose gradient is that of a run that begins there."""
    strong, weak = ([*LBFGS, "regularization=l2", f"regularization.l2.strength={x}"] for x in (1.0, 1e-4))
    interrupt_run(tmp_path / "a", 3, build_blobs(*strong))
    seen = []

    class Spy(Diagnostic):
        def measure(self, record, memory):
            seen.append((record.objective.gradient(record.before)[1], record.gradient.clone()))
            return {}, None

    resume_run(tmp_path / "a", dataclasses.replace(build_blobs(*weak), diagnostic={"spy": Spy(every=1)}))
    assert len(seen) == 3
    for fresh, reported in seen:
        torch.testing.assert_close(reported, fresh, rtol=1e-12, atol=1e-14)


def test_lanes_know_their_gradients_and_keep_them_when_one_leaves(tmp_path):
    build = lambda seed: build_blobs(*LBFGS, f"seed={seed}", "epochs=8")  # noqa: E731
    few = build_blobs(*LBFGS, "seed=1", "epochs=8")
    few.w.fill_(torch.nan)
    together, runs = train_runs(tmp_path / "lanes", build(0), few, build(2))
    assert [s["status"] for s in together] == ["done", "diverged", "done"]
    for i, seed in ((0, 0), (2, 2)):
        _, (alone,) = train_runs(tmp_path / str(seed), build(seed))
        torch.testing.assert_close(load_weights(runs[i]), load_weights(alone), rtol=1e-7, atol=1e-9)
