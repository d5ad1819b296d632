"""Runs that ended no better than guessing: the loss never fell below that of the best constant prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from dlopt.base.sequences import list_targets
from dlopt.training.experiment import Experiment

CLEARLY = 0.98
"""A loss below this fraction of the loss of guessing is clearly better."""
LOSSES = ("train/loss", "val/loss", "average/val/loss")
"""Any of these shows that the network learned: with dropout or mixed targets, the training loss alone may not."""


def describe_chance_level(experiment: Experiment, rows: Sequence[Mapping[str, float]]) -> str:
    """Return that a run with these evaluations never beat guessing, and what to try; else an empty text.

    A run of less than an epoch is not judged. If there are rows at the ends of epochs, only they count: the mean over
    the few steps of a shorter interval can be low by chance.
    """
    teacher = experiment.teacher
    if teacher is not None and teacher.layer is not None and teacher.term.option.weight == 1:
        return ""  # the outputs are not trained
    split = experiment.train
    labels = split.targets if split.rows is None else split.targets[split.rows]
    guessing = experiment.loss.constant_loss(list_targets(labels))
    if not guessing or not rows or rows[-1]["epoch"] < 1:
        return ""
    rows = [row for row in rows if row["epoch"] % 1 == 0] or rows
    losses = [loss for row in rows for name in LOSSES if (loss := row.get(name)) is not None]
    if not losses or min(losses) <= CLEARLY * guessing:
        return ""
    is_balanced = math.isclose(guessing, math.log(experiment.outputs), rel_tol=5e-3)
    level = (
        f"log({experiment.outputs}) = {guessing:.4g}" if is_balanced else f"{guessing:.4g}, the entropy of the labels"
    )
    return (
        f"the training loss never fell clearly below {level}, the loss of guessing; "
        "try a smaller or larger learning rate, another init, or a normalization"
    )
