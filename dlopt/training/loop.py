"""The training loop: next batch, objective, optimizer step, apply, record. One loop for one run and for E lanes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from dlopt.base.optimizer import Optimizer, Step
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.rundir.writer import RunWriter
from dlopt.training.control import TrainingControl
from dlopt.training.experiment import Experiment
from dlopt.training.lanes import check_compatible
from dlopt.training.recorder import Recorder
from dlopt.training.state import TrainState

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""Variable of the environment without which cuBLAS is not deterministic."""


def train(
    experiments: Sequence[Experiment],
    runs: Sequence[RunWriter],
    watch: TrainingControl | None = None,
    state: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Train every experiment to its end and return the summaries, which are also in the run directories.

    state is the content of the last checkpoint of a single run, which resumes from there.

    One experiment has w of shape (P,). E experiments have w of shape (E, P) and take every step together. They must
    agree in everything but numbers: the same network, classes of components, sizes and lengths. They may differ in
    seed, data rows, initial weights, schedule and numeric hyperparameters. ValueError says where they do not agree.
    A run that stops or diverges is finished at once and leaves the others.
    """
    check_compatible(experiments)
    with set_torch_switches(experiments[0].threads, deterministic=experiments[0].settings.deterministic):
        training = TrainState(experiments)
        recorder = Recorder(training, experiments, runs, watch or TrainingControl(), state)
        try:
            while recorder.should_continue():
                step(training, recorder)
                record(training, recorder)
            return recorder.end()
        except BaseException as error:
            recorder.fail(error)
            raise


class StepObserver(Protocol):
    """What watches the steps of training: a recorder, or the tape of a race."""

    def diagnostics_due(self) -> bool: ...
    def measure(
        self, objective: MiniBatchObjective, result: Step, before: Tensor, targets: Tensor, optimizer: Optimizer
    ) -> None: ...


def step(training: TrainState, recorder: StepObserver) -> None:
    """Take one step: next batch, objective, optimizer step, apply."""
    inputs, targets = training.next_batch()
    objective = training.objective(inputs, targets)
    optimizer = training.optimizer()
    before = training.w.clone() if training.needs_previous_w or recorder.diagnostics_due() else training.w
    result = optimizer.step(training.w, training.state, objective)
    training.apply_step(result, before, optimizer, objective)
    recorder.measure(objective, result, before, targets, optimizer)
    training.step += 1


def record(training: TrainState, recorder: Recorder) -> None:
    """Write rows and checkpoints if they are due, and let lanes that have ended leave."""
    if recorder.anything_due():
        logs, infinite, evaluations = recorder.log()
        training.extend_histories(evaluations)
        recorder.close_interval(logs, infinite, evaluations)


@contextmanager
def set_torch_switches(threads: int, *, deterministic: bool) -> Iterator[None]:
    """Set the number of threads and torch's deterministic mode, and restore them afterwards."""
    threads_before, deterministic_before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    needs_workspace = deterministic and WORKSPACE not in os.environ
    if needs_workspace:
        os.environ[WORKSPACE] = ":4096:8"  # else cuBLAS refuses
    if deterministic != deterministic_before:
        torch.use_deterministic_algorithms(deterministic)  # a second of imports: only on a change
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
        if needs_workspace:
            del os.environ[WORKSPACE]
        if deterministic != deterministic_before:
            torch.use_deterministic_algorithms(deterministic_before)
