"""The loop: draw, step, measure. One loop for one run and for many in lanes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dlopt.experiment import Experiment
from dlopt.journal import Journal
from dlopt.lanes import agree
from dlopt.run import Run
from dlopt.training import Training
from dlopt.watch import Watch


def train(experiments: Sequence[Experiment], runs: Sequence[Run], watch: Watch | None = None) -> list[dict[str, Any]]:
    """Train every experiment to its end, and return the summaries, which are also in the run directories.

    One experiment has w of shape (P,); E experiments have w of shape (E, P) and go through every step together. They
    must agree in everything but numbers: the same network, classes of parts, sizes and lengths; they may differ in
    seed, data rows, initial weights and numeric hyperparameters. ValueError says where they do not.
    A run that stops or diverges is finished at once and leaves the others.
    """
    agree(experiments)
    training = Training(experiments)
    journal = Journal(training, experiments, runs, watch or Watch())
    while journal.goes_on():
        inputs, targets = training.draw()
        objective = training.objective(inputs, targets)
        optimizer = training.optimizer()
        before = training.w.clone() if training.keeps_the_former or journal.measures() else training.w
        moment = optimizer.step(training.w, training.state, objective)
        training.take(moment, before, optimizer)
        journal.measure(objective, moment, before, targets)
        training.step += 1
        if journal.is_due():
            journal.log()
    return journal.end()
